use bytesize::ByteSize;
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// Bounds what the streaming door may hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamsConfig {
    /// Streams open at once; more are refused; 1 to 100,000.
    pub max_open: u32,
    /// Operations of one stream under way below memory; 1 to 10,000.
    pub max_in_flight: u32,
    /// Answers of one stream that wait to be read: with more, nothing new is begun; 64 KiB to 1 GiB.
    pub buffer: ByteSize,
}

impl Default for StreamsConfig {
    fn default() -> Self {
        Self { max_open: 1_024, max_in_flight: 256, buffer: ByteSize::mib(4) }
    }
}

impl StreamsConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.range("streams.max_open", self.max_open, 1..=100_000);
        problems.range("streams.max_in_flight", self.max_in_flight, 1..=10_000);
        problems.range("streams.buffer", self.buffer, ByteSize::kib(64)..=ByteSize::gib(1));
    }
}
