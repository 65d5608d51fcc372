use std::time::Duration;

/// Keeps times so that any quantile is known within 10 %, in 500 bytes.
#[derive(Debug, Clone)]
pub(crate) struct Sketch {
    /// Counts by powers of [`GROWTH`] microseconds.
    counts: [u32; N_BUCKETS],
    n: u64,
    total: Duration,
    max: Duration,
}

const GROWTH: f64 = 1.2;
/// Up to 1.2^109 us, which is 7 minutes.
const N_BUCKETS: usize = 110;

impl Sketch {
    pub(crate) fn record(&mut self, took: Duration) {
        let us = took.as_secs_f64() * 1e6;
        let bucket = if us <= 1.0 { 0.0 } else { us.log(GROWTH) };
        let slot = &mut self.counts[(bucket as usize).min(N_BUCKETS - 1)];
        *slot = slot.saturating_add(1);
        self.n += 1;
        self.total += took;
        self.max = self.max.max(took);
    }

    /// Returns a time that the share `q` of all times did not pass; zero before the first.
    pub(crate) fn quantile(&self, q: f64) -> Duration {
        let rank = ((self.n as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= rank {
                let middle_us = GROWTH.powf(bucket as f64 + 0.5);
                return Duration::from_secs_f64(middle_us / 1e6).min(self.max);
            }
        }
        self.max
    }

    pub(crate) fn total(&self) -> Duration {
        self.total
    }

    pub(crate) fn max(&self) -> Duration {
        self.max
    }

    pub(crate) fn mean(&self) -> Duration {
        if self.n == 0 { Duration::ZERO } else { self.total.div_f64(self.n as f64) }
    }
}

impl Default for Sketch {
    fn default() -> Self {
        Self { counts: [0; N_BUCKETS], n: 0, total: Duration::ZERO, max: Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn quantiles_are_right_within_a_tenth(mut times in prop::collection::vec(2_u64..60_000_000, 1..200)) {
            let mut sketch = Sketch::default();
            times.iter().for_each(|us| sketch.record(Duration::from_micros(*us)));
            times.sort_unstable();
            for q in [0.5, 0.95, 0.99] {
                let rank = ((times.len() as f64 * q).ceil() as usize).max(1);
                let (wanted, got) = (times[rank - 1] as f64, sketch.quantile(q).as_secs_f64() * 1e6);
                prop_assert!((got / wanted - 1.0).abs() <= 0.1, "{q}: {got} instead of {wanted}");
            }
        }
    }

    #[test]
    fn nothing_is_zero() {
        let sketch = Sketch::default();
        assert_eq!(
            (sketch.mean(), sketch.quantile(0.5), sketch.max()),
            (Duration::ZERO, Duration::ZERO, Duration::ZERO)
        );
    }
}
