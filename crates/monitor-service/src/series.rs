//! Short history: every figure of every target, once a tick, in bounded memory.
//!
//! All series of one target are read in one pull and therefore share their times: a [`Timeline`] per target holds them
//! once, and a series is a [`Column`] of values, tick by tick.

mod bucket;
mod column;
mod identity;
mod range;
mod samples;
mod timeline;
mod words;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Bound;
use std::sync::Arc;
use std::time::SystemTime;

pub(crate) use bucket::Bucket;
pub(crate) use range::{
    InvalidRange, POINTS_MAX, Range, RangeAnswer, SERIES_MAX, SeriesPoints, StoredSeries,
};

use crate::target::Target;
use column::Column;
pub(crate) use identity::{Reading, has_labels, is_counter};
pub(crate) use samples::{SeriesSamples, View};
use timeline::Timeline;
pub(crate) use words::{WordReader, Words};

/// Holds the series of all targets, never more than `max_series` of them.
///
/// The newest series are the ones refused: what was there first keeps its history. Identity is the metric, its labels
/// and the target's `service` and `endpoint`; both stay the same when the process behind the endpoint restarts.
#[derive(Debug)]
pub(crate) struct History {
    /// By index; those that were found last are last.
    targets: Vec<Tracked>,
    ticks: NonZeroUsize,
    series: usize,
    max_series: usize,
}

#[derive(Debug)]
struct Tracked {
    target: Arc<Target>,
    timeline: Timeline,
    /// By canonical text, which starts with the metric and `{`: one metric is one contiguous range.
    series: BTreeMap<Box<str>, Series>,
    /// Series turned away by the last pull, because of the cap on all.
    refused: usize,
    /// The same, because of the target's own cap.
    capped: usize,
    /// It was read since the rules last asked; see [`History::take_news`].
    is_news: bool,
}

#[derive(Debug)]
struct Series {
    labels: Labels,
    column: Column,
}

/// Labels of a series, the target's included. Rules look at them all the time: nobody copies them who need not.
pub(crate) type Labels = Arc<BTreeMap<String, String>>;

/// Tells what became of the readings of one pull.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// Readings kept.
    pub stored: usize,
    /// Readings of series that the cap on all did not let in.
    pub refused: usize,
    /// Readings of series that the target's own cap did not let in.
    pub capped: usize,
    /// Readings that are no number: NaN and infinities.
    pub skipped: usize,
}

/// Length of the metric and labels of a series; one that has more is as good as one too many.
const IDENTITY_BYTES_MAX: usize = 8 * 1024;

/// Names a series without its points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeriesName {
    /// Name of the metric.
    pub metric: String,
    /// Labels, the target's `service` and `endpoint` included.
    pub labels: BTreeMap<String, String>,
}

/// Holds the newest value of a series.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Latest {
    /// Where it was read.
    pub target: Arc<Target>,
    /// Labels, the target's included.
    pub labels: BTreeMap<String, String>,
    /// When it was read.
    pub at: SystemTime,
    /// What was read.
    pub value: f64,
}

impl History {
    /// Starts empty; keeps the last `ticks` pulls of each target.
    pub(crate) fn new(targets: &[Arc<Target>], ticks: NonZeroUsize, max_series: usize) -> Self {
        let targets = targets.iter().map(|target| Tracked::new(target, ticks)).collect();
        Self { targets, ticks, series: 0, max_series }
    }

    /// Begins the history of a target, whose index is greater than any before.
    pub(crate) fn add(&mut self, target: &Arc<Target>) {
        self.targets.push(Tracked::new(target, self.ticks));
    }

    /// Ends the history of a target.
    pub(crate) fn remove(&mut self, target: &Target) {
        let Some(position) = self.position(target.index) else { return };
        self.series -= self.targets.remove(position).series.len();
    }

    fn position(&self, index: usize) -> Option<usize> {
        self.targets.binary_search_by_key(&index, |tracked| tracked.target.index).ok()
    }

    /// Takes the readings of one pull. A target that is not known is ignored.
    pub(crate) fn record<'r>(
        &mut self,
        target: &Target,
        at: SystemTime,
        readings: impl IntoIterator<Item = Reading<'r>>,
    ) -> Recorded {
        let mut recorded = Recorded::default();
        let position = self.position(target.index);
        let Some(tracked) = position.and_then(|position| self.targets.get_mut(position)) else {
            return recorded;
        };
        let tick = tracked.timeline.push(at);
        let mut canonical = String::new();
        for reading in readings {
            if !reading.value.is_finite() {
                recorded.skipped += 1;
                continue;
            }
            reading.write_canonical(&mut canonical);
            if let Some(series) = tracked.series.get_mut(canonical.as_str()) {
                series.column.append(tick, reading.value);
            } else if tracked.series.len() >= tracked.target.terms.max_series
                || canonical.len() > IDENTITY_BYTES_MAX
            {
                recorded.capped += 1;
                continue;
            } else if self.series < self.max_series {
                let mut column = Column::default();
                column.append(tick, reading.value);
                let labels = Arc::new(identity::all_labels(&reading, &tracked.target));
                tracked.series.insert(canonical.as_str().into(), Series { labels, column });
                self.series += 1;
            } else {
                recorded.refused += 1;
                continue;
            }
            recorded.stored += 1;
        }
        tracked.refused = recorded.refused;
        tracked.capped = recorded.capped;
        tracked.is_news = true;
        self.series -= tracked.forget_expired(tick);
        recorded
    }

    /// Counts the series held.
    pub(crate) fn len(&self) -> usize {
        self.series
    }

    /// Tells the cap on series.
    pub(crate) fn max_series(&self) -> usize {
        self.max_series
    }

    /// Counts the series that the last pulls had to turn away.
    pub(crate) fn refused_now(&self) -> usize {
        self.targets.iter().map(|tracked| tracked.refused).sum()
    }

    /// Lists targets whose own cap turned series away at the last pull, and how many.
    pub(crate) fn capped_now(&self) -> Vec<(Arc<Target>, usize)> {
        let capped = self.targets.iter().filter(|tracked| tracked.capped > 0);
        capped.map(|tracked| (Arc::clone(&tracked.target), tracked.capped)).collect()
    }

    /// Adds up the memory of the samples, in bytes, without the names.
    pub(crate) fn sample_bytes(&self) -> usize {
        let of_target = |tracked: &Tracked| {
            tracked.timeline.bytes()
                + tracked.series.values().map(|series| series.column.bytes()).sum::<usize>()
        };
        self.targets.iter().map(of_target).sum()
    }

    /// Lists at most `limit` series whose metric starts with `prefix`, by name, and counts all that match.
    pub(crate) fn names(&self, prefix: &str, limit: usize) -> (Vec<SeriesName>, usize) {
        let mut found: Vec<(&str, &Tracked, &Series)> = Vec::new();
        for tracked in &self.targets {
            let matching = tracked.starting_with(prefix);
            found.extend(
                matching
                    .map(|(canonical, series)| (canonical, tracked, series))
                    .filter(|(canonical, ..)| identity::metric(canonical).starts_with(prefix)),
            );
        }
        let total = found.len();
        found.sort_by_key(|(canonical, tracked, _)| (*canonical, tracked.target.index));
        let name = |(canonical, _, series): &(&str, &Tracked, &Series)| SeriesName {
            metric: identity::metric(canonical).to_owned(),
            labels: (*series.labels).clone(),
        };
        (found.iter().take(limit).map(name).collect(), total)
    }

    /// Returns the newest value of each series of a metric that was read at `not_before` or later.
    pub(crate) fn latest(&self, metric: &str, not_before: SystemTime) -> Vec<Latest> {
        let mut found = Vec::new();
        for tracked in &self.targets {
            let not_before = not_before.checked_sub(tracked.target.terms.patience).unwrap_or(not_before);
            for (_, series) in tracked.starting_with(&identity::start(metric)) {
                let Some((tick, value)) = series.column.last() else { continue };
                let Some(at) = tracked.timeline.at(tick).filter(|at| *at >= not_before) else { continue };
                let labels = (*series.labels).clone();
                found.push(Latest { target: Arc::clone(&tracked.target), labels, at, value });
            }
        }
        found
    }

    /// Answers a range query; see [`Range`].
    pub(crate) fn range(&self, range: &Range) -> RangeAnswer {
        let mut answer = RangeAnswer::default();
        let mut points_left = POINTS_MAX;
        for tracked in &self.targets {
            for (_, series) in tracked.starting_with(&identity::start(range.metric())) {
                if !range.matches(&series.labels) {
                    continue;
                }
                let samples = tracked.samples(series, range);
                let points = range.fold(samples);
                if points.is_empty() {
                    continue;
                }
                if answer.series.len() == SERIES_MAX || points.len() > points_left {
                    answer.truncated = true;
                    return answer;
                }
                points_left -= points.len();
                answer.series.push(SeriesPoints { labels: (*series.labels).clone(), points });
            }
        }
        answer
    }
}

impl Tracked {
    fn new(target: &Arc<Target>, ticks: NonZeroUsize) -> Self {
        Self {
            target: Arc::clone(target),
            timeline: Timeline::new(target.terms.ticks.unwrap_or(ticks)),
            series: BTreeMap::new(),
            refused: 0,
            capped: 0,
            is_news: false,
        }
    }

    fn starting_with<'s>(&'s self, prefix: &'s str) -> impl Iterator<Item = (&'s str, &'s Series)> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let series =
            self.series.range::<str, _>(from).map(|(canonical, series)| (canonical.as_ref(), series));
        series.take_while(move |(canonical, _): &(&str, _)| canonical.starts_with(prefix))
    }

    fn samples<'s>(
        &'s self,
        series: &'s Series,
        range: &Range,
    ) -> impl Iterator<Item = (SystemTime, f64)> + 's {
        let first = self.timeline.first_tick_since(range.from());
        series.column.since(first).filter_map(|(tick, value)| self.timeline.at(tick).map(|at| (at, value)))
    }

    /// Drops samples that left the timeline, and series without any left; returns how many of those there were.
    fn forget_expired(&mut self, tick: u64) -> usize {
        // A chunk expires as a whole, so that there is nothing to find more often than once per chunk.
        if !tick.is_multiple_of(column::CHUNK_TICKS) {
            return 0;
        }
        let oldest = self.timeline.first_tick();
        let before = self.series.len();
        self.series.retain(|_, series| {
            series.column.forget_before(oldest);
            !series.column.is_empty()
        });
        before - self.series.len()
    }
}

#[cfg(test)]
mod tests;
