use bytesize::ByteSize;
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// What is remembered of what clients did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JourneysConfig {
    /// Memory of this node for it; 0 means that nothing is remembered. The oldest is forgotten first.
    pub memory: ByteSize,
}

impl Default for JourneysConfig {
    fn default() -> Self {
        Self { memory: ByteSize::mib(4) }
    }
}

impl JourneysConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.ensure(
            self.memory == ByteSize::b(0) || (ByteSize::kib(64)..=ByteSize::gib(1)).contains(&self.memory),
            "journeys.memory",
            format!("must be 0, or between 64 KiB and 1 GiB, is {}", self.memory),
        );
    }
}
