//! Samples as they are, for rules and for the tiers on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::bucket::Gathering;
use super::{History, Labels, Series, Tracked, identity};
use crate::target::Target;

/// Holds samples of one series.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SeriesSamples {
    /// Labels, the target's included.
    pub labels: Labels,
    /// How much longer than a service's its newest one counts.
    pub patience: Duration,
    /// Oldest first.
    pub samples: Vec<(SystemTime, f64)>,
}

/// Sums up one step of one series.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rolled {
    /// Name of the metric.
    pub metric: String,
    /// Labels, the target's included.
    pub labels: BTreeMap<String, String>,
    /// Samples in the step.
    pub n: u32,
    /// Smallest.
    pub min: f64,
    /// Greatest.
    pub max: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Newest.
    pub last: f64,
}

/// Looks at the series of one target, or of all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'h> {
    targets: &'h [Tracked],
}

impl View<'_> {
    /// Returns samples read at `from` or later, of each series of a metric that has all the labels.
    pub(crate) fn samples(
        self,
        metric: &str,
        labels: &BTreeMap<String, String>,
        from: SystemTime,
    ) -> Vec<SeriesSamples> {
        self.gather(metric, labels, |_| from)
    }

    /// Returns samples as [`Self::samples`] does, and of what is read less often those that still count at `from`.
    pub(crate) fn fresh(
        self,
        metric: &str,
        labels: &BTreeMap<String, String>,
        from: SystemTime,
    ) -> Vec<SeriesSamples> {
        self.gather(metric, labels, |patience| from.checked_sub(patience).unwrap_or(from))
    }

    /// Returns of each series that [`Self::fresh`] finds the newest sample up to `to`: without reading the others, as long as
    /// no sample is of a time to come.
    pub(crate) fn newest(
        self,
        metric: &str,
        labels: &BTreeMap<String, String>,
        (from, to): (SystemTime, SystemTime),
    ) -> Vec<SeriesSamples> {
        let start = identity::start(metric);
        let mut found = Vec::new();
        for tracked in self.targets {
            let patience = tracked.target.terms.patience;
            let from = from.checked_sub(patience).unwrap_or(from);
            let of_series = |series: &Series| {
                let (tick, value) = series.column.last()?;
                let at = tracked.timeline.at(tick)?;
                if at <= to {
                    return (at >= from).then(|| vec![(at, value)]);
                }
                let samples = tracked.samples_since(series, tracked.timeline.first_tick_since(from));
                Some(samples).filter(|samples| !samples.is_empty())
            };
            for series in tracked.matching(&start, labels) {
                let samples = of_series(series);
                found.extend(samples.map(|samples| SeriesSamples {
                    labels: Labels::clone(&series.labels),
                    patience,
                    samples,
                }));
            }
        }
        found
    }

    fn gather(
        self,
        metric: &str,
        labels: &BTreeMap<String, String>,
        from: impl Fn(Duration) -> SystemTime,
    ) -> Vec<SeriesSamples> {
        let (start, mut found) = (identity::start(metric), Vec::new());
        for tracked in self.targets {
            let patience = tracked.target.terms.patience;
            let mut first = None;
            for series in tracked.matching(&start, labels) {
                let first = *first.get_or_insert_with(|| tracked.timeline.first_tick_since(from(patience)));
                let samples = tracked.samples_since(series, first);
                if !samples.is_empty() {
                    found.push(SeriesSamples { labels: Labels::clone(&series.labels), patience, samples });
                }
            }
        }
        found
    }
}

impl Tracked {
    /// Walks the series of a metric, by how their names start, that have all the labels.
    fn matching<'s>(
        &'s self,
        start: &'s str,
        labels: &'s BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'s Series> {
        let of_metric = self.starting_with(start).map(|(_, series)| series);
        of_metric.filter(|series| identity::has_labels(&series.labels, labels))
    }

    fn samples_since(&self, series: &Series, first: u64) -> Vec<(SystemTime, f64)> {
        let mut samples = Vec::with_capacity(self.timeline.n_since(first));
        let of_column = series.column.since(first);
        samples.extend(of_column.filter_map(|(tick, value)| self.timeline.at(tick).map(|at| (at, value))));
        samples
    }
}

impl History {
    /// Looks at all targets.
    pub(crate) fn all(&self) -> View<'_> {
        View { targets: &self.targets }
    }

    /// Looks at one target; none that is not watched.
    pub(crate) fn of(&self, index: usize) -> Option<View<'_>> {
        let tracked = self.targets.get(self.position(index)?)?;
        Some(View { targets: std::slice::from_ref(tracked) })
    }

    /// Lists the targets that something was read of since the last call.
    pub(crate) fn take_news(&mut self) -> BTreeSet<usize> {
        let read = self.targets.iter_mut().filter_map(|tracked| {
            let is_news = std::mem::take(&mut tracked.is_news);
            is_news.then_some(tracked.target.index)
        });
        read.collect()
    }

    /// Lists the targets that are watched.
    pub(crate) fn watched(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.targets.iter().map(|tracked| &tracked.target)
    }

    /// Returns samples of all targets; see [`View::samples`].
    pub(crate) fn samples(
        &self,
        metric: &str,
        labels: &BTreeMap<String, String>,
        from: SystemTime,
    ) -> Vec<SeriesSamples> {
        self.all().samples(metric, labels, from)
    }

    /// Tells when a target was first read, as far as memory reaches.
    pub(crate) fn first_at(&self, service: &str, endpoint: &str) -> Option<SystemTime> {
        let tracked = self.find(service, endpoint)?;
        tracked.timeline.at(tracked.timeline.first_tick())
    }

    /// Tells whether a target is watched.
    pub(crate) fn knows(&self, service: &str, endpoint: &str) -> bool {
        self.find(service, endpoint).is_some()
    }

    /// Lists from when on each target's samples are in memory.
    pub(crate) fn known_from(&self) -> Vec<((String, String), SystemTime)> {
        let of = |tracked: &Tracked| {
            let at = tracked.timeline.at(tracked.timeline.first_tick())?;
            Some(((tracked.target.service.clone(), tracked.target.endpoint.clone()), at))
        };
        self.targets.iter().filter_map(of).collect()
    }

    /// Lists the targets, by their index.
    pub(crate) fn indexes(&self) -> Vec<usize> {
        self.targets.iter().map(|tracked| tracked.target.index).collect()
    }

    /// Sums up what was sampled of a target in `[from, from + width)`.
    pub(crate) fn roll(&self, target: usize, from: SystemTime, width: Duration) -> Vec<Rolled> {
        let tracked = self.position(target).and_then(|position| self.targets.get(position));
        let Some(tracked) = tracked else { return Vec::new() };
        let (first, end) =
            (tracked.timeline.first_tick_since(from), tracked.timeline.first_tick_since(from + width));
        let roll = |canonical: &str, series: &Series| {
            let samples = series.column.since(first).take_while(|(tick, _)| *tick < end);
            let gathered = samples.fold(None, |gathered: Option<Gathering>, (_, value)| match gathered {
                Some(mut gathered) => {
                    gathered.add(value);
                    Some(gathered)
                }
                None => Some(Gathering::starting(value)),
            })?;
            let n = gathered.n_samples();
            let bucket = gathered.finish(from);
            Some(Rolled {
                metric: identity::metric(canonical).to_owned(),
                labels: (*series.labels).clone(),
                n,
                min: bucket.min,
                max: bucket.max,
                mean: bucket.mean,
                last: bucket.last,
            })
        };
        tracked.series.iter().filter_map(|(canonical, series)| roll(canonical, series)).collect()
    }

    fn find(&self, service: &str, endpoint: &str) -> Option<&Tracked> {
        self.targets
            .iter()
            .find(|tracked| tracked.target.service == service && tracked.target.endpoint == endpoint)
    }
}
