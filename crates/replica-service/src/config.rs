//! Everything that can be set, with its default and its legal range.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use bytesize::ByteSize;
use mainstay_resilience::breaker::BreakerConfig;
use mainstay_rpc::BreakerSection;
use mainstay_runtime::{Problems, Secret, ServerConfig, ServiceConfig, TelemetryConfig};
use serde::{Deserialize, Serialize};

use crate::{probe::SUSPECT_EVERY, route::Strategy};

mod batches;
mod cache;
mod change;
mod hedge;
mod slow_log;
mod statements;
mod stats;
mod switchover;
#[cfg(test)]
mod tests;
mod tls;

pub use batches::BatchesConfig;
pub use cache::CacheConfig;
pub(crate) use change::Change;
pub use hedge::HedgeConfig;
pub use slow_log::SlowLogConfig;
pub use statements::{NamedConfig, NamedKind, StatementsConfig};
pub use stats::StatsConfig;
pub use switchover::{AdvanceConfig, PairConfig, ParityConfig, StepsConfig};
pub use tls::{PostgresTls, TlsMode};

/// Configures the replica-service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplicaConfig {
    /// The internal port.
    pub server: ServerConfig,
    /// Logs, spans and metrics.
    pub telemetry: TelemetryConfig,
    /// How to log in, the same for all nodes.
    pub postgres: PostgresConfig,
    /// The servers, by a name of our own; roles are observed, never configured.
    pub nodes: BTreeMap<String, NodeConfig>,
    pub pool: PoolConfig,
    pub health: HealthConfig,
    /// When statements for a node are held back: it refuses connections, or loses them.
    pub breaker: BreakerSection,
    pub routing: RoutingConfig,
    pub limits: LimitsConfig,
    pub insight: InsightConfig,
    pub slow_log: SlowLogConfig,
    pub stats: StatsConfig,
    pub batches: BatchesConfig,
    pub statements: StatementsConfig,
    pub hedge: HedgeConfig,
    pub cache: CacheConfig,
    /// Pairs of a legacy table and its partitioned twin, by a name of our own.
    pub switchover: BTreeMap<String, PairConfig>,
    pub parity: ParityConfig,
    pub steps: StepsConfig,
    pub advance: AdvanceConfig,
}

/// Says how to log in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresConfig {
    pub database: String,
    pub user: String,
    pub password: Secret,
    /// For one new connection, log-in included; 10 ms to 1 min.
    #[serde(with = "humantime_serde")]
    pub connect_within: Duration,
    /// For one statement, when the caller does not set a shorter deadline; 10 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub statement_within: Duration,
    /// For a whole stream of rows, however slow its caller is; 1 s to 1 day.
    #[serde(with = "humantime_serde")]
    pub stream_within: Duration,
    /// Of all connections to the servers.
    pub tls: PostgresTls,
}

/// Names one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// `host:port` of the server itself, which must be named also where `pgbouncer` is set: probes go there, and queries too
    /// unless it is.
    pub address: String,
    /// `host:port` of a `PgBouncer` that leads to this server only; empty for none.
    pub pgbouncer: String,
    /// Share of the reads among replicas; 0 takes it out of reads; at most 1,000.
    pub weight: u32,
    /// Where it stands, e.g. an availability zone: at most 64 bytes; empty for nowhere.
    pub zone: String,
}

/// Sizes the two pools of each node, one for reads and one for writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolConfig {
    /// Connections of each pool at most; 1 to 1,000.
    pub max_size: u32,
    /// How long a statement may wait for a connection; 1 ms to 1 min.
    #[serde(with = "humantime_serde")]
    pub wait_within: Duration,
    /// Connections older than this are replaced; 1 s to 1 day.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// Prepared statements that each connection for reads keeps, not behind a PgBouncer; 0 to 1,000, 0 keeps none.
    pub kept_statements: u32,
}

/// Says how nodes are watched.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthConfig {
    /// Between two probes of a node; 50 ms to 1 min.
    #[serde(with = "humantime_serde")]
    pub probe_every: Duration,
    /// A node that stays down is probed less and less often, in the end once in this time; 50 ms to 5 min. Not longer than
    /// `probe_every`: as often as any other.
    #[serde(with = "humantime_serde")]
    pub probe_down_every: Duration,
    /// For one probe; 10 ms to 1 min.
    #[serde(with = "humantime_serde")]
    pub probe_within: Duration,
    /// Failed probes in a row that take a node down; 1 to 100.
    pub down_after: u32,
    /// Good probes in a row that bring it back; 1 to 100.
    pub up_after: u32,
    /// How often each `PgBouncer` is asked for its own figures, if `user` is set; 1 s to 1 h; 0 never.
    #[serde(with = "humantime_serde")]
    pub pgbouncer_stats_every: Duration,
    /// Role of the probes; empty means `postgres.user`. Only a member of `pg_monitor` sees the WAL receiver, and only one
    /// of its `stats_users` the figures of a `PgBouncer`, which must know it by its `auth_file`.
    pub user: String,
    pub password: Secret,
}

impl HealthConfig {
    /// How old the last answer of a node that is up may be, so that the primary is believed to be it: two rounds of probes,
    /// and the time that it takes to find a node down.
    pub(crate) fn evidence_for(&self) -> Duration {
        self.probe_every * 2 + (self.probe_within + SUSPECT_EVERY) * (self.down_after + 1)
    }
}

/// Says where reads go.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoutingConfig {
    pub strategy: Strategy,
    /// A staler replica is left out, unless the read says otherwise; 0 sends all reads to the primary; at most 1 day.
    #[serde(with = "humantime_serde")]
    pub max_staleness: Duration,
    /// Takes the place of `max_staleness` while there is no primary, so that reads go on; at most 30 days.
    #[serde(with = "humantime_serde")]
    pub max_staleness_without_primary: Duration,
    /// A replica further behind is left out, unless the read sets a staleness or bytes of its own.
    pub max_lag_bytes: ByteSize,
    /// How long a read with a token waits for a replica to replay it, before it goes to the primary; at most 1 min.
    #[serde(with = "humantime_serde")]
    pub token_wait_within: Duration,
    /// How long a write waits for a primary while there is none; 0 fails it at once; at most 1 min.
    #[serde(with = "humantime_serde")]
    pub write_wait_within: Duration,
    /// A node that was down takes its share of the reads evenly over this time; 0 gives it all at once; at most 1 h.
    #[serde(with = "humantime_serde")]
    pub slow_start: Duration,
    /// Whether the primary answers reads that no replica is fit for.
    pub primary_fallback: bool,
    /// Replicas of this zone answer reads while one of them is fit; empty where all are equal.
    pub zone: String,
}

/// Bounds one request and its result.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Rows returned when the read does not say; 1 to `max_rows`.
    pub default_rows: u32,
    /// Rows that a read may ask for at most; 1 to 1,000,000.
    pub max_rows: u32,
    /// Length of a statement; 1 KiB to 8 MiB.
    pub max_sql_size: ByteSize,
    /// Bytes of all rows of a result as PostgreSQL sends them; 1 KiB to 256 MiB.
    pub max_result_size: ByteSize,
    /// Statements of one transaction; 1 to 1,000.
    pub max_statements: u32,
}

/// Bounds what is remembered about statements.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InsightConfig {
    /// Kinds of statements; 0 turns it off; at most 10,000.
    pub max_statements: u32,
}

impl ServiceConfig for ReplicaConfig {
    fn server(&self) -> &ServerConfig {
        &self.server
    }

    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }

    fn check(&self, problems: &mut Problems) {
        let (ms, minute, hour) = (Duration::from_millis(1), Duration::from_mins(1), Duration::from_hours(1));
        problems.ensure(!self.postgres.database.is_empty(), "postgres.database", "must not be empty");
        problems.ensure(!self.postgres.user.is_empty(), "postgres.user", "must not be empty");
        problems.duration("postgres.connect_within", self.postgres.connect_within, ms * 10..=minute);
        problems.duration("postgres.statement_within", self.postgres.statement_within, ms * 10..=hour);
        problems.duration("postgres.stream_within", self.postgres.stream_within, ms * 1_000..=hour * 24);
        self.postgres.tls.check(problems);
        self.check_nodes(problems);
        problems.range("pool.max_size", self.pool.max_size, 1..=1_000);
        problems.duration("pool.wait_within", self.pool.wait_within, ms..=minute);
        problems.duration("pool.max_age", self.pool.max_age, ms * 1_000..=hour * 24);
        problems.range("pool.kept_statements", self.pool.kept_statements, 0..=1_000);
        problems.duration("health.probe_every", self.health.probe_every, ms * 50..=minute);
        problems.duration("health.probe_down_every", self.health.probe_down_every, ms * 50..=minute * 5);
        problems.duration("health.probe_within", self.health.probe_within, ms * 10..=minute);
        problems.range("health.down_after", self.health.down_after, 1..=100);
        problems.range("health.up_after", self.health.up_after, 1..=100);
        let every = self.health.pgbouncer_stats_every;
        if !every.is_zero() {
            problems.duration("health.pgbouncer_stats_every", every, ms * 1_000..=hour);
        }
        if let Err(wrong) = BreakerConfig::try_new(self.breaker.clone().into()) {
            problems.add("breaker", wrong.to_string());
        }
        problems.duration("routing.max_staleness", self.routing.max_staleness, Duration::ZERO..=hour * 24);
        let longest = hour * 24 * 30;
        let without_primary = self.routing.max_staleness_without_primary;
        problems.duration("routing.max_staleness_without_primary", without_primary, Duration::ZERO..=longest);
        problems.duration(
            "routing.token_wait_within",
            self.routing.token_wait_within,
            Duration::ZERO..=minute,
        );
        let routing = &self.routing;
        problems.duration("routing.write_wait_within", routing.write_wait_within, Duration::ZERO..=minute);
        let near = routing.zone.is_empty() || self.nodes.values().any(|node| node.zone == routing.zone);
        problems.ensure(near, "routing.zone", "must be the zone of a node");
        problems.duration("routing.slow_start", routing.slow_start, Duration::ZERO..=hour);
        let limits = &self.limits;
        problems.range("limits.max_rows", limits.max_rows, 1..=1_000_000);
        problems.range("limits.default_rows", limits.default_rows, 1..=limits.max_rows.max(1));
        problems.range("limits.max_sql_size", limits.max_sql_size, ByteSize::kib(1)..=ByteSize::mib(8));
        problems.range(
            "limits.max_result_size",
            limits.max_result_size,
            ByteSize::kib(1)..=ByteSize::mib(256),
        );
        problems.range("limits.max_statements", limits.max_statements, 1..=1_000);
        switchover::check(&self.switchover, &self.parity, problems);
        switchover::check_steps(&self.steps, &self.advance, problems);
        problems.range("insight.max_statements", self.insight.max_statements, 0..=10_000);
        self.slow_log.check(problems);
        self.stats.check(problems);
        self.batches.check(problems);
        self.statements.check(&self.cache, &self.switchover, limits.max_sql_size.as_u64(), problems);
        self.hedge.check(&self.insight, problems);
        self.cache.check(problems);
    }
}

impl ReplicaConfig {
    fn check_nodes(&self, problems: &mut Problems) {
        let example = "name at least one server, e.g. MAINSTAY__NODES__PRIMARY__ADDRESS=127.0.0.1:5432";
        problems.ensure(!self.nodes.is_empty(), "nodes", example);
        problems.ensure(self.nodes.len() <= MAX_NODES, "nodes", format!("must be at most {MAX_NODES}"));
        // One server under two names would be two primaries on one timeline.
        let mut taken = BTreeSet::new();
        for (name, node) in &self.nodes {
            let key = format!("nodes.{name}");
            let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
            let named = (1..=32).contains(&name.len()) && name.chars().all(legal);
            problems.ensure(named, &key, "the name must be 1 to 32 of a-z, 0-9, _ and -");
            let own = [("address", &node.address), ("pgbouncer", &node.pgbouncer)];
            for (field, address) in
                own.into_iter().filter(|(field, address)| *field == "address" || !address.is_empty())
            {
                let key = format!("{key}.{field}");
                check_address(&key, address, problems);
                let free = taken.insert(address);
                problems.ensure(free, &key, format!("must be of this node alone, {address} is named twice"));
            }
            problems.range(&format!("{key}.weight"), node.weight, 0..=1_000);
            let bounded = node.zone.len() <= 64;
            problems.ensure(bounded, &format!("{key}.zone"), "must be at most 64 bytes");
        }
    }
}

impl ReplicaConfig {
    /// Tells whether replicas are probed too seldom for the bound of reads, so that most go to the primary.
    pub(crate) fn are_replicas_passed_over(&self) -> bool {
        let bound = self.routing.max_staleness;
        !bound.is_zero() && bound < self.health.probe_every * 2
    }
}

/// Node names are labels of metrics, so their number is bounded.
const MAX_NODES: usize = 64;

/// Splits `host:port`; the host of an IPv6 address stands in brackets.
pub(crate) fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port > 0)?;
    (!host.is_empty() && !host.contains(['/', ' ', ','])).then_some((host, port))
}

fn check_address(key: &str, address: &str, problems: &mut Problems) {
    let legal = split_address(address).is_some();
    problems.ensure(legal, key, format!("must be host:port, is {address:?}"));
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        Self {
            server: ServerConfig {
                listen: SocketAddr::from(([127, 0, 0, 1], 4030)),
                ..ServerConfig::default()
            },
            telemetry: TelemetryConfig::default(),
            postgres: PostgresConfig::default(),
            nodes: BTreeMap::new(),
            pool: PoolConfig::default(),
            health: HealthConfig::default(),
            breaker: default_breaker(),
            routing: RoutingConfig::default(),
            limits: LimitsConfig::default(),
            insight: InsightConfig::default(),
            slow_log: SlowLogConfig::default(),
            stats: StatsConfig::default(),
            batches: BatchesConfig::default(),
            statements: StatementsConfig::default(),
            hedge: HedgeConfig::default(),
            cache: CacheConfig::default(),
            switchover: BTreeMap::new(),
            parity: ParityConfig::default(),
            steps: StepsConfig::default(),
            advance: AdvanceConfig::default(),
        }
    }
}

/// Slow statements are the business of their callers: only failures count.
fn default_breaker() -> BreakerSection {
    BreakerSection {
        slow_after: Duration::from_hours(1),
        open_for: Duration::from_secs(1),
        open_for_max: Duration::from_secs(30),
        probes: 3,
        ..BreakerSection::default()
    }
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            database: "mainstay".to_owned(),
            user: "mainstay".to_owned(),
            password: Secret::default(),
            connect_within: Duration::from_secs(2),
            statement_within: Duration::from_secs(5),
            stream_within: Duration::from_mins(10),
            tls: PostgresTls::default(),
        }
    }
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { address: String::new(), pgbouncer: String::new(), weight: 1, zone: String::new() }
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            max_size: 16,
            wait_within: Duration::from_secs(1),
            max_age: Duration::from_mins(30),
            kept_statements: 64,
        }
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            probe_every: Duration::from_secs(1),
            probe_down_every: Duration::from_secs(5),
            probe_within: Duration::from_secs(1),
            down_after: 2,
            up_after: 2,
            pgbouncer_stats_every: Duration::from_secs(5),
            user: String::new(),
            password: Secret::default(),
        }
    }
}

impl Default for RoutingConfig {
    fn default() -> Self {
        Self {
            strategy: Strategy::RoundRobin,
            max_staleness: Duration::from_secs(5),
            max_staleness_without_primary: Duration::from_hours(1),
            max_lag_bytes: ByteSize::mib(16),
            token_wait_within: Duration::from_millis(500),
            write_wait_within: Duration::from_secs(2),
            slow_start: Duration::from_secs(10),
            primary_fallback: true,
            zone: String::new(),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            default_rows: 1_000,
            max_rows: 10_000,
            max_sql_size: ByteSize::mib(1),
            max_result_size: ByteSize::mib(16),
            max_statements: 100,
        }
    }
}

impl Default for InsightConfig {
    fn default() -> Self {
        Self { max_statements: 500 }
    }
}
