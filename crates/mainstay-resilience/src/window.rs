//! How much happened in the last seconds.

use std::ops::AddAssign;
use std::time::{Duration, Instant};

/// Sums what was added within the last `span`, in time buckets of equal width.
///
/// The oldest bucket leaves as a whole, so a sum covers between `span - span / buckets` and `span`. Memory is fixed;
/// adding and summing cost at most one pass over the buckets. Buckets are counted from the first instant seen. An
/// instant older than the newest one seen counts as the newest.
#[derive(Debug, Clone)]
pub struct SlidingWindow<T> {
    width: Duration,
    buckets: Box<[T]>,
    started_at: Option<Instant>,
    newest: u64,
}

impl<T: Copy + Default + AddAssign> SlidingWindow<T> {
    /// Starts empty; a span of zero becomes one nanosecond per bucket, zero buckets become one.
    pub fn new(span: Duration, buckets: u32) -> Self {
        let buckets = buckets.max(1);
        let width = (span / buckets).max(Duration::from_nanos(1));
        Self { width, buckets: vec![T::default(); buckets as usize].into(), started_at: None, newest: 0 }
    }

    /// Adds to the bucket of `now`.
    pub fn add(&mut self, now: Instant, value: T) {
        self.advance(now);
        let slot = self.slot(self.newest);
        self.buckets[slot] += value;
    }

    /// Sums all buckets that are still inside the window at `now`.
    pub fn sums(&self, now: Instant) -> T {
        let current = self.index(now).max(self.newest);
        let gone = current - self.newest;
        let n_buckets = self.buckets.len() as u64;
        let n_alive = n_buckets.saturating_sub(gone).min(self.newest + 1);
        let mut sum = T::default();
        for age in 0..n_alive {
            sum += self.buckets[self.slot(self.newest - age)];
        }
        sum
    }

    /// Forgets everything that was added.
    pub fn clear(&mut self) {
        self.buckets.fill(T::default());
    }

    /// Empties the buckets that were passed since the newest one.
    fn advance(&mut self, now: Instant) {
        self.started_at.get_or_insert(now);
        let current = self.index(now);
        let passed = current.saturating_sub(self.newest).min(self.buckets.len() as u64);
        for back in 0..passed {
            let slot = self.slot(current - back);
            self.buckets[slot] = T::default();
        }
        self.newest = self.newest.max(current);
    }

    fn index(&self, now: Instant) -> u64 {
        let age = self.started_at.map_or(Duration::ZERO, |start| now.saturating_duration_since(start));
        u64::try_from(age.as_nanos() / self.width.as_nanos()).unwrap_or(u64::MAX - 1)
    }

    fn slot(&self, index: u64) -> usize {
        let n_buckets = self.buckets.len() as u64;
        usize::try_from(index % n_buckets).expect("a remainder of a length fits into usize")
    }
}

/// Counts calls by how they ended; a slow call may have succeeded or failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    /// All calls.
    pub total: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Calls that took too long, whatever they ended with.
    pub slow: u64,
}

impl Calls {
    /// Counts one call.
    pub fn one(failed: bool, slow: bool) -> Self {
        Self { total: 1, failed: failed.into(), slow: slow.into() }
    }

    /// Returns the failed share in `[0, 1]`, 0 without calls.
    pub fn failure_rate(&self) -> f64 {
        share(self.failed, self.total)
    }

    /// Returns the slow share in `[0, 1]`, 0 without calls.
    pub fn slow_rate(&self) -> f64 {
        share(self.slow, self.total)
    }
}

impl AddAssign for Calls {
    fn add_assign(&mut self, other: Self) {
        self.total += other.total;
        self.failed += other.failed;
        self.slow += other.slow;
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_time::origin;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_older_than_the_span_is_gone() {
        let start = origin();
        let mut window = SlidingWindow::<u64>::new(10 * SECOND, 10);
        window.add(start, 5);
        assert_eq!(window.sums(start + 9 * SECOND), 5);
        assert_eq!(window.sums(start + 10 * SECOND), 0);
        window.add(start + 30 * SECOND, 1);
        assert_eq!(window.sums(start + 30 * SECOND), 1);
    }

    #[test]
    fn an_older_instant_counts_as_the_newest() {
        let start = origin();
        let mut window = SlidingWindow::<u64>::new(10 * SECOND, 10);
        window.add(start + 5 * SECOND, 1);
        window.add(start + 12 * SECOND, 1);
        window.add(start, 1);
        assert_eq!(window.sums(start), 3);
        assert_eq!(window.sums(start + 15 * SECOND), 2);
    }

    #[test]
    fn rates_of_nothing_are_zero() {
        assert_eq!(Calls::default().failure_rate(), 0.0);
        let mut calls = Calls::one(true, false);
        calls += Calls::one(false, true);
        calls += Calls::one(false, true);
        calls += Calls::one(true, true);
        assert_eq!((calls.failure_rate(), calls.slow_rate()), (0.5, 0.75));
    }

    proptest! {
        #[test]
        fn sums_equal_a_list_of_all_events(
            span_millis in 1_u64..5_000,
            n_buckets in 1_u32..20,
            steps in prop::collection::vec((0_u64..2_000, 0_u64..4, any::<bool>()), 1..120),
        ) {
            let start = origin();
            let span = Duration::from_millis(span_millis);
            let width = (span / n_buckets).as_nanos();
            let mut window = SlidingWindow::<u64>::new(span, n_buckets);
            let mut events: Vec<(u128, u64)> = Vec::new();
            let (mut elapsed, mut first) = (Duration::ZERO, None);
            for (wait, value, adds) in steps {
                elapsed += Duration::from_millis(wait);
                let now = start + elapsed;
                if adds {
                    let first = *first.get_or_insert(elapsed);
                    window.add(now, value);
                    events.push(((elapsed - first).as_nanos() / width, value));
                }
                let current = first.map_or(0, |first| (elapsed - first).as_nanos() / width);
                let expected: u64 = events
                    .iter()
                    .filter(|(bucket, _)| bucket + u128::from(n_buckets) > current)
                    .map(|(_, value)| value)
                    .sum();
                prop_assert_eq!(window.sums(now), expected);
            }
        }

        #[test]
        fn sums_cover_all_of_the_span_but_one_bucket_and_nothing_older(
            gaps in prop::collection::vec(0_u64..700, 1..100),
        ) {
            let start = origin();
            let mut window = SlidingWindow::<u64>::new(10 * SECOND, 10);
            let mut times = Vec::new();
            let mut elapsed = Duration::ZERO;
            for gap in gaps {
                elapsed += Duration::from_millis(gap);
                times.push(elapsed);
                window.add(start + elapsed, 1);
            }
            let within = |span: Duration| times.iter().filter(|at| elapsed - **at < span).count() as u64;
            let sum = window.sums(start + elapsed);
            prop_assert!(within(9 * SECOND) <= sum && sum <= within(10 * SECOND));
        }
    }
}
