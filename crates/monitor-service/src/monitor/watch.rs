//! What watchers are sent.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::analysis::slo::increase;
use crate::journal::Subscription;
use crate::roster::ErrorReport;
use crate::series::{History, Latest, is_counter};

use super::Monitor;

/// What rates are taken over.
const RATE_OVER: Duration = Duration::from_mins(1);

/// The newest value of a series, and how fast it grows if it is a counter.
pub(crate) struct Figure {
    pub metric: String,
    pub latest: Latest,
    /// Growth per second.
    pub rate: Option<f64>,
}

impl Monitor {
    /// Begins to listen to events; see [`crate::journal::Journal::subscribe`].
    pub(crate) fn subscribe(&self, after: u64) -> Subscription {
        self.journal.lock().subscribe(after)
    }

    /// Returns the newest values of some metrics.
    pub(crate) fn figures(&self, metrics: &[String]) -> Vec<Figure> {
        let now = self.clock.now();
        let earlier = |by| now.checked_sub(by).unwrap_or(SystemTime::UNIX_EPOCH);
        let (not_before, rates_from) = (earlier(self.config.alerts.missing_for), earlier(RATE_OVER));
        let history = self.history.lock();
        let of = |metric: &String| {
            let mut rates =
                if is_counter(metric) { rates(&history, metric, rates_from) } else { BTreeMap::new() };
            let figure = |latest: Latest| {
                let rate = rates.remove(&latest.labels);
                Figure { metric: metric.clone(), latest, rate }
            };
            history.latest(metric, not_before).into_iter().map(figure).collect::<Vec<_>>()
        };
        metrics.iter().flat_map(of).collect()
    }

    /// Lists internal errors as services told them last: the service, the endpoint, the group.
    pub(crate) fn errors(&self) -> Vec<(String, String, ErrorReport)> {
        let roster = self.roster.lock();
        let of_entry = |entry: &crate::roster::Entry| {
            let errors = entry.report.iter().flat_map(|report| &report.errors);
            errors
                .map(|error| (entry.target.service.clone(), entry.target.endpoint.clone(), error.clone()))
                .collect::<Vec<_>>()
        };
        roster.entries().iter().flat_map(of_entry).collect()
    }
}

/// Tells how fast each series of a counter grew, by its labels.
fn rates(history: &History, metric: &str, from: SystemTime) -> BTreeMap<BTreeMap<String, String>, f64> {
    let rate = |samples: &[(SystemTime, f64)]| {
        let took =
            samples.last()?.0.duration_since(samples.first()?.0).ok().filter(|took| !took.is_zero())?;
        Some(increase(samples.iter().map(|(_, value)| *value)) / took.as_secs_f64())
    };
    let of_all = history.samples(metric, &BTreeMap::new(), from).into_iter();
    of_all.filter_map(|series| rate(&series.samples).map(|rate| ((*series.labels).clone(), rate))).collect()
}
