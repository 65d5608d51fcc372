use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counts what this node stores behind writes, and shows the queues of all nodes.
#[derive(Debug)]
pub(crate) struct WriteBehindMetrics {
    pub(super) queued: Family<NamespaceLabel, Gauge>,
    pub(super) oldest_age_ms: Family<NamespaceLabel, Gauge>,
    pub(super) dead_letters: Family<NamespaceLabel, Gauge>,
    pub(super) stored: Counter,
    /// Changes that a newer one of their key made superfluous.
    pub(super) coalesced: Counter,
    pub(super) refused: Counter,
    pub(super) outages: Counter,
    pub(super) dead: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct NamespaceLabel {
    pub(super) namespace: String,
}

impl WriteBehindMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("mainstay_cache_write_behind");
        let metrics = Self {
            queued: Family::default(),
            oldest_age_ms: Family::default(),
            dead_letters: Family::default(),
            stored: Counter::default(),
            coalesced: Counter::default(),
            refused: Counter::default(),
            outages: Counter::default(),
            dead: Counter::default(),
        };
        registry.register("queued", "Changes that wait for the origin", metrics.queued.clone());
        let help = "Age of the change that waits longest, in milliseconds";
        registry.register("oldest_age_ms", help, metrics.oldest_age_ms.clone());
        registry.register("dead_letters", "Changes that the origin refused", metrics.dead_letters.clone());
        registry.register("stored", "Changes that the origin took from this node", metrics.stored.clone());
        let help = "Changes that a newer one of their key made superfluous";
        registry.register("coalesced", help, metrics.coalesced.clone());
        registry.register("refused", "Changes that the origin refused, each time", metrics.refused.clone());
        registry.register("outages", "Calls that the origin did not serve", metrics.outages.clone());
        registry.register("dead", "Changes that became dead letters here", metrics.dead.clone());
        metrics
    }
}
