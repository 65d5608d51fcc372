//! Several statements in one transaction, over REST.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use mainstay_auth::scope::Action;
use mainstay_proto::replica::v1::replica_service_client::ReplicaServiceClient;
use mainstay_proto::replica::v1::{Isolation, SqlStatement, TransactionRequest};
use mainstay_rpc::{Call, Lane};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::Served;
use super::{SqlColumn, timed};
use crate::body::{Json, Who};
use crate::error::Problem;
use crate::routes::sql_json::{self, Rows, SqlParam};
use crate::scope;
use crate::state::App;

const TRANSACTION: &str = "mainstay.replica.v1.ReplicaService/Transaction";

/// Statements that happen all or not at all.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TransactionBody {
    #[schema(min_items = 1, max_items = 100)]
    statements: Vec<BodyStatement>,
    #[serde(default)]
    isolation: IsolationLevel,
    /// It may be run again after a lost race (40001, 40P01), within the deadline.
    #[serde(default)]
    idempotent: bool,
    /// Tables or tags that are changed: no answer that was kept with one of them is given from then on.
    #[serde(default)]
    #[schema(max_items = 16)]
    invalidates: Vec<String>,
    /// Time for all of them, above 0 and at most that of a request; like `2s`.
    #[serde(default, with = "humantime_serde")]
    #[schema(value_type = Option<String>, example = "2s")]
    within: Option<Duration>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BodyStatement {
    #[schema(example = "select 1")]
    sql: String,
    #[serde(default)]
    #[schema(value_type = Vec<Value>)]
    params: Vec<SqlParam>,
}

#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum IsolationLevel {
    #[default]
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

/// What each statement did.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TransactionAnswer {
    /// In the order of the statements.
    results: Vec<StatementAnswer>,
    /// Goes into `after` of a query that must see this.
    token: String,
    served: Option<Served>,
    /// The cache has not confirmed `invalidates` yet; it is told again until it does.
    invalidation_pending: bool,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct StatementAnswer {
    rows_affected: u64,
    columns: Vec<SqlColumn>,
    #[schema(value_type = Vec<Vec<Value>>)]
    rows: Rows,
}

/// Runs statements one after the other in one transaction on the primary; the first that fails undoes all.
#[utoipa::path(post, path = "/database/transaction", tag = "database", request_body = TransactionBody, responses(
    (status = 200, description = "all of it is committed", body = TransactionAnswer),
    (status = 404, description = "a table, column or function of a statement does not exist; `statement` is its number"),
    (status = 409, description = "a statement breaks a constraint or lost a race; `sqlState` and `statement` say which"),
    (status = 412, description = "the database refuses a statement in its present state; `sqlState` says why"),
))]
pub(crate) async fn transaction(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Json(body): Json<TransactionBody>,
) -> Result<Answer<TransactionAnswer>, Problem> {
    for one in &body.statements {
        scope::demand_sql(&caller.scopes, Action::Write, &one.sql)?;
    }
    let call = timed(Call::write(TRANSACTION).by(caller), body.within, &app)?;
    let statement = |one: BodyStatement| SqlStatement { sql: one.sql, params: sql_json::params(one.params) };
    let request = TransactionRequest {
        statements: body.statements.into_iter().map(statement).collect(),
        isolation: match body.isolation {
            IsolationLevel::ReadCommitted => Isolation::ReadCommitted,
            IsolationLevel::RepeatableRead => Isolation::RepeatableRead,
            IsolationLevel::Serializable => Isolation::Serializable,
        }
        .into(),
        idempotent: body.idempotent,
        invalidates: body.invalidates,
    };
    let send = async |mut client: ReplicaServiceClient<Lane>, request| client.transaction(request).await;
    let answer = app.upstreams.replica(call, request, send).await?;
    let results = answer.results.into_iter().map(|result| StatementAnswer {
        rows_affected: result.rows_affected,
        columns: sql_json::columns(result.columns),
        rows: Rows(result.rows),
    });
    Ok(Answer(TransactionAnswer {
        results: results.collect(),
        token: answer.token,
        served: answer.served.map(Into::into),
        invalidation_pending: answer.invalidation_pending,
    }))
}
