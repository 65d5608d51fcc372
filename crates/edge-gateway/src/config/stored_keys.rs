//! API keys that were made over REST.

use std::time::Duration;

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// API keys that monitor-service keeps.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoredKeysConfig {
    /// How often they are asked for: so long may a revoked key still be good on another edge.
    #[serde(with = "humantime_serde")]
    pub refresh_every: Duration,
    /// How long they are trusted while monitor-service is away.
    #[serde(with = "humantime_serde")]
    pub max_stale: Duration,
}

impl Default for StoredKeysConfig {
    fn default() -> Self {
        Self { refresh_every: Duration::from_secs(2), max_stale: Duration::from_secs(3_600) }
    }
}

impl StoredKeysConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        let (minute, day) = (Duration::from_secs(60), Duration::from_secs(24 * 3_600));
        let every = Duration::from_millis(100)..=minute;
        problems.duration("auth.stored_keys.refresh_every", self.refresh_every, every);
        let stale = self.refresh_every.min(minute)..=30 * day;
        problems.duration("auth.stored_keys.max_stale", self.max_stale, stale);
    }
}
