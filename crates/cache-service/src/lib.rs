#![doc = include_str!("../README.md")]

mod config;
mod engine;
mod entry;
mod error;
mod grpc;
mod key;
mod layer;
mod metrics;
mod redis;
mod service;
mod time;
mod version;

pub use config::{CacheConfig, MemoryConfig, NamespaceConfig, NamespaceOverrides, RedisConfig, RedisMode};
pub use service::start;
