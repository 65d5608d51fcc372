//! How often one caller may ask.

use std::time::Duration;

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

use crate::limits::Rate;

/// Limits per credential and kind of request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Counts together with other edges, through cache-service; alone while it is away.
    pub shared: bool,
    /// Time the shared count may take before this edge goes on alone.
    #[serde(with = "humantime_serde")]
    pub shared_within: Duration,
    /// Callers whose counts are held at once; the one not seen for longest makes room.
    pub max_keys: u32,
    /// Requests that viewers may make.
    pub read: LimitConfig,
    /// Requests that need operator or admin.
    pub write: LimitConfig,
    /// Bad credentials per address; above it, none are looked at.
    pub refused: LimitConfig,
}

/// One limit.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitConfig {
    /// Requests per window in the long run; 0 means no limit.
    pub quota: u32,
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// Requests at once after a pause; 0 means as many as the quota.
    pub burst: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let per = |quota, seconds| LimitConfig { quota, window: Duration::from_secs(seconds), burst: 0 };
        Self {
            shared: true,
            shared_within: Duration::from_millis(20),
            max_keys: 50_000,
            read: per(20_000, 1),
            write: per(10_000, 1),
            refused: per(300, 60),
        }
    }
}

impl LimitConfig {
    pub(crate) fn rate(&self) -> Option<Rate> {
        let burst = if self.burst == 0 { self.quota } else { self.burst };
        (self.quota > 0).then_some(Rate { quota: self.quota, window: self.window, burst })
    }
}

impl LimitsConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        let millisecond = Duration::from_millis(1);
        problems.duration("limits.shared_within", self.shared_within, millisecond..=Duration::from_secs(1));
        problems.range("limits.max_keys", self.max_keys, 100..=10_000_000);
        for (name, limit) in [("read", &self.read), ("write", &self.write), ("refused", &self.refused)] {
            problems.range(&format!("limits.{name}.quota"), limit.quota, 0..=1_000_000);
            problems.range(&format!("limits.{name}.burst"), limit.burst, 0..=1_000_000);
            let day = Duration::from_secs(24 * 3600);
            problems.duration(&format!("limits.{name}.window"), limit.window, millisecond..=day);
        }
    }
}
