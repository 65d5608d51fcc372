use std::time::Duration;

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

use super::InsightConfig;

/// Says when a second replica is asked because the first one is slow.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HedgeConfig {
    /// Second questions as a share of the reads of the last 10 s; 0 asks none; at most 0.5.
    pub max_ratio: f64,
    /// A read faster than this is never slow; 100 us to 10 s.
    #[serde(with = "humantime_serde")]
    pub min_delay: Duration,
}

impl HedgeConfig {
    pub(super) fn check(&self, insight: &InsightConfig, problems: &mut Problems) {
        problems.range("hedge.max_ratio", self.max_ratio, 0.0..=0.5);
        let legal = Duration::from_micros(100)..=Duration::from_secs(10);
        problems.duration("hedge.min_delay", self.min_delay, legal);
        let known = self.max_ratio <= 0.0 || insight.max_statements > 0;
        problems.ensure(
            known,
            "hedge.max_ratio",
            "needs insight.max_statements above 0: it says what is slow",
        );
    }
}

impl Default for HedgeConfig {
    fn default() -> Self {
        Self { max_ratio: 0.0, min_delay: Duration::from_millis(2) }
    }
}
