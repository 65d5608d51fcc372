use std::time::Duration;

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// Configures how namespaces with the strategy `adaptive` choose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveConfig {
    /// How often each looks at what happened; a choice follows from the last six looks. 100 ms to 10 min.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
}

impl Default for AdaptiveConfig {
    fn default() -> Self {
        Self { every: Duration::from_secs(10) }
    }
}

impl AdaptiveConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        let (least, most) = (Duration::from_millis(100), Duration::from_mins(10));
        problems.duration("adaptive.every", self.every, least..=most);
    }
}
