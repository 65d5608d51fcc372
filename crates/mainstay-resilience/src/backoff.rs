//! How long to wait before the next attempt.

use std::time::Duration;

/// Grows exponentially from `base` to `cap`, with full jitter.
///
/// The n-th wait (counted from 0) is drawn evenly from `[0, min(cap, base * 2^n))`. Full jitter spreads a crowd of
/// callers best and costs the least total work; see "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempts: u32,
}

impl Backoff {
    /// Starts at the first attempt; `base` must be above zero and not above `cap`.
    pub fn try_new(base: Duration, cap: Duration) -> Result<Self, InvalidBackoff> {
        if base.is_zero() {
            return Err(InvalidBackoff::ZeroBase);
        }
        if base > cap {
            return Err(InvalidBackoff::BaseAboveCap { base, cap });
        }
        Ok(Self { base, cap, attempts: 0 })
    }

    /// Returns the next wait and counts one attempt.
    ///
    /// `unit` is a random number in `[0, 1)`; anything outside is brought to the nearest end, NaN counts as 1.
    pub fn next(&mut self, unit: f64) -> Duration {
        let ceiling = self.ceiling();
        self.attempts = self.attempts.saturating_add(1);
        let unit = if unit.is_nan() { 1.0 } else { unit.clamp(0.0, 1.0) };
        // Rounding to whole nanoseconds may land one above the ceiling.
        Duration::try_from_secs_f64(ceiling.as_secs_f64() * unit).map_or(ceiling, |wait| wait.min(ceiling))
    }

    /// Returns the upper end of the next wait: `min(cap, base * 2^attempts)`.
    pub fn ceiling(&self) -> Duration {
        let doublings = self.attempts.min(127);
        let grown = self.base.as_nanos().checked_mul(1_u128 << doublings);
        grown.filter(|nanos| *nanos < self.cap.as_nanos()).map_or(self.cap, Duration::from_nanos_u128)
    }

    /// Goes back to the first attempt; call it after a success.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Counts the waits handed out since the start or the last reset.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

/// Says why a backoff cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBackoff {
    /// A base of zero never grows and turns retries into a busy loop.
    #[error("backoff base must be above zero")]
    ZeroBase,
    /// The first wait may not be longer than the longest one.
    #[error("backoff base {base:?} is above its cap {cap:?}")]
    BaseAboveCap {
        /// The first ceiling asked for.
        base: Duration,
        /// The last ceiling asked for.
        cap: Duration,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn ceiling_doubles_until_the_cap() {
        let mut backoff = Backoff::try_new(millis(100), millis(1_000)).unwrap();
        let waits: Vec<_> = (0..6).map(|_| backoff.next(1.0)).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_000, 1_000].map(millis));
        assert_eq!(backoff.attempts(), 6);
    }

    #[test]
    fn reset_starts_over() {
        let mut backoff = Backoff::try_new(millis(10), millis(1_000)).unwrap();
        backoff.next(0.5);
        backoff.next(0.5);
        backoff.reset();
        assert_eq!(backoff.attempts(), 0);
        assert_eq!(backoff.ceiling(), millis(10));
    }

    #[test]
    fn impossible_ranges_are_refused() {
        assert_eq!(Backoff::try_new(Duration::ZERO, millis(1)).unwrap_err(), InvalidBackoff::ZeroBase);
        assert!(matches!(Backoff::try_new(millis(2), millis(1)), Err(InvalidBackoff::BaseAboveCap { .. })));
    }

    #[test]
    fn random_numbers_out_of_range_are_brought_into_it() {
        for (unit, expected) in [(-3.0, 0), (7.0, 100), (f64::NAN, 100), (f64::INFINITY, 100)] {
            let mut backoff = Backoff::try_new(millis(100), millis(100)).unwrap();
            assert_eq!(backoff.next(unit), millis(expected), "unit {unit}");
        }
    }

    proptest! {
        #[test]
        fn wait_stays_between_zero_and_the_doubled_base(
            base_nanos in 1_u64..10_000_000_000,
            extra_nanos in 0_u64..u64::MAX / 2,
            units in prop::collection::vec(0.0_f64..1.0, 1..200),
        ) {
            let base = Duration::from_nanos(base_nanos);
            let cap = base + Duration::from_nanos(extra_nanos);
            let mut backoff = Backoff::try_new(base, cap).unwrap();
            let mut doubled = base;
            for (n, unit) in units.into_iter().enumerate() {
                prop_assert_eq!(backoff.attempts() as usize, n);
                let bound = doubled.min(cap);
                prop_assert_eq!(backoff.ceiling(), bound);
                prop_assert!(backoff.next(unit) <= bound);
                doubled = doubled.saturating_mul(2);
            }
        }

        #[test]
        fn extreme_durations_never_panic(base in 1_u64..=u64::MAX, attempts in 0_usize..300) {
            let mut backoff = Backoff::try_new(Duration::from_secs(base), Duration::MAX).unwrap();
            for _ in 0..attempts {
                prop_assert!(backoff.next(0.999_999) <= Duration::MAX);
            }
        }
    }
}
