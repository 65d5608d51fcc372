//! Whether a call may be sent at all.

use std::fmt;
use std::time::{Duration, Instant};

use crate::window::{Calls, SlidingWindow};

mod config;
mod probing;
#[cfg(test)]
mod tests;

pub use config::{BreakerConfig, InvalidBreakerConfig};

use probing::{Probing, Verdict};

const BUCKETS: u32 = 10;

/// Stops calls to something that fails or crawls, and lets it prove itself again.
///
/// Closed, it counts calls in a sliding window and opens when failures or slow calls take too large a share, or when
/// too many fail in a row. Open, it rejects until its time is over. Then, half-open, it lets a few probes through:
/// if all succeed it closes, if one fails it opens again for twice as long.
///
/// Each [`admit`](Self::admit) is answered by exactly one [`record`](Self::record) or [`cancel`](Self::cancel) with
/// the permit it gave. A permit that is lost (a dropped future) does no harm: closed it was never counted, half-open
/// its slot is given to another probe after `window`.
#[derive(Debug)]
pub struct Breaker {
    config: BreakerConfig,
    phase: Phase,
    /// Goes up on every opening, closing and reset; permits of another generation are ignored.
    generation: u64,
    calls: SlidingWindow<Calls>,
    failures_in_a_row: u32,
    opened_total: u64,
    since: Option<Instant>,
}

#[derive(Debug)]
enum Phase {
    Closed,
    /// Also stands for half-open before the first probe: the time decides.
    Open {
        until: Instant,
        lasts: Duration,
    },
    HalfOpen {
        lasted: Duration,
        probing: Probing,
    },
}

impl Breaker {
    /// Starts closed; figures outside their range are brought to the nearest legal one.
    ///
    /// Use [`BreakerConfig::try_new`] first where a wrong figure should be refused instead.
    pub fn new(config: BreakerConfig) -> Self {
        let config = config.clamped();
        Self {
            calls: SlidingWindow::new(config.window, BUCKETS),
            config,
            phase: Phase::Closed,
            generation: 0,
            failures_in_a_row: 0,
            opened_total: 0,
            since: None,
        }
    }

    /// Asks to send one call.
    pub fn admit(&mut self, now: Instant) -> Result<Permit, Rejected> {
        if let Phase::Open { until, lasts } = self.phase {
            if now < until {
                return Err(Rejected { retry_after: until - now });
            }
            self.phase = Phase::HalfOpen { lasted: lasts, probing: Probing::new(self.config.probes) };
            self.since = Some(until);
        }
        let probe = match &mut self.phase {
            Phase::HalfOpen { probing, .. } => {
                let given = probing.admit(now, self.config.window);
                Some(given.map_err(|frees_in| Rejected { retry_after: frees_in.min(self.config.open_for) })?)
            }
            Phase::Closed | Phase::Open { .. } => None,
        };
        Ok(Permit { generation: self.generation, probe })
    }

    /// Reports how an admitted call ended after `took`, and returns the change of state it caused.
    #[expect(clippy::needless_pass_by_value, reason = "a permit is spent by giving it back")]
    pub fn record(
        &mut self,
        permit: Permit,
        outcome: Outcome,
        took: Duration,
        now: Instant,
    ) -> Option<Transition> {
        if permit.generation != self.generation {
            return None;
        }
        let failed = outcome == Outcome::Failure;
        let slow = took >= self.config.slow_after;
        match (&mut self.phase, permit.probe) {
            (Phase::Closed, None) => self.record_closed(Calls::one(failed, slow), now),
            (Phase::HalfOpen { lasted, probing }, Some(probe)) => {
                let lasted = *lasted;
                match probing.record(probe, failed, slow, self.config.slow_rate) {
                    Verdict::Undecided => None,
                    Verdict::Well => Some(self.close(now)),
                    Verdict::Sick => Some(self.open(
                        now,
                        lasted.saturating_mul(2).min(self.config.open_for_max),
                        State::HalfOpen,
                    )),
                }
            }
            _ => None,
        }
    }

    /// Gives a permit back without a verdict: the caller went away before the answer came.
    #[expect(clippy::needless_pass_by_value, reason = "a permit is spent by giving it back")]
    pub fn cancel(&mut self, permit: Permit, _now: Instant) {
        if permit.generation == self.generation
            && let (Phase::HalfOpen { probing, .. }, Some(probe)) = (&mut self.phase, permit.probe)
        {
            probing.cancel(probe);
        }
    }

    /// Closes and forgets: what it stands for has been replaced. Permits given before count for nothing.
    pub fn reset(&mut self, now: Instant) {
        let from = self.state(now);
        self.calls.clear();
        if from == State::Closed {
            self.generation += 1;
            self.failures_in_a_row = 0;
        } else {
            self.phase = Phase::Closed;
            self.turn(now, from, State::Closed);
        }
    }

    /// Tells the state at `now`; an open breaker whose time is over is half-open.
    pub fn state(&self, now: Instant) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Open { until, .. } if now < until => State::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Describes the breaker for status pages and metrics.
    ///
    /// The counts are those of the closed phase within the window; after an opening they show what led to it until
    /// they age out.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let calls = self.calls.sums(now);
        let since = match self.phase {
            Phase::Open { until, .. } if now >= until => Some(until),
            _ => self.since,
        };
        Snapshot {
            state: self.state(now),
            calls: calls.total,
            failures: calls.failed,
            slow: calls.slow,
            opened_total: self.opened_total,
            since,
        }
    }

    fn record_closed(&mut self, call: Calls, now: Instant) -> Option<Transition> {
        self.calls.add(now, call);
        self.failures_in_a_row = if call.failed > 0 { self.failures_in_a_row.saturating_add(1) } else { 0 };
        let in_a_row = self.config.consecutive_failures;
        let trips = (in_a_row > 0 && self.failures_in_a_row >= in_a_row) || {
            let calls = self.calls.sums(now);
            calls.total >= u64::from(self.config.min_calls)
                && (calls.failure_rate() >= self.config.failure_rate
                    || calls.slow_rate() >= self.config.slow_rate)
        };
        trips.then(|| self.open(now, self.config.open_for, State::Closed))
    }

    fn open(&mut self, now: Instant, lasts: Duration, from: State) -> Transition {
        self.phase = Phase::Open { until: now + lasts, lasts };
        self.opened_total += 1;
        self.turn(now, from, State::Open)
    }

    fn close(&mut self, now: Instant) -> Transition {
        self.phase = Phase::Closed;
        self.calls.clear();
        self.turn(now, State::HalfOpen, State::Closed)
    }

    fn turn(&mut self, now: Instant, from: State, to: State) -> Transition {
        self.generation += 1;
        self.failures_in_a_row = 0;
        self.since = Some(now);
        Transition { from, to }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new(BreakerConfig::default())
    }
}

/// Names what a breaker does with calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// All calls pass and are counted.
    Closed,
    /// No call passes.
    Open,
    /// A few probes pass.
    HalfOpen,
}

impl State {
    /// Returns `closed`, `open` or `half_open`, as used in metric labels and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }

    /// Returns 0 for closed, 1 for half open and 2 for open, as gauges tell it.
    pub const fn level(self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Says whether a call speaks for or against what was called.
///
/// An error that is the caller's own fault (bad argument, not found) is a success here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer came, whatever it said.
    Success,
    /// No answer, or one that says "I cannot".
    Failure,
}

/// Allows one call; goes back with [`Breaker::record`] or [`Breaker::cancel`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit is given back by record or cancel"]
pub struct Permit {
    generation: u64,
    probe: Option<u64>,
}

impl Permit {
    /// Tells whether this call is one of the probes of a half-open breaker.
    pub fn is_probe(&self) -> bool {
        self.probe.is_some()
    }
}

/// Says that a call must not be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("circuit breaker is open")]
pub struct Rejected {
    /// After this time asking again makes sense; half-open it is an upper bound.
    pub retry_after: Duration,
}

/// Describes a change of state, to be logged by whoever gets it.
///
/// Going from open to half-open is a matter of time and is not reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// The state now.
    pub to: State,
}

/// Describes a breaker at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// What it does with calls.
    pub state: State,
    /// Calls recorded within the window.
    pub calls: u64,
    /// Failed ones among them.
    pub failures: u64,
    /// Slow ones among them.
    pub slow: u64,
    /// Openings since the start, re-openings included.
    pub opened_total: u64,
    /// When the state began; none while it is as it started.
    pub since: Option<Instant>,
}
