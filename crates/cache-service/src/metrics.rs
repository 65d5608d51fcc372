//! Every metric of the cache-service; all names begin with `mainstay_cache_`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::layer::memory::Memory;
use crate::layer::redis::RedisLayer;

mod disk;
mod memory;
mod namespace;
mod origins;
mod patterns;
mod pubsub;
mod server;
mod shared;
mod timings;
mod warming;
mod window;

pub(crate) use disk::DiskCollector;
pub(crate) use memory::EvictionCollector;
pub(crate) use namespace::NamespaceCollector;
pub(crate) use origins::{OriginCollector, OriginMetrics, breaker_level};
pub(crate) use patterns::PatternCollector;
pub(crate) use pubsub::PubSubMetrics;
pub(crate) use shared::{Outcome, SharedMetrics};
pub(crate) use timings::TimingFigures;
use timings::Timings;
pub(crate) use warming::WarmingMetrics;
use window::Window;
pub(crate) use window::WindowFigures;

/// Upper ends of the buckets, in seconds: an L1 hit takes under a microsecond, a bad Redis half a second.
const BUCKETS: [f64; 14] =
    [1e-6, 2e-6, 5e-6, 1e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 5e-2, 0.25, 1.0];

/// Counts what the engine does. The figures of Stats and of `/metrics` are the same numbers.
#[derive(Debug)]
pub(crate) struct CacheMetrics {
    pub(crate) get: OperationMetrics,
    pub(crate) set: OperationMetrics,
    pub(crate) delete: OperationMetrics,
    /// Requests to invalidate; what the log brings is counted with the log.
    pub(crate) invalidate: OperationMetrics,
    pub(crate) hits_l1: Counter,
    pub(crate) hits_l2: Counter,
    pub(crate) hits_l3: Counter,
    pub(crate) hits_origin: Counter,
    /// Reads answered with the knowledge that there is nothing.
    pub(crate) negatives: Counter,
    pub(crate) load_failures: Counter,
    pub(crate) load_seconds: Histogram,
    pub(crate) refreshes: Counter,
    pub(crate) misses: Counter,
    /// By the layer that had the entry.
    stale: [Counter; 4],
    pub(crate) degraded: Counter,
    pub(crate) streams: StreamMetrics,
    /// Reads answered with what another one was told by Redis.
    pub(crate) coalesced: Counter,
    pub(crate) hot_kept: Gauge,
    pub(crate) hot_refills: Counter,
    l2_errors: Family<KindLabel, Counter>,
    l2_seconds: Family<CommandLabel, Timings>,
    /// Those of the commands that were used, by name.
    l2_commands: RwLock<BTreeMap<&'static str, Timings>>,
    replica_acked: Counter,
    replica_unacked: Counter,
}

/// Counts what the streaming door does.
#[derive(Debug, Clone, Default)]
pub(crate) struct StreamMetrics {
    pub(crate) open: Gauge,
    pub(crate) operations: Counter,
    /// Answers given up because their client did not read.
    pub(crate) dropped: Counter,
}

/// Counts and times one kind of operation.
#[derive(Debug)]
pub(crate) struct OperationMetrics {
    pub(crate) done: Counter,
    pub(crate) errors: Counter,
    pub(crate) recent: Window,
    by_layer: [Timings; 5],
}

/// The layer whose answer ended an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastLayer {
    None,
    L1,
    L2,
    L3,
    Origin,
}

impl LastLayer {
    /// Those that an entry can come from, with their names.
    pub(crate) const WITH_ENTRIES: [(Self, &'static str); 4] =
        [(Self::L1, "l1"), (Self::L2, "l2"), (Self::L3, "l3"), (Self::Origin, "origin")];
    /// Those that are asked before an origin is, with their names.
    pub(crate) const ASKED: [(Self, &'static str); 3] =
        [(Self::L1, "l1"), (Self::L2, "l2"), (Self::L3, "l3")];
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommandLabel {
    command: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LayerLabel {
    layer: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OpLabel {
    op: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OpLayerLabels {
    op: &'static str,
    layer: &'static str,
}

impl CacheMetrics {
    /// Creates everything that is counted here and names it in `registry`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("mainstay_cache");
        let hits = Family::<LayerLabel, Counter>::default();
        let stale = Family::<LayerLabel, Counter>::default();
        let errors = Family::<OpLabel, Counter>::default();
        let seconds = Family::<OpLayerLabels, Timings>::default();
        // Handles are taken once: counting needs no look-up by label, and every series is there from the start.
        let operation = |op| OperationMetrics {
            done: Counter::default(),
            errors: errors.get_or_create_owned(&OpLabel { op }),
            recent: Window::default(),
            by_layer: ["none", "l1", "l2", "l3", "origin"]
                .map(|layer| seconds.get_or_create_owned(&OpLayerLabels { op, layer })),
        };
        let metrics = Self {
            get: operation("get"),
            set: operation("set"),
            delete: operation("delete"),
            invalidate: operation("invalidate"),
            hits_l1: hits.get_or_create_owned(&LayerLabel { layer: "l1" }),
            hits_l2: hits.get_or_create_owned(&LayerLabel { layer: "l2" }),
            hits_l3: hits.get_or_create_owned(&LayerLabel { layer: "l3" }),
            hits_origin: hits.get_or_create_owned(&LayerLabel { layer: "origin" }),
            negatives: Counter::default(),
            load_failures: Counter::default(),
            load_seconds: histogram(),
            refreshes: Counter::default(),
            misses: Counter::default(),
            stale: LastLayer::WITH_ENTRIES.map(|(_, layer)| stale.get_or_create_owned(&LayerLabel { layer })),
            degraded: Counter::default(),
            streams: StreamMetrics::default(),
            coalesced: Counter::default(),
            hot_kept: Gauge::default(),
            hot_refills: Counter::default(),
            l2_errors: Family::default(),
            l2_seconds: Family::default(),
            l2_commands: RwLock::default(),
            replica_acked: Counter::default(),
            replica_unacked: Counter::default(),
        };
        registry.register("hits", "Reads answered with an entry, by layer", hits);
        let negatives = "Reads answered with the knowledge that the origin does not have the key";
        registry.register("negatives", negatives, metrics.negatives.clone());
        registry.register("load_failures", "Loads from origins that failed", metrics.load_failures.clone());
        registry.register("load_seconds", "Time of a load from an origin", metrics.load_seconds.clone());
        registry.register("refreshes", "Loads begun before an entry ended", metrics.refreshes.clone());
        registry.register("misses", "Reads answered without an entry", metrics.misses.clone());
        registry.register("gets", "Reads answered", metrics.get.done.clone());
        registry.register("sets", "Writes that were stored", metrics.set.done.clone());
        registry.register("deletes", "Deletes that were done", metrics.delete.done.clone());
        let help = "Reads answered with an entry past its time, by the layer that had it";
        registry.register("stale", help, stale);
        let help = "Requests to invalidate that were done";
        registry.register("invalidation_requests", help, metrics.invalidate.done.clone());
        let help = "Time of a command of this node to Redis until its answer, or until it was given up, by what it is for";
        registry.register("l2_command_seconds", help, metrics.l2_seconds.clone());
        registry.register(
            "degraded",
            "Answers given without Redis although it is configured",
            metrics.degraded.clone(),
        );
        registry.register("errors", "Requests refused or failed, by operation", errors);
        registry.register(
            "op_seconds",
            "Time of an operation in the engine, by the layer that answered",
            seconds,
        );
        let help = "Reads answered with what Redis told another read of the key at the same time";
        registry.register("l2_coalesced", help, metrics.coalesced.clone());
        registry.register("hot_keys", "Hot keys, of all nodes, kept in memory", metrics.hot_kept.clone());
        let help = "Times a hot key was brought into memory ahead of its readers";
        registry.register("hot_keys_refills", help, metrics.hot_refills.clone());
        let streams = &metrics.streams;
        registry.register("streams_open", "Streams open", streams.open.clone());
        registry.register("stream_operations", "Operations that came by streams", streams.operations.clone());
        registry.register(
            "stream_dropped",
            "Answers given up because too many of the stream waited to be read",
            streams.dropped.clone(),
        );
        registry.register(
            "l2_errors",
            "Redis commands without an answer, by kind",
            metrics.l2_errors.clone(),
        );
        let help = "Changes of durability replica_ack that a replica confirmed";
        registry.register("replica_acked", help, metrics.replica_acked.clone());
        let help = "Changes of durability replica_ack that Redis has and no replica confirmed in time";
        registry.register("replica_unacked", help, metrics.replica_unacked.clone());
        metrics
    }

    /// Counts a change that a replica was to confirm.
    pub(crate) fn replica_acks(&self, acked: bool) {
        if acked {
            self.replica_acked.inc()
        } else {
            self.replica_unacked.inc()
        };
    }

    /// Counts a read answered with an entry of `layer` past its time.
    pub(crate) fn stale_from(&self, layer: LastLayer) {
        if let Some(at) = LastLayer::WITH_ENTRIES.iter().position(|(with, _)| *with == layer) {
            self.stale[at].inc();
        }
    }

    /// Returns the reads answered with an entry past its time.
    pub(crate) fn n_stale(&self) -> u64 {
        self.stale.iter().map(Counter::get).sum()
    }

    /// Times a command that Redis was sent; `span` is the name of its span.
    pub(crate) fn l2_took(&self, span: &'static str, took: Duration) {
        let command = span.strip_prefix("redis.").unwrap_or(span);
        if let Some(timings) = self.l2_commands.read().get(command) {
            return timings.observe(took, 1);
        }
        let timings = self.l2_seconds.get_or_create_owned(&CommandLabel { command });
        timings.observe(took, 1);
        self.l2_commands.write().insert(command, timings);
    }

    /// Returns how long the commands of each kind took so far, by name.
    pub(crate) fn l2_commands(&self) -> Vec<(&'static str, TimingFigures)> {
        self.l2_commands.read().iter().map(|(command, timings)| (*command, timings.figures())).collect()
    }

    pub(crate) fn l2_error(&self, kind: &'static str) {
        self.l2_errors.get_or_create(&KindLabel { kind }).inc();
    }
}

impl OperationMetrics {
    pub(crate) fn took(&self, took: Duration, layer: LastLayer) {
        self.each_took(took, layer, 1);
    }

    /// Counts `n` operations of one layer that took as long as each other.
    pub(crate) fn each_took(&self, took: Duration, layer: LastLayer, n: u64) {
        self.by_layer[layer as usize].observe(took, n);
        self.recent.add(took, layer != LastLayer::None, usize::try_from(n).unwrap_or(usize::MAX));
    }
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// Reads the state of the layers at each scrape. Holds L2 weakly: the registry must not keep its connection open.
#[derive(Debug)]
pub(crate) struct LayerCollector {
    memory: Arc<Memory>,
    redis: Option<Weak<RedisLayer>>,
}

impl LayerCollector {
    pub(crate) fn register(memory: Arc<Memory>, redis: Option<&Arc<RedisLayer>>, registry: &mut Registry) {
        let collector = Self { memory, redis: redis.map(Arc::downgrade) };
        registry.sub_registry_with_prefix("mainstay_cache").register_collector(Box::new(collector));
    }
}

impl Collector for LayerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let figures = self.memory.figures();
        let mut gauge = |name: &str, help: &str, value: u64| -> fmt::Result {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge("l1_bytes", "Bytes held in memory, with the overhead of each entry", figures.bytes)?;
        gauge("l1_capacity_bytes", "Bound of l1_bytes", figures.capacity_bytes)?;
        gauge("l1_entries", "Entries held in memory", figures.entries)?;
        gauge("l1_pinned_entries", "Entries of hot keys that are not evicted", figures.pinned_entries)?;
        gauge("l1_pinned_bytes", "Their bytes", figures.pinned_bytes)?;
        let redis = self.redis.as_ref().map(Weak::upgrade);
        let redis = redis.flatten();
        if let Some(layer) = &redis {
            let level = layer.breaker_state().level().into();
            gauge("l2_breaker_state", "Breaker of Redis: 0 closed, 1 half open, 2 open", level)?;
            gauge("l2_available", "1 when Redis answered last time", layer.redis().is_available().into())?;
            if let Some(sentinel) = &layer.redis().view().sentinel {
                gauge("sentinels_configured", "Sentinels configured", sentinel.n_configured.into())?;
                gauge(
                    "sentinels_reachable",
                    "Sentinels that answered last time",
                    sentinel.n_reachable.into(),
                )?;
            }
            if let Some(cluster) = &layer.redis().view().cluster {
                for (name, help, value) in [
                    ("cluster_nodes", "Nodes of the Redis Cluster", cluster.n_nodes),
                    ("cluster_nodes_failing", "Nodes that others could not reach", cluster.n_failing),
                    ("cluster_primaries", "Primaries with slots", cluster.shards.len() as u32),
                    ("cluster_partitions", "Partitions of the keys", cluster.n_partitions),
                    (
                        "cluster_partitions_served",
                        "Those whose primary answered last time",
                        cluster.n_partitions_served,
                    ),
                ] {
                    gauge(name, help, value.into())?;
                }
            }
        }
        let mut counter = |name: &str, help: &str, value: u64| -> fmt::Result {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
        };
        counter("l1_evictions", "Entries that left memory for want of room", figures.evictions)?;
        counter(
            "l1_expirations",
            "Entries that left memory because their time was over",
            figures.expirations,
        )?;
        if let Some(layer) = &redis {
            let n_connections = layer.redis().n_connections().into();
            counter("l2_connections", "Connections to Redis made", n_connections)?;
            let n_redirects = layer.redis().n_redirects().into();
            counter("cluster_redirects", "Answers that the keys are at another node", n_redirects)?;
            let n_switches = layer.redis().n_switches().into();
            counter("sentinel_switches", "Messages of Sentinels that there is a new primary", n_switches)?;
            server::encode_info(&mut encoder, &layer.redis().view().info)?;
        }
        Ok(())
    }
}
