use std::time::Duration;

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// Configures the log in Redis by which nodes learn of each other's changes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InvalidationConfig {
    /// Changes kept for nodes that were cut off; more are found by asking anew. 1,000 to 10,000,000.
    pub log_length: u64,
    /// How long memory may answer alone without proof that no change was missed; 100 ms to 1 min.
    #[serde(with = "humantime_serde")]
    pub current_for: Duration,
}

impl Default for InvalidationConfig {
    fn default() -> Self {
        Self { log_length: 100_000, current_for: Duration::from_secs(2) }
    }
}

impl InvalidationConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        let ms = Duration::from_millis;
        problems.range("invalidation.log_length", self.log_length, 1_000..=10_000_000);
        problems.duration("invalidation.current_for", self.current_for, ms(100)..=ms(60_000));
    }
}
