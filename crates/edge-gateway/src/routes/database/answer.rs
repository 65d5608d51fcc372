//! What the database's paths answer.

use mainstay_proto::common::v1::Health;
use mainstay_proto::replica::v1 as wire;
use serde::Serialize;
use utoipa::ToSchema;

use crate::routes::sql_json::Rows;
use crate::routes::words::{health, probe_state, rfc3339, role, seconds};

/// One column of a result.
#[derive(Serialize, ToSchema)]
pub(crate) struct SqlColumn {
    pub(crate) name: String,
    /// PostgreSQL's name of the type, like `int8`.
    pub(crate) r#type: String,
}

/// Who served a statement, and why it was chosen.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Served {
    node: String,
    role: &'static str,
    /// The rows may be this old; absent on the primary.
    staleness_seconds: Option<f64>,
    reason: String,
    attempts: u32,
    /// One replica was slow, so another one was asked too; `node` answered first.
    hedged: bool,
    /// What `{table}` stood for; absent where the read named no pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
}

/// The rows of a read.
#[derive(Serialize, ToSchema)]
pub(crate) struct QueryAnswer {
    pub(super) columns: Vec<SqlColumn>,
    /// Each row is an array in column order: two columns may have one name.
    #[schema(value_type = Vec<Vec<Value>>)]
    pub(super) rows: Rows,
    /// True when there were more rows than `maxRows` or the configured limit.
    pub(super) truncated: bool,
    pub(super) served: Option<Served>,
    /// What became of the wish for an answer from the cache; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cache: Option<SqlCacheUse>,
}

/// Whether an answer came from the cache.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SqlCacheUse {
    /// `hit`, `miss`, `shared` with another caller, `bypassed` or `off`.
    state: &'static str,
    /// Since the answer was kept; only of a hit.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<f64>,
    tags: Vec<String>,
}

/// What a write did.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExecuteAnswer {
    pub(super) rows_affected: u64,
    pub(super) columns: Vec<SqlColumn>,
    #[schema(value_type = Vec<Vec<Value>>)]
    pub(super) rows: Rows,
    /// Goes into `after` of a query that must see this write.
    pub(super) token: String,
    pub(super) served: Option<Served>,
    /// The cache has not confirmed `invalidates` yet; it is told again until it does.
    pub(super) invalidation_pending: bool,
}

/// Something told of every node.
#[derive(Serialize, ToSchema)]
pub(crate) struct Nodes<T> {
    /// Name of the primary; null while none is known.
    primary: Option<String>,
    nodes: Vec<T>,
}

/// The PostgreSQL nodes as observed, and the rules by which reads find one.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct DatabaseInfo {
    primary: Option<String>,
    nodes: Vec<NodeInfo>,
    routing: Routing,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Routing {
    strategy: String,
    max_staleness_seconds: Option<f64>,
    max_lag_bytes: u64,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeInfo {
    node: String,
    role: &'static str,
    address: String,
    /// True when queries go through a PgBouncer.
    pgbouncer: bool,
    health: &'static str,
    /// How steadily it answers probes: `down`, `probation`, `suspect` or `up`.
    probe_state: &'static str,
    reads: bool,
    writes: bool,
    /// An operator has taken it out of reads.
    drained: bool,
    /// Empty for nowhere.
    zone: String,
    server_version: String,
    timeline: u32,
    lsn: String,
}

/// Whether a node can be used, and why not.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeHealth {
    node: String,
    role: &'static str,
    health: &'static str,
    healthy: bool,
    /// How steadily it answers probes: `down`, `probation` (it answers again), `suspect` (its last probe failed) or `up`.
    probe_state: &'static str,
    detail: String,
    since: Option<String>,
    seen_at: Option<String>,
    probe_seconds: Option<f64>,
    reads: bool,
    writes: bool,
}

/// What a node has been asked.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeTraffic {
    node: String,
    role: &'static str,
    queries: u64,
    errors: u64,
    seconds_mean: f64,
    breaker: String,
    in_flight: u32,
}

/// How far a replica is behind, with the age of the evidence; the primary has no lag.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeLag {
    node: String,
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receive_lag_bytes: Option<u64>,
    /// Proven upper bound of the age of what the replica shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    staleness_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence_age_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay_paused: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receiver: Option<String>,
    /// For comparison only: it lies on an idle primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    naive_seconds: Option<f64>,
    /// For comparison only: what common formulas make of it; of a replica.
    formulas: Vec<LagFormula>,
}

/// One common formula for lag, and when not to believe it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct LagFormula {
    name: String,
    sql: String,
    /// `primary` or `replica`: who is asked.
    asked_of: &'static str,
    /// Null when it has no value: SQL says NULL, there is no row, or the role of the probe may not see it.
    seconds: Option<f64>,
    bytes: Option<u64>,
    misleads: String,
}

impl From<&wire::LagFormula> for LagFormula {
    fn from(formula: &wire::LagFormula) -> Self {
        Self {
            name: formula.name.clone(),
            sql: formula.sql.clone(),
            asked_of: if formula.asked_of_primary { "primary" } else { "replica" },
            seconds: formula.seconds,
            bytes: formula.bytes,
            misleads: formula.misleads.clone(),
        }
    }
}

/// A node's connections.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodePool {
    node: String,
    role: &'static str,
    size: u32,
    max_size: u32,
    in_use: u32,
    waiting: u32,
    /// Connections opened.
    created: u64,
    /// Connections used once more.
    recycled: u64,
    /// Connections that could not be opened.
    errors: u64,
    /// Waits for a connection that ran out of time.
    timeouts: u64,
    /// Times that a statement asked for a connection.
    asked: u64,
    /// How long all of them waited, opening a connection included.
    wait_seconds: f64,
    /// What the figures above are the sum of.
    reads: PoolFigures,
    writes: PoolFigures,
    /// True when queries go through a PgBouncer.
    pgbouncer: bool,
    /// What the PgBouncer says of itself; absent while it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pgbouncer_stats: Option<PgBouncerStats>,
}

/// Connections for one kind of statement; counters are since the start of the service.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PoolFigures {
    size: u32,
    max_size: u32,
    in_use: u32,
    waiting: u32,
    created: u64,
    recycled: u64,
    errors: u64,
    timeouts: u64,
    asked: u64,
    wait_seconds: f64,
}

impl From<wire::Pool> for PoolFigures {
    fn from(pool: wire::Pool) -> Self {
        Self {
            size: pool.size,
            max_size: pool.max_size,
            in_use: pool.in_use,
            waiting: pool.waiting,
            created: pool.created,
            recycled: pool.recycled,
            errors: pool.errors,
            timeouts: pool.timeouts,
            asked: pool.asked,
            wait_seconds: pool.wait_seconds,
        }
    }
}

/// SHOW POOLS, STATS and LISTS of a PgBouncer; counters are since it started.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PgBouncerStats {
    clients_active: u64,
    clients_waiting: u64,
    servers_active: u64,
    servers_idle: u64,
    servers_used: u64,
    max_wait_seconds: f64,
    transactions: u64,
    queries: u64,
    received_bytes: u64,
    sent_bytes: u64,
    query_seconds: f64,
    wait_seconds: f64,
    /// Connections of all databases.
    clients: u64,
    servers: u64,
}

impl From<&wire::PgBouncerStats> for PgBouncerStats {
    fn from(stats: &wire::PgBouncerStats) -> Self {
        Self {
            clients_active: stats.clients_active,
            clients_waiting: stats.clients_waiting,
            servers_active: stats.servers_active,
            servers_idle: stats.servers_idle,
            servers_used: stats.servers_used,
            max_wait_seconds: stats.max_wait_seconds,
            transactions: stats.transactions,
            queries: stats.queries,
            received_bytes: stats.received_bytes,
            sent_bytes: stats.sent_bytes,
            query_seconds: stats.query_seconds,
            wait_seconds: stats.wait_seconds,
            clients: stats.clients,
            servers: stats.servers,
        }
    }
}

impl<T> Nodes<T> {
    pub(super) fn new(topology: &wire::TopologyResponse) -> Self
    where
        T: for<'a> From<&'a wire::Node>,
    {
        Self { primary: name(&topology.primary), nodes: topology.nodes.iter().map(T::from).collect() }
    }
}

impl From<wire::CacheUse> for SqlCacheUse {
    fn from(used: wire::CacheUse) -> Self {
        let state = match used.state() {
            wire::CacheState::CacheHit => "hit",
            wire::CacheState::CacheMiss => "miss",
            wire::CacheState::CacheShared => "shared",
            wire::CacheState::CacheBypassed => "bypassed",
            wire::CacheState::CacheOff | wire::CacheState::Unspecified => "off",
        };
        Self { state, age_seconds: seconds(used.age), tags: used.tags }
    }
}

impl From<wire::Served> for Served {
    fn from(served: wire::Served) -> Self {
        Self {
            node: served.node,
            role: role(served.role),
            staleness_seconds: seconds(served.staleness),
            reason: served.reason,
            attempts: served.attempts,
            hedged: served.hedged,
            table: Some(served.table).filter(|table| !table.is_empty()),
        }
    }
}

impl From<&wire::TopologyResponse> for DatabaseInfo {
    fn from(topology: &wire::TopologyResponse) -> Self {
        Self {
            primary: name(&topology.primary),
            nodes: topology.nodes.iter().map(NodeInfo::from).collect(),
            routing: Routing {
                strategy: topology.strategy.clone(),
                max_staleness_seconds: seconds(topology.max_staleness),
                max_lag_bytes: topology.max_lag_bytes,
            },
        }
    }
}

impl From<&wire::Node> for NodeInfo {
    fn from(node: &wire::Node) -> Self {
        Self {
            node: node.name.clone(),
            role: role(node.role),
            address: node.address.clone(),
            pgbouncer: node.pgbouncer,
            health: health(node.health),
            probe_state: probe_state(node.probe_state),
            reads: node.reads,
            writes: node.writes,
            drained: node.drained,
            zone: node.zone.clone(),
            server_version: node.server_version.clone(),
            timeline: node.timeline,
            lsn: node.lsn.clone(),
        }
    }
}

impl From<&wire::Node> for NodeHealth {
    fn from(node: &wire::Node) -> Self {
        Self {
            node: node.name.clone(),
            role: role(node.role),
            health: health(node.health),
            healthy: node.health == i32::from(Health::Healthy),
            probe_state: probe_state(node.probe_state),
            detail: node.detail.clone(),
            since: rfc3339(node.since),
            seen_at: rfc3339(node.seen_at),
            probe_seconds: seconds(node.probe_latency),
            reads: node.reads,
            writes: node.writes,
        }
    }
}

impl From<&wire::Node> for NodeTraffic {
    fn from(node: &wire::Node) -> Self {
        let traffic = node.traffic.clone().unwrap_or_default();
        Self {
            node: node.name.clone(),
            role: role(node.role),
            queries: traffic.queries,
            errors: traffic.errors,
            seconds_mean: traffic.seconds_mean,
            breaker: traffic.breaker,
            in_flight: traffic.in_flight,
        }
    }
}

impl From<&wire::Node> for NodeLag {
    fn from(node: &wire::Node) -> Self {
        let lag = node.lag.as_ref();
        Self {
            node: node.name.clone(),
            role: role(node.role),
            lag_bytes: lag.map(|lag| lag.bytes),
            receive_lag_bytes: lag.map(|lag| lag.receive_bytes),
            staleness_seconds: lag.and_then(|lag| seconds(lag.staleness)),
            evidence_age_seconds: lag.and_then(|lag| seconds(lag.evidence_age)),
            replay_paused: lag.map(|lag| lag.replay_paused),
            receiver: lag.map(|lag| lag.receiver.clone()),
            naive_seconds: lag.and_then(|lag| seconds(lag.naive)),
            formulas: lag.map(|lag| lag.formulas.iter().map(Into::into).collect()).unwrap_or_default(),
        }
    }
}

impl From<&wire::Node> for NodePool {
    fn from(node: &wire::Node) -> Self {
        let pool = node.pool.unwrap_or_default();
        Self {
            node: node.name.clone(),
            role: role(node.role),
            size: pool.size,
            max_size: pool.max_size,
            in_use: pool.in_use,
            waiting: pool.waiting,
            created: pool.created,
            recycled: pool.recycled,
            errors: pool.errors,
            timeouts: pool.timeouts,
            asked: pool.asked,
            wait_seconds: pool.wait_seconds,
            reads: node.read_pool.unwrap_or_default().into(),
            writes: node.write_pool.unwrap_or_default().into(),
            pgbouncer: node.pgbouncer,
            pgbouncer_stats: node.pgbouncer_stats.as_ref().map(Into::into),
        }
    }
}

fn name(name: &str) -> Option<String> {
    (!name.is_empty()).then(|| name.to_owned())
}
