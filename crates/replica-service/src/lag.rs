//! How stale a replica is at most, proven with one clock and no writes.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::lsn::Lsn;

pub(crate) mod common;

/// Remembers when the primary's log had reached which position.
///
/// A replica that has replayed position `p` shows everything that was committed before the primary was asked and
/// answered `p` or less. So its staleness is at most the age of the newest such question. The bound needs no
/// synchronised clocks and no heartbeat table, stays small on an idle primary, and grows by itself while a replica is
/// paused or disconnected or the primary is gone.
///
/// Memory is fixed: an idle primary takes one entry, and when the entries run out every second one of the older half
/// is dropped, which can only make a bound larger.
#[derive(Debug, Default)]
pub(crate) struct LsnTimeline {
    /// Positions strictly increase, and so do times.
    samples: VecDeque<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    asked_at: Instant,
    lsn: Lsn,
}

const MAX_SAMPLES: usize = 600;

impl LsnTimeline {
    /// Notes that the primary, asked at `asked_at`, answered that its log ends at `lsn`.
    ///
    /// A position below an earlier one means another history: what was known is forgotten.
    pub(crate) fn record(&mut self, asked_at: Instant, lsn: Lsn) {
        match self.samples.back_mut() {
            Some(last) if lsn < last.lsn => self.samples.clear(),
            Some(last) if asked_at <= last.asked_at => return,
            Some(last) if lsn == last.lsn => {
                last.asked_at = asked_at;
                return;
            }
            _ => {}
        }
        if self.samples.len() == MAX_SAMPLES {
            self.thin();
        }
        self.samples.push_back(Sample { asked_at, lsn });
    }

    /// Returns the moment before which everything was committed that a replica does not lack: its age is the proven upper
    /// bound of the staleness of one that has replayed `replayed`.
    ///
    /// `None` when the replica is behind everything remembered: nothing is proven.
    pub(crate) fn proven_at(&self, replayed: Lsn) -> Option<Instant> {
        let n_replayed = self.samples.partition_point(|sample| sample.lsn <= replayed);
        Some(self.samples.get(n_replayed.checked_sub(1)?)?.asked_at)
    }

    /// Returns the last known end of the primary's log.
    pub(crate) fn latest(&self) -> Option<Lsn> {
        self.samples.back().map(|sample| sample.lsn)
    }

    /// Returns how long ago the primary was asked last.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        self.samples.back().map(|sample| now.saturating_duration_since(sample.asked_at))
    }

    /// Forgets everything: the primary is another one.
    pub(crate) fn clear(&mut self) {
        self.samples.clear();
    }

    fn thin(&mut self) {
        let mut index = 0;
        self.samples.retain(|_| {
            index += 1;
            index > MAX_SAMPLES / 2 || index % 2 == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_time::origin;

    const SECOND: Duration = Duration::from_secs(1);

    impl LsnTimeline {
        fn staleness(&self, replayed: Lsn, now: Instant) -> Option<Duration> {
            self.proven_at(replayed).map(|at| now.saturating_duration_since(at))
        }
    }

    #[test]
    fn an_idle_primary_makes_no_lag() {
        let (mut timeline, start) = (LsnTimeline::default(), origin());
        for second in 0..1_000 {
            timeline.record(start + SECOND * second, Lsn(500));
        }
        assert_eq!(timeline.staleness(Lsn(500), start + SECOND * 1_000), Some(SECOND));
        assert_eq!(timeline.samples.len(), 1);
    }

    #[test]
    fn a_replica_that_stands_still_grows_stale() {
        let (mut timeline, start) = (LsnTimeline::default(), origin());
        for second in 0..10 {
            timeline.record(start + SECOND * second, Lsn(100 + u64::from(second)));
        }
        assert_eq!(timeline.staleness(Lsn(102), start + SECOND * 9), Some(SECOND * 7));
        assert_eq!(timeline.staleness(Lsn(102), start + SECOND * 60), Some(SECOND * 58));
    }

    #[test]
    fn nothing_is_proven_for_a_replica_behind_all_samples() {
        let (mut timeline, start) = (LsnTimeline::default(), origin());
        assert_eq!(timeline.staleness(Lsn(1), start), None);
        timeline.record(start, Lsn(100));
        assert_eq!(timeline.staleness(Lsn(99), start), None);
    }

    #[test]
    fn a_position_that_goes_back_starts_another_history() {
        let (mut timeline, start) = (LsnTimeline::default(), origin());
        timeline.record(start, Lsn(1_000));
        timeline.record(start + SECOND, Lsn(10));
        assert_eq!(timeline.staleness(Lsn(9), start + SECOND), None);
        assert_eq!(timeline.latest(), Some(Lsn(10)));
    }

    /// A history: commits of the primary at instants, and how far the replica had replayed at the end.
    #[derive(Debug, Clone)]
    struct History {
        commits: Vec<(u64, u64)>,
        sample_every: u64,
        replayed_commits: usize,
        tail: u64,
    }

    fn histories() -> impl Strategy<Value = History> {
        (
            prop::collection::vec((1_u64..2_000, 1_u64..5_000), 1..400),
            50_u64..3_000,
            any::<prop::sample::Index>(),
            0..9_000_u64,
        )
            .prop_map(|(steps, sample_every, index, tail)| {
                let replayed_commits = index.index(steps.len() + 1);
                let commits = steps
                    .into_iter()
                    .scan((0, 0), |(at, lsn), (pause, bytes)| {
                        *at += pause;
                        *lsn += bytes;
                        Some((*at, *lsn))
                    })
                    .collect();
                History { commits, sample_every, replayed_commits, tail }
            })
    }

    proptest! {
        /// The true staleness is the age of the oldest commit that the replica does not show; 0 when it shows all.
        #[test]
        fn the_bound_is_never_below_the_true_staleness(history in histories()) {
            let start = origin();
            let at = |ms: u64| start + Duration::from_millis(ms);
            let end = history.commits.last().unwrap().0 + history.tail;
            let mut timeline = LsnTimeline::default();
            let mut asked = 0;
            while asked <= end {
                let lsn = history.commits.iter().take_while(|(when, _)| *when <= asked).last().map_or(0, |c| c.1);
                timeline.record(at(asked), Lsn(lsn));
                asked += history.sample_every;
            }
            let replayed = history.commits[..history.replayed_commits].last().map_or(0, |c| c.1);
            let truth = history.commits.get(history.replayed_commits).map_or(0, |(when, _)| end - when);
            if let Some(bound) = timeline.staleness(Lsn(replayed), at(end)) {
                prop_assert!(bound >= Duration::from_millis(truth), "bound {bound:?}, truth {truth} ms");
            }
            if history.replayed_commits == history.commits.len() {
                let bound = timeline.staleness(Lsn(replayed), at(end)).unwrap();
                prop_assert!(bound < Duration::from_millis(history.sample_every));
            }
            prop_assert!(timeline.samples.len() <= MAX_SAMPLES);
        }
    }
}
