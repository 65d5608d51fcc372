//! One pull of one target.

use std::time::Duration;

use mainstay_openmetrics::{Exposition, Limits};
use mainstay_proto::introspect::v1 as pb;
use mainstay_proto::introspect::v1::introspection_client::IntrospectionClient;
use mainstay_rpc::{Call, Failure, Upstream};
use mainstay_runtime::Clock;
use tokio::time::Instant;

use super::{Answer, decode};

/// Says which part of a pull was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullError {
    /// The target does not say who it is.
    #[error("describe failed")]
    Describe(#[source] Failure),
    /// The target does not say how its parts are.
    #[error("components failed")]
    Components(#[source] Failure),
}

impl PullError {
    /// Tells a person why, in one line.
    pub(crate) fn reason(&self) -> String {
        let (Self::Describe(failure) | Self::Components(failure)) = self;
        reason(failure)
    }
}

/// What a target may send: far more than any of ours has.
const LIMITS: Limits = Limits { max_samples: 50_000, max_bytes: 4 * 1024 * 1024 };

/// Asks a target for all it tells, at once; done within `within` whatever the target does.
///
/// Metrics that are missing or unreadable do not make a target that answers look dead.
pub(super) async fn pull(upstream: &Upstream, within: Duration, clock: &Clock) -> Result<Answer, PullError> {
    let started_at = Instant::now();
    let (describe, components, errors, metrics) = tokio::join!(
        describe(upstream, within),
        components(upstream, within),
        errors(upstream, within),
        metrics(upstream, within)
    );
    let describe = describe.map_err(PullError::Describe)?;
    let components = components.map_err(PullError::Components)?;
    let report = decode::report(describe, components, errors, clock.now(), started_at.elapsed());
    Ok(Answer { report, metrics })
}

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
