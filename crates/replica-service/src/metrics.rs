//! The names of all figures of this service.

use std::time::Duration;

use mainstay_rpc::ErrorCode;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{error::Kind, route::Reason};

mod batches;
mod cache;
mod database;
mod kept;
mod named;
mod pair;
mod pgbouncer;
mod pools;
mod reload;
mod slow;

pub(crate) use batches::BatchMetrics;
pub(crate) use cache::CacheMetrics;
pub(crate) use database::DatabaseMetrics;
pub(crate) use kept::KeptMetrics;
pub(crate) use named::NamedMetrics;
pub(crate) use pair::{OfPair, PairMetrics};
pub(crate) use pgbouncer::PgBouncerMetrics;
pub(crate) use pools::PoolMetrics;
pub(crate) use reload::ReloadMetrics;
pub(crate) use slow::SlowMetrics;

/// Everything that this service counts; figures of nodes are as of their last probe.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    queries: Family<Answered, Counter>,
    query_seconds: Family<OfKind, Histogram>,
    routed: Family<Routed, Counter>,
    hedges: Family<Hedged, Counter>,
    pub other_zone: Counter,
    pub retries: Counter,
    pub cancels: Counter,
    pub stream_rows: Counter,
    /// Of the cluster: 0 without one, 1 as it should be, more in a split brain.
    pub primaries: Gauge,
    pub node: NodeMetrics,
    pub kept: KeptMetrics,
    pub batches: BatchMetrics,
    pub pair: PairMetrics,
    pub cache: CacheMetrics,
    pub pgbouncer: PgBouncerMetrics,
    pub slow: SlowMetrics,
    pub named: NamedMetrics,
    pub reload: ReloadMetrics,
    pub database: DatabaseMetrics,
}

/// Gauges by node; node names come from the configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeMetrics {
    pub up: Family<OfNode, Gauge>,
    pub probe_state: Family<OfNode, Gauge>,
    pub primary: Family<OfNode, Gauge>,
    pub drained: Family<OfNode, Gauge>,
    pub breaker_state: Family<OfNode, Gauge>,
    pub breaker_openings: Family<OfNode, Counter>,
    pub lag_bytes: Family<OfNode, Gauge>,
    pub staleness_seconds: Family<OfNode, Gauge<f64, std::sync::atomic::AtomicU64>>,
    pub pools: PoolMetrics,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    kind: Kind,
    result: ResultLabel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Routed {
    reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Hedged {
    won: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfNode {
    pub node: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ResultLabel(Option<ErrorCode>);

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            queries: Family::default(),
            query_seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            routed: Family::default(),
            hedges: Family::default(),
            other_zone: Counter::default(),
            retries: Counter::default(),
            cancels: Counter::default(),
            stream_rows: Counter::default(),
            primaries: Gauge::default(),
            node: NodeMetrics::default(),
            kept: KeptMetrics::default(),
            batches: BatchMetrics::default(),
            pair: PairMetrics::default(),
            cache: CacheMetrics::default(),
            pgbouncer: PgBouncerMetrics::default(),
            slow: SlowMetrics::default(),
            named: NamedMetrics::default(),
            reload: ReloadMetrics::default(),
            database: DatabaseMetrics::default(),
        };
        let registry = registry.sub_registry_with_prefix("mainstay_replica");
        registry.register("queries", "Statements answered, by kind and result", metrics.queries.clone());
        registry.register(
            "query_seconds",
            "Time of a statement, routing included",
            metrics.query_seconds.clone(),
        );
        registry.register("routed", "Statements sent to a node, by reason", metrics.routed.clone());
        registry.register(
            "hedges",
            "Reads for which a second replica was asked, by who answered first",
            metrics.hedges.clone(),
        );
        registry.register(
            "other_zone",
            "Reads sent to another zone than the one that was wanted",
            metrics.other_zone.clone(),
        );
        registry.register("retries", "Reads tried a second time", metrics.retries.clone());
        registry.register("cancels", "Statements cancelled in the database", metrics.cancels.clone());
        registry.register("stream_rows", "Rows sent in streams that ended well", metrics.stream_rows.clone());
        registry.register(
            "primaries",
            "Nodes out of recovery on the highest timeline; above 1 is a split brain",
            metrics.primaries.clone(),
        );
        metrics.node.register(registry);
        metrics.kept.register(registry);
        metrics.batches.register(registry);
        metrics.pair.register(registry);
        metrics.cache.register(registry);
        metrics.pgbouncer.register(registry);
        metrics.slow.register(registry);
        metrics.named.register(registry);
        metrics.reload.register(registry);
        metrics.database.register(registry);
        metrics
    }

    pub(crate) fn answered(&self, kind: Kind, error: Option<ErrorCode>, took: Duration) {
        self.queries.get_or_create(&Answered { kind, result: ResultLabel(error) }).inc();
        self.query_seconds.get_or_create(&OfKind { kind }).observe(took.as_secs_f64());
    }

    /// Counts a read that two replicas were asked; `second` when the second one answered first.
    pub(crate) fn hedged(&self, second: bool) {
        let won = if second { "second" } else { "first" };
        self.hedges.get_or_create(&Hedged { won }).inc();
    }

    pub(crate) fn routed(&self, reason: Reason) {
        self.routed.get_or_create(&Routed { reason }).inc();
    }
}

impl NodeMetrics {
    /// Tells nothing more of a server; `replaced` where another one has its name, whose counters begin anew.
    pub(crate) fn forget(&self, node: &str, replaced: bool) {
        let label = OfNode { node: node.to_owned() };
        for family in
            [&self.up, &self.probe_state, &self.primary, &self.drained, &self.breaker_state, &self.lag_bytes]
        {
            family.remove(&label);
        }
        self.breaker_openings.remove(&label);
        self.staleness_seconds.remove(&label);
        self.pools.forget(node, replaced);
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("node_up", "1 when the node answers probes", self.up.clone());
        registry.register(
            "node_probe_state",
            "0 down, 1 on probation, 2 suspect, 3 up",
            self.probe_state.clone(),
        );
        registry.register("node_primary", "1 when the node takes writes", self.primary.clone());
        registry.register(
            "node_drained",
            "1 when an operator has taken it out of reads",
            self.drained.clone(),
        );
        registry.register(
            "node_breaker_state",
            "Whether statements are sent to the node: 0 closed, 1 half open, 2 open",
            self.breaker_state.clone(),
        );
        registry.register("node_breaker_openings", "Times that it opened", self.breaker_openings.clone());
        registry.register("node_lag_bytes", "WAL bytes not replayed", self.lag_bytes.clone());
        registry.register(
            "node_staleness_seconds",
            "Proven upper bound of the staleness; absent when nothing is proven",
            self.staleness_seconds.clone(),
        );
        self.pools.register(registry);
    }
}

const SECONDS: [f64; 13] =
    [0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

impl EncodeLabelValue for Kind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.as_str(), encoder)
    }
}

impl EncodeLabelValue for Reason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.as_str(), encoder)
    }
}

impl EncodeLabelValue for ResultLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.0.map_or("OK", ErrorCode::as_str), encoder)
    }
}
