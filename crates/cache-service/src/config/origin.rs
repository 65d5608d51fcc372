use mainstay_runtime::{Problems, UpstreamConfig};
use serde::{Deserialize, Serialize};

/// Configures one source of values: a service that implements `mainstay.cache.v1.Origin`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OriginConfig {
    /// How it is reached; it needs endpoints.
    pub grpc: UpstreamConfig,
}

impl OriginConfig {
    pub(super) fn check(&self, section: &str, problems: &mut Problems) {
        problems.ensure(
            !self.grpc.endpoints.is_empty(),
            &format!("{section}.grpc.endpoints"),
            "must name at least one endpoint",
        );
        problems.under(&format!("{section}.grpc"), |report| self.grpc.check(report));
    }
}
