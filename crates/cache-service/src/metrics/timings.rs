use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::{MetricType, TypedMetric};

use super::BUCKETS;

/// A histogram of durations that takes many alike in one step, and no lock.
#[derive(Debug, Clone, Default)]
pub(super) struct Timings(Arc<Sums>);

#[derive(Debug, Default)]
struct Sums {
    nanos: AtomicU64,
    /// By the bucket they fall into; the last is for what is above all.
    counts: [AtomicU64; BUCKETS.len() + 1],
}

impl Timings {
    /// Counts `n` that took the same.
    pub(super) fn observe(&self, took: Duration, n: u64) {
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|upper| seconds <= *upper).unwrap_or(BUCKETS.len());
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).saturating_mul(n);
        self.0.nanos.fetch_add(nanos, Ordering::Relaxed);
        self.0.counts[bucket].fetch_add(n, Ordering::Relaxed);
    }
}

/// What a histogram of times comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct TimingFigures {
    pub(crate) n: u64,
    pub(crate) mean: Duration,
    /// Half took no longer: the upper end of a bucket. None when it is above all buckets.
    pub(crate) p50_at_most: Option<Duration>,
    pub(crate) p99_at_most: Option<Duration>,
}

impl Timings {
    pub(super) fn figures(&self) -> TimingFigures {
        let counts = self.0.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        let n: u64 = counts.iter().sum();
        let at_most = |percent: u64| {
            let rank = (n * percent).div_ceil(100).max(1);
            let mut so_far = 0;
            let bucket = counts.iter().position(|count| {
                so_far += count;
                so_far >= rank
            });
            BUCKETS.get(bucket?).map(|upper| Duration::from_secs_f64(*upper))
        };
        let nanos = self.0.nanos.load(Ordering::Relaxed);
        TimingFigures {
            n,
            mean: Duration::from_nanos(nanos.checked_div(n).unwrap_or(0)),
            p50_at_most: at_most(50),
            p99_at_most: at_most(99),
        }
    }
}

impl EncodeMetric for Timings {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let uppers = BUCKETS.iter().copied().chain([f64::INFINITY]);
        let counts = self.0.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = uppers.zip(counts).collect();
        let sum = Duration::from_nanos(self.0.nanos.load(Ordering::Relaxed)).as_secs_f64();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let exemplars: Option<&HashMap<usize, Exemplar<NoLabelSet, f64>>> = None;
        encoder.encode_histogram(sum, count, &buckets, exemplars)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl TypedMetric for Timings {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn figures_are_the_upper_ends_of_the_buckets() {
        let timings = Timings::default();
        assert_eq!(timings.figures(), TimingFigures::default());
        timings.observe(Duration::from_millis(2), 98);
        timings.observe(Duration::from_secs(7), 2);
        let figures = timings.figures();
        assert_eq!((figures.n, figures.mean), (100, Duration::from_micros(141_960)));
        assert_eq!((figures.p50_at_most, figures.p99_at_most), (Some(Duration::from_micros(2_500)), None));
    }

    #[test]
    fn it_is_written_as_a_histogram_of_the_same_observations_is() {
        let (timings, histogram) = (Timings::default(), Histogram::new(BUCKETS));
        for (millis, n) in [(0, 3), (125, 2), (250, 1), (1_000, 4), (5_000, 7)] {
            timings.observe(Duration::from_millis(millis), n);
            (0..n).for_each(|_| histogram.observe(Duration::from_millis(millis).as_secs_f64()));
        }
        let text = |register: &dyn Fn(&mut Registry)| {
            let (mut registry, mut text) = (Registry::default(), String::new());
            register(&mut registry);
            encode(&mut text, &registry).unwrap();
            text
        };
        let ours = text(&|registry| registry.register("seconds", "Time", timings.clone()));
        let theirs = text(&|registry| registry.register("seconds", "Time", histogram.clone()));
        assert_eq!(ours, theirs);
    }
}
