//! The steps that take a legacy table over to its partitioned twin, over REST.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, State};
use mainstay_proto::replica::v1::switchover_service_client::SwitchoverServiceClient;
use mainstay_proto::replica::v1::{
    GetSwitchoverRequest, ReadFigures, RunStepRequest, SwitchoverEntry, SwitchoverStage, SwitchoverState,
    SwitchoverStep,
};
use mainstay_rpc::{Call, Lane};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::words::{rfc3339, seconds};
use crate::body::{Raw, Who};
use crate::error::Problem;
use crate::state::App;

type Client = SwitchoverServiceClient<Lane>;

const RUN_STEP: &str = "mainstay.replica.v1.SwitchoverService/RunStep";
const GET: &str = "mainstay.replica.v1.SwitchoverService/GetSwitchover";
const STEPS: [(&str, SwitchoverStep); 8] = [
    ("install-triggers", SwitchoverStep::InstallTriggers),
    ("create-partitions", SwitchoverStep::CreatePartitions),
    ("backfill", SwitchoverStep::Backfill),
    ("verify", SwitchoverStep::Verify),
    ("advance", SwitchoverStep::Advance),
    ("swap", SwitchoverStep::Swap),
    ("rollback", SwitchoverStep::Rollback),
    ("finish", SwitchoverStep::Finish),
];

/// What a step may be told; may be left out.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepBody {
    /// Share of the reads to advance to: 0, 1, 5, 10, 25, 50 or 100; the next one without it.
    percent: Option<u32>,
}

/// How far a pair of tables is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Switchover {
    table: String,
    /// `none`, `dual-write`, `swapped` or `finished`.
    stage: &'static str,
    /// The step that goes on in the background; null for none.
    job: Option<&'static str>,
    read_percent: u32,
    backfilled: bool,
    rows_copied: u64,
    /// 0 to 1.
    backfill_progress: f64,
    /// When all rows were last known to be equal.
    verified_at: Option<String>,
    rows_verified: u64,
    rows_repaired: u64,
    /// Why the background work stands still; null when it does not.
    held_up: Option<String>,
    /// Why the service moved the reads back; null when it did not.
    stepped_back: Option<String>,
    legacy_reads: TableReads,
    partitioned_reads: TableReads,
    /// What was done, newest first.
    journal: Vec<JournalEntry>,
}

/// TableReads that named the pair within the last minute.
#[derive(Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TableReads {
    calls: u64,
    errors: u64,
    p95_seconds: Option<f64>,
}

#[derive(Serialize, ToSchema)]
struct JournalEntry {
    at: Option<String>,
    step: String,
    actor: String,
    /// `started`, `done`, `refused` or `failed`.
    outcome: String,
    detail: String,
}

/// Takes one step; one that is done already changes nothing, and one that takes long goes on after the answer.
#[utoipa::path(post, path = "/monitoring/partitions/{table}/{step}", tag = "monitoring", params(
    ("table" = String, Path, description = "name of a pair as it is configured"),
    ("step" = String, Path, description = "install-triggers, create-partitions, backfill, verify, advance, swap, rollback or finish"),
), request_body(content = StepBody, description = "may be left out"), responses(
    (status = 200, description = "the state after it", body = Switchover),
    (status = 404, description = "there is no such pair"),
    (status = 409, description = "others hold the tables; nothing was done"),
    (status = 412, description = "refused, with every reason; nothing was done"),
))]
pub(crate) async fn run_step(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Path((pair, step)): Path<(String, String)>,
    Raw(body): Raw,
) -> Result<Answer<Switchover>, Problem> {
    let named = STEPS.iter().find(|(name, _)| *name == step);
    let (_, step) = named.ok_or_else(|| {
        Problem::invalid("step", format!("must be one of {}", STEPS.map(|(name, _)| name).join(", ")))
    })?;
    let body: StepBody = if body.is_empty() {
        StepBody::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| Problem::invalid("body", error.to_string()))?
    };
    let request = RunStepRequest { pair, step: (*step).into(), percent: body.percent };
    let send = async |mut client: Client, request| client.run_step(request).await;
    Ok(Answer(app.upstreams.switchover(Call::write(RUN_STEP).by(caller), request, send).await?.into()))
}

/// How far a pair of tables is, what runs, and what was done by whom.
#[utoipa::path(get, path = "/monitoring/partitions/{table}/switchover", tag = "monitoring", params(
    ("table" = String, Path, description = "name of a pair as it is configured"),
), responses(
    (status = 200, description = "the state", body = Switchover),
    (status = 404, description = "there is no such pair"),
))]
pub(crate) async fn state(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Path(pair): Path<String>,
) -> Result<Answer<Switchover>, Problem> {
    let send = async |mut client: Client, request| client.get_switchover(request).await;
    let request = GetSwitchoverRequest { pair };
    Ok(Answer(app.upstreams.switchover(Call::read(GET).by(caller), request, send).await?.into()))
}

impl From<SwitchoverState> for Switchover {
    fn from(state: SwitchoverState) -> Self {
        let told = |text: String| Some(text).filter(|text| !text.is_empty());
        Self {
            stage: match state.stage() {
                SwitchoverStage::DualWrite => "dual-write",
                SwitchoverStage::Swapped => "swapped",
                SwitchoverStage::Finished => "finished",
                SwitchoverStage::None | SwitchoverStage::Unspecified => "none",
            },
            job: STEPS.iter().find(|(_, step)| *step == state.job()).map(|(name, _)| *name),
            table: state.pair,
            read_percent: state.read_percent,
            backfilled: state.backfilled,
            rows_copied: state.rows_copied,
            backfill_progress: state.backfill_progress,
            verified_at: rfc3339(state.verified_at),
            rows_verified: state.rows_verified,
            rows_repaired: state.rows_repaired,
            held_up: told(state.held_up),
            stepped_back: told(state.stepped_back),
            legacy_reads: state.legacy_reads.map(TableReads::from).unwrap_or_default(),
            partitioned_reads: state.partitioned_reads.map(TableReads::from).unwrap_or_default(),
            journal: state.journal.into_iter().map(JournalEntry::from).collect(),
        }
    }
}

impl From<ReadFigures> for TableReads {
    fn from(figures: ReadFigures) -> Self {
        Self { calls: figures.calls, errors: figures.errors, p95_seconds: seconds(figures.p95) }
    }
}

impl From<SwitchoverEntry> for JournalEntry {
    fn from(entry: SwitchoverEntry) -> Self {
        Self {
            at: rfc3339(entry.at),
            step: entry.step,
            actor: entry.actor,
            outcome: entry.outcome,
            detail: entry.detail,
        }
    }
}
