#![doc = include_str!("../README.md")]

mod adaptive;
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
mod measured;
mod metrics;
mod once;
mod origin;
mod pubsub;
mod redis;
mod service;
mod session;
mod shared;
mod time;
mod version;
mod warming;
mod write_behind;

pub use config::{
    AdaptiveConfig, CacheConfig, CounterConfig, DiskConfig, Durability, Eviction, HotKeysConfig,
    HttpOriginConfig, InvalidationConfig, KeyPatternsConfig, LockConfig, MemoryConfig, NamespaceConfig,
    NamespaceOverrides, OriginConfig, PubSubConfig, RateLimitConfig, RedisConfig, RedisMode, SessionConfig,
    SlowReaders, Strategy, StreamsConfig, WarmPlan, WarmSource, WarmingConfig, WhenFull, WriteBehindConfig,
};
#[doc(hidden)]
pub use measured::MeasuredEngine;
pub use service::start;
