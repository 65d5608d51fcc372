//! How namespaces are kept: what holds, and what is put at run time.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, StatusCode};
use mainstay_proto::cache::v1 as wire;
use mainstay_proto::cache::v1::cache_admin_client::CacheAdminClient;
use mainstay_proto::cache::v1::policy_service_client::PolicyServiceClient;
use mainstay_rpc::{Call, Lane};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cache::version_tag;
use super::warming::WarmPlan;
use super::words::{duration_of, rfc3339};
use crate::body::{Json, Who};
use crate::error::Problem;
use crate::etag;
use crate::state::App;

const GET: &str = "mainstay.cache.v1.CacheAdmin/GetNamespace";
const PUT: &str = "mainstay.cache.v1.CacheAdmin/PutNamespace";
const LIST: &str = "mainstay.cache.v1.PolicyService/ListNamespaces";
const HISTORY: &str = "mainstay.cache.v1.PolicyService/PolicyHistory";

/// How entries of a namespace are kept. What is left out is as configured. Times like `30s` or `5m`.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Policy {
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_value_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_ttl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compress_above_bytes: Option<u64>,
    /// `lfu`, `lru`, `ttl` or `fifo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    eviction: Option<String>,
    /// What a write waits for: `none`, or `replica_ack`, until a replica of Redis has it too.
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<String>,
    /// `cache_aside`, or one that needs an origin.
    #[serde(skip_serializing_if = "Option::is_none")]
    strategy: Option<String>,
    /// Name of a configured origin.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    negative_ttl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    soft_deadline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hard_deadline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_jitter_percent: Option<u32>,
    /// How the namespace is warmed; it replaces the whole plan of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    warm: Option<WarmPlan>,
}

/// What holds for a namespace.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NamespacePolicy {
    namespace: String,
    /// That of what was put at run time; 0 when only the configuration speaks.
    version: u64,
    /// Everything in force.
    effective: Policy,
    /// What was put at run time.
    run_time: Option<Policy>,
    put_at: Option<String>,
    put_by: Option<String>,
    /// What the strategy `adaptive` last found, on the node that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    adaptive: Option<AdaptiveChoice>,
}

/// What an adaptive namespace does, and why. Every write goes to the origin first, whatever is chosen.
#[derive(Serialize, ToSchema)]
pub(crate) struct AdaptiveChoice {
    /// `read_through`, `write_through` or `refresh_ahead`.
    chosen: String,
    since: Option<String>,
    switches: u64,
    reason: String,
    /// What each would have cost in the same time.
    estimates: Vec<AdaptiveEstimate>,
}

/// What a strategy would have cost.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AdaptiveEstimate {
    strategy: String,
    origin_calls_per_second: f64,
    /// Mean time that a read waits for the origin.
    read_wait_seconds: f64,
    /// Part of the reads that find nothing fresh.
    stale_risk: f64,
    /// Seconds of work and waiting per second; the least wins.
    cost: f64,
}

/// The namespaces that are listed or were used, by name.
#[derive(Serialize, ToSchema)]
pub(crate) struct NamespacePolicies {
    namespaces: Vec<NamespacePolicy>,
}

/// What was put at run time for a namespace, the last first.
#[derive(Serialize, ToSchema)]
pub(crate) struct PolicyHistory {
    changes: Vec<PolicyChange>,
}

/// One change of a run-time policy.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PolicyChange {
    namespace: String,
    version: u64,
    put_at: Option<String>,
    put_by: String,
    /// Names of the fields that differ.
    changed: Vec<String>,
    before: Policy,
    after: Policy,
}

/// Lists what holds for each namespace.
#[utoipa::path(get, path = "/cache/namespaces", tag = "cache", responses((status = 200, description = "the policies", body = NamespacePolicies)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<NamespacePolicies>, Problem> {
    let send = async |mut client: PolicyServiceClient<Lane>, request| client.list_namespaces(request).await;
    let request = wire::ListNamespacesRequest {};
    let listed = app.upstreams.policies(Call::read(LIST).by(caller), request, send).await?;
    Ok(Answer(NamespacePolicies {
        namespaces: listed.namespaces.into_iter().map(NamespacePolicy::from).collect(),
    }))
}

/// Tells what holds for a namespace.
#[utoipa::path(get, path = "/cache/namespaces/{namespace}", tag = "cache", params(
    ("namespace" = String, Path, description = "letters, digits, `_` and `-`, starting with a letter", pattern = "^[a-z][a-z0-9_-]{0,63}$"),
    ("if-none-match" = Option<String>, Header, description = "an `etag` given earlier: the policy is sent only if it changed"),
), responses(
    (status = 200, description = "the policy", body = NamespacePolicy, headers(("etag" = String, description = "version of what was put at run time; `\"0\"` when nothing was"))),
    (status = 304, description = "the version of `if-none-match` is still the current one"),
    (status = 404, description = "there is no such namespace"),
))]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Path(namespace): Path<String>,
    Who(caller): Who,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let send = async |mut client: CacheAdminClient<Lane>, request| client.get_namespace(request).await;
    let request = wire::GetNamespaceRequest { namespace };
    let view = app.upstreams.cache_admin(Call::read(GET).by(caller), request, send).await?;
    let tag = version_tag(view.version);
    // What is observed has no version.
    let is_versioned = view.adaptive.is_none();
    if is_versioned && headers.get(IF_NONE_MATCH).is_some_and(|known| etag::matches(known, &tag)) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    Ok(([(ETAG, tag)], Answer(NamespacePolicy::from(view))).into_response())
}

/// Replaces what was put at run time for a namespace, on all nodes.
///
/// It is versioned and kept in the history. Fields left out are as configured again.
#[utoipa::path(put, path = "/cache/namespaces/{namespace}", tag = "cache", params(
    ("namespace" = String, Path, description = "letters, digits, `_` and `-`, starting with a letter", pattern = "^[a-z][a-z0-9_-]{0,63}$"),
    ("if-match" = String, Header, description = "the `etag` of the policy to replace; another one is 412"),
), request_body = Policy, responses(
    (status = 200, description = "in force here, and on the other nodes as soon as they hear of it", body = NamespacePolicy, headers(("etag" = String, description = "its version"))),
    (status = 404, description = "there is no such namespace"),
    (status = 412, description = "another version is there than `if-match` names"),
))]
pub(crate) async fn put(
    State(app): State<Arc<App>>,
    Path(namespace): Path<String>,
    Who(caller): Who,
    headers: HeaderMap,
    Json(body): Json<Policy>,
) -> Result<Response, Problem> {
    let if_version = headers
        .get(IF_MATCH)
        .and_then(|tag| tag.to_str().ok()?.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok())
        .ok_or_else(|| Problem::invalid("if-match", "must be the etag that a read of the policy gave"))?;
    let policy = Some(body.try_into()?);
    let request = wire::PutNamespaceRequest { namespace, policy, if_version };
    let send = async |mut client: CacheAdminClient<Lane>, request| client.put_namespace(request).await;
    let view = app.upstreams.cache_admin(Call::write(PUT).by(caller), request, send).await?;
    Ok(([(ETAG, version_tag(view.version))], Answer(NamespacePolicy::from(view))).into_response())
}

/// Lists who changed the policy of a namespace, when, and what.
#[utoipa::path(get, path = "/cache/namespaces/{namespace}/history", tag = "cache", params(
    ("namespace" = String, Path, description = "letters, digits, `_` and `-`, starting with a letter", pattern = "^[a-z][a-z0-9_-]{0,63}$"),
), responses((status = 200, description = "the last changes of it among the last 1,000 of all", body = PolicyHistory)))]
pub(crate) async fn history(
    State(app): State<Arc<App>>,
    Path(namespace): Path<String>,
    Who(caller): Who,
) -> Result<Answer<PolicyHistory>, Problem> {
    let send = async |mut client: PolicyServiceClient<Lane>, request| client.policy_history(request).await;
    let request = wire::PolicyHistoryRequest { namespace };
    let history = app.upstreams.policies(Call::read(HISTORY).by(caller), request, send).await?;
    Ok(Answer(PolicyHistory { changes: history.changes.into_iter().map(PolicyChange::from).collect() }))
}

impl TryFrom<Policy> for wire::NamespacePolicy {
    type Error = Problem;

    fn try_from(policy: Policy) -> Result<Self, Problem> {
        Ok(Self {
            ttl: duration_of("ttl", policy.ttl)?,
            max_value_bytes: policy.max_value_bytes,
            grace: duration_of("grace", policy.grace)?,
            memory_ttl: duration_of("memoryTtl", policy.memory_ttl)?,
            memory: policy.memory,
            redis: policy.redis,
            disk: policy.disk,
            compress_above_bytes: policy.compress_above_bytes,
            eviction: policy.eviction,
            durability: policy.durability,
            strategy: policy.strategy,
            origin: policy.origin,
            negative_ttl: duration_of("negativeTtl", policy.negative_ttl)?,
            soft_deadline: duration_of("softDeadline", policy.soft_deadline)?,
            hard_deadline: duration_of("hardDeadline", policy.hard_deadline)?,
            ttl_jitter_percent: policy.ttl_jitter_percent,
            warm: policy.warm.map(|plan| plan.into_wire("warm.")).transpose()?,
        })
    }
}

impl From<wire::NamespacePolicy> for Policy {
    fn from(policy: wire::NamespacePolicy) -> Self {
        let text = |duration: Option<prost_types::Duration>| {
            let duration = Duration::try_from(duration?).ok()?;
            Some(humantime::format_duration(duration).to_string())
        };
        Self {
            ttl: text(policy.ttl),
            max_value_bytes: policy.max_value_bytes,
            grace: text(policy.grace),
            memory_ttl: text(policy.memory_ttl),
            memory: policy.memory,
            redis: policy.redis,
            disk: policy.disk,
            compress_above_bytes: policy.compress_above_bytes,
            eviction: policy.eviction,
            durability: policy.durability,
            strategy: policy.strategy,
            origin: policy.origin,
            negative_ttl: text(policy.negative_ttl),
            soft_deadline: text(policy.soft_deadline),
            hard_deadline: text(policy.hard_deadline),
            ttl_jitter_percent: policy.ttl_jitter_percent,
            warm: policy.warm.map(WarmPlan::from),
        }
    }
}

impl From<wire::NamespaceView> for NamespacePolicy {
    fn from(view: wire::NamespaceView) -> Self {
        Self {
            namespace: view.namespace,
            version: view.version,
            effective: view.effective.unwrap_or_default().into(),
            run_time: view.run_time.map(Policy::from),
            put_at: rfc3339(view.put_at),
            put_by: (view.version > 0).then_some(view.put_by),
            adaptive: view.adaptive.map(AdaptiveChoice::from),
        }
    }
}

impl From<wire::AdaptiveView> for AdaptiveChoice {
    fn from(view: wire::AdaptiveView) -> Self {
        let estimate = |estimate: wire::AdaptiveEstimate| AdaptiveEstimate {
            strategy: estimate.strategy,
            origin_calls_per_second: estimate.origin_calls_per_second,
            read_wait_seconds: estimate.read_wait_seconds,
            stale_risk: estimate.stale_risk,
            cost: estimate.cost,
        };
        Self {
            chosen: view.chosen,
            since: rfc3339(view.since),
            switches: view.switches,
            reason: view.reason,
            estimates: view.estimates.into_iter().map(estimate).collect(),
        }
    }
}

impl From<wire::PolicyChange> for PolicyChange {
    fn from(change: wire::PolicyChange) -> Self {
        Self {
            namespace: change.namespace,
            version: change.version,
            put_at: rfc3339(change.put_at),
            put_by: change.put_by,
            changed: change.changed,
            before: change.before.unwrap_or_default().into(),
            after: change.after.unwrap_or_default().into(),
        }
    }
}
