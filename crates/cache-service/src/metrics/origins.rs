use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counts what origins are asked. Labels are names from the configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct OriginMetrics {
    calls: Family<CallLabels, Counter>,
    breaker_state: Family<OriginLabel, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    origin: String,
    op: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OriginLabel {
    origin: String,
}

impl OriginMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("mainstay_cache");
        let metrics = Self::default();
        registry.register("origin_calls", "Calls of origins, by how they ended", metrics.calls.clone());
        let help = "Breaker of an HTTP origin as of its last change: 0 closed, 2 open";
        registry.register("origin_breaker_state", help, metrics.breaker_state.clone());
        metrics
    }

    pub(crate) fn called(&self, origin: &str, op: &'static str, is_done: bool) {
        let outcome = if is_done { "done" } else { "failed" };
        self.calls.get_or_create(&CallLabels { origin: origin.to_owned(), op, outcome }).inc();
    }

    /// Returns the gauge of one origin.
    pub(crate) fn breaker_state(&self, origin: &str) -> Gauge {
        self.breaker_state.get_or_create_owned(&OriginLabel { origin: origin.to_owned() })
    }
}
