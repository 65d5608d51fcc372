//! The service in this process, against real PostgreSQL servers from the devstack.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod batches;
mod breaker;
mod cancels;
mod drain;
mod failover;
mod hedge;
mod kept;
mod lag;
mod limits;
mod links;
mod outcomes;
mod pgbouncer;
mod pools;
mod reads;
mod reload;
mod rig;
mod safety;
mod server_stats;
mod slow_log;
mod statements;
mod steps;
mod strategies;
mod streams;
mod switchover;
mod tls;
mod transactions;
mod types;
mod wire;
mod writes;
