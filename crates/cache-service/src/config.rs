//! Everything that can be set, with its default and its legal range.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytesize::ByteSize;
use mainstay_runtime::{Problems, ServerConfig, ServiceConfig, TelemetryConfig};
use serde::{Deserialize, Serialize};

mod disk;
mod http_origin;
mod invalidation;
mod namespace;
mod origin;
mod shared;
mod streams;

#[cfg(test)]
mod tests;

pub use disk::DiskConfig;
pub use http_origin::HttpOriginConfig;
pub use invalidation::InvalidationConfig;
pub use mainstay_redis::{RedisConfig, RedisMode};
pub use namespace::{Eviction, NamespaceConfig, NamespaceOverrides, Strategy};
pub use origin::OriginConfig;
pub use shared::{CounterConfig, LockConfig, RateLimitConfig, SessionConfig, WhenFull};
pub use streams::StreamsConfig;

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
    /// L2.
    pub redis: RedisConfig,
    /// The log of changes that nodes tell each other.
    pub invalidation: InvalidationConfig,
    /// L3.
    pub disk: DiskConfig,
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
    /// Where values come from, by name.
    pub origins: BTreeMap<String, OriginConfig>,
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
            redis: RedisConfig::default(),
            invalidation: InvalidationConfig::default(),
            disk: DiskConfig::default(),
            streams: StreamsConfig::default(),
            rate_limits: RateLimitConfig::default(),
            sessions: SessionConfig::default(),
            locks: LockConfig::default(),
            counters: CounterConfig::default(),
            origins: BTreeMap::new(),
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
        self.redis.check(problems);
        self.invalidation.check(problems);
        for (name, origin) in &self.origins {
            origin.check(&format!("origins.{name}"), problems);
        }
        self.disk.check(problems);
        self.streams.check(problems);
        self.rate_limits.check(problems);
        self.sessions.check(problems);
        self.locks.check(problems);
        self.counters.check(problems);
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
