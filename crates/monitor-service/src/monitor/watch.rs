//! What watchers are sent.

use crate::journal::Subscription;
use crate::roster::ErrorReport;
use crate::series::Latest;

use super::Monitor;

impl Monitor {
    /// Begins to listen to events; see [`crate::journal::Journal::subscribe`].
    pub(crate) fn subscribe(&self, after: u64) -> Subscription {
        self.journal.lock().subscribe(after)
    }

    /// Returns the newest values of some metrics.
    pub(crate) fn figures(&self, metrics: &[String]) -> Vec<(String, Latest)> {
        let now = self.clock.now();
        let not_before = now.checked_sub(self.config.alerts.missing_for);
        let not_before = not_before.unwrap_or(std::time::SystemTime::UNIX_EPOCH);
        let history = self.history.lock();
        let of = |metric: &String| {
            let latest = history.latest(metric, not_before);
            latest.into_iter().map(|latest| (metric.clone(), latest)).collect::<Vec<_>>()
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
