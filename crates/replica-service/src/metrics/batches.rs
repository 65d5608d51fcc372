use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// Streams of reads.
#[derive(Debug, Clone, Default)]
pub(crate) struct BatchMetrics {
    pub open: Gauge,
    pub messages: Counter,
    pub queries: Counter,
}

impl BatchMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("batch_streams", "Streams of reads that are open", self.open.clone());
        registry.register("batch_messages", "Messages read from streams of reads", self.messages.clone());
        registry.register("batch_queries", "Queries in those messages", self.queries.clone());
    }
}
