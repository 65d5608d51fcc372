//! The generic cell rate algorithm (ITU-T I.371) over whole nanoseconds.
//!
//! All that is kept of a key is its theoretical arrival time, the time at which it will have paid for what it was
//! allowed. How far that lies ahead of now is the argument here; nobody's clock is.

use std::time::Duration;

use crate::shared::BadField;

/// So many requests in so long a time, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Time that one request uses up.
    interval_ns: u64,
    burst: u32,
}

/// The answer to one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) allowed: bool,
    /// Requests of cost 1 that would be allowed now.
    pub(crate) remaining: u32,
    /// When the same request would be allowed; none when it is.
    pub(crate) retry_after: Option<Duration>,
    /// When the whole burst is there again.
    pub(crate) reset_after: Duration,
}

impl Limit {
    pub(crate) const MOST: u32 = 1_000_000;
    pub(crate) const LONGEST_WINDOW: Duration = Duration::from_hours(24);
    /// Keeps the sums of the script within the 53 exact bits of a double.
    const MOST_AHEAD: Duration = Duration::from_hours(30 * 24);
    const SHORTEST_INTERVAL_NS: u64 = 1_000;

    /// Accepts a quota of 1 to 1,000,000 in a window of 1 ms to 24 h; a burst of 0 means the quota.
    pub(crate) fn try_new(quota: u32, window: Duration, burst: u32) -> Result<Self, BadField> {
        if !(1..=Self::MOST).contains(&quota) {
            return Err(BadField::new("limit.quota", "must be 1 to 1000000"));
        }
        if !(Duration::from_millis(1)..=Self::LONGEST_WINDOW).contains(&window) {
            return Err(BadField::new("limit.window", "must be 1ms to 24h"));
        }
        let burst = if burst == 0 { quota } else { burst };
        if burst > Self::MOST {
            return Err(BadField::new("limit.burst", "must be at most 1000000"));
        }
        // Rounded up: the quota is never exceeded, and missed by less than a thousandth.
        let interval_ns = nanos(window).div_ceil(u64::from(quota));
        if interval_ns < Self::SHORTEST_INTERVAL_NS {
            return Err(BadField::new("limit.quota", "must be at most 1000000 a second"));
        }
        let limit = Self { interval_ns, burst };
        if limit.tolerance_ns() > nanos(Self::MOST_AHEAD) {
            return Err(BadField::new("limit.burst", "must come back within 30 days"));
        }
        Ok(limit)
    }

    pub(crate) fn burst(&self) -> u32 {
        self.burst
    }

    /// How far ahead of now the arrival time may come to lie.
    pub(crate) fn tolerance_ns(&self) -> u64 {
        u64::from(self.burst) * self.interval_ns
    }

    /// What a request of this cost moves the arrival time by.
    pub(crate) fn increment_ns(&self, cost: u32) -> u64 {
        u64::from(cost) * self.interval_ns
    }

    /// Tells whether a request may pass.
    pub(crate) fn allows(&self, ahead_ns: u64, cost: u32) -> bool {
        ahead_ns.saturating_add(self.increment_ns(cost)) <= self.tolerance_ns()
    }

    /// Says how a request stands. `counted` tells whether it was, or is to be, counted when it is allowed.
    pub(crate) fn verdict(&self, ahead_ns: u64, cost: u32, counted: bool) -> Verdict {
        let (increment, tolerance) = (self.increment_ns(cost), self.tolerance_ns());
        let allowed = self.allows(ahead_ns, cost);
        let after_ns = if allowed && counted { ahead_ns + increment } else { ahead_ns };
        let remaining = tolerance.saturating_sub(after_ns) / self.interval_ns;
        let wait_ns = ahead_ns.saturating_add(increment).saturating_sub(tolerance);
        Verdict {
            allowed,
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            retry_after: (!allowed).then(|| Duration::from_nanos(wait_ns)),
            reset_after: Duration::from_nanos(after_ns),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(quota: u32, window_ms: u64, burst: u32) -> Result<Limit, BadField> {
        Limit::try_new(quota, Duration::from_millis(window_ms), burst)
    }

    #[test]
    fn limits_out_of_range_name_the_field() {
        for (made, field) in [
            (limit(0, 1_000, 0), "limit.quota"),
            (limit(1_000_001, 1_000, 0), "limit.quota"),
            (limit(1, 0, 0), "limit.window"),
            (limit(1, 24 * 3_600_000 + 1, 0), "limit.window"),
            (limit(1_000_000, 1, 0), "limit.quota"),
            (limit(1, 1_000, 1_000_001), "limit.burst"),
            (limit(1, 24 * 3_600_000, 31), "limit.burst"),
        ] {
            assert_eq!(made.unwrap_err().field, field);
        }
    }

    #[test]
    fn a_burst_is_there_at_once_and_comes_back_one_by_one() {
        let limit = limit(10, 1_000, 3).unwrap();
        let ms = Duration::from_millis;
        let first = limit.verdict(0, 1, true);
        assert_eq!((first.allowed, first.remaining, first.reset_after), (true, 2, ms(100)));
        let last = limit.verdict(200_000_000, 1, true);
        assert_eq!((last.allowed, last.remaining), (true, 0));
        let refused = limit.verdict(300_000_000, 1, true);
        assert_eq!((refused.allowed, refused.retry_after), (false, Some(ms(100))));
        let look = limit.verdict(100_000_000, 0, true);
        assert_eq!((look.allowed, look.remaining, look.reset_after), (true, 2, ms(100)));
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_admits_more_than_burst_and_rate(
            quota in 1_u32..50, window_ms in 1_u64..5_000, burst in 0_u32..20,
            steps in prop::collection::vec((0_u64..400_000_000, 0_u32..4), 1..200),
        ) {
            let limit = limit(quota, window_ms, burst).unwrap();
            let (mut now, mut arrival) = (0_u64, 0_u64);
            let mut admitted: Vec<(u64, u64)> = Vec::new();
            for (gap, cost) in steps {
                now += gap;
                let ahead = arrival.saturating_sub(now);
                let verdict = limit.verdict(ahead, cost, true);
                prop_assert_eq!(verdict.allowed, limit.allows(ahead, cost));
                if verdict.allowed {
                    arrival = now + ahead + limit.increment_ns(cost);
                    admitted.push((now, u64::from(cost)));
                    prop_assert!(arrival - now <= limit.tolerance_ns());
                } else if cost <= limit.burst() {
                    // What it says of the time to wait is exact.
                    let wait = u64::try_from(verdict.retry_after.unwrap().as_nanos()).unwrap();
                    prop_assert!(limit.allows(ahead - wait, cost));
                    prop_assert!(!limit.allows(ahead - (wait - 1), cost));
                }
            }
            for (from, &(start, _)) in admitted.iter().enumerate() {
                let mut sum = 0;
                for &(at, cost) in &admitted[from..] {
                    sum += cost;
                    let bound = u64::from(limit.burst()) + (at - start) / limit.interval_ns;
                    prop_assert!(sum <= bound, "{} in {} ns, at most {}", sum, at - start, bound);
                }
            }
        }

        #[test]
        fn what_remains_would_be_allowed_and_one_more_would_not(
            quota in 1_u32..1_000, window_ms in 1_u64..100_000, ahead in 0_u64..100_000_000_000,
        ) {
            let limit = limit(quota, window_ms, 0).unwrap();
            let ahead = ahead % (limit.tolerance_ns() + 1);
            let remaining = limit.verdict(ahead, 0, true).remaining;
            prop_assert!(limit.allows(ahead, remaining));
            prop_assert!(!limit.allows(ahead, remaining + 1));
        }
    }
}
