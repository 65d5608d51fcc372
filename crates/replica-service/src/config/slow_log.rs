use std::time::Duration;

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// Says which statements are slow, and what is kept of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlowLogConfig {
    /// A statement that takes this long in all is kept; 1 ms to 1 h; 0 turns the log off.
    #[serde(with = "humantime_serde")]
    pub after: Duration,
    /// The oldest goes first; 1 to 10,000.
    pub max_entries: u32,
    /// Whether literals and parameters are kept too; they may be secrets, and take up to 16 KiB each entry.
    pub keep_values: bool,
    /// For one plan; 10 ms to 1 min.
    #[serde(with = "humantime_serde")]
    pub explain_within: Duration,
}

impl SlowLogConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        let ms = Duration::from_millis(1);
        if !self.after.is_zero() {
            problems.duration("slow_log.after", self.after, ms..=Duration::from_hours(1));
        }
        problems.range("slow_log.max_entries", self.max_entries, 1..=10_000);
        problems.duration("slow_log.explain_within", self.explain_within, ms * 10..=Duration::from_mins(1));
    }
}

impl Default for SlowLogConfig {
    fn default() -> Self {
        Self {
            after: Duration::from_millis(500),
            max_entries: 200,
            keep_values: false,
            explain_within: Duration::from_secs(5),
        }
    }
}
