#![doc = include_str!("../README.md")]

mod config;
mod error;
mod link;
mod pulse;
mod redis;
mod resp;
mod script;
mod sentinel;
mod tls;
mod view;
mod watch;

pub use config::{Address, InvalidAddress, RedisConfig, RedisMode};
pub use error::RedisError;
pub use link::Link;
pub use redis::{Redis, number};
pub use script::Script;
pub use view::{RedisView, SentinelView};
pub use watch::Watch;
