//! A monitor that lives through made-up time, for measurements: what it reads is handed to it, and goes the way of all that is
//! read, through rules, memory and the tiers of the store. Nothing is pulled, nobody is told.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use mainstay_openmetrics::{Limits, parse};
use mainstay_runtime::{Clock, ClockHandle, Context};
use tokio::time::Instant;

use crate::collect::Answer;
use crate::config::Config;
use crate::monitor::Monitor;
use crate::roster::Report;
use crate::service::{self, State};
use crate::store::{Changes, Store};
use crate::target::Target;

/// Runs a monitor by a clock of its own.
pub struct Rehearsal {
    cx: Context,
    clock: Clock,
    hand: ClockHandle,
    monitor: Arc<Monitor>,
    store: Store,
    targets: Vec<Arc<Target>>,
    /// Where the step of history begins that is to be rolled up next.
    rolled: Option<SystemTime>,
}

/// Tells what is held in memory.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// Series.
    pub series: usize,
    /// Memory of their samples.
    pub bytes: usize,
}

/// What a target may show at once.
const LIMITS: Limits = Limits { max_samples: 100_000, max_bytes: 64 * 1024 * 1024 };
/// Time for the store to write what waits for it.
const STORED_WITHIN: Duration = Duration::from_mins(1);

impl Rehearsal {
    /// Begins at a moment, with the targets, rules and store of a configuration.
    ///
    /// # Errors
    /// When the store cannot be opened at all.
    pub async fn begin(config: &Config, at: SystemTime) -> anyhow::Result<Self> {
        let (clock, hand) = Clock::fixed(at);
        let cx = Context::for_test_at("monitor-service", clock.clone());
        let State { monitor, store, .. } = service::open(&cx, config).await?;
        Ok(Self { cx, clock, hand, monitor, store, targets: config.all_targets(), rolled: None })
    }

    /// Hands over what the nth target shows now, as OpenMetrics.
    ///
    /// # Errors
    /// When there is no such target, or that is no OpenMetrics.
    pub fn pull(&self, target: usize, openmetrics: &str) -> anyhow::Result<()> {
        let target = self.targets.get(target).context("there is no such target")?;
        let metrics = parse(openmetrics, LIMITS)?;
        let took = Duration::from_millis(1);
        let report = Report::of_stranger(self.clock.now(), took, String::new(), Vec::new());
        self.monitor.answered(target, Answer { report, metrics: Ok(metrics) });
        Ok(())
    }

    /// Looks with all rules at what was handed over since the last time; tells how long that took.
    pub fn judge(&self) -> Duration {
        let began_at = Instant::now();
        self.monitor.evaluate();
        began_at.elapsed()
    }

    /// Lets time pass, and stores the steps of history that have ended.
    ///
    /// # Errors
    /// When the store does not keep up.
    pub async fn pass(&mut self, by: Duration) -> anyhow::Result<()> {
        self.hand.advance(by);
        let next = self.monitor.roll_up(self.rolled, false);
        if self.rolled.replace(next) != Some(next) {
            self.stored().await?;
        }
        Ok(())
    }

    /// Tells what is held in memory now.
    pub fn held(&self) -> Held {
        let (series, _) = self.monitor.n_series();
        Held { series, bytes: self.monitor.sample_bytes() }
    }

    /// Stores what there is, and ends.
    ///
    /// # Errors
    /// When the store does not keep up.
    pub async fn end(self) -> anyhow::Result<()> {
        self.monitor.roll_up(self.rolled, true);
        self.stored().await?;
        self.cx.shut_down().await;
        Ok(())
    }

    /// Waits until all that was queued is committed: otherwise made-up time outruns the disk.
    async fn stored(&self) -> anyhow::Result<()> {
        let began_at = Instant::now();
        while let Err(error) = self.store.commit(Changes::default()).done().await {
            if began_at.elapsed() > STORED_WITHIN {
                bail!("the store does not keep up: {error}");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::tests::at;
    use crate::series::Range;

    #[tokio::test]
    async fn made_up_hours_are_in_the_store_as_if_they_had_been() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.store.path = folder.path().join("monitor.db");
        config.history.keep = Duration::from_mins(1);
        config.targets.retain(|name, _| name == "cache-service");
        let mut rehearsal = Rehearsal::begin(&config, at(0)).await.unwrap();
        for second in 0..7_200_u32 {
            rehearsal.pull(0, &format!("# TYPE level gauge\nlevel {second}\n# EOF\n")).unwrap();
            rehearsal.pass(Duration::from_secs(1)).await.unwrap();
        }
        assert!(rehearsal.pull(1, "# EOF\n").is_err() && rehearsal.pull(0, "level").is_err());
        assert!(rehearsal.held().series >= 3 && rehearsal.held().bytes > 0, "{:?}", rehearsal.held());
        rehearsal.end().await.unwrap();

        // Another one reads what that one left.
        let again = Rehearsal::begin(&config, at(7_200)).await.unwrap();
        let range = Range::try_new("level", Default::default(), at(0), at(7_200), Duration::from_mins(1));
        let answer = again.monitor.range(&range.unwrap()).await.unwrap();
        let points = &answer.series[0].points;
        // The minute that began before the first sample, and all after it.
        assert!((120..=121).contains(&points.len()), "{}", points.len());
        let rises = |pair: &[crate::series::Bucket]| pair[1].min > pair[0].max && pair[1].last > pair[0].last;
        assert!(points.windows(2).all(rises), "{points:?}");
        again.end().await.unwrap();
    }
}
