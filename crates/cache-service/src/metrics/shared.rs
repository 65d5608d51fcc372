use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::shared::Source;

/// Counts what is done with rate limits, sessions, locks and counters.
#[derive(Debug)]
pub(crate) struct SharedMetrics {
    /// Local allowed, local refused, Redis allowed, Redis refused: handles taken once.
    rate_limit_checks: [Counter; 4],
    operations: Family<OperationLabels, Counter>,
    touches: Counter,
    touch_batches: Counter,
}

/// How an operation on shared state ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// Not found, not held, held by another.
    Refused,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabels {
    source: &'static str,
    allowed: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    of: &'static str,
    op: &'static str,
    outcome: &'static str,
}

impl SharedMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("mainstay_cache");
        let checks = Family::<CheckLabels, Counter>::default();
        let handle = |source: Source, allowed| {
            checks.get_or_create_owned(&CheckLabels { source: source.as_str(), allowed })
        };
        let metrics = Self {
            rate_limit_checks: [
                handle(Source::Local, "true"),
                handle(Source::Local, "false"),
                handle(Source::Redis, "true"),
                handle(Source::Redis, "false"),
            ],
            operations: Family::default(),
            touches: Counter::default(),
            touch_batches: Counter::default(),
        };
        registry.register(
            "rate_limit_checks",
            "Rate limits asked, by where they are counted and the answer",
            checks,
        );
        registry.register(
            "shared_operations",
            "Operations on sessions, locks and counters, by how they ended",
            metrics.operations.clone(),
        );
        registry.register("session_touches", "Touches of sessions written", metrics.touches.clone());
        let help = "Commands by which they were written";
        registry.register("session_touch_batches", help, metrics.touch_batches.clone());
        metrics
    }

    /// Counts touches that one command wrote.
    pub(crate) fn touched_together(&self, n_sessions: u64) {
        self.touches.inc_by(n_sessions);
        self.touch_batches.inc();
    }

    /// Counts a touch that could not wait for others.
    pub(crate) fn touched_alone(&self) {
        self.touched_together(1);
    }

    pub(crate) fn rate_limit_check(&self, source: Source, allowed: bool) {
        let first = if source == Source::Redis { 2 } else { 0 };
        self.rate_limit_checks[first + usize::from(!allowed)].inc();
    }

    /// Counts one operation; `of` is `session`, `lock` or `counter`.
    pub(crate) fn operation(&self, of: &'static str, op: &'static str, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Done => "done",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
        };
        self.operations.get_or_create(&OperationLabels { of, op, outcome }).inc();
    }
}
