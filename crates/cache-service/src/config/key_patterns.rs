use std::time::Duration;

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// Configures what the metrics tell of the patterns of keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyPatternsConfig {
    /// Patterns in the metrics, those with most bytes in memory first; 0 to 200, 0 counts only when asked.
    pub most: u32,
    /// How often they are counted, which visits every entry in memory; 5 s to 1 day.
    #[serde(with = "humantime_serde")]
    pub count_every: Duration,
}

impl Default for KeyPatternsConfig {
    fn default() -> Self {
        Self { most: 20, count_every: Duration::from_mins(1) }
    }
}

impl KeyPatternsConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.range("key_patterns.most", self.most, 0..=200);
        let (least, most) = (Duration::from_secs(5), Duration::from_hours(24));
        problems.duration("key_patterns.count_every", self.count_every, least..=most);
    }
}
