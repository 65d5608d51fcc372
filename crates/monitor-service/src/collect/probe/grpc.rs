//! The health service of gRPC.

use std::time::Duration;

use mainstay_rpc::{Call, ErrorCode, InvalidUpstream, Upstream};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::Failure;
use crate::config::ProbeConfig;

/// Asks a server of gRPC whether it, or one of its services, serves.
pub(super) struct HealthProbe {
    upstream: Upstream,
    service: String,
    within: Duration,
}

impl HealthProbe {
    pub(super) fn try_new(url: &str, config: ProbeConfig) -> Result<Self, InvalidUpstream> {
        let upstream = Upstream::try_new("probe", &config.upstream(url))?;
        Ok(Self { upstream, service: config.service, within: config.within })
    }

    pub(super) async fn look(&self) -> Result<(), Failure> {
        let call = Call::read("grpc.health.v1.Health/Check").within(self.within);
        let send = |lane| async move {
            let request = HealthCheckRequest { service: self.service.clone() };
            HealthClient::new(lane).check(request).await
        };
        let answer = self.upstream.call(call, send).await.map_err(|failure| {
            let message = failure.message();
            let reason = failure
                .cause_chain()
                .map_or_else(|| message.to_owned(), |chain| format!("{message}: {chain}"));
            match failure.code() {
                ErrorCode::Unavailable | ErrorCode::DeadlineExceeded => Failure::Silent(reason),
                _ => Failure::Wrong(reason),
            }
        })?;
        match answer.status() {
            ServingStatus::Serving => Ok(()),
            other => Err(Failure::Wrong(format!("status is {}", other.as_str_name()))),
        }
    }
}
