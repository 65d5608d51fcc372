use std::time::Duration;

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// Configures what is done with keys that are read much more than others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HotKeysConfig {
    /// Keys that one node may call hot; 0 to 256, 0 turns it off.
    pub most: u32,
    /// Share of all reads of a node from which a key is hot; 0.001 to 1. It stays hot down to half of it.
    pub min_share: f64,
    /// How much of memory hot keys may hold through eviction; 0 to 50.
    pub memory_percent: u8,
    /// How long other nodes keep a key after this node last called it hot; 2 s to 1 h.
    #[serde(with = "humantime_serde")]
    pub told_for: Duration,
}

impl Default for HotKeysConfig {
    fn default() -> Self {
        Self { most: 64, min_share: 0.01, memory_percent: 10, told_for: Duration::from_secs(30) }
    }
}

impl HotKeysConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.range("hot_keys.most", self.most, 0..=256);
        problems.range("hot_keys.min_share", self.min_share, 0.001..=1.0);
        problems.range("hot_keys.memory_percent", self.memory_percent, 0..=50);
        let (least, most) = (Duration::from_secs(2), Duration::from_hours(1));
        problems.duration("hot_keys.told_for", self.told_for, least..=most);
    }
}
