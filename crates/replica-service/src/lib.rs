#![doc = include_str!("../README.md")]

mod cache;
mod cluster;
mod config;
mod engine;
mod error;
mod figures;
mod fleet;
mod grpc;
mod insight;
mod lag;
mod lsn;
mod measure;
mod metrics;
mod node;
mod pool;
mod probe;
mod reload;
mod report;
mod route;
mod server_stats;
mod service;
mod session;
mod slow_log;
mod sql;
mod statements;
mod switchover;
mod token;
mod topology;
mod watch;
mod wire;

pub use config::{
    AdvanceConfig, BatchesConfig, CacheConfig, HealthConfig, HedgeConfig, InsightConfig, LimitsConfig,
    NamedConfig, NamedKind, NodeConfig, PairConfig, ParityConfig, PoolConfig, PostgresConfig, PostgresTls,
    ReplicaConfig, RoutingConfig, SlowLogConfig, StatementsConfig, StatsConfig, StepsConfig, TlsMode,
};
pub use measure::Decisions;
pub use route::Strategy;
pub use service::start;

#[cfg(test)]
mod test_time {
    use std::time::Instant;

    /// Gives tests a first instant; every later one is this plus a duration.
    pub(crate) fn origin() -> Instant {
        tokio::time::Instant::now().into_std()
    }
}
