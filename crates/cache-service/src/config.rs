//! Everything that can be set, with its default and its legal range.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytesize::ByteSize;
use mainstay_runtime::{Problems, ServerConfig, ServiceConfig, TelemetryConfig};
use serde::{Deserialize, Serialize};

mod adaptive;
mod disk;
mod hot_keys;
mod http_origin;
mod invalidation;
mod key_patterns;
mod namespace;
mod origin;
mod pubsub;
mod shared;
mod streams;
mod warming;
mod write_behind;

#[cfg(test)]
mod tests;

pub use adaptive::AdaptiveConfig;
pub use disk::DiskConfig;
pub use hot_keys::HotKeysConfig;
pub use http_origin::HttpOriginConfig;
pub use invalidation::InvalidationConfig;
pub use key_patterns::KeyPatternsConfig;
pub use mainstay_redis::{RedisConfig, RedisMode};
pub use namespace::{Durability, Eviction, NamespaceConfig, NamespaceOverrides, Strategy};
pub use origin::OriginConfig;
pub use pubsub::{PubSubConfig, SlowReaders};
pub use shared::{CounterConfig, LockConfig, RateLimitConfig, SessionConfig, WhenFull};
pub use streams::StreamsConfig;
pub use warming::{WarmPlan, WarmSource, WarmingConfig};
pub use write_behind::WriteBehindConfig;

/// Configures the cache-service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// The internal port.
    pub server: ServerConfig,
    /// Logs, spans and metrics.
    pub telemetry: TelemetryConfig,
    /// L1.
    pub memory: MemoryConfig,
    /// Keys read much more than others.
    pub hot_keys: HotKeysConfig,
    /// What keys look like, in the metrics.
    pub key_patterns: KeyPatternsConfig,
    /// L2.
    pub redis: RedisConfig,
    /// The log of changes that nodes tell each other.
    pub invalidation: InvalidationConfig,
    /// L3.
    pub disk: DiskConfig,
    /// Filling the cache before it is asked.
    pub warming: WarmingConfig,
    /// The streaming door.
    pub streams: StreamsConfig,
    /// Rate limits.
    pub rate_limits: RateLimitConfig,
    /// Sessions.
    pub sessions: SessionConfig,
    /// Locks.
    pub locks: LockConfig,
    /// Counters.
    pub counters: CounterConfig,
    /// Messages by topic.
    pub pubsub: PubSubConfig,
    /// Queues of changes that origins learn of later.
    pub write_behind: WriteBehindConfig,
    /// Where values come from, by name.
    pub origins: BTreeMap<String, OriginConfig>,
    /// How namespaces with the strategy `adaptive` choose.
    pub adaptive: AdaptiveConfig,
    /// Whether a namespace that is not listed under `namespaces` may be used.
    pub open_namespaces: bool,
    /// Policy of unlisted namespaces, and of what a listed one leaves out.
    pub namespace_defaults: NamespaceConfig,
    /// Policy by namespace.
    pub namespaces: BTreeMap<String, NamespaceOverrides>,
}

/// Configures L1, the memory of this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryConfig {
    /// Bytes of keys, values and the overhead of each entry; 1 MiB to 1 TiB.
    pub capacity: ByteSize,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            server: ServerConfig {
                listen: SocketAddr::from(([127, 0, 0, 1], 4010)),
                ..ServerConfig::default()
            },
            telemetry: TelemetryConfig::default(),
            memory: MemoryConfig::default(),
            hot_keys: HotKeysConfig::default(),
            key_patterns: KeyPatternsConfig::default(),
            redis: RedisConfig::default(),
            invalidation: InvalidationConfig::default(),
            disk: DiskConfig::default(),
            warming: WarmingConfig::default(),
            streams: StreamsConfig::default(),
            rate_limits: RateLimitConfig::default(),
            sessions: SessionConfig::default(),
            locks: LockConfig::default(),
            counters: CounterConfig::default(),
            pubsub: PubSubConfig::default(),
            write_behind: WriteBehindConfig::default(),
            origins: BTreeMap::new(),
            adaptive: AdaptiveConfig::default(),
            open_namespaces: true,
            namespace_defaults: NamespaceConfig::default(),
            namespaces: BTreeMap::new(),
        }
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { capacity: ByteSize::mib(64) }
    }
}

impl ServiceConfig for CacheConfig {
    fn server(&self) -> &ServerConfig {
        &self.server
    }

    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }

    fn check(&self, problems: &mut Problems) {
        problems.range("memory.capacity", self.memory.capacity, ByteSize::mib(1)..=ByteSize::tib(1));
        self.hot_keys.check(problems);
        self.key_patterns.check(problems);
        self.redis.check(problems);
        self.invalidation.check(problems);
        for (name, origin) in &self.origins {
            origin.check(&format!("origins.{name}"), problems);
        }
        self.disk.check(problems);
        self.warming.check(problems);
        self.streams.check(problems);
        self.rate_limits.check(problems);
        self.sessions.check(problems);
        self.locks.check(problems);
        self.counters.check(problems);
        self.pubsub.check(problems);
        self.write_behind.check(problems);
        self.adaptive.check(problems);
        self.namespace_defaults.check("namespace_defaults", self, problems);
        for (name, overrides) in &self.namespaces {
            let key = format!("namespaces.{name}");
            if let Err(invalid) = crate::key::Namespace::try_new(name) {
                problems.add(&key, format!("the name {invalid}"));
            }
            overrides.over(&self.namespace_defaults).check(&key, self, problems);
        }
    }
}

impl CacheConfig {
    /// Returns the largest value that any namespace takes.
    pub(crate) fn largest_value(&self) -> u64 {
        let listed = self.namespaces.values().map(|overrides| overrides.over(&self.namespace_defaults));
        let all = listed.chain(std::iter::once(self.namespace_defaults.clone()));
        all.map(|namespace| namespace.max_value_size.as_u64()).max().unwrap_or_default()
    }
}
