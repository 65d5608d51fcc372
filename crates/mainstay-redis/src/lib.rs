#![doc = include_str!("../README.md")]

mod cluster;
mod config;
mod error;
mod inquirer;
mod link;
mod part;
mod partition;
mod primary;
mod pulse;
mod redis;
mod resp;
mod script;
mod sentinel;
mod soon;
mod tls;
mod view;
mod watch;
mod way;

pub use config::{Address, InvalidAddress, RedisConfig, RedisMode};
pub use error::RedisError;
pub use inquirer::{Inquirer, InquiryError};
pub use link::Link;
pub use part::Part;
pub use partition::Partition;
pub use redis::{Redis, number};
pub use script::Script;
pub use view::{ClusterView, RedisView, SentinelView, ShardView};
pub use watch::Watch;
