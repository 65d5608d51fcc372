//! When to ping, and how long to wait for the answer.

use std::time::Duration;

use tokio::time::Instant;

use super::Rules;

/// The heartbeat of one connection.
#[derive(Debug)]
pub(super) struct Pulse {
    ping_at: Instant,
    outstanding: Option<Outstanding>,
}

#[derive(Debug)]
struct Outstanding {
    sent_at: Instant,
    pong_by: Instant,
}

/// What a pong means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pong {
    Expected { round_trip: Duration },
    Unasked,
}

/// Says that the client did not answer in time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoPong;

impl Pulse {
    /// The first ping comes in the second half of the period, so that clients that came together do not answer together.
    pub(super) fn new(now: Instant, rules: &Rules, jitter: f64) -> Self {
        let half = rules.ping_every / 2;
        Self { ping_at: now + half + half.mul_f64(jitter.clamp(0.0, 1.0)), outstanding: None }
    }

    /// Returns whether to ping now.
    pub(super) fn on_timer(&mut self, now: Instant, rules: &Rules) -> Result<bool, NoPong> {
        if self.outstanding.as_ref().is_some_and(|ping| ping.pong_by <= now) {
            return Err(NoPong);
        }
        if self.ping_at > now || self.outstanding.is_some() {
            return Ok(false);
        }
        self.outstanding = Some(Outstanding { sent_at: now, pong_by: now + rules.pong_within });
        // Counted from now: a process that was suspended does not catch up on pings.
        self.ping_at = now + rules.ping_every;
        Ok(true)
    }

    pub(super) fn on_pong(&mut self, now: Instant) -> Pong {
        match self.outstanding.take() {
            Some(ping) => Pong::Expected { round_trip: now.saturating_duration_since(ping.sent_at) },
            None => Pong::Unasked,
        }
    }

    pub(super) fn next_at(&self) -> Instant {
        self.outstanding.as_ref().map_or(self.ping_at, |ping| ping.pong_by)
    }
}
