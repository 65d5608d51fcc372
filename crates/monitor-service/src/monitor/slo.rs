//! How the configured objectives stand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::Monitor;
use super::insight::LookError;
use crate::analysis::slo::{Budget, Outcome, PAIRS, increase};
use crate::config::SloConfig;
use crate::rule::Burning;
use crate::series::{Bucket, Range};

/// Tells how one objective stands.
#[derive(Debug, Clone)]
pub(crate) struct SloStatus {
    /// Its name.
    pub name: String,
    /// Share that must go right.
    pub objective: f64,
    /// Over how long.
    pub period: Duration,
    /// Where history begins, if that is later than the period does.
    pub known_from: Option<SystemTime>,
    /// What happened in the period.
    pub outcome: Outcome,
    /// What is left.
    pub budget: Budget,
    /// How fast the budget is used up, by window.
    pub burns: Vec<(Duration, Option<f64>)>,
    /// The pair of windows that says so, if it is used up too fast.
    pub burning: Option<Burning>,
}

/// Steps that a window is cut into.
const STEPS: u32 = 240;

impl Monitor {
    /// Tells how the objectives stood when they were last looked at.
    pub(crate) fn slos(&self) -> Vec<SloStatus> {
        self.slos.lock().clone()
    }

    /// Looks at every objective.
    pub(crate) async fn look_at_slos(&self) -> Result<(), LookError> {
        let mut slos = Vec::with_capacity(self.config.slos.len());
        for (name, slo) in &self.config.slos {
            slos.push(self.slo(name, slo).await?);
        }
        *self.slos.lock() = slos;
        Ok(())
    }

    async fn slo(&self, name: &str, slo: &SloConfig) -> Result<SloStatus, LookError> {
        // One moment for all: what went wrong is a part of all that was asked.
        let now = self.clock.now();
        let mut known: BTreeMap<Duration, Outcome> = BTreeMap::new();
        let windows: BTreeSet<Duration> = PAIRS.iter().flat_map(|pair| [pair.short, pair.long]).collect();
        for window in windows {
            known.insert(window, self.outcome(slo, window, now).await?.0);
        }
        let (outcome, first) = self.outcome(slo, slo.period, now).await?;
        let start = now.checked_sub(slo.period);
        let of = |window: Duration| known.get(&window).copied().unwrap_or_default();
        let too_fast = PAIRS.iter().find_map(|pair| {
            let (long, short) = (of(pair.long), of(pair.short));
            let rate = long.burn(slo.objective)?.min(short.burn(slo.objective)?);
            (rate > pair.burn && long.total >= slo.min_traffic).then_some((pair, rate))
        });
        Ok(SloStatus {
            name: name.to_owned(),
            objective: slo.objective,
            period: slo.period,
            // A step of grace: history need not begin with the very first second.
            known_from: first.filter(|first| start.is_none_or(|start| *first > start + slo.period / STEPS)),
            outcome,
            budget: outcome.budget(slo.objective),
            burns: known.iter().map(|(window, outcome)| (*window, outcome.burn(slo.objective))).collect(),
            burning: too_fast.map(|(pair, rate)| Burning { slo: name.to_owned(), pair: *pair, rate }),
        })
    }

    async fn outcome(
        &self,
        slo: &SloConfig,
        window: Duration,
        now: SystemTime,
    ) -> Result<(Outcome, Option<SystemTime>), LookError> {
        let (total, first) = self.gained(&slo.total, &slo.total_labels, (window, now)).await?;
        let (bad, _) = self.gained(&slo.bad, &slo.bad_labels, (window, now)).await?;
        Ok((Outcome { total, bad }, first))
    }

    /// Adds up what the series of a counter gained, and tells where they begin.
    async fn gained(
        &self,
        metric: &str,
        labels: &BTreeMap<String, String>,
        (window, now): (Duration, SystemTime),
    ) -> Result<(f64, Option<SystemTime>), LookError> {
        let from = now.checked_sub(window).unwrap_or(SystemTime::UNIX_EPOCH);
        let step = Duration::from_secs(window.as_secs().div_ceil(u64::from(STEPS)).max(1));
        let range = Range::try_new(metric, labels.clone(), from, now, step).map_err(LookError::Range)?;
        let answer = self.range(&range).await.map_err(LookError::Store)?;
        let first =
            answer.series.iter().filter_map(|series| series.points.first()).map(|point| point.at).min();
        let of = |points: &[Bucket]| increase(points.iter().flat_map(readings));
        Ok((answer.series.iter().map(|series| of(&series.points)).sum(), first))
    }
}

/// Gives the readings of a counter that a step tells of: the first and the last, or, where it began anew, the greatest
/// before that and the last.
fn readings(step: &Bucket) -> [f64; 2] {
    if step.last >= step.max { [step.min, step.last] } else { [step.max, step.last] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_counter_gained_within_one_step_counts_too() {
        let step = |min, max, last| Bucket { at: SystemTime::UNIX_EPOCH, min, max, mean: max, last };
        let gained = |steps: &[Bucket]| increase(steps.iter().flat_map(readings));
        assert_eq!(gained(&[step(10.0, 25.0, 25.0)]), 15.0);
        assert_eq!(gained(&[step(10.0, 25.0, 25.0), step(26.0, 30.0, 30.0)]), 20.0);
        // 10 to 25, then anew from zero to 4.
        assert_eq!(gained(&[step(10.0, 20.0, 20.0), step(1.0, 25.0, 4.0)]), 19.0);
    }
}
