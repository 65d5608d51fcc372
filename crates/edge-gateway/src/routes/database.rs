//! SQL and the state of the PostgreSQL nodes over REST.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use mainstay_proto::replica::v1::replica_service_client::ReplicaServiceClient;
use mainstay_proto::replica::v1::{
    ExecuteRequest, Node, Prefer, QueryRequest, Served, TopologyRequest, TopologyResponse,
};
use mainstay_rpc::{Call, Caller, Lane};
use serde::Deserialize;
use serde_json::{Value, json};

use super::sql_json;
use super::words::{health as health_word, rfc3339, role, seconds, wire_duration};
use crate::body::{Json, Who};
use crate::error::Problem;
use crate::state::App;

type Client = ReplicaServiceClient<Lane>;

const QUERY: &str = "mainstay.replica.v1.ReplicaService/Query";
const EXECUTE: &str = "mainstay.replica.v1.ReplicaService/Execute";
const TOPOLOGY: &str = "mainstay.replica.v1.ReplicaService/Topology";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct QueryBody {
    sql: String,
    #[serde(default)]
    params: Vec<Value>,
    #[serde(default)]
    max_rows: u32,
    #[serde(default, with = "humantime_serde")]
    max_lag: Option<Duration>,
    #[serde(default)]
    after: String,
    #[serde(default)]
    prefer: ReadFrom,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ReadFrom {
    #[default]
    Replica,
    Primary,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExecuteBody {
    sql: String,
    #[serde(default)]
    params: Vec<Value>,
}

pub(crate) async fn query(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Json(body): Json<QueryBody>,
) -> Result<Answer<Value>, Problem> {
    let request = QueryRequest {
        sql: body.sql,
        params: sql_json::params(body.params)?,
        max_rows: body.max_rows,
        max_staleness: body.max_lag.map(wire_duration),
        after: body.after,
        prefer: match body.prefer {
            ReadFrom::Replica => Prefer::Replica,
            ReadFrom::Primary => Prefer::Primary,
        }
        .into(),
    };
    let send = async |mut client: Client, request| client.query(request).await;
    let answer = app.upstreams.replica(Call::read(QUERY).by(caller), request, send).await?;
    Ok(Answer(json!({
        "columns": sql_json::columns(&answer.columns),
        "rows": sql_json::rows(answer.rows),
        "truncated": answer.truncated,
        "served": served(answer.served),
    })))
}

pub(crate) async fn execute(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Json(body): Json<ExecuteBody>,
) -> Result<Answer<Value>, Problem> {
    let request = ExecuteRequest { sql: body.sql, params: sql_json::params(body.params)? };
    let send = async |mut client: Client, request| client.execute(request).await;
    let answer = app.upstreams.replica(Call::write(EXECUTE).by(caller), request, send).await?;
    Ok(Answer(json!({
        "rowsAffected": answer.rows_affected,
        "columns": sql_json::columns(&answer.columns),
        "rows": sql_json::rows(answer.rows),
        "token": answer.token,
        "served": served(answer.served),
    })))
}

fn served(served: Option<Served>) -> Value {
    served.map_or(Value::Null, |served| {
        json!({
            "node": served.node, "role": role(served.role), "stalenessSeconds": seconds(served.staleness),
            "reason": served.reason, "attempts": served.attempts,
        })
    })
}

/// Asks replica-service for every node.
pub(crate) async fn topology(
    app: &App,
    caller: Caller,
    within: Duration,
) -> Result<TopologyResponse, Problem> {
    let call = Call::read(TOPOLOGY).by(caller).within(within);
    let send = async |mut client: Client, request| client.topology(request).await;
    Ok(app.upstreams.replica(call, TopologyRequest {}, send).await?)
}

async fn nodes(app: &App, caller: Caller, shape: fn(&Node) -> Value) -> Result<Answer<Value>, Problem> {
    let topology = topology(app, caller, app.request_within).await?;
    let nodes: Vec<Value> = topology.nodes.iter().map(|node| with_name(node, shape(node))).collect();
    Ok(Answer(json!({ "primary": name_or_null(&topology.primary), "nodes": nodes })))
}

/// Puts the figures of a node behind its name and role.
fn with_name(node: &Node, figures: Value) -> Value {
    let mut named = json!({ "node": node.name, "role": role(node.role) });
    if let (Some(named), Value::Object(figures)) = (named.as_object_mut(), figures) {
        named.extend(figures);
    }
    named
}

fn name_or_null(name: &str) -> Value {
    if name.is_empty() { Value::Null } else { json!(name) }
}

pub(crate) async fn info(State(app): State<Arc<App>>, Who(caller): Who) -> Result<Answer<Value>, Problem> {
    let topology = topology(&app, caller, app.request_within).await?;
    Ok(Answer(info_json(&topology)))
}

pub(crate) fn info_json(topology: &TopologyResponse) -> Value {
    let nodes: Vec<Value> = topology
        .nodes
        .iter()
        .map(|node| {
            let facts = json!({
                "address": node.address, "pgbouncer": node.pgbouncer, "health": health_word(node.health),
                "reads": node.reads, "writes": node.writes, "serverVersion": node.server_version,
                "timeline": node.timeline, "lsn": node.lsn,
            });
            with_name(node, facts)
        })
        .collect();
    json!({
        "primary": name_or_null(&topology.primary),
        "nodes": nodes,
        "routing": {
            "strategy": topology.strategy,
            "maxStalenessSeconds": seconds(topology.max_staleness),
            "maxLagBytes": topology.max_lag_bytes,
        },
    })
}

pub(crate) async fn health(State(app): State<Arc<App>>, Who(caller): Who) -> Result<Answer<Value>, Problem> {
    nodes(&app, caller, |node| {
        json!({
            "health": health_word(node.health), "healthy": node.health == i32::from(mainstay_proto::common::v1::Health::Healthy),
            "detail": node.detail, "since": rfc3339(node.since), "seenAt": rfc3339(node.seen_at),
            "probeSeconds": seconds(node.probe_latency), "reads": node.reads, "writes": node.writes,
        })
    })
    .await
}

pub(crate) async fn stats(State(app): State<Arc<App>>, Who(caller): Who) -> Result<Answer<Value>, Problem> {
    nodes(&app, caller, |node| {
        let traffic = node.traffic.clone().unwrap_or_default();
        json!({
            "queries": traffic.queries, "errors": traffic.errors, "secondsMean": traffic.seconds_mean,
            "breaker": traffic.breaker, "inFlight": traffic.in_flight,
        })
    })
    .await
}

pub(crate) async fn lag(State(app): State<Arc<App>>, Who(caller): Who) -> Result<Answer<Value>, Problem> {
    nodes(&app, caller, |node| {
        node.lag.as_ref().map_or_else(
            || json!({}),
            |lag| {
                json!({
                    "lagBytes": lag.bytes, "receiveLagBytes": lag.receive_bytes,
                    "stalenessSeconds": seconds(lag.staleness), "evidenceAgeSeconds": seconds(lag.evidence_age),
                    "replayPaused": lag.replay_paused, "receiver": lag.receiver,
                    "naiveSeconds": seconds(lag.naive),
                })
            },
        )
    })
    .await
}

pub(crate) async fn pool_stats(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<Value>, Problem> {
    nodes(&app, caller, |node| {
        let pool = node.pool.unwrap_or_default();
        json!({
            "size": pool.size, "maxSize": pool.max_size, "inUse": pool.in_use, "waiting": pool.waiting,
            "created": pool.created, "timeouts": pool.timeouts, "pgbouncer": node.pgbouncer,
        })
    })
    .await
}
