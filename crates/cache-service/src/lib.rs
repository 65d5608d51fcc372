#![doc = include_str!("../README.md")]

mod config;
mod counter;
mod engine;
mod entry;
mod error;
mod fence;
mod grpc;
mod insight;
mod invalidation;
mod key;
mod layer;
mod limiter;
mod lock;
mod metrics;
mod origin;
mod redis;
mod service;
mod session;
mod shared;
mod time;
mod version;

pub use config::{
    CacheConfig, CounterConfig, DiskConfig, Eviction, HttpOriginConfig, InvalidationConfig, LockConfig,
    MemoryConfig, NamespaceConfig, NamespaceOverrides, OriginConfig, RateLimitConfig, RedisConfig, RedisMode,
    SessionConfig, Strategy, StreamsConfig, WhenFull,
};
pub use service::start;
