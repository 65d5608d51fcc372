#![doc = include_str!("../README.md")]

mod builder;
mod chaos_proxy;
mod credentials;
pub mod demo;
mod devstack;
mod endpoints;
mod error;
mod guard;
mod layout;
mod manifest;
mod node;
mod ports;
mod postgres;
mod probe;
mod process;
mod programs;
mod redis;
mod redis_cluster;
mod resp;
mod run_as;
mod services;
mod stack_dir;
mod wait;

use std::path::Path;

pub use builder::Builder;
pub use chaos_proxy::{ChaosProxy, Direction, ProxyCounts};
pub use credentials::{ApiKeys, Credentials};
pub use devstack::Devstack;
pub use endpoints::{Endpoints, PostgresEndpoint, PostgresEndpoints, RedisEndpoints};
pub use error::{Error, chain};
pub use layout::Component;
pub use manifest::Entry;
pub use node::{Node, UnexpectedExit};
pub use ports::Ports;
pub use postgres::{
    Bouncer, DATABASE, MONITOR_ROLE, Postgres, PostgresNode, REPLICATOR_ROLE, SERVICE_ROLE, SUPERUSER,
};
pub use probe::http_get;
pub use programs::MissingPrograms;
pub use redis::{MASTER_NAME, MinReplicas, Redis, RedisNode};
pub use redis_cluster::RedisCluster;
pub use resp::{RedisReply, redis_command};
pub use services::{Service, ServiceAddress};
pub use wait::{TimedOut, wait_until};

/// Ends what an earlier stack left in `dir`, and only that; returns the names of what was still alive.
pub fn down(dir: &Path) -> Result<Vec<String>, Error> {
    stack_dir::clean_up(dir)
}

/// Lists the processes that a stack in `dir` started, and whether its owner lives.
pub fn status(dir: &Path) -> (bool, Vec<Entry>) {
    (stack_dir::is_owned(dir), manifest::entries(dir))
}
