//! The life of one alert, as a pure machine.
//!
//! ```text
//!              breach            held fires_after
//!  Inactive ----------> Pending ------------------> Firing <--------+
//!     ^                    |                          |  clear      | breach, or nobody can look
//!     |   clear, unseen    |                          v             |
//!     +--------------------+                      Recovering -------+
//!                                                     | gone clears_after
//!            Pending <--------- Resolved <------------+
//!                      breach
//! ```

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Decides when a condition is an alert and when the alert is over. One step makes at most one transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    phase: Phase,
}

/// Says where a machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// Nothing is wrong.
    #[default]
    Inactive,
    /// The condition holds since then, but not long enough.
    Pending {
        /// When it first held.
        since: SystemTime,
    },
    /// The condition has held long enough.
    Firing {
        /// When it fired.
        fired_at: SystemTime,
    },
    /// Still firing to the outside; the condition is gone since then, but not long enough.
    Recovering {
        /// When it fired.
        fired_at: SystemTime,
        /// Since when the condition is gone.
        clear_since: SystemTime,
    },
    /// Over.
    Resolved,
}

/// Tells a machine what was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// The condition holds; since when, as far as the evidence reaches.
    Breach {
        /// Never later than now counts.
        since: SystemTime,
    },
    /// The condition does not hold; since when.
    Clear {
        /// Never later than now counts.
        since: SystemTime,
    },
    /// Nobody could look. What fires goes on firing, what is pending has to start again.
    Unseen,
}

/// Says how long a condition must last to fire, and be gone to resolve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timing {
    /// Held this long, it fires.
    pub fires_after: Duration,
    /// Gone this long, it resolves.
    pub clears_after: Duration,
}

/// Names what a step changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transition {
    /// An episode begins.
    Started,
    /// It ended before it fired, as if it had never been.
    Withdrawn,
    /// It fires.
    Fired,
    /// The condition is gone, for now.
    Recovering,
    /// The condition is back before it was gone long enough.
    Relapsed,
    /// The episode is over.
    Resolved,
}

impl Transition {
    /// Returns a word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Withdrawn => "withdrawn",
            Self::Fired => "fired",
            Self::Recovering => "recovering",
            Self::Relapsed => "relapsed",
            Self::Resolved => "resolved",
        }
    }
}

impl Machine {
    /// Tells where it stands.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Takes what was seen. Step again with the same input until nothing changes: durations may be zero.
    pub(crate) fn step(&mut self, input: Input, timing: Timing, now: SystemTime) -> Option<Transition> {
        let (phase, transition) = match (self.phase, input) {
            (Phase::Inactive | Phase::Resolved, Input::Breach { since }) => {
                (Phase::Pending { since: since.min(now) }, Transition::Started)
            }
            (Phase::Pending { since }, Input::Breach { .. }) if lasted(since, timing.fires_after, now) => {
                (Phase::Firing { fired_at: now }, Transition::Fired)
            }
            (Phase::Pending { .. }, Input::Clear { .. } | Input::Unseen) => {
                (Phase::Inactive, Transition::Withdrawn)
            }
            (Phase::Firing { fired_at }, Input::Clear { since }) => {
                let clear_since = since.max(fired_at).min(now);
                (Phase::Recovering { fired_at, clear_since }, Transition::Recovering)
            }
            (Phase::Recovering { fired_at, .. }, Input::Breach { .. } | Input::Unseen) => {
                (Phase::Firing { fired_at }, Transition::Relapsed)
            }
            (Phase::Recovering { clear_since, .. }, Input::Clear { .. })
                if lasted(clear_since, timing.clears_after, now) =>
            {
                (Phase::Resolved, Transition::Resolved)
            }
            (Phase::Inactive | Phase::Resolved, Input::Clear { .. } | Input::Unseen)
            | (Phase::Pending { .. }, Input::Breach { .. })
            | (Phase::Firing { .. }, Input::Breach { .. } | Input::Unseen)
            | (Phase::Recovering { .. }, Input::Clear { .. }) => return None,
        };
        self.phase = phase;
        Some(transition)
    }
}

/// A clock that was set back counts as one that stands still.
fn lasted(since: SystemTime, at_least: Duration, now: SystemTime) -> bool {
    now.duration_since(since).unwrap_or_default() >= at_least
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::mem::discriminant;
    use std::time::UNIX_EPOCH;

    const TIMING: Timing =
        Timing { fires_after: Duration::from_secs(10), clears_after: Duration::from_secs(5) };

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second)
    }

    fn breach(since: u64) -> Input {
        Input::Breach { since: at(since) }
    }

    fn clear(since: u64) -> Input {
        Input::Clear { since: at(since) }
    }

    #[test]
    fn every_pair_of_state_and_input_has_its_answer() {
        use Transition::{Fired, Recovering, Relapsed, Resolved, Started, Withdrawn};
        let inactive = Phase::Inactive;
        let pending = |since| Phase::Pending { since: at(since) };
        let firing = Phase::Firing { fired_at: at(95) };
        let recovering = |since| Phase::Recovering { fired_at: at(95), clear_since: at(since) };
        // now is always second 100.
        let table = [
            (inactive, breach(100), pending(100), Some(Started)),
            (inactive, breach(70), pending(70), Some(Started)),
            (inactive, breach(200), pending(100), Some(Started)),
            (inactive, clear(100), inactive, None),
            (inactive, Input::Unseen, inactive, None),
            (pending(91), breach(91), pending(91), None),
            (pending(90), breach(90), Phase::Firing { fired_at: at(100) }, Some(Fired)),
            (pending(95), breach(50), pending(95), None),
            (pending(300), breach(100), pending(300), None),
            (pending(91), clear(100), inactive, Some(Withdrawn)),
            (pending(91), Input::Unseen, inactive, Some(Withdrawn)),
            (firing, breach(90), firing, None),
            (firing, Input::Unseen, firing, None),
            (firing, clear(100), recovering(100), Some(Recovering)),
            (firing, clear(97), recovering(97), Some(Recovering)),
            (firing, clear(10), recovering(95), Some(Recovering)),
            (firing, clear(400), recovering(100), Some(Recovering)),
            (recovering(96), clear(96), recovering(96), None),
            (recovering(95), clear(95), Phase::Resolved, Some(Resolved)),
            (recovering(95), breach(99), firing, Some(Relapsed)),
            (recovering(95), Input::Unseen, firing, Some(Relapsed)),
            (Phase::Resolved, breach(98), pending(98), Some(Started)),
            (Phase::Resolved, clear(100), Phase::Resolved, None),
            (Phase::Resolved, Input::Unseen, Phase::Resolved, None),
        ];
        let pairs: HashSet<_> =
            table.iter().map(|(before, input, ..)| (discriminant(before), discriminant(input))).collect();
        let states = [inactive, pending(91), firing, recovering(95), Phase::Resolved];
        let inputs = [breach(100), clear(100), Input::Unseen];
        let all = states.iter().flat_map(|state| inputs.iter().map(move |input| (state, input)));
        for (state, input) in all {
            assert!(
                pairs.contains(&(discriminant(state), discriminant(input))),
                "{state:?} + {input:?} is not in the table"
            );
        }
        for (before, input, after, transition) in table {
            let mut machine = Machine { phase: before };
            assert_eq!(machine.step(input, TIMING, at(100)), transition, "{before:?} + {input:?}");
            assert_eq!(machine.phase(), after, "{before:?} + {input:?}");
        }
    }

    /// How the clock moves, backward too; what is seen; and since how long.
    fn inputs() -> impl Strategy<Value = Vec<(i64, u8, u64)>> {
        let moves = prop_oneof![8 => 0..8_i64, 1 => -40..0_i64, 1 => 100..4_000_i64];
        proptest::collection::vec((moves, 0..3_u8, 0..30_u64), 1..200)
    }

    proptest! {
        #[test]
        fn episode_never_skips_a_state_and_never_fires_or_ends_early(
            inputs in inputs(), fires_after in 0..12_u64, clears_after in 0..12_u64,
        ) {
            let timing = Timing {
                fires_after: Duration::from_secs(fires_after),
                clears_after: Duration::from_secs(clears_after),
            };
            let mut machine = Machine::default();
            let mut now: u64 = 10_000;
            let mut previous = None;
            for (by, kind, back) in inputs {
                now = now.saturating_add_signed(by);
                let input = match kind { 0 => breach(now - back), 1 => clear(now - back), _ => Input::Unseen };
                for round in 0.. {
                    prop_assert!(round < 4, "does not come to rest");
                    let before = machine.phase();
                    let Some(transition) = machine.step(input, timing, at(now)) else { break };
                    prop_assert_ne!(before, machine.phase());
                    use Transition::{Fired, Recovering, Relapsed, Resolved, Started, Withdrawn};
                    let may_follow: &[Option<Transition>] = match transition {
                        Started => &[None, Some(Withdrawn), Some(Resolved)],
                        Fired | Withdrawn => &[Some(Started)],
                        Recovering => &[Some(Fired), Some(Relapsed)],
                        Relapsed | Resolved => &[Some(Recovering)],
                    };
                    prop_assert!(may_follow.contains(&previous), "{:?} after {:?}", transition, previous);
                    match (transition, before) {
                        (Fired, Phase::Pending { since }) => {
                            prop_assert!(at(now).duration_since(since).unwrap() >= timing.fires_after);
                        }
                        (Resolved, Phase::Recovering { clear_since, .. }) => {
                            prop_assert!(at(now).duration_since(clear_since).unwrap() >= timing.clears_after);
                        }
                        _ => {}
                    }
                    previous = Some(transition);
                }
            }
        }
    }
}
