//! SQL and the state of the PostgreSQL nodes over REST.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::HeaderMap;
use mainstay_auth::scope::Action;
use mainstay_proto::replica::v1::replica_service_client::ReplicaServiceClient;
use mainstay_proto::replica::v1::{
    CacheWish, ExecuteRequest, ExecuteResponse, Node, Prefer, QueryRequest, QueryResponse,
    QueryStreamRequest, TopologyRequest, TopologyResponse,
};
use mainstay_rpc::{Call, Caller, Lane};
use serde::Deserialize;
use utoipa::ToSchema;

mod answer;
mod cache;
mod configuration;
mod drain;
mod ndjson;
mod server_stats;
mod slow_log;
mod statement_stats;
mod statements;
mod transaction;

pub(crate) use answer::{DatabaseInfo, SqlColumn};
use answer::{ExecuteAnswer, NodeHealth, NodeLag, NodePool, NodeTraffic, Nodes, QueryAnswer};
pub(crate) use cache::{__path_purge_query_cache, __path_query_cache, purge_query_cache, query_cache};
pub(crate) use configuration::{__path_configuration, __path_reload, configuration, reload};
pub(crate) use drain::{__path_drain, __path_resume, drain, resume};
use ndjson::NDJSON;
pub(crate) use server_stats::{__path_server_stats, server_stats};
pub(crate) use slow_log::{__path_explain, __path_slow_statements, explain, slow_statements};
pub(crate) use statement_stats::{__path_statement_stats, statement_stats};
pub(crate) use statements::{__path_run_statement, __path_statements, run_statement, statements};
pub(crate) use transaction::{__path_transaction, transaction};

use super::sql_json::{self, Rows, SqlParam};
use super::words::wire_duration;
use crate::body::{Json, Who};
use crate::error::Problem;
use crate::scope;
use crate::state::App;

type Client = ReplicaServiceClient<Lane>;

const QUERY: &str = "mainstay.replica.v1.ReplicaService/Query";
const QUERY_STREAM: &str = "mainstay.replica.v1.ReplicaService/QueryStream";
const EXECUTE: &str = "mainstay.replica.v1.ReplicaService/Execute";
const TOPOLOGY: &str = "mainstay.replica.v1.ReplicaService/Topology";

/// A read.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct QueryBody {
    /// One statement with `$1`, `$2`, ... for its parameters.
    #[schema(example = "select $1::int8 as n")]
    sql: String,
    /// `null`, booleans, numbers, strings and arrays stand for themselves, any other type is
    /// `{"type": "numeric", "value": "12.50"}`.
    #[serde(default)]
    #[schema(value_type = Vec<Value>)]
    params: Vec<SqlParam>,
    #[serde(default)]
    max_rows: u32,
    /// A replica further behind than this is not asked; like `2s`.
    #[serde(default, with = "humantime_serde")]
    #[schema(value_type = Option<String>, example = "2s")]
    max_lag: Option<Duration>,
    /// A replica that lacks more bytes of the log than this is not asked.
    max_lag_bytes: Option<u64>,
    /// The `token` of a write that must be seen.
    #[serde(default)]
    after: String,
    #[serde(default)]
    prefer: ReadFrom,
    /// Name of a pair that is being switched over: `{table}` in the statement stands for its legacy or its partitioned
    /// table.
    #[serde(default)]
    table: String,
    /// An answer that was given before will do. Not together with `table`, and not for lines.
    cache: Option<CacheBody>,
    /// Replicas of this zone come first; the configured one where it is left out.
    #[serde(default)]
    zone: String,
    /// The rows end before they are more bytes than this, as PostgreSQL counts them; 0 for no limit. Only for lines.
    max_bytes: Option<u64>,
    /// Time for the statement, for lines until the first of them; above 0 and at most that of a request. Like `2s`.
    #[serde(default, with = "humantime_serde")]
    #[schema(value_type = Option<String>, example = "2s")]
    within: Option<Duration>,
}

/// How old an answer may be, and what makes it old at once.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CacheBody {
    /// How long the answer is kept and given again.
    #[serde(with = "humantime_serde")]
    #[schema(value_type = String, example = "30s")]
    ttl: Duration,
    /// Tables that the statement reads, or any other names: a write that names one in `invalidates` makes the answer
    /// unusable.
    #[serde(default)]
    #[schema(max_items = 16)]
    tags: Vec<String>,
}

#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ReadFrom {
    #[default]
    Replica,
    Primary,
}

impl From<ReadFrom> for Prefer {
    fn from(read: ReadFrom) -> Self {
        match read {
            ReadFrom::Replica => Self::Replica,
            ReadFrom::Primary => Self::Primary,
        }
    }
}

/// A write.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExecuteBody {
    #[schema(example = "select 1")]
    sql: String,
    #[serde(default)]
    #[schema(value_type = Vec<Value>)]
    params: Vec<SqlParam>,
    /// Tables or tags that are changed: no answer that was kept with one of them is given from then on.
    #[serde(default)]
    #[schema(max_items = 16)]
    invalidates: Vec<String>,
    /// Time for the statement, above 0 and at most that of a request; like `2s`.
    #[serde(default, with = "humantime_serde")]
    #[schema(value_type = Option<String>, example = "2s")]
    within: Option<Duration>,
}

/// Runs one read-only statement, on a replica where one is young enough.
///
/// With `accept: application/x-ndjson` the rows come as lines, as fast as they are taken and without a limit of their
/// number: first a line with `columns` and `served`, then an array per row, last a line with `last`, `rowsTotal` and
/// `truncated`, or when it failed half-way with `error`: the members of a problem but path and status.
#[utoipa::path(post, path = "/database/query", tag = "database", request_body = QueryBody, responses(
    (status = 200, description = "the rows", content((QueryAnswer = "application/json"), (String = "application/x-ndjson"))),
    (status = 404, description = "a table, column or function of the statement does not exist"),
    (status = 409, description = "the statement breaks a constraint or lost a race; `sqlState` says which"),
    (status = 412, description = "the database refuses the statement in its present state; `sqlState` says why"),
))]
pub(crate) async fn query(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    headers: HeaderMap,
    Json(body): Json<QueryBody>,
) -> Result<Response, Problem> {
    scope::demand_sql(&caller.scopes, Action::Read, &body.sql)?;
    let call = |method| timed(Call::read(method).by(caller), body.within, &app);
    if ndjson::is_wanted(&headers) {
        if body.cache.is_some() {
            return Err(Problem::invalid("cache", "is not possible for rows as lines"));
        }
        let send = async |mut client: Client, request| client.query_stream(request).await;
        // The time of a call that streams is that until its answer begins.
        let chunks = app.upstreams.replica(call(QUERY_STREAM)?, body.stream(), send).await?;
        return Ok(ndjson::answer(chunks));
    }
    if body.max_bytes.is_some() {
        let message = format!("is possible for rows as lines only; accept {NDJSON}");
        return Err(Problem::invalid("maxBytes", message));
    }
    let send = async |mut client: Client, request| client.query(request).await;
    let answer = app.upstreams.replica(call(QUERY)?, body.query(), send).await?;
    Ok(Answer(query_answer(answer)).into_response())
}

impl QueryBody {
    fn query(self) -> QueryRequest {
        let cache = self.cache.map(|wish| CacheWish { ttl: Some(wire_duration(wish.ttl)), tags: wish.tags });
        QueryRequest {
            sql: self.sql,
            params: sql_json::params(self.params),
            max_rows: self.max_rows,
            max_staleness: self.max_lag.map(wire_duration),
            max_lag_bytes: self.max_lag_bytes,
            after: self.after,
            prefer: Prefer::from(self.prefer).into(),
            table: self.table,
            cache,
            zone: self.zone,
        }
    }

    fn stream(self) -> QueryStreamRequest {
        QueryStreamRequest {
            sql: self.sql,
            params: sql_json::params(self.params),
            max_staleness: self.max_lag.map(wire_duration),
            max_lag_bytes: self.max_lag_bytes,
            after: self.after,
            prefer: Prefer::from(self.prefer).into(),
            max_rows: self.max_rows.into(),
            max_bytes: self.max_bytes.unwrap_or(0),
            table: self.table,
            zone: self.zone,
        }
    }
}

/// Gives a call the time that its caller wants for it.
fn timed(call: Call, within: Option<Duration>, app: &App) -> Result<Call, Problem> {
    let Some(within) = within else { return Ok(call) };
    if within.is_zero() || within > app.request_within {
        let most = humantime::format_duration(app.request_within);
        return Err(Problem::invalid("within", format!("must be above 0 and at most {most}")));
    }
    Ok(call.within(within))
}

fn query_answer(answer: QueryResponse) -> QueryAnswer {
    QueryAnswer {
        columns: sql_json::columns(answer.columns),
        rows: Rows(answer.rows),
        truncated: answer.truncated,
        served: answer.served.map(Into::into),
        cache: answer.cache.map(Into::into),
    }
}

/// Runs one statement on the primary.
#[utoipa::path(post, path = "/database/execute", tag = "database", request_body = ExecuteBody, responses(
    (status = 200, description = "what it did", body = ExecuteAnswer),
    (status = 404, description = "a table, column or function of the statement does not exist"),
    (status = 409, description = "the statement breaks a constraint or lost a race; `sqlState` says which"),
    (status = 412, description = "the database refuses the statement in its present state; `sqlState` says why"),
))]
pub(crate) async fn execute(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Json(body): Json<ExecuteBody>,
) -> Result<Answer<ExecuteAnswer>, Problem> {
    scope::demand_sql(&caller.scopes, Action::Write, &body.sql)?;
    let params = sql_json::params(body.params);
    let request = ExecuteRequest { sql: body.sql, params, invalidates: body.invalidates };
    let send = async |mut client: Client, request| client.execute(request).await;
    let call = timed(Call::write(EXECUTE).by(caller), body.within, &app)?;
    let answer = app.upstreams.replica(call, request, send).await?;
    Ok(Answer(execute_answer(answer)))
}

fn execute_answer(answer: ExecuteResponse) -> ExecuteAnswer {
    ExecuteAnswer {
        rows_affected: answer.rows_affected,
        columns: sql_json::columns(answer.columns),
        rows: Rows(answer.rows),
        token: answer.token,
        served: answer.served.map(Into::into),
        invalidation_pending: answer.invalidation_pending,
    }
}

/// Asks replica-service for every node.
pub(crate) async fn topology(
    app: &App,
    caller: impl Into<Option<Caller>>,
    within: Duration,
) -> Result<TopologyResponse, Problem> {
    let call = Call::read(TOPOLOGY).by(caller).within(within);
    let send = async |mut client: Client, request| client.topology(request).await;
    Ok(app.upstreams.replica(call, TopologyRequest {}, send).await?)
}

async fn nodes<T>(app: &App, caller: Caller) -> Result<Answer<Nodes<T>>, Problem>
where
    T: for<'a> From<&'a Node>,
{
    Ok(Answer(Nodes::new(&topology(app, caller, app.request_within).await?)))
}

/// The nodes, their roles as observed, and how reads are routed.
#[utoipa::path(get, path = "/database/info", tag = "database", responses((status = 200, description = "the nodes", body = DatabaseInfo)))]
pub(crate) async fn info(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<DatabaseInfo>, Problem> {
    let topology = topology(&app, caller, app.request_within).await?;
    Ok(Answer(DatabaseInfo::from(&topology)))
}

/// Whether each node can be used, and why not.
#[utoipa::path(get, path = "/database/replica/health", tag = "database", responses((status = 200, description = "per node", body = Nodes<NodeHealth>)))]
pub(crate) async fn health(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<Nodes<NodeHealth>>, Problem> {
    nodes(&app, caller).await
}

/// What each node has been asked.
#[utoipa::path(get, path = "/database/replica/stats", tag = "database", responses((status = 200, description = "per node", body = Nodes<NodeTraffic>)))]
pub(crate) async fn stats(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<Nodes<NodeTraffic>>, Problem> {
    nodes(&app, caller).await
}

/// How far each replica is behind, with the age of the evidence.
#[utoipa::path(get, path = "/database/replica/lag", tag = "database", responses((status = 200, description = "per node", body = Nodes<NodeLag>)))]
pub(crate) async fn lag(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<Nodes<NodeLag>>, Problem> {
    nodes(&app, caller).await
}

/// The connections to each node.
#[utoipa::path(get, path = "/database/replica/pool-stats", tag = "database", responses((status = 200, description = "per node", body = Nodes<NodePool>)))]
pub(crate) async fn pool_stats(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<Nodes<NodePool>>, Problem> {
    nodes(&app, caller).await
}
