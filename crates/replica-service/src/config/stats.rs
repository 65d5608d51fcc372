use std::time::Duration;

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// Says how the servers' own figures are read.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StatsConfig {
    /// Between two readings of a server; 1 s to 1 h; 0 reads none.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// For one question; 100 ms to 1 min.
    #[serde(with = "humantime_serde")]
    pub within: Duration,
    /// Tables told of each server, the largest first; 0 to 1,000.
    pub max_tables: u32,
    /// Statements told of each server, the costliest first; 0 to 1,000.
    pub max_statements: u32,
}

impl Default for StatsConfig {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(15),
            within: Duration::from_secs(5),
            max_tables: 50,
            max_statements: 50,
        }
    }
}

impl StatsConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        let ms = Duration::from_millis;
        if !self.every.is_zero() {
            problems.duration("stats.every", self.every, ms(1_000)..=Duration::from_hours(1));
        }
        problems.duration("stats.within", self.within, ms(100)..=Duration::from_mins(1));
        problems.range("stats.max_tables", self.max_tables, 0..=1_000);
        problems.range("stats.max_statements", self.max_statements, 0..=1_000);
    }
}
