use mainstay_runtime::{Problems, UpstreamConfig};
use serde::{Deserialize, Serialize};

use super::HttpOriginConfig;

/// Configures one source of values: by `grpc` a service that implements `mainstay.cache.v1.Origin`, or by `http` a plain
/// HTTP server.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OriginConfig {
    /// How the service is reached; it needs endpoints.
    pub grpc: UpstreamConfig,
    /// How the server is asked; it needs a URL.
    pub http: HttpOriginConfig,
}

impl OriginConfig {
    pub(super) fn check(&self, section: &str, problems: &mut Problems) {
        if self.http.url.is_empty() {
            problems.ensure(
                !self.grpc.endpoints.is_empty(),
                &format!("{section}.grpc.endpoints"),
                "must name at least one endpoint, or http.url be given",
            );
            problems.under(&format!("{section}.grpc"), |report| self.grpc.check(report));
            return;
        }
        problems.ensure(
            self.grpc.endpoints.is_empty(),
            &format!("{section}.grpc.endpoints"),
            "must be empty where http.url is given",
        );
        self.http.check(&format!("{section}.http"), problems);
    }
}
