//! Range queries: which series, from when to when, in steps of what width.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::bucket::{Bucket, Gathering};
use super::identity::has_labels;

/// Asks for the points of every series of a metric that has all the given labels; see [`has_labels`].
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

    pub(crate) fn metric(&self) -> &str {
        &self.metric
    }

    pub(crate) fn from(&self) -> SystemTime {
        self.from
    }

    pub(super) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        has_labels(labels, &self.labels)
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
        self.finish(gathered)
    }

    /// Returns the end of it.
    pub(crate) fn to(&self) -> SystemTime {
        self.to
    }

    /// Returns the width of a bucket.
    pub(crate) fn step(&self) -> Duration {
        self.step
    }

    /// Returns the labels asked for.
    pub(crate) fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Puts what was stored before what memory knows. Both count samples, so that means stay means.
    pub(crate) fn join(&self, stored: Vec<StoredSeries>, memory: &mut RangeAnswer) {
        let n_known: usize = memory.series.iter().map(|series| series.points.len()).sum();
        let mut points_left = POINTS_MAX.saturating_sub(n_known);
        for StoredSeries { labels, points } in stored {
            let mut gathered: BTreeMap<u32, Gathering> = BTreeMap::new();
            for (bucket, n_samples) in &points {
                let Some(index) = self.bucket(bucket.at.max(self.from)) else { continue };
                gathered
                    .entry(index)
                    .and_modify(|earlier| earlier.merge(bucket, *n_samples))
                    .or_insert_with(|| Gathering::of(bucket, *n_samples));
            }
            let full = memory.series.len() == SERIES_MAX;
            let known = memory.series.iter_mut().find(|series| series.labels == labels);
            if gathered.is_empty() || (known.is_none() && full) {
                memory.truncated |= !gathered.is_empty();
                continue;
            }
            if gathered.len() > points_left {
                memory.truncated = true;
                return;
            }
            points_left -= gathered.len();
            match known {
                Some(known) => self.put_before(gathered, known),
                None => memory.series.push(SeriesPoints { labels, points: self.finish(gathered) }),
            }
        }
    }

    fn put_before(&self, mut gathered: BTreeMap<u32, Gathering>, known: &mut SeriesPoints) {
        // At most one bucket is shared. How many samples memory put into it is not known any more; by time it is half.
        if let Some(first) = known.points.first_mut()
            && let Some(shared) = self.bucket(first.at).and_then(|index| gathered.remove(&index))
        {
            let mut both = shared;
            both.merge(first, f64::from(shared.n_samples()).max(1.0));
            *first = both.finish(first.at);
        }
        let newer = std::mem::replace(&mut known.points, self.finish(gathered));
        known.points.extend(newer);
    }

    fn finish(&self, gathered: BTreeMap<u32, Gathering>) -> Vec<Bucket> {
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

/// Holds stored points of one series: what happened in a step, and how many samples it had.
#[derive(Debug)]
pub(crate) struct StoredSeries {
    /// Labels, the target's included.
    pub labels: BTreeMap<String, String>,
    /// Oldest first.
    pub points: Vec<(Bucket, f64)>,
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
