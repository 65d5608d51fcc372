//! Filling the cache before it is asked.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, State};
use mainstay_proto::cache::v1 as wire;
use mainstay_proto::cache::v1::warming_service_client::WarmingServiceClient;
use mainstay_rpc::{Call, Lane};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::words::{duration_of, rfc3339, seconds};
use crate::body::{Json, Who};
use crate::error::Problem;
use crate::state::App;

const START: &str = "mainstay.cache.v1.WarmingService/StartWarming";
const STATUS: &str = "mainstay.cache.v1.WarmingService/WarmingStatus";
const CANCEL: &str = "mainstay.cache.v1.WarmingService/CancelWarming";

/// What a namespace is warmed with, when, and how much of it. Times like `30s` or `5m`.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct WarmPlan {
    /// `access_log`, `file`, `origin`: where the keys come from, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 3)]
    sources: Vec<String>,
    /// Name of a file in the node's `warming.files`.
    #[serde(skip_serializing_if = "String::is_empty")]
    file: String,
    /// Whether the namespace is warmed when a process starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    on_start: Option<bool>,
    /// Time between two runs by schedule; `0s`: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    every: Option<String>,
    /// Keys and values that one run brings at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bytes: Option<u64>,
    /// Time of one run.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys_per_second: Option<u32>,
    /// Keys that are under way at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<u32>,
}

/// The runs of a namespace on the node that answers, the last first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WarmingRuns {
    runs: Vec<WarmingRun>,
    /// Keys, of all namespaces, that the next access log has by now.
    access_log_keys: u64,
    /// Part of the last run's reads, of all namespaces, that would find their key in memory.
    expected_hit_ratio: Option<f64>,
}

/// One run.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WarmingRun {
    id: u64,
    namespace: String,
    /// `start`, `schedule` or `demand`.
    trigger: String,
    /// Who asked for it.
    by: Option<String>,
    plan: WarmPlan,
    /// `waiting`, `running`, or how it ended: `done`, `time`, `bytes`, `memory`, `cancelled`, `stopped`, `failed`.
    state: String,
    started_at: Option<String>,
    ended_at: Option<String>,
    loaded: u64,
    present: u64,
    absent: u64,
    failed: u64,
    /// Lines that are no keys.
    refused: u64,
    bytes: u64,
    /// Time that it stood aside for callers.
    stood_aside_seconds: Option<f64>,
    /// The first 20.
    problems: Vec<String>,
}

/// Brings the keys of a namespace into memory, on the node that answers.
///
/// What is left out is as in the namespace's plan. One run of a namespace at a time.
#[utoipa::path(post, path = "/cache/{namespace}/warm", tag = "cache", params(
    ("namespace" = String, Path, description = "letters, digits, `_` and `-`, starting with a letter", pattern = "^[a-z][a-z0-9_-]{0,63}$"),
), request_body = WarmPlan, responses(
    (status = 200, description = "the run waits or is under way", body = WarmingRun),
    (status = 404, description = "there is no such namespace"),
    (status = 409, description = "a run of the namespace waits or is under way"),
    (status = 412, description = "neither the request nor the namespace's plan says where the keys come from"),
))]
pub(crate) async fn start(
    State(app): State<Arc<App>>,
    Path(namespace): Path<String>,
    Who(caller): Who,
    Json(body): Json<WarmPlan>,
) -> Result<Answer<WarmingRun>, Problem> {
    let request = wire::StartWarmingRequest { namespace, plan: Some(body.into_wire("")?) };
    let send = async |mut client: WarmingServiceClient<Lane>, request| client.start_warming(request).await;
    let run = app.upstreams.warming(Call::write(START).by(caller), request, send).await?;
    Ok(Answer(run.into()))
}

/// Tells of the runs of a namespace, on the node that answers.
#[utoipa::path(get, path = "/cache/{namespace}/warm", tag = "cache", params(
    ("namespace" = String, Path, description = "letters, digits, `_` and `-`, starting with a letter", pattern = "^[a-z][a-z0-9_-]{0,63}$"),
), responses((status = 200, description = "those that wait, run, or are among the last 100 that ended", body = WarmingRuns)))]
pub(crate) async fn status(
    State(app): State<Arc<App>>,
    Path(namespace): Path<String>,
    Who(caller): Who,
) -> Result<Answer<WarmingRuns>, Problem> {
    let request = wire::WarmingStatusRequest { namespace };
    let send = async |mut client: WarmingServiceClient<Lane>, request| client.warming_status(request).await;
    let status = app.upstreams.warming(Call::read(STATUS).by(caller), request, send).await?;
    Ok(Answer(WarmingRuns {
        runs: status.runs.into_iter().map(WarmingRun::from).collect(),
        access_log_keys: status.access_log_keys,
        expected_hit_ratio: status.expected_hit_ratio,
    }))
}

/// Ends the run of a namespace that waits or is under way. What it brought stays.
#[utoipa::path(delete, path = "/cache/{namespace}/warm", tag = "cache", params(
    ("namespace" = String, Path, description = "letters, digits, `_` and `-`, starting with a letter", pattern = "^[a-z][a-z0-9_-]{0,63}$"),
), responses(
    (status = 200, description = "it ends", body = WarmingRun),
    (status = 404, description = "none waits or is under way"),
))]
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    Path(namespace): Path<String>,
    Who(caller): Who,
) -> Result<Answer<WarmingRun>, Problem> {
    let request = wire::CancelWarmingRequest { namespace };
    let send = async |mut client: WarmingServiceClient<Lane>, request| client.cancel_warming(request).await;
    let run = app.upstreams.warming(Call::write(CANCEL).by(caller), request, send).await?;
    Ok(Answer(run.into()))
}

impl WarmPlan {
    /// `section` stands before the names of its fields in a problem.
    pub(super) fn into_wire(self, section: &str) -> Result<wire::WarmPlan, Problem> {
        Ok(wire::WarmPlan {
            sources: self.sources,
            file: self.file,
            on_start: self.on_start,
            every: duration_of(&format!("{section}every"), self.every)?,
            max_bytes: self.max_bytes,
            max_time: duration_of(&format!("{section}maxTime"), self.max_time)?,
            keys_per_second: self.keys_per_second,
            concurrency: self.concurrency,
        })
    }
}

impl From<wire::WarmPlan> for WarmPlan {
    fn from(plan: wire::WarmPlan) -> Self {
        let text = |duration: Option<prost_types::Duration>| {
            let duration = std::time::Duration::try_from(duration?).ok()?;
            Some(humantime::format_duration(duration).to_string())
        };
        Self {
            sources: plan.sources,
            file: plan.file,
            on_start: plan.on_start,
            every: text(plan.every),
            max_bytes: plan.max_bytes,
            max_time: text(plan.max_time),
            keys_per_second: plan.keys_per_second,
            concurrency: plan.concurrency,
        }
    }
}

impl From<wire::WarmingRun> for WarmingRun {
    fn from(run: wire::WarmingRun) -> Self {
        Self {
            id: run.id,
            namespace: run.namespace,
            trigger: run.trigger,
            by: (!run.by.is_empty()).then_some(run.by),
            plan: run.plan.unwrap_or_default().into(),
            state: run.state,
            started_at: rfc3339(run.started_at),
            ended_at: rfc3339(run.ended_at),
            loaded: run.loaded,
            present: run.present,
            absent: run.absent,
            failed: run.failed,
            refused: run.refused,
            bytes: run.bytes,
            stood_aside_seconds: seconds(run.stood_aside),
            problems: run.problems,
        }
    }
}
