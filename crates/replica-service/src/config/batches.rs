use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// Bounds the streams of reads, `QueryBatches`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchesConfig {
    /// Streams open at once; 1 to 100,000. More are refused.
    pub max_open: u32,
    /// Messages of one stream under way; 1 to 10,000. With more, its client is not read from.
    pub max_in_flight: u32,
    /// Queries of one message; 1 to 1,000.
    pub max_queries: u32,
}

impl Default for BatchesConfig {
    fn default() -> Self {
        Self { max_open: 256, max_in_flight: 64, max_queries: 256 }
    }
}

impl BatchesConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.range("batches.max_open", self.max_open, 1..=100_000);
        problems.range("batches.max_in_flight", self.max_in_flight, 1..=10_000);
        problems.range("batches.max_queries", self.max_queries, 1..=1_000);
    }
}
