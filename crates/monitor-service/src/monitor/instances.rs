//! Targets that come and go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Monitor;
use crate::metrics::LookupResult;
use crate::target::{Target, Terms};

impl Monitor {
    /// Begins to watch an instance.
    pub(crate) fn join(&self, service: &str, endpoint: String, terms: Terms) -> Arc<Target> {
        let index = self.next_index.fetch_add(1, Ordering::Relaxed);
        let target = Arc::new(Target { index, service: service.to_owned(), endpoint, terms });
        let (mut history, mut roster) = (self.history.lock(), self.roster.lock());
        history.add(&target);
        roster.add(&target);
        tracing::info!(service, endpoint = target.endpoint, "instance found");
        target
    }

    /// Takes that an instance is not expected to answer any more, or is again.
    pub(crate) fn leaves(&self, target: &Target, is_leaving: bool) {
        self.roster.lock().leaves(target, is_leaving);
        tracing::info!(service = target.service, endpoint = target.endpoint, is_leaving, "instance in DNS");
    }

    /// Ends watching an instance. Its history in memory goes, what was rolled up stays; its alerts are over.
    pub(crate) fn forget(&self, target: &Target) {
        let (mut history, mut roster) = (self.history.lock(), self.roster.lock());
        history.remove(target);
        roster.remove(target);
        tracing::info!(service = target.service, endpoint = target.endpoint, "instance forgotten");
    }

    /// Counts the instances of a service that are in DNS.
    pub(crate) fn in_dns(&self, service: &str, n: usize) {
        self.metrics.in_dns(service, n);
    }

    /// Counts a lookup.
    pub(crate) fn looked_up(&self, service: &str, result: LookupResult) {
        self.metrics.looked_up(service, result);
    }
}
