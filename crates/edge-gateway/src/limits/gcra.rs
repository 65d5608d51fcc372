//! The generic cell rate algorithm (ITU-T I.371): a leaky bucket as a meter, in one number per key.

use std::time::Duration;

use tokio::time::Instant;

/// How much is allowed: `quota` per `window` in the long run, `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) quota: u32,
    pub(crate) window: Duration,
    pub(crate) burst: u32,
}

/// State of one key: when its bucket is empty again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gcra {
    empty_at: Option<Instant>,
}

/// What is said to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) allowed: bool,
    /// Requests that would be allowed now.
    pub(crate) remaining: u32,
    /// When the next one is allowed; zero where this one is.
    pub(crate) retry_after: Duration,
    /// When the whole burst is there again.
    pub(crate) reset_after: Duration,
}

impl Gcra {
    /// Counts one request if it is within the rate.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> Verdict {
        let verdict = self.look(rate, now, 1);
        if verdict.allowed {
            self.empty_at = Some(now + verdict.reset_after);
        }
        verdict
    }

    /// Tells whether one more request would be allowed, without counting it.
    pub(crate) fn peek(&self, rate: Rate, now: Instant) -> Verdict {
        let mut copy = *self;
        copy.take(rate, now)
    }

    fn look(&self, rate: Rate, now: Instant, cost: u32) -> Verdict {
        let interval = rate.window / rate.quota.max(1);
        let tolerance = interval * rate.burst;
        let filled = self.empty_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let after = filled + interval * cost;
        let allowed = after <= tolerance;
        let level = if allowed { after } else { filled };
        Verdict {
            allowed,
            remaining: whole(tolerance.saturating_sub(level), interval),
            retry_after: after.saturating_sub(tolerance),
            reset_after: level,
        }
    }
}

fn whole(room: Duration, interval: Duration) -> u32 {
    u32::try_from(room.as_nanos() / interval.as_nanos().max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { quota: 10, window: Duration::from_secs(1), burst: 3 };

    #[test]
    fn burst_is_spent_and_comes_back_one_interval_at_a_time() {
        let (mut gcra, start) = (Gcra::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for (ms, allowed, remaining) in [
            (0, true, 2),
            (0, true, 1),
            (0, true, 0),
            (0, false, 0),
            (99, false, 0),
            (100, true, 0),
            (300, true, 1),
            (9_000, true, 2),
        ] {
            let verdict = gcra.take(RATE, at(ms));
            assert_eq!((verdict.allowed, verdict.remaining), (allowed, remaining), "at {ms} ms");
        }
    }

    #[test]
    fn refused_request_is_told_when_it_would_have_been_allowed() {
        let (mut gcra, start) = (Gcra::default(), Instant::now());
        for _ in 0..3 {
            assert!(gcra.take(RATE, start).allowed);
        }
        let wait = gcra.take(RATE, start).retry_after;
        assert_eq!(wait, Duration::from_millis(100));
        assert!(gcra.peek(RATE, start + wait).allowed, "peeking counts nothing");
        assert!(gcra.take(RATE, start + wait).allowed);
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_quota_of_the_time_gone_by(
            gaps_ms in prop::collection::vec(0_u64..200, 1..200),
        ) {
            let (mut gcra, start) = (Gcra::default(), Instant::now());
            let (mut now, mut allowed) = (start, 0_u128);
            for gap in gaps_ms {
                now += Duration::from_millis(gap);
                allowed += u128::from(gcra.take(RATE, now).allowed);
                let gone_ms = (now - start).as_millis();
                prop_assert!(allowed <= 3 + gone_ms / 100, "{allowed} after {gone_ms} ms");
            }
        }
    }
}
