use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// What became of the prepared statements that connections keep.
#[derive(Debug, Clone)]
pub(crate) struct KeptMetrics {
    events: Family<Labels, Counter>,
    /// Reads that found theirs.
    pub used: Counter,
    pub prepared: Counter,
    /// Closed to make room.
    pub evicted: Counter,
    /// Found not to fit the tables any more, or gone from the server; the read was done without.
    pub outdated: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    event: &'static str,
}

impl Default for KeptMetrics {
    fn default() -> Self {
        let events = Family::<Labels, Counter>::default();
        let of = |event| events.get_or_create_owned(&Labels { event });
        let [used, prepared, evicted, outdated] = ["used", "prepared", "evicted", "outdated"].map(of);
        Self { events, used, prepared, evicted, outdated }
    }
}

impl KeptMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "kept_statements",
            "Prepared statements of connections for reads, by what became of them",
            self.events.clone(),
        );
    }
}
