use std::time::Duration;

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// Configures the queues of namespaces with the strategy `write_behind`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WriteBehindConfig {
    /// Changes that wait in one namespace; with more, writes are refused. 1 to 10,000,000.
    pub max_queued: u64,
    /// Dead letters of one namespace; with more, what would become one stays at the head of the queue. 1 to 1,000,000.
    pub max_dead: u64,
    /// How long the first change waits for others, to be stored together with them; at most 10 s.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// Changes of one call of the origin; 1 to 1,000.
    pub batch: u32,
    /// So often an origin may refuse a change before it becomes a dead letter; 1 to 1,000.
    pub attempts: u32,
    /// Longest first wait before the origin is asked again; doubles up to `retry_cap`. 1 ms to 1 min.
    #[serde(with = "humantime_serde")]
    pub retry_base: Duration,
    /// Longest wait before the origin is asked again; `retry_base` to 10 min.
    #[serde(with = "humantime_serde")]
    pub retry_cap: Duration,
    /// How long a queue stays with a node that is silent; a third of it bounds one call of the origin. 1 s to 5 min.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
}

impl Default for WriteBehindConfig {
    fn default() -> Self {
        Self {
            max_queued: 100_000,
            max_dead: 10_000,
            linger: Duration::from_millis(20),
            batch: 100,
            attempts: 5,
            retry_base: Duration::from_millis(100),
            retry_cap: Duration::from_secs(10),
            lease: Duration::from_secs(10),
        }
    }
}

impl WriteBehindConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        let (ms, minutes) = (Duration::from_millis, Duration::from_mins);
        problems.range("write_behind.max_queued", self.max_queued, 1..=10_000_000);
        problems.range("write_behind.max_dead", self.max_dead, 1..=1_000_000);
        problems.duration("write_behind.linger", self.linger, Duration::ZERO..=Duration::from_secs(10));
        problems.range("write_behind.batch", self.batch, 1..=1_000);
        problems.range("write_behind.attempts", self.attempts, 1..=1_000);
        problems.duration("write_behind.retry_base", self.retry_base, ms(1)..=minutes(1));
        problems.duration("write_behind.retry_cap", self.retry_cap, self.retry_base..=minutes(10));
        problems.duration("write_behind.lease", self.lease, Duration::from_secs(1)..=minutes(5));
    }
}
