//! Range queries: which series, from when to when, in steps of what width.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::bucket::{Bucket, Gathering};

/// Asks for the points of every series of a metric that has all the given labels.
///
/// Bucket `i` covers `[from + i * step, from + (i + 1) * step)`; the last one ends at `to`. Buckets without a sample
/// are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    metric: String,
    labels: BTreeMap<String, String>,
    from: SystemTime,
    to: SystemTime,
    step: Duration,
}

/// Most buckets that one series may have.
pub(crate) const BUCKETS_MAX: u128 = 11_000;
/// Most series in one answer.
pub(crate) const SERIES_MAX: usize = 100;
/// Most points in one answer: what stays below the 4 MiB that gRPC clients accept by default.
pub(crate) const POINTS_MAX: usize = 50_000;
const STEP_MIN: Duration = Duration::from_secs(1);

/// Says what makes a range impossible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidRange {
    /// Every query is about one metric.
    #[error("must name a metric")]
    NoMetric,
    /// Nothing is measured more often.
    #[error("must be at least 1s")]
    StepTooShort,
    /// Nothing lies between.
    #[error("must be later than `from`")]
    Empty,
    /// Too long to be looked at, or to be sent.
    #[error("gives {0} buckets between `from` and `to`; at most 11000 are allowed")]
    TooManyBuckets(u128),
}

impl InvalidRange {
    /// Names the field of the request that is wrong.
    pub(crate) fn field(&self) -> &'static str {
        match self {
            Self::NoMetric => "metric",
            Self::StepTooShort | Self::TooManyBuckets(_) => "step",
            Self::Empty => "to",
        }
    }
}

impl Range {
    /// Accepts a range that can be answered.
    pub(crate) fn try_new(
        metric: impl Into<String>,
        labels: BTreeMap<String, String>,
        from: SystemTime,
        to: SystemTime,
        step: Duration,
    ) -> Result<Self, InvalidRange> {
        let metric = metric.into();
        if metric.is_empty() {
            return Err(InvalidRange::NoMetric);
        }
        if step < STEP_MIN {
            return Err(InvalidRange::StepTooShort);
        }
        let width = to.duration_since(from).unwrap_or_default();
        if width.is_zero() {
            return Err(InvalidRange::Empty);
        }
        let buckets = width.as_nanos().div_ceil(step.as_nanos());
        if buckets > BUCKETS_MAX {
            return Err(InvalidRange::TooManyBuckets(buckets));
        }
        Ok(Self { metric, labels, from, to, step })
    }

    pub(super) fn metric(&self) -> &str {
        &self.metric
    }

    pub(super) fn from(&self) -> SystemTime {
        self.from
    }

    pub(super) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
    }

    /// Sorts samples into buckets; samples outside the range are passed over, and order does not matter between buckets.
    pub(super) fn fold(&self, samples: impl Iterator<Item = (SystemTime, f64)>) -> Vec<Bucket> {
        let mut gathered: BTreeMap<u32, Gathering> = BTreeMap::new();
        for (at, value) in samples {
            let Some(index) = self.bucket(at) else { continue };
            gathered
                .entry(index)
                .and_modify(|bucket| bucket.add(value))
                .or_insert_with(|| Gathering::starting(value));
        }
        gathered.into_iter().map(|(index, bucket)| bucket.finish(self.from + self.step * index)).collect()
    }

    fn bucket(&self, at: SystemTime) -> Option<u32> {
        if at >= self.to {
            return None;
        }
        let since = at.duration_since(self.from).ok()?;
        u32::try_from(since.as_nanos() / self.step.as_nanos()).ok()
    }
}

/// Holds the points of the series that matched.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct RangeAnswer {
    /// Series with at least one point, by target and name.
    pub series: Vec<SeriesPoints>,
    /// More matched than [`SERIES_MAX`] or [`POINTS_MAX`] let through.
    pub truncated: bool,
}

/// Holds the points of one series.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SeriesPoints {
    /// Labels, the target's included.
    pub labels: BTreeMap<String, String>,
    /// Oldest first.
    pub points: Vec<Bucket>,
}
