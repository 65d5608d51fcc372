use std::time::Duration;

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// How this node lives with others. It matters only with Redis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerConfig {
    /// How often positions of channels are compared with those in Redis.
    #[serde(with = "humantime_serde")]
    pub check_positions_every: Duration,
    /// How long nothing may be heard from Redis before subscriptions that count positions are ended.
    #[serde(with = "humantime_serde")]
    pub silent_for: Duration,
    /// How long a node counts as alive after it last said so; it says so three times in that time.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// How long other nodes have to answer what they are asked.
    #[serde(with = "humantime_serde")]
    pub ask_within: Duration,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            check_positions_every: Duration::from_secs(40),
            silent_for: Duration::from_secs(10),
            lease: Duration::from_secs(6),
            ask_within: Duration::from_secs(1),
        }
    }
}

impl BrokerConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        let ms = Duration::from_millis;
        problems.duration(
            "broker.check_positions_every",
            self.check_positions_every,
            ms(100)..=ms(3_600_000),
        );
        problems.duration("broker.lease", self.lease, ms(300)..=ms(60_000));
        problems.duration("broker.ask_within", self.ask_within, ms(10)..=ms(10_000));
        problems.duration("broker.silent_for", self.silent_for, ms(100)..=ms(3_600_000));
    }
}
