//! Faults, done for real: bad configuration, missing dependencies, `kill -9`, SIGTERM under load.
//!
//! Every test starts what it breaks.

mod access;
mod backup;
mod browsers;
mod cache_stream;
mod checks;
mod churn;
mod config;
mod demo_switchover;
mod dependency;
mod deployed;
mod disk;
mod drain;
mod failover;
mod hostile;
mod https;
mod idempotency;
mod killed;
mod limits;
mod network;
mod outages;
mod pgbouncer;
mod query_cache;
mod reload;
mod stood_still;
mod switchover;
mod tokens;
mod write_behind;
