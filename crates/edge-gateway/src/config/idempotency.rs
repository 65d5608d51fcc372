//! How long requests are remembered that are done only once.

use std::time::Duration;

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

use crate::middleware::idempotency::Once;

/// Requests with an `idempotency-key`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdempotencyConfig {
    /// Namespace of the cache where they are remembered.
    pub namespace: String,
    /// How long an answer is given again.
    #[serde(with = "humantime_serde")]
    pub keep: Duration,
}

impl Default for IdempotencyConfig {
    fn default() -> Self {
        Self { namespace: "edge-once".to_owned(), keep: Duration::from_secs(24 * 3_600) }
    }
}

impl IdempotencyConfig {
    /// A claim outlives the request that made it.
    pub(crate) fn once(&self, request_within: Duration) -> Once {
        Once {
            namespace: self.namespace.clone(),
            keep: self.keep,
            claim: 2 * request_within + Duration::from_secs(10),
        }
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        let letters =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
        let name = self.namespace.as_bytes();
        problems.ensure(
            (1..=64).contains(&name.len())
                && name[0].is_ascii_lowercase()
                && name.iter().all(|byte| letters(*byte)),
            "idempotency.namespace",
            "must be 1 to 64 of a-z, 0-9, _ and -, starting with a letter",
        );
        let (minute, day) = (Duration::from_secs(60), Duration::from_secs(24 * 3_600));
        problems.duration("idempotency.keep", self.keep, minute..=30 * day);
    }
}
