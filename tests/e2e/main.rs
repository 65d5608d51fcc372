//! The main job, end to end: REST at the edge, gRPC inside, real Redis and PostgreSQL behind.
//!
//! All tests share one stack, each with keys, rows and channels of its own; a test that stops something starts its
//! own stack.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, and the line tells where")]

mod access;
mod alerting;
mod cache;
mod cache_doors;
mod cancels;
mod channels;
mod checks;
mod database;
mod database_limits;
mod database_values;
mod docs;
mod health;
mod idempotency;
mod invalidation;
mod live;
mod monitor;
mod partitions;
mod realtime;
mod roles;
mod rules;
mod statements;
mod trace;
mod write_behind;
