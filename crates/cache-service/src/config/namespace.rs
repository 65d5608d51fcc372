use std::time::Duration;

use bytesize::ByteSize;
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

use super::{CacheConfig, RedisMode};
use crate::key::Ttl;

/// Says how the entries of a namespace are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NamespaceConfig {
    /// Lifetime of an entry set without one; 1 ms to 365 days.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// Largest value; 1 byte to 16 MiB, and at most a quarter of `memory.capacity` where memory is used.
    pub max_value_size: ByteSize,
    /// How long past its ttl an entry may be served, marked stale, while Redis fails; at most 30 days.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// How long this node's memory answers alone when Redis is there; 10 ms to 1 h. A write through another node is
    /// seen here after this time at the latest.
    #[serde(with = "humantime_serde")]
    pub memory_ttl: Duration,
    /// Whether entries are kept in memory.
    pub memory: bool,
    /// Whether entries are kept in Redis, if it is configured.
    pub redis: bool,
}

/// Says what differs from the defaults in one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NamespaceOverrides {
    /// See [`NamespaceConfig::ttl`].
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    /// See [`NamespaceConfig::max_value_size`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_value_size: Option<ByteSize>,
    /// See [`NamespaceConfig::grace`].
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub grace: Option<Duration>,
    /// See [`NamespaceConfig::memory_ttl`].
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub memory_ttl: Option<Duration>,
    /// See [`NamespaceConfig::memory`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<bool>,
    /// See [`NamespaceConfig::redis`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<bool>,
}

impl Default for NamespaceConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_mins(5),
            max_value_size: ByteSize::mib(1),
            grace: Duration::from_hours(1),
            memory_ttl: Duration::from_secs(5),
            memory: true,
            redis: true,
        }
    }
}

impl NamespaceOverrides {
    pub(crate) fn over(&self, defaults: &NamespaceConfig) -> NamespaceConfig {
        NamespaceConfig {
            ttl: self.ttl.unwrap_or(defaults.ttl),
            max_value_size: self.max_value_size.unwrap_or(defaults.max_value_size),
            grace: self.grace.unwrap_or(defaults.grace),
            memory_ttl: self.memory_ttl.unwrap_or(defaults.memory_ttl),
            memory: self.memory.unwrap_or(defaults.memory),
            redis: self.redis.unwrap_or(defaults.redis),
        }
    }
}

impl NamespaceConfig {
    pub(super) fn check(&self, section: &str, config: &CacheConfig, problems: &mut Problems) {
        let key = |name: &str| format!("{section}.{name}");
        let ms = Duration::from_millis;
        problems.duration(&key("ttl"), self.ttl, ms(1)..=Ttl::MAX);
        problems.duration(&key("grace"), self.grace, Duration::ZERO..=Duration::from_hours(30 * 24));
        problems.duration(&key("memory_ttl"), self.memory_ttl, ms(10)..=Duration::from_hours(1));
        problems.range(&key("max_value_size"), self.max_value_size, ByteSize::b(1)..=ByteSize::mib(16));
        if self.memory {
            let quarter = ByteSize::b(config.memory.capacity.as_u64() / 4);
            problems.ensure(
                self.max_value_size <= quarter,
                &key("max_value_size"),
                format!(
                    "must be at most a quarter of memory.capacity, {quarter}, is {}",
                    self.max_value_size
                ),
            );
        } else {
            problems.ensure(
                self.redis && config.redis.mode != RedisMode::None,
                &key("memory"),
                "must be true where Redis is not used: nothing would be kept",
            );
        }
    }
}
