//! Whether one more retry is affordable.

use std::ops::AddAssign;
use std::time::{Duration, Instant};

use crate::window::SlidingWindow;

const BUCKETS: u32 = 10;

/// Keeps retries to a share of the requests of the last seconds, plus a small floor.
///
/// While all is well a caller may retry freely; when everything fails, retries add at most `ratio` to the load instead
/// of multiplying it. Within a window: `retries <= ratio * requests + min_per_second * window`; over any longer time
/// `t`: `retries <= ratio * requests + min_per_second * (t + window)`. The idea is that of Finagle's retry budgets.
#[derive(Debug, Clone)]
pub struct RetryBudget {
    ratio: f64,
    floor: f64,
    window: SlidingWindow<Spent>,
}

impl RetryBudget {
    /// Allows `ratio` retries per request and `min_per_second` retries whatever the traffic, over `window`.
    ///
    /// The floor is given as a whole for the window, so an idle caller may spend `min_per_second * window` at once.
    /// Numbers that make no sense (negative, NaN, infinite) count as zero, which only ever allows less.
    pub fn new(ratio: f64, min_per_second: f64, window: Duration) -> Self {
        let floor = finite(min_per_second) * window.as_secs_f64();
        Self { ratio: finite(ratio), floor, window: SlidingWindow::new(window, BUCKETS) }
    }

    /// Counts one first attempt; retries are not deposited.
    pub fn deposit(&mut self, now: Instant) {
        self.window.add(now, Spent { requests: 1, retries: 0 });
    }

    /// Takes one retry out of the budget; `false` means: do not retry, return the error.
    pub fn try_withdraw(&mut self, now: Instant) -> bool {
        let affordable = self.remaining(now) >= 1;
        if affordable {
            self.window.add(now, Spent { requests: 0, retries: 1 });
        }
        affordable
    }

    /// Counts the retries that could be taken at `now`.
    pub fn remaining(&self, now: Instant) -> u64 {
        let spent = self.window.sums(now);
        let allowed = self.ratio * spent.requests as f64 + self.floor;
        // Ten times 0.1 must be one retry, whatever binary fractions make of it.
        let left = (allowed + 1e-9).floor() - spent.retries as f64;
        if left >= 1.0 { left as u64 } else { 0 }
    }
}

impl Default for RetryBudget {
    /// Allows one retry per ten requests and one per second, over ten seconds.
    fn default() -> Self {
        Self::new(0.1, 1.0, Duration::from_secs(10))
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    requests: u64,
    retries: u64,
}

impl AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.retries += other.retries;
    }
}

fn finite(number: f64) -> f64 {
    if number.is_finite() { number.max(0.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_time::origin;

    const SECOND: Duration = Duration::from_secs(1);

    fn withdraw_all(budget: &mut RetryBudget, now: Instant) -> u64 {
        (0..10_000).take_while(|_| budget.try_withdraw(now)).count() as u64
    }

    #[test]
    fn a_tenth_of_the_requests_may_be_retried() {
        let now = origin();
        let mut budget = RetryBudget::new(0.1, 0.0, 10 * SECOND);
        assert!(!budget.try_withdraw(now));
        (0..100).for_each(|_| budget.deposit(now));
        assert_eq!(withdraw_all(&mut budget, now), 10);
    }

    #[test]
    fn an_idle_caller_has_the_floor() {
        let now = origin();
        let mut budget = RetryBudget::new(0.1, 2.0, 10 * SECOND);
        assert_eq!(withdraw_all(&mut budget, now), 20);
        assert_eq!(withdraw_all(&mut budget, now + 10 * SECOND), 20);
    }

    #[test]
    fn old_requests_no_longer_pay() {
        let now = origin();
        let mut budget = RetryBudget::new(1.0, 0.0, 10 * SECOND);
        (0..50).for_each(|_| budget.deposit(now));
        assert_eq!(budget.remaining(now + 9 * SECOND), 50);
        assert_eq!(budget.remaining(now + 10 * SECOND), 0);
    }

    #[test]
    fn senseless_numbers_allow_nothing() {
        let now = origin();
        for (ratio, floor) in [(f64::NAN, f64::NAN), (-1.0, -1.0), (f64::INFINITY, f64::NEG_INFINITY)] {
            let mut budget = RetryBudget::new(ratio, floor, 10 * SECOND);
            budget.deposit(now);
            assert!(!budget.try_withdraw(now), "ratio {ratio}, floor {floor}");
        }
    }

    proptest! {
        #[test]
        fn retries_never_exceed_the_share_of_requests_plus_the_floor(
            ratio in 0.0_f64..2.0,
            min_per_second in 0.0_f64..3.0,
            steps in prop::collection::vec((0_u64..900, any::<bool>()), 1..300),
        ) {
            let start = origin();
            let mut budget = RetryBudget::new(ratio, min_per_second, 10 * SECOND);
            let (mut elapsed, mut requests, mut retries) = (Duration::ZERO, Vec::new(), Vec::new());
            for (wait, is_request) in steps {
                elapsed += Duration::from_millis(wait);
                if is_request {
                    budget.deposit(start + elapsed);
                    requests.push(elapsed);
                } else if budget.try_withdraw(start + elapsed) {
                    retries.push(elapsed);
                    let recent = |times: &[Duration], span: Duration| {
                        times.iter().filter(|at| elapsed - **at < span).count() as f64
                    };
                    // Retries of the last 9 s are surely inside the window, requests older than 10 s surely outside.
                    let allowed = ratio * recent(&requests, 10 * SECOND) + min_per_second * 10.0;
                    prop_assert!(recent(&retries, 9 * SECOND) <= allowed + 1e-6);
                }
            }
            let all = ratio * requests.len() as f64 + min_per_second * (elapsed.as_secs_f64() + 10.0);
            prop_assert!(retries.len() as f64 <= all + 1e-6);
        }

        #[test]
        fn within_one_window_exactly_the_allowance_is_given(
            ratio in 0.0_f64..2.0, floor in 0.0_f64..3.0, n_requests in 0_u64..200,
        ) {
            let now = origin();
            let mut budget = RetryBudget::new(ratio, floor, 10 * SECOND);
            (0..n_requests).for_each(|_| budget.deposit(now));
            let expected = (ratio * n_requests as f64 + floor * 10.0 + 1e-9).floor() as u64;
            prop_assert_eq!(budget.remaining(now), expected);
            prop_assert_eq!(withdraw_all(&mut budget, now), expected);
            prop_assert_eq!(budget.remaining(now), 0);
        }
    }
}
