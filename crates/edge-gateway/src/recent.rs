//! What this door answered in the last seconds: for people who watch now, where metrics are for those who look back.

use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

/// Whole seconds that are summed up.
const WINDOW_S: u64 = 10;
/// The window, the second under way, and one to spare.
const KEPT: usize = 12;
/// Bucket `n` holds times below `FIRST * GROWTH^n`: 50 µs to 14 s, each bound a quarter above the one before.
const FIRST_S: f64 = 50e-6;
const GROWTH: f64 = 1.25;
const BUCKETS: usize = 57;

/// Counts by second; the oldest second makes room.
pub(crate) struct Recent {
    began_at: Instant,
    seconds: Mutex<[Second; KEPT]>,
}

#[derive(Clone, Copy)]
struct Second {
    /// Whole seconds since the counting began.
    at: u64,
    answered: u32,
    failed: u32,
    within: [u32; BUCKETS],
}

/// Rate, errors and duration over the last ten whole seconds.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Traffic {
    window_seconds: u64,
    requests_per_second: f64,
    /// Answers of 500 and above.
    errors_per_second: f64,
    /// Times to the answer's head, at most a quarter too high; null when nothing was asked.
    p50_seconds: Option<f64>,
    p95_seconds: Option<f64>,
    p99_seconds: Option<f64>,
}

const NOTHING: Second = Second { at: 0, answered: 0, failed: 0, within: [0; BUCKETS] };

impl Default for Recent {
    fn default() -> Self {
        Self { began_at: Instant::now(), seconds: Mutex::new([NOTHING; KEPT]) }
    }
}

impl Recent {
    /// Counts one answer that is given now.
    pub(crate) fn answered(&self, failed: bool, took: Duration) {
        let at = self.began_at.elapsed().as_secs();
        let bucket =
            ((took.as_secs_f64() / FIRST_S).ln() / GROWTH.ln()).ceil().clamp(0.0, (BUCKETS - 1) as f64);
        let mut seconds = self.seconds.lock();
        let second = &mut seconds[(at % KEPT as u64) as usize];
        if second.at != at {
            *second = Second { at, ..NOTHING };
        }
        second.answered += 1;
        second.failed += u32::from(failed);
        second.within[bucket as usize] += 1;
    }

    /// Sums up the last whole seconds, fewer of them when the process is younger.
    pub(crate) fn traffic(&self) -> Traffic {
        let now = self.began_at.elapsed().as_secs();
        let mut sum = NOTHING;
        for second in
            self.seconds.lock().iter().filter(|second| second.at < now && second.at + WINDOW_S >= now)
        {
            sum.answered += second.answered;
            sum.failed += second.failed;
            sum.within.iter_mut().zip(second.within).for_each(|(sum, count)| *sum += count);
        }
        let over = WINDOW_S.min(now).max(1) as f64;
        Traffic {
            window_seconds: WINDOW_S,
            requests_per_second: f64::from(sum.answered) / over,
            errors_per_second: f64::from(sum.failed) / over,
            p50_seconds: sum.quantile(0.5),
            p95_seconds: sum.quantile(0.95),
            p99_seconds: sum.quantile(0.99),
        }
    }
}

impl Second {
    /// Gives the upper bound of the bucket that this share of answers does not exceed.
    fn quantile(&self, share: f64) -> Option<f64> {
        let rank = (f64::from(self.answered) * share).ceil().max(1.0) as u32;
        let mut seen = 0;
        let bucket = self.within.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(FIRST_S * GROWTH.powi(i32::try_from(bucket).unwrap_or(i32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rates_are_of_the_last_ten_whole_seconds() {
        let recent = Recent::default();
        assert_eq!(recent.traffic().p95_seconds, None);
        for n in 0..20 {
            recent.answered(n % 4 == 0, Duration::from_millis(if n == 19 { 800 } else { 3 }));
        }
        assert_eq!(recent.traffic().requests_per_second, 0.0, "the second under way is not over");
        tokio::time::advance(Duration::from_secs(1)).await;
        let young = recent.traffic();
        assert_eq!((young.requests_per_second, young.errors_per_second), (20.0, 5.0));
        let close =
            |seen: Option<f64>, real: f64| seen.is_some_and(|seen| seen >= real && seen <= real * GROWTH);
        assert!(close(young.p50_seconds, 0.003) && close(young.p99_seconds, 0.8), "{young:?}");

        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(recent.traffic().requests_per_second, 2.0);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((recent.traffic().requests_per_second, recent.traffic().p50_seconds), (0.0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_used_again_forgets_what_was_in_it() {
        let recent = Recent::default();
        recent.answered(true, Duration::ZERO);
        tokio::time::advance(Duration::from_secs(KEPT as u64)).await;
        recent.answered(false, Duration::from_secs(3_600));
        tokio::time::advance(Duration::from_secs(1)).await;
        let traffic = recent.traffic();
        assert_eq!((traffic.requests_per_second, traffic.errors_per_second), (0.1, 0.0));
    }

    proptest! {
        #[test]
        fn quantiles_are_never_too_low_and_at_most_a_quarter_too_high(took in prop::collection::vec(60_u64..10_000_000, 1..40)) {
            let mut second = NOTHING;
            let mut times: Vec<f64> = took.iter().map(|micros| *micros as f64 / 1e6).collect();
            for time in &times {
                second.answered += 1;
                second.within[((time / FIRST_S).ln() / GROWTH.ln()).ceil() as usize] += 1;
            }
            times.sort_by(f64::total_cmp);
            for share in [0.5, 0.95, 0.99] {
                let real = times[((times.len() as f64 * share).ceil() as usize).max(1) - 1];
                let seen = second.quantile(share).unwrap();
                prop_assert!(seen >= real * 0.999 && seen <= real * GROWTH * 1.001, "{seen} for {real}");
            }
        }
    }
}
