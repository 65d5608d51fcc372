use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache;

use super::Check;
use super::gcra::Verdict;

/// Counts in the memory of this process. Holds so many keys at most; the least used is forgotten, and begins anew.
#[derive(Debug)]
pub(super) struct LocalLimits {
    /// Arrival times, in nanoseconds of a clock that the caller reads.
    arrivals: Cache<String, Arc<AtomicU64>>,
}

impl LocalLimits {
    pub(super) fn new(max_keys: usize) -> Self {
        Self { arrivals: Cache::new(max_keys) }
    }

    pub(super) fn check(&self, checks: &[Check], all_or_none: bool, now_ns: u64) -> Vec<Verdict> {
        let counted: Vec<Counted> = checks.iter().map(|check| self.count(check, now_ns)).collect();
        let all = counted.iter().all(|counted| counted.verdict.allowed);
        if all || !all_or_none {
            return counted.into_iter().map(|counted| counted.verdict).collect();
        }
        let taken_back = |(check, counted): (&Check, Counted)| {
            if counted.verdict.allowed {
                counted.arrival.fetch_sub(check.limit.increment_ns(check.cost), Ordering::Relaxed);
            }
            check.limit.verdict(counted.ahead_ns, check.cost, false)
        };
        checks.iter().zip(counted).map(taken_back).collect()
    }

    /// Takes over what Redis said, so that this node goes on from there when Redis goes away.
    pub(super) fn learn(&self, check: &Check, ahead_ns: u64, now_ns: u64) {
        self.arrival(&check.key).store(now_ns + ahead_ns, Ordering::Relaxed);
    }

    fn count(&self, check: &Check, now: u64) -> Counted {
        let arrival = self.arrival(&check.key);
        let mut before = arrival.load(Ordering::Relaxed);
        loop {
            let ahead_ns = before.saturating_sub(now);
            let verdict = check.limit.verdict(ahead_ns, check.cost, true);
            let after = now + ahead_ns + check.limit.increment_ns(check.cost);
            if !verdict.allowed {
                return Counted { verdict, ahead_ns, arrival };
            }
            match arrival.compare_exchange_weak(before, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Counted { verdict, ahead_ns, arrival },
                Err(present) => before = present,
            }
        }
    }

    fn arrival(&self, key: &str) -> Arc<AtomicU64> {
        let begun =
            self.arrivals.get_or_insert_with(key, || Ok::<_, std::convert::Infallible>(Arc::default()));
        let Ok(arrival) = begun;
        arrival
    }
}

struct Counted {
    verdict: Verdict,
    ahead_ns: u64,
    arrival: Arc<AtomicU64>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limiter::gcra::Limit;

    fn check(key: &str, quota: u32) -> Check {
        let limit = Limit::try_new(quota, Duration::from_secs(60), 0).unwrap();
        Check { key: key.into(), limit, cost: 1 }
    }

    #[test]
    fn threads_together_get_the_burst_and_no_more() {
        let limits = LocalLimits::new(100);
        let one = || limits.check(&[check("k", 100)], false, 0)[0].allowed;
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| (0..100).filter(|_| one()).count())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 100);
    }

    #[test]
    fn all_or_none_counts_nothing_when_one_refuses() {
        let limits = LocalLimits::new(100);
        assert!(limits.check(&[check("small", 1)], true, 0)[0].allowed);
        for _ in 0..5 {
            let verdicts = limits.check(&[check("big", 3), check("small", 1)], true, 0);
            assert_eq!((verdicts[0].allowed, verdicts[0].remaining), (true, 3));
            assert!(!verdicts[1].allowed);
        }
        assert_eq!(limits.check(&[check("big", 3)], true, 0)[0].remaining, 2);
    }

    #[test]
    fn a_refused_key_is_allowed_after_the_time_it_was_told() {
        let limits = LocalLimits::new(100);
        assert!(limits.check(&[check("k", 1)], false, 0)[0].allowed);
        let wait = limits.check(&[check("k", 1)], false, 0)[0].retry_after.unwrap();
        let then = u64::try_from(wait.as_nanos()).unwrap();
        assert!(!limits.check(&[check("k", 1)], false, then - 1)[0].allowed);
        assert!(limits.check(&[check("k", 1)], false, then)[0].allowed);
    }

    #[test]
    fn what_redis_said_is_gone_on_from() {
        let limits = LocalLimits::new(100);
        let check = check("k", 2);
        limits.learn(&check, check.limit.tolerance_ns(), 0);
        assert!(!limits.check(&[check], false, 0)[0].allowed);
    }

    #[test]
    fn keys_are_bounded() {
        let limits = LocalLimits::new(100);
        for number in 0..10_000 {
            limits.check(&[check(&number.to_string(), 5)], false, 0);
        }
        assert!(limits.arrivals.len() <= 100, "{}", limits.arrivals.len());
    }
}
