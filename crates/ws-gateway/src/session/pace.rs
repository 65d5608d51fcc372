//! How often a client asks, kind by kind: the generic cell rate algorithm (ITU-T I.371), one instant for each kind.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::{RateConfig, RatesConfig};
use crate::protocol::{Method, Request};

/// Commands that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Subscribe,
    Publish,
    Read,
    Other,
}

/// When the commands of each kind so far will have been paid for, at the rate that is allowed.
#[derive(Debug, Default)]
pub(super) struct Pace {
    paid_at: [Option<Instant>; 4],
}

impl Kind {
    /// Returns what a command counts as, and its name; none where it is not limited.
    pub(super) fn of(request: &Request<'_>) -> Option<(Self, Method)> {
        Some(match request {
            Request::Pong | Request::Connect(_) => return None,
            Request::Subscribe(_) => (Self::Subscribe, Method::Subscribe),
            Request::Publish(_) => (Self::Publish, Method::Publish),
            Request::Presence(_) => (Self::Read, Method::Presence),
            Request::PresenceStats(_) => (Self::Read, Method::PresenceStats),
            Request::History(_) => (Self::Read, Method::History),
            Request::Unsubscribe(_) => (Self::Other, Method::Unsubscribe),
            Request::Refresh(_) => (Self::Other, Method::Refresh),
            Request::Rpc(_) => (Self::Other, Method::Rpc),
            Request::SubRefresh(_) => (Self::Other, Method::SubRefresh),
            // It has no reply, and ends the connection anyhow.
            Request::Send => return None,
            Request::Unserved(method) => (Self::Other, *method),
            Request::Unknown => (Self::Other, Method::Unknown),
        })
    }

    pub(super) fn rate(self, rates: &RatesConfig) -> RateConfig {
        match self {
            Self::Subscribe => rates.subscribe,
            Self::Publish => rates.publish,
            Self::Read => rates.read,
            Self::Other => rates.other,
        }
    }
}

impl Pace {
    /// Counts a command; false when it is one too many, which costs the client nothing.
    pub(super) fn allows(&mut self, kind: Kind, rate: RateConfig, now: Instant) -> bool {
        let cost = Duration::from_secs(1) / rate.per_second.max(1);
        let paid_at = &mut self.paid_at[kind as usize];
        let next = paid_at.unwrap_or(now).max(now) + cost;
        if next > now + cost * rate.burst {
            return false;
        }
        *paid_at = Some(next);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let rate = RateConfig { per_second: 10, burst: 3 };
        let mut passed_at_ms = Vec::new();
        for ms in 0..1_000 {
            if pace.allows(Kind::Publish, rate, start + Duration::from_millis(ms)) {
                passed_at_ms.push(ms);
            }
        }
        assert_eq!(passed_at_ms, [0, 1, 2, 100, 200, 300, 400, 500, 600, 700, 800, 900]);
        assert!(pace.allows(Kind::Read, rate, start), "kinds are counted apart");
        let later = start + Duration::from_secs(60);
        let n_passed = (0..10).filter(|_| pace.allows(Kind::Publish, rate, later)).count();
        assert_eq!(n_passed, 3);
    }
}
