use std::time::Duration;

use bytesize::ByteSize;
use mainstay_runtime::{Problems, UpstreamConfig};
use serde::{Deserialize, Serialize};

/// Says where answers are kept for reads that wish it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// The cache-service; without an endpoint nothing is kept.
    pub upstream: UpstreamConfig,
    /// Namespace of cache-service that holds the answers.
    pub namespace: String,
    /// How long a read may wish its answer to be kept; 100 ms to 7 days.
    #[serde(with = "humantime_serde")]
    pub max_ttl: Duration,
    /// A larger answer is not kept; 1 KiB to 16 MiB.
    pub max_value_size: ByteSize,
    /// How long a read waits for the cache before it asks the database; 1 ms to 1 s.
    #[serde(with = "humantime_serde")]
    pub get_within: Duration,
    /// How long a write waits for its invalidation to be confirmed, and a purge; 10 ms to 10 s.
    #[serde(with = "humantime_serde")]
    pub invalidate_within: Duration,
    /// How long a read waits for what another process of the service reads at this moment; 0 never, up to 10 s.
    #[serde(with = "humantime_serde")]
    pub flight_within: Duration,
}

impl CacheConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        let ms = Duration::from_millis(1);
        if !self.upstream.endpoints.is_empty() {
            problems.under("cache.upstream", |report| self.upstream.check(report));
        }
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
        let named = (1..=64).contains(&self.namespace.len())
            && self.namespace.starts_with(|c: char| c.is_ascii_lowercase())
            && self.namespace.chars().all(legal);
        problems.ensure(
            named,
            "cache.namespace",
            "must be 1 to 64 of a-z, 0-9, _ and -, and start with a letter",
        );
        let week = Duration::from_hours(24 * 7);
        problems.duration("cache.max_ttl", self.max_ttl, ms * 100..=week);
        let sizes = ByteSize::kib(1)..=ByteSize::mib(16);
        problems.range("cache.max_value_size", self.max_value_size, sizes);
        problems.duration("cache.get_within", self.get_within, ms..=ms * 1_000);
        problems.duration("cache.invalidate_within", self.invalidate_within, ms * 10..=ms * 10_000);
        if !self.flight_within.is_zero() {
            problems.duration("cache.flight_within", self.flight_within, ms * 10..=ms * 10_000);
        }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            upstream: UpstreamConfig::default(),
            namespace: "sql".to_owned(),
            max_ttl: Duration::from_hours(1),
            max_value_size: ByteSize::mib(1),
            get_within: Duration::from_millis(50),
            invalidate_within: Duration::from_millis(500),
            flight_within: Duration::from_millis(500),
        }
    }
}
