//! How often a client may ask.

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// How often one connection may send each kind of command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RatesConfig {
    /// `subscribe`; a client that comes back subscribes to all its channels at once.
    pub subscribe: RateConfig,
    pub publish: RateConfig,
    /// `presence`, `presence_stats`, `history`.
    pub read: RateConfig,
    /// All other commands but `connect` and pongs.
    pub other: RateConfig,
}

/// So many at once, and so many more each second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateConfig {
    /// 0 means any number.
    pub per_second: u32,
    pub burst: u32,
}

impl Default for RatesConfig {
    fn default() -> Self {
        let unlimited = |burst| RateConfig { per_second: 0, burst };
        Self { subscribe: unlimited(256), publish: unlimited(50), read: unlimited(50), other: unlimited(256) }
    }
}

impl Default for RateConfig {
    fn default() -> Self {
        Self { per_second: 0, burst: 50 }
    }
}

impl RatesConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        let rates = [
            ("subscribe", self.subscribe),
            ("publish", self.publish),
            ("read", self.read),
            ("other", self.other),
        ];
        for (kind, rate) in rates {
            let path = format!("websocket.rates.{kind}");
            problems.range(&format!("{path}.per_second"), rate.per_second, 0..=1_000_000);
            problems.range(&format!("{path}.burst"), rate.burst, 1..=1_000_000);
        }
    }
}
