use std::time::Duration;

use bytesize::ByteSize;
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

use super::{CacheConfig, RedisMode, WarmPlan};
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
    /// How long this node's memory answers alone when Redis is there; 10 ms to 1 h. Writes through other nodes are heard
    /// of much earlier, through the log; this bounds what the log might miss.
    #[serde(with = "humantime_serde")]
    pub memory_ttl: Duration,
    /// Whether entries are kept in memory.
    pub memory: bool,
    /// Whether entries are kept in Redis, if it is configured.
    pub redis: bool,
    /// Whether entries are kept on local disk, if it is configured.
    pub disk: bool,
    /// Values of more bytes are compressed with zstd in Redis and on disk; at most 16 MiB, which means never.
    pub compress_above: ByteSize,
    /// Which entries leave memory first when room is wanted.
    pub eviction: Eviction,
    /// What a write waits for before it is confirmed.
    pub durability: Durability,
    /// How the cache and the origin work together.
    pub strategy: Strategy,
    /// Name of the origin, one of `origins`; needed by every strategy but `cache_aside`.
    pub origin: String,
    /// How long it is remembered that the origin does not have a key; zero, or 1 ms to 1 day.
    #[serde(with = "humantime_serde")]
    pub negative_ttl: Duration,
    /// How long a read waits for the origin when it has a stale value to give; 1 ms to 1 min.
    #[serde(with = "humantime_serde")]
    pub soft_deadline: Duration,
    /// How long a load may take; 10 ms to 5 min.
    #[serde(with = "humantime_serde")]
    pub hard_deadline: Duration,
    /// By how many percent the lifetime of loaded entries varies, so that they do not end together; 0 to 50.
    pub ttl_jitter_percent: u8,
    /// What the namespace is warmed with.
    pub warm: WarmPlan,
}

/// Which entries of a namespace leave memory first when room is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Eviction {
    /// The least read ones, and of the new ones those that are not read again.
    #[default]
    Lfu,
    /// The longest unread.
    Lru,
    /// The first to end.
    Ttl,
    /// The longest unwritten.
    Fifo,
}

impl Eviction {
    pub(crate) const ALL: [Self; 4] = [Self::Lfu, Self::Lru, Self::Ttl, Self::Fifo];

    /// Returns `lfu`, `lru`, `ttl` or `fifo`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lfu => "lfu",
            Self::Lru => "lru",
            Self::Ttl => "ttl",
            Self::Fifo => "fifo",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|eviction| eviction.as_str() == name)
    }
}

/// What a write waits for before it is confirmed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// For Redis, which may lose it in a failover.
    #[default]
    None,
    /// For a replica of Redis too.
    ReplicaAck,
}

impl Durability {
    /// Returns `none` or `replica_ack`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ReplicaAck => "replica_ack",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::None, Self::ReplicaAck].into_iter().find(|durability| durability.as_str() == name)
    }
}

/// How the cache and the origin work together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The caller reads and fills.
    #[default]
    CacheAside,
    /// A miss is loaded from the origin.
    ReadThrough,
    /// As `read_through`, and entries that are read are loaded again before they end.
    RefreshAhead,
    /// As `read_through`, and a write is taken by the origin before it is answered.
    WriteThrough,
    /// As `read_through`, and a write is in a queue in Redis before it is answered, from where the origin takes it.
    WriteBehind,
    /// Every write is taken by the origin first; what else is done follows from what is observed.
    Adaptive,
}

impl Strategy {
    const ALL: [Self; 6] = [
        Self::CacheAside,
        Self::ReadThrough,
        Self::RefreshAhead,
        Self::WriteThrough,
        Self::WriteBehind,
        Self::Adaptive,
    ];

    /// Returns the name of the variant, like `cache_aside`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CacheAside => "cache_aside",
            Self::ReadThrough => "read_through",
            Self::RefreshAhead => "refresh_ahead",
            Self::WriteThrough => "write_through",
            Self::WriteBehind => "write_behind",
            Self::Adaptive => "adaptive",
        }
    }

    /// Tells whether the origin takes a write before it is answered.
    pub(crate) fn writes_first(self) -> bool {
        matches!(self, Self::WriteThrough | Self::Adaptive)
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|strategy| strategy.as_str() == name)
    }
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
    /// See [`NamespaceConfig::disk`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<bool>,
    /// See [`NamespaceConfig::compress_above`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compress_above: Option<ByteSize>,
    /// See [`NamespaceConfig::eviction`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eviction: Option<Eviction>,
    /// See [`NamespaceConfig::durability`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// See [`NamespaceConfig::strategy`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// See [`NamespaceConfig::origin`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// See [`NamespaceConfig::negative_ttl`].
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub negative_ttl: Option<Duration>,
    /// See [`NamespaceConfig::soft_deadline`].
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub soft_deadline: Option<Duration>,
    /// See [`NamespaceConfig::hard_deadline`].
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub hard_deadline: Option<Duration>,
    /// See [`NamespaceConfig::ttl_jitter_percent`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_jitter_percent: Option<u8>,
    /// See [`NamespaceConfig::warm`]; it replaces the whole plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm: Option<WarmPlan>,
}

impl Default for NamespaceConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_mins(5),
            max_value_size: ByteSize::mib(1),
            grace: Duration::from_hours(1),
            memory_ttl: Duration::from_mins(1),
            memory: true,
            redis: true,
            disk: true,
            compress_above: ByteSize::kib(4),
            eviction: Eviction::default(),
            durability: Durability::None,
            strategy: Strategy::CacheAside,
            origin: String::new(),
            negative_ttl: Duration::from_secs(5),
            soft_deadline: Duration::from_millis(100),
            hard_deadline: Duration::from_secs(2),
            ttl_jitter_percent: 10,
            warm: WarmPlan::default(),
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
            disk: self.disk.unwrap_or(defaults.disk),
            compress_above: self.compress_above.unwrap_or(defaults.compress_above),
            eviction: self.eviction.unwrap_or(defaults.eviction),
            durability: self.durability.unwrap_or(defaults.durability),
            strategy: self.strategy.unwrap_or(defaults.strategy),
            origin: self.origin.clone().unwrap_or_else(|| defaults.origin.clone()),
            negative_ttl: self.negative_ttl.unwrap_or(defaults.negative_ttl),
            soft_deadline: self.soft_deadline.unwrap_or(defaults.soft_deadline),
            hard_deadline: self.hard_deadline.unwrap_or(defaults.hard_deadline),
            ttl_jitter_percent: self.ttl_jitter_percent.unwrap_or(defaults.ttl_jitter_percent),
            warm: self.warm.clone().unwrap_or_else(|| defaults.warm.clone()),
        }
    }
}

impl NamespaceConfig {
    pub(crate) fn check(&self, section: &str, config: &CacheConfig, problems: &mut Problems) {
        let key = |name: &str| format!("{section}.{name}");
        let ms = Duration::from_millis;
        problems.duration(&key("ttl"), self.ttl, ms(1)..=Ttl::MAX);
        problems.duration(&key("grace"), self.grace, Duration::ZERO..=Duration::from_hours(30 * 24));
        problems.duration(&key("memory_ttl"), self.memory_ttl, ms(10)..=Duration::from_hours(1));
        problems.range(&key("compress_above"), self.compress_above, ByteSize::b(0)..=ByteSize::mib(16));
        problems.range(&key("max_value_size"), self.max_value_size, ByteSize::b(1)..=ByteSize::mib(16));
        problems.duration(&key("soft_deadline"), self.soft_deadline, ms(1)..=Duration::from_mins(1));
        problems.duration(&key("hard_deadline"), self.hard_deadline, ms(10)..=Duration::from_mins(5));
        problems.duration(&key("negative_ttl"), self.negative_ttl, Duration::ZERO..=Duration::from_hours(24));
        problems.range(&key("ttl_jitter_percent"), self.ttl_jitter_percent, 0..=50);
        self.warm.check(&key("warm"), &self.origin, config, problems);
        if self.strategy != Strategy::CacheAside {
            problems.ensure(
                config.origins.contains_key(&self.origin),
                &key("origin"),
                format!(
                    "must be one of `origins` for strategy {}, is {:?}",
                    self.strategy.as_str(),
                    self.origin
                ),
            );
        }
        if self.durability == Durability::ReplicaAck {
            problems.ensure(
                self.redis && config.redis.mode != RedisMode::None,
                &key("durability"),
                "replica_ack needs Redis: redis.mode other than none, and redis on in this namespace too",
            );
        }
        if self.strategy == Strategy::WriteBehind {
            problems.ensure(
                self.redis && config.redis.mode != RedisMode::None,
                &key("strategy"),
                "write_behind needs Redis, in this namespace too: nothing else would keep the queue",
            );
        }
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
