//! Statements that replica-service knows by name.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::{Path, State};
use mainstay_proto::replica::v1::run_statement_response::Answer as Told;
use mainstay_proto::replica::v1::statement_service_client::StatementServiceClient;
use mainstay_proto::replica::v1::{ListStatementsRequest, Prefer, RunStatementRequest};
use mainstay_rpc::{Call, Lane};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{ExecuteAnswer, QueryAnswer};
use super::{ReadFrom, execute_answer, query_answer};
use crate::body::{Json, Who};
use crate::error::Problem;
use crate::routes::sql_json::{self, SqlParam};
use crate::routes::words::wire_duration;
use crate::state::App;

type Client = StatementServiceClient<Lane>;

const LIST: &str = "mainstay.replica.v1.StatementService/ListStatements";
const RUN: &str = "mainstay.replica.v1.StatementService/RunStatement";

/// The statements that the caller may run.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NamedStatements {
    statements: Vec<NamedStatement>,
    /// The caller may run no others.
    only_named: bool,
}

#[derive(Serialize, ToSchema)]
struct NamedStatement {
    name: String,
    sql: String,
    /// `query` or `execute`.
    kind: String,
    /// The smallest that may run it.
    role: String,
}

/// Parameters of a statement; all but `params` are for one that reads.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RunBody {
    #[serde(default)]
    #[schema(value_type = Vec<Value>)]
    params: Vec<SqlParam>,
    #[serde(default)]
    max_rows: u32,
    /// A replica further behind than this is not asked; like `2s`.
    #[serde(default, with = "humantime_serde")]
    #[schema(value_type = Option<String>, example = "2s")]
    max_lag: Option<Duration>,
    max_lag_bytes: Option<u64>,
    /// The `token` of a write that must be seen.
    #[serde(default)]
    after: String,
    prefer: Option<ReadFrom>,
    #[serde(default)]
    zone: String,
}

/// What a statement answered: rows of a read, or what a write did.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum RunAnswer {
    Read(QueryAnswer),
    Wrote(ExecuteAnswer),
}

/// The statements that the caller may run by name.
#[utoipa::path(get, path = "/database/statements", tag = "database", responses(
    (status = 200, description = "the statements", body = NamedStatements),
))]
pub(crate) async fn statements(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<NamedStatements>, Problem> {
    let send = async |mut client: Client, request| client.list_statements(request).await;
    let told = app.upstreams.statements(Call::read(LIST).by(caller), ListStatementsRequest {}, send).await?;
    let statement = |told: mainstay_proto::replica::v1::NamedStatement| NamedStatement {
        name: told.name,
        sql: told.sql,
        kind: told.kind,
        role: told.role,
    };
    let statements = told.statements.into_iter().map(statement).collect();
    Ok(Answer(NamedStatements { statements, only_named: told.only_named }))
}

/// Runs a statement by its name, as a read or as a write, whichever it is.
#[utoipa::path(post, path = "/database/statements/{name}", tag = "database", params(
    ("name" = String, Path, description = "name of a statement as it is configured"),
), request_body = RunBody, responses(
    (status = 200, description = "what it read, or what it did", body = RunAnswer),
    (status = 403, description = "the caller may not run it"),
    (status = 404, description = "there is no such statement, or a table, column or function of it does not exist"),
    (status = 409, description = "the statement breaks a constraint or lost a race; `sqlState` says which"),
    (status = 412, description = "the database refuses the statement in its present state; `sqlState` says why"),
))]
pub(crate) async fn run_statement(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Path(name): Path<String>,
    Json(body): Json<RunBody>,
) -> Result<Answer<RunAnswer>, Problem> {
    let prefer = body.prefer.map_or(Prefer::Unspecified, Prefer::from).into();
    let request = RunStatementRequest {
        name,
        params: sql_json::params(body.params),
        max_rows: body.max_rows,
        max_staleness: body.max_lag.map(wire_duration),
        max_lag_bytes: body.max_lag_bytes,
        after: body.after,
        prefer,
        zone: body.zone,
    };
    let send = async |mut client: Client, request| client.run_statement(request).await;
    // It may write, so it is sent once.
    let told = app.upstreams.statements(Call::write(RUN).by(caller), request, send).await?;
    match told.answer {
        Some(Told::Query(answer)) => Ok(Answer(RunAnswer::Read(query_answer(answer)))),
        Some(Told::Execute(answer)) => Ok(Answer(RunAnswer::Wrote(execute_answer(answer)))),
        None => Err(Problem::for_bare_status(http::StatusCode::BAD_GATEWAY)),
    }
}
