//! Statements that were slow, and how the database would run them.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use mainstay_proto::replica::v1::slow_log_service_client::SlowLogServiceClient;
use mainstay_proto::replica::v1::{ExplainRequest, SlowStatement, SlowStatementsRequest};
use mainstay_rpc::{Call, Lane};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::body::{Json, Params, Who};
use crate::error::Problem;
use crate::routes::sql_json::{self, SqlParam};
use crate::routes::words::{rfc3339, seconds, time, wire_duration};
use crate::state::App;

type Client = SlowLogServiceClient<Lane>;

const SLOW: &str = "mainstay.replica.v1.SlowLogService/SlowStatements";
const EXPLAIN: &str = "mainstay.replica.v1.SlowLogService/Explain";

/// Which entries are wanted; all that are given must hold.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SlowFilter {
    /// At most so many; 50 where it is left out.
    #[serde(default)]
    limit: u32,
    /// Node that ran it.
    #[serde(default)]
    node: String,
    /// `query`, `stream`, `execute` or `transaction`.
    #[serde(default)]
    kind: String,
    /// Up to 16 hexadecimal digits.
    #[serde(default)]
    fingerprint: String,
    /// In all at least this long, like `2s`.
    #[serde(default, with = "humantime_serde")]
    #[param(value_type = Option<String>, example = "2s")]
    min_duration: Option<Duration>,
    /// Ended at this time (RFC 3339) or later.
    #[serde(default)]
    since: String,
    /// Only those that failed.
    #[serde(default)]
    failed: bool,
    /// Of the request, 32 hexadecimal digits.
    #[serde(default)]
    trace_id: String,
}

/// The slow statements of the replica-service that answered, newest first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SlowStatements {
    statements: Vec<SlowEntry>,
    /// Entries that had to make room for newer ones.
    forgotten: u64,
    /// What is slow; null while the log is off.
    after_seconds: Option<f64>,
}

/// One slow statement.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SlowEntry {
    /// Names it in a request for its plan.
    id: u64,
    ended_at: Option<String>,
    kind: String,
    fingerprint: String,
    /// With `?` for each literal.
    sql: String,
    node: String,
    /// Before the last attempt had a connection.
    waited_seconds: Option<f64>,
    executed_seconds: Option<f64>,
    rows: u64,
    /// Code of the failure; empty when there was none.
    error: String,
    trace_id: String,
    /// As it was sent, where the configuration lets values be kept.
    sql_as_sent: String,
    params: Vec<String>,
}

/// A statement to plan: an entry of the log, or a text.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExplainBody {
    /// Of an entry of the log.
    #[serde(default)]
    id: u64,
    #[serde(default)]
    #[schema(example = "select $1::int8 as n")]
    sql: String,
    /// Values to plan for; without any the plan is the generic one.
    #[serde(default)]
    #[schema(value_type = Vec<Value>)]
    params: Vec<SqlParam>,
    /// The plan as a JSON text instead of lines.
    #[serde(default)]
    json: bool,
}

/// How a replica would run a statement.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SqlPlan {
    plan: String,
    node: String,
    /// It holds for no values in particular.
    generic: bool,
    /// Types that the database infers for the parameters of a generic plan.
    parameter_types: Vec<String>,
}

/// The statements that were slow, newest first.
#[utoipa::path(get, path = "/database/slow-statements", tag = "database", params(SlowFilter), responses(
    (status = 200, description = "the statements", body = SlowStatements),
))]
pub(crate) async fn slow_statements(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(filter): Params<SlowFilter>,
) -> Result<Answer<SlowStatements>, Problem> {
    let request = SlowStatementsRequest {
        limit: filter.limit,
        node: filter.node,
        kind: filter.kind,
        fingerprint: filter.fingerprint,
        min_duration: filter.min_duration.map(wire_duration),
        since: time("since", &filter.since)?,
        failed: filter.failed,
        trace_id: filter.trace_id,
    };
    let send = async |mut client: Client, request| client.slow_statements(request).await;
    let told = app.upstreams.slow_log(Call::read(SLOW).by(caller), request, send).await?;
    Ok(Answer(SlowStatements {
        statements: told.statements.into_iter().map(SlowEntry::from).collect(),
        forgotten: told.forgotten,
        after_seconds: seconds(told.after),
    }))
}

/// How a replica would run a statement; it is planned there and never run.
#[utoipa::path(post, path = "/database/explain", tag = "database", request_body = ExplainBody, responses(
    (status = 200, description = "the plan", body = SqlPlan),
    (status = 404, description = "there is no such entry, or a table, column or function does not exist"),
    (status = 409, description = "planning stood in the way of replication and was given up"),
    (status = 412, description = "the text of the entry was not kept, or the database refuses the statement"),
))]
pub(crate) async fn explain(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Json(body): Json<ExplainBody>,
) -> Result<Answer<SqlPlan>, Problem> {
    let params = sql_json::params(body.params);
    let request = ExplainRequest { id: body.id, sql: body.sql, params, json: body.json };
    let send = async |mut client: Client, request| client.explain(request).await;
    let told = app.upstreams.slow_log(Call::read(EXPLAIN).by(caller), request, send).await?;
    Ok(Answer(SqlPlan {
        plan: told.plan,
        node: told.node,
        generic: told.generic,
        parameter_types: told.parameter_types,
    }))
}

impl From<SlowStatement> for SlowEntry {
    fn from(told: SlowStatement) -> Self {
        Self {
            id: told.id,
            ended_at: rfc3339(told.ended_at),
            kind: told.kind,
            fingerprint: told.fingerprint,
            sql: told.sql,
            node: told.node,
            waited_seconds: seconds(told.waited),
            executed_seconds: seconds(told.executed),
            rows: told.rows,
            error: told.error,
            trace_id: told.trace_id,
            sql_as_sent: told.sql_as_sent,
            params: told.params,
        }
    }
}
