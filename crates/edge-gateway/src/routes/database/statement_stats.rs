//! What each kind of statement has cost.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use mainstay_proto::replica::v1 as wire;
use mainstay_proto::replica::v1::{StatementsOrder, StatementsRequest};
use mainstay_rpc::Call;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Client;
use crate::body::{Params, Who};
use crate::error::Problem;
use crate::routes::words::rfc3339;
use crate::state::App;

const STATEMENTS: &str = "mainstay.replica.v1.ReplicaService/Statements";
const ORDERS: [(&str, StatementsOrder); 4] = [
    ("totalTime", StatementsOrder::TotalTime),
    ("calls", StatementsOrder::Calls),
    ("meanTime", StatementsOrder::MeanTime),
    ("errors", StatementsOrder::Errors),
];

/// Which statements come first, and how many.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StatementsQuery {
    /// The largest come first: `totalTime`, `calls`, `meanTime` or `errors`; `totalTime` where it is left out.
    #[serde(default)]
    #[param(pattern = "^(totalTime|calls|meanTime|errors)?$")]
    order: String,
    /// Most statements; 0 means 50.
    #[serde(default)]
    limit: u32,
}

/// What statements have cost the replica-service that answered.
///
/// Those that differ only in literals, white space and comments count as one.
#[derive(Serialize, ToSchema)]
pub(crate) struct StatementCosts {
    statements: Vec<StatementCost>,
    /// Statements known now.
    known: u32,
    /// Statements that had to make room for others.
    forgotten: u64,
}

/// One kind of statement.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct StatementCost {
    fingerprint: String,
    /// With `?` for each literal.
    sql: String,
    calls: u64,
    errors: u64,
    /// Returned or affected.
    rows: u64,
    seconds_total: f64,
    seconds_mean: f64,
    /// Quantiles within 10 %.
    seconds_p50: f64,
    seconds_p95: f64,
    seconds_p99: f64,
    seconds_max: f64,
    /// By the node that answered; calls that failed have none.
    calls_by_node: BTreeMap<String, u64>,
    last_call_at: Option<String>,
}

/// What each kind of statement has cost, as replica-service measures it.
#[utoipa::path(get, path = "/database/statement-stats", tag = "database", params(StatementsQuery), responses(
    (status = 200, description = "the statements, the largest first", body = StatementCosts),
))]
pub(crate) async fn statement_stats(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(query): Params<StatementsQuery>,
) -> Result<Answer<StatementCosts>, Problem> {
    let request = StatementsRequest { limit: query.limit, order: order(&query.order)?.into() };
    let send = async |mut client: Client, request| client.statements(request).await;
    let told = app.upstreams.replica(Call::read(STATEMENTS).by(caller), request, send).await?;
    Ok(Answer(StatementCosts {
        statements: told.statements.into_iter().map(Into::into).collect(),
        known: told.known,
        forgotten: told.forgotten,
    }))
}

fn order(word: &str) -> Result<StatementsOrder, Problem> {
    if word.is_empty() {
        return Ok(StatementsOrder::Unspecified);
    }
    let named = ORDERS.iter().find(|(name, _)| *name == word);
    named.map(|(_, order)| *order).ok_or_else(|| {
        Problem::invalid("order", format!("must be one of {}", ORDERS.map(|(name, _)| name).join(", ")))
    })
}

impl From<wire::StatementStats> for StatementCost {
    fn from(told: wire::StatementStats) -> Self {
        Self {
            fingerprint: told.fingerprint,
            sql: told.sql,
            calls: told.calls,
            errors: told.errors,
            rows: told.rows,
            seconds_total: told.seconds_total,
            seconds_mean: told.seconds_mean,
            seconds_p50: told.seconds_p50,
            seconds_p95: told.seconds_p95,
            seconds_p99: told.seconds_p99,
            seconds_max: told.seconds_max,
            calls_by_node: told.calls_by_node.into_iter().collect(),
            last_call_at: rfc3339(told.last_call_at),
        }
    }
}
