//! A service of this house, which tells of itself through introspection.

mod decode;

use std::time::Duration;

use mainstay_openmetrics::{Exposition, Limits};
use mainstay_proto::introspect::v1 as pb;
use mainstay_proto::introspect::v1::introspection_client::IntrospectionClient;
use mainstay_rpc::{Call, Failure, InvalidUpstream, Upstream, UpstreamConfig};
use mainstay_runtime::Clock;
use tokio::time::Instant;

use super::{Answer, Miss, Source};

/// Asks one instance of a service.
pub(super) struct Service {
    upstream: Upstream,
    within: Duration,
}

impl Service {
    /// Prepares the pulls; opens no connection.
    pub(super) fn try_new(name: &str, config: &UpstreamConfig) -> Result<Self, InvalidUpstream> {
        Ok(Self { upstream: Upstream::try_new(name, config)?, within: config.deadline })
    }
}

impl Source for Service {
    /// Metrics that are missing or unreadable do not make a target that answers look dead.
    async fn ask(&mut self, clock: &Clock) -> Result<Answer, Miss> {
        let (upstream, within, started_at) = (&self.upstream, self.within, Instant::now());
        let (describe, components, errors, metrics) = tokio::join!(
            describe(upstream, within),
            components(upstream, within),
            errors(upstream, within),
            metrics(upstream, within)
        );
        let miss = |failure: Failure| Miss { reason: reason(&failure), ..Miss::default() };
        let (describe, components) = (describe.map_err(miss)?, components.map_err(miss)?);
        let report = decode::report(describe, components, errors, clock.now(), started_at.elapsed());
        Ok(Answer { report, metrics })
    }
}

/// What a target may send: far more than any of ours has.
const LIMITS: Limits = Limits { max_samples: 50_000, max_bytes: 4 * 1024 * 1024 };

/// Groups of errors asked for.
const ERRORS_MAX: u32 = 100;

async fn describe(upstream: &Upstream, within: Duration) -> Result<pb::DescribeResponse, Failure> {
    let call = Call::read("mainstay.introspect.v1.Introspection/Describe").within(within);
    upstream
        .call(
            call,
            |lane| async move { IntrospectionClient::new(lane).describe(pb::DescribeRequest {}).await },
        )
        .await
}

async fn components(upstream: &Upstream, within: Duration) -> Result<pb::ComponentsResponse, Failure> {
    let call = Call::read("mainstay.introspect.v1.Introspection/Components").within(within);
    upstream
        .call(call, |lane| async move {
            IntrospectionClient::new(lane).components(pb::ComponentsRequest {}).await
        })
        .await
}

/// Errors are told where they can be; a service that does not is no worse for it.
async fn errors(upstream: &Upstream, within: Duration) -> Vec<pb::ErrorGroup> {
    let call = Call::read("mainstay.introspect.v1.Introspection/Errors").within(within);
    let send = |lane| async move {
        IntrospectionClient::new(lane).errors(pb::ErrorsRequest { limit: ERRORS_MAX }).await
    };
    upstream.call(call, send).await.map(|answer| answer.groups).unwrap_or_default()
}

async fn metrics(upstream: &Upstream, within: Duration) -> Result<Exposition, String> {
    let call = Call::read("mainstay.introspect.v1.Introspection/Metrics").within(within);
    let send = |lane| async move { IntrospectionClient::new(lane).metrics(pb::MetricsRequest {}).await };
    let answer = upstream.call(call, send).await.map_err(|failure| reason(&failure))?;
    let text = std::str::from_utf8(&answer.openmetrics).map_err(|_| "not UTF-8".to_owned())?;
    mainstay_openmetrics::parse(text, LIMITS).map_err(|error| error.to_string())
}

fn reason(failure: &Failure) -> String {
    let message = failure.message();
    failure.cause_chain().map_or_else(|| message.to_owned(), |chain| format!("{message}: {chain}"))
}
