//! History that reaches beyond memory.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::Monitor;
use crate::series::{Bucket, Range, RangeAnswer, StoredSeries};
use crate::store::{Points, SeriesPoint, StoreError, Tier, TierPoint, TierQuery};

/// Width of the finest stored step.
const TIER_WIDTH: Duration = Duration::from_secs(10);
/// After the end of a step, until the last pull of it is in.
const SETTLES_WITHIN: Duration = Duration::from_secs(1);

impl Monitor {
    /// Answers a range query from memory, and from the store for what is older.
    pub(crate) async fn range(&self, range: &Range) -> Result<RangeAnswer, StoreError> {
        let (mut answer, known_from) = {
            let history = self.history.lock();
            (history.range(range), history.known_from())
        };
        let newest_start = known_from.iter().map(|(_, from)| *from).max();
        if newest_start.is_some_and(|start| start <= range.from()) {
            return Ok(answer);
        }
        let stored = self.store.tier_points(self.tier_query(range, known_from)).await?;
        let series = stored.into_iter().map(|series| StoredSeries {
            labels: series.labels,
            points: series.points.into_iter().map(|(at_s, point)| bucket(at_s, &point)).collect(),
        });
        range.join(series.collect(), &mut answer);
        Ok(answer)
    }

    fn tier_query(&self, range: &Range, known_from: Vec<((String, String), SystemTime)>) -> TierQuery {
        let now = self.clock.now();
        let age = now.duration_since(range.from()).unwrap_or_default();
        let known: HashMap<_, _> =
            known_from.into_iter().map(|(target, from)| (target, unix_s(from))).collect();
        TierQuery {
            metric: range.metric().to_owned(),
            labels: range.labels().clone(),
            from_s: unix_s(range.from()),
            to_s: unix_s(range.to()),
            tier: Tier::for_step(range.step(), age, &self.config.store.retention()),
            known_from_s: known,
        }
    }

    /// Stores the steps that have ended since `from`; returns where the next one begins. With `all` the step that is
    /// under way, too: the next process goes on with it.
    pub(crate) fn roll_up(&self, from: Option<SystemTime>, all: bool) -> SystemTime {
        let now = self.clock.now();
        let current = start_of_step(now);
        let mut at = from.unwrap_or(current);
        let oldest = now.checked_sub(self.config.history.keep).unwrap_or(SystemTime::UNIX_EPOCH);
        if at < oldest || at > now + TIER_WIDTH {
            // The clock was moved.
            at = current;
        }
        while at + TIER_WIDTH + SETTLES_WITHIN <= now || (all && at <= now) {
            let targets = self.history.lock().indexes();
            for target in targets {
                // One target at a time: pulls need not wait for all.
                let rolled = self.history.lock().roll(target, at, TIER_WIDTH);
                let points = rolled.into_iter().filter_map(|rolled| {
                    let labels = serde_json::to_string(&rolled.labels).ok()?;
                    let (n, min, max, mean, last) =
                        (rolled.n.into(), rolled.min, rolled.max, rolled.mean, rolled.last);
                    let point = TierPoint { n, min, max, mean, last };
                    Some(SeriesPoint { metric: rolled.metric.into(), labels: labels.into(), point })
                });
                let points: Vec<SeriesPoint> = points.collect();
                if !points.is_empty() {
                    self.store.points(Points { at_s: unix_s(at), points });
                }
            }
            at += TIER_WIDTH;
        }
        at
    }
}

fn bucket(at_s: i64, point: &TierPoint) -> (Bucket, f64) {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(at_s).unwrap_or_default());
    let TierPoint { n, min, max, mean, last } = *point;
    (Bucket { at, min, max, mean, last }, n as f64)
}

fn start_of_step(at: SystemTime) -> SystemTime {
    let width = i64::try_from(TIER_WIDTH.as_secs()).unwrap_or(1);
    let start = u64::try_from(unix_s(at) / width * width).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(start)
}

fn unix_s(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
