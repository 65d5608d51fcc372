use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::config::SlowReaders;
use crate::pubsub::GapReason;

/// Counts messages by topic.
#[derive(Debug)]
pub(crate) struct PubSubMetrics {
    pub(crate) streams: Gauge,
    pub(crate) topics: Gauge,
    pub(crate) link_up: Gauge,
    pub(crate) received: Counter,
    pub(crate) delivered: Counter,
    pub(crate) disconnected: Counter,
    published: Family<PublishedLabel, Counter>,
    dropped: Family<PolicyLabel, Counter>,
    gaps: Family<ReasonLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PublishedLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyLabel {
    policy: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl PubSubMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("mainstay_cache_pubsub");
        let metrics = Self {
            streams: Gauge::default(),
            topics: Gauge::default(),
            link_up: Gauge::default(),
            received: Counter::default(),
            delivered: Counter::default(),
            disconnected: Counter::default(),
            published: Family::default(),
            dropped: Family::default(),
            gaps: Family::default(),
        };
        registry.register("streams_open", "Streams that listen", metrics.streams.clone());
        registry.register("topics", "Different topics and patterns they listen to", metrics.topics.clone());
        registry.register("link_up", "1 while topics are heard from Redis", metrics.link_up.clone());
        registry.register("received", "Messages that came to this node", metrics.received.clone());
        registry.register("delivered", "Messages put into buffers of streams", metrics.delivered.clone());
        let help = "Streams ended because they were not read";
        registry.register("disconnected", help, metrics.disconnected.clone());
        registry.register("published", "Messages published, by how it ended", metrics.published.clone());
        let help = "Messages lost because a stream was not read, by its policy";
        registry.register("dropped", help, metrics.dropped.clone());
        registry.register("gaps", "Gaps told to streams, by reason", metrics.gaps.clone());
        metrics
    }

    pub(crate) fn published(&self, done: bool) {
        let outcome = if done { "done" } else { "failed" };
        self.published.get_or_create(&PublishedLabel { outcome }).inc();
    }

    pub(crate) fn dropped(&self, policy: SlowReaders, n_messages: u64) {
        self.dropped.get_or_create(&PolicyLabel { policy: policy.as_str() }).inc_by(n_messages);
    }

    pub(crate) fn gap(&self, reason: GapReason) {
        let reason = match reason {
            GapReason::Link => "link",
            GapReason::SlowReader => "slow_reader",
            GapReason::Overrun => "overrun",
        };
        self.gaps.get_or_create(&ReasonLabel { reason }).inc();
    }
}
