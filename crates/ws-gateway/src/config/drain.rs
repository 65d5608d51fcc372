use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// How clients are sent away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainConfig {
    /// Connections closed each second, when the process stops or when somebody asks.
    pub connections_per_second: u32,
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self { connections_per_second: 500 }
    }
}

impl DrainConfig {
    /// The highest pace.
    pub(crate) const MAX_PER_SECOND: u32 = 1_000_000;

    pub(super) fn check(&self, problems: &mut Problems) {
        problems.range("drain.connections_per_second", self.connections_per_second, 1..=Self::MAX_PER_SECOND);
    }
}
