//! How reads of the cache travel.

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// Lasting streams to cache-service, one per endpoint of `upstreams.cache`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheStreamConfig {
    /// False: each read is a call of its own.
    pub enabled: bool,
    /// Reads that may wait for an answer on one stream; more go as calls.
    pub max_in_flight: u32,
}

impl Default for CacheStreamConfig {
    fn default() -> Self {
        Self { enabled: true, max_in_flight: 1024 }
    }
}

impl CacheStreamConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.range("cache_stream.max_in_flight", self.max_in_flight, 1..=65_536);
    }
}
