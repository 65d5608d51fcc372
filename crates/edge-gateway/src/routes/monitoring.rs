//! The unified view: figures of every part in one answer, alerts, history.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json as Answer;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use mainstay_proto::cache::v1::StatsRequest;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::common::v1::PageRequest;
use mainstay_proto::monitor::v1::monitor_service_client::MonitorServiceClient;
use mainstay_proto::monitor::v1::{
    AcknowledgeAlertRequest, Alert, AlertCounts, ListAlertsRequest, ListAlertsResponse, QueryRangeRequest,
    Series,
};
use mainstay_proto::realtime::v1::Node;
use mainstay_rpc::{Call, Caller, Lane};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::health::{Process, completeness, overall, processes, uptime_seconds};
use super::words::{self, rfc3339, seconds, wire_duration};
use super::{cache, database, realtime};
use crate::body::{Json, Params, Who};
use crate::error::Problem;
use crate::state::App;

type Client = MonitorServiceClient<Lane>;

const CACHE_STATS: &str = "mainstay.cache.v1.CacheService/Stats";
const LIST_ALERTS: &str = "mainstay.monitor.v1.MonitorService/ListAlerts";
const ACKNOWLEDGE: &str = "mainstay.monitor.v1.MonitorService/AcknowledgeAlert";
const QUERY_RANGE: &str = "mainstay.monitor.v1.MonitorService/QueryRange";
/// Alerts shown beside the figures.
const RECENT_ALERTS: u32 = 10;

/// Answers the quick check: one status and its reasons.
pub(crate) async fn unified_health(State(app): State<Arc<App>>) -> Response {
    let processes = processes(&app).await;
    let all_fresh = processes.iter().all(|process| process.part.is_fresh());
    let body = json!({
        "status": overall(&processes),
        "uptimeSeconds": uptime_seconds(&app),
        "reasons": processes.iter().flat_map(Process::reasons).collect::<Vec<_>>(),
    });
    ([completeness(all_fresh)], Answer(body)).into_response()
}

/// Merges the figures of every part; a part that does not answer is null and says why under `parts`.
pub(crate) async fn unified_metrics(State(app): State<Arc<App>>, Who(caller): Who) -> Response {
    let within = app.part_within;
    let (processes, cache, topology, nodes, alerts) = tokio::join!(
        processes(&app),
        cache_stats(&app, caller.clone(), within),
        database::topology(&app, caller.clone(), within),
        realtime::nodes(&app, realtime::nodes_call(caller.clone()).within(within)),
        recent_alerts(&app, caller, within),
    );
    let mut parts = Map::new();
    let mut complete = true;
    let mut part = |name: &str, outcome: Result<Value, Problem>| {
        let (value, info) = match outcome {
            Ok(value) => (value, json!({ "freshness": "fresh", "ageSeconds": 0.0 })),
            Err(problem) if problem.code() == "SERVICE_NOT_CONFIGURED" => {
                (Value::Null, json!({ "freshness": "absent", "reason": problem.detail() }))
            }
            Err(problem) => {
                complete = false;
                (Value::Null, json!({ "freshness": "missing", "reason": problem.detail() }))
            }
        };
        parts.insert(name.to_owned(), info);
        value
    };
    let cache = part("cache", cache);
    let replicas = part("replicas", topology.map(|topology| database::info_json(&topology)));
    let websockets = part("websockets", nodes.map(|nodes| websockets_json(&nodes)));
    let alerts = part("alerts", alerts.map(|answer| alerts_summary(&answer)));
    let body = json!({
        "system": {
            "status": overall(&processes), "uptime": uptime_seconds(&app),
            "reasons": processes.iter().flat_map(Process::reasons).collect::<Vec<_>>(),
        },
        "cache": cache, "replicas": replicas, "websockets": websockets, "alerts": alerts, "parts": parts,
    });
    ([completeness(complete)], Answer(body)).into_response()
}

async fn cache_stats(app: &App, caller: Caller, within: Duration) -> Result<Value, Problem> {
    let call = Call::read(CACHE_STATS).by(caller).within(within);
    let send = async |mut client: CacheServiceClient<Lane>, request| client.stats(request).await;
    Ok(cache::stats_json(app.upstreams.cache(call, StatsRequest {}, send).await?))
}

async fn recent_alerts(app: &App, caller: Caller, within: Duration) -> Result<ListAlertsResponse, Problem> {
    let page = Some(PageRequest { limit: RECENT_ALERTS, cursor: String::new() });
    let request = ListAlertsRequest { page, ..ListAlertsRequest::default() };
    list_alerts(app, Call::read(LIST_ALERTS).by(caller).within(within), request).await
}

async fn list_alerts(
    app: &App,
    call: Call,
    request: ListAlertsRequest,
) -> Result<ListAlertsResponse, Problem> {
    let send = async |mut client: Client, request| client.list_alerts(request).await;
    Ok(app.upstreams.monitor(call, request, send).await?)
}

fn websockets_json(nodes: &[Node]) -> Value {
    let total = |figure: fn(&Node) -> u64| nodes.iter().map(figure).sum::<u64>();
    let each: Vec<Value> = nodes
        .iter()
        .map(|node| {
            json!({
                "id": node.id, "endpoint": node.endpoint, "connections": node.connections, "users": node.users,
                "channels": node.channels, "subscriptions": node.subscriptions, "draining": node.draining,
                "maxConnections": node.max_connections, "startedAt": rfc3339(node.started_at),
            })
        })
        .collect();
    json!({
        "connections": total(|node| node.connections), "subscriptions": total(|node| node.subscriptions),
        "messagesSent": total(|node| node.messages_sent), "messagesReceived": total(|node| node.messages_received),
        "slowDisconnects": total(|node| node.slow_disconnects), "nodes": each,
    })
}

fn alerts_summary(answer: &ListAlertsResponse) -> Value {
    let mut summary = counts_json(answer.firing);
    summary["recent"] = answer.alerts.iter().map(alert_json).collect();
    summary
}

fn counts_json(counts: Option<AlertCounts>) -> Value {
    let counts = counts.unwrap_or_default();
    json!({ "critical": counts.critical, "warning": counts.warning, "info": counts.info })
}

fn alert_json(alert: &Alert) -> Value {
    json!({
        "id": alert.id, "rule": alert.rule, "level": words::severity(alert.severity),
        "state": words::alert_state(alert.state), "source": alert.source, "subject": alert.subject,
        "summary": alert.summary, "value": alert.value, "threshold": alert.threshold,
        "startedAt": rfc3339(alert.started_at), "firedAt": rfc3339(alert.fired_at),
        "resolvedAt": rfc3339(alert.resolved_at), "labels": alert.labels,
        "acknowledgement": alert.acknowledgement.as_ref().map(|ack| json!({
            "by": ack.by, "at": rfc3339(ack.at), "comment": ack.comment, "expiresAt": rfc3339(ack.expires_at),
        })),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlertsQuery {
    #[serde(default)]
    level: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    from: String,
    #[serde(default)]
    to: String,
    #[serde(default)]
    limit: u32,
    #[serde(default)]
    cursor: String,
}

/// Lists alerts, newest first; `level` and `state` take several words joined by commas.
pub(crate) async fn alerts(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(query): Params<AlertsQuery>,
) -> Result<Answer<Value>, Problem> {
    let request = ListAlertsRequest {
        states: each_word("state", &query.state, "pending, firing or resolved", words::alert_state_of)?,
        severities: each_word("level", &query.level, "critical, warning or info", words::severity_of)?,
        source: query.source,
        from: time("from", &query.from)?,
        to: time("to", &query.to)?,
        page: Some(PageRequest { limit: query.limit, cursor: query.cursor }),
    };
    let answer = list_alerts(&app, Call::read(LIST_ALERTS).by(caller), request).await?;
    let next = answer.page.map(|page| page.next_cursor).filter(|cursor| !cursor.is_empty());
    Ok(Answer(json!({
        "alerts": answer.alerts.iter().map(alert_json).collect::<Vec<_>>(),
        "firing": counts_json(answer.firing),
        "nextCursor": next,
    })))
}

fn each_word<T: Into<i32>>(
    field: &str,
    words: &str,
    legal: &str,
    read: fn(&str) -> Option<T>,
) -> Result<Vec<i32>, Problem> {
    let words = words.split(',').map(str::trim).filter(|word| !word.is_empty());
    words
        .map(|word| {
            let value =
                read(word).ok_or_else(|| Problem::invalid(field, format!("must be {legal}, is {word:?}")))?;
            Ok(value.into())
        })
        .collect()
}

fn time(field: &str, text: &str) -> Result<Option<prost_types::Timestamp>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    let at = humantime::parse_rfc3339_weak(text)
        .map_err(|_| Problem::invalid(field, "must be a time in UTC like 2026-01-31T12:00:00Z"))?;
    Ok(Some(at.into()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AcknowledgeBody {
    alert_id: String,
    #[serde(default)]
    comment: String,
    #[serde(default, with = "humantime_serde")]
    expires_in: Option<Duration>,
}

pub(crate) async fn acknowledge(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Json(body): Json<AcknowledgeBody>,
) -> Result<Answer<Value>, Problem> {
    let request = AcknowledgeAlertRequest {
        alert_id: body.alert_id,
        comment: body.comment,
        expires_in: body.expires_in.map(wire_duration),
    };
    let send = async |mut client: Client, request| client.acknowledge_alert(request).await;
    let answer = app.upstreams.monitor(Call::write(ACKNOWLEDGE).by(caller), request, send).await?;
    Ok(Answer(json!({ "alert": answer.alert.as_ref().map(alert_json) })))
}

/// Longest range answered without `from`.
const DEFAULT_RANGE: Duration = Duration::from_secs(15 * 60);
const DEFAULT_STEP: Duration = Duration::from_secs(10);

/// Returns series over a range. Every parameter that is not named here is a label to match.
pub(crate) async fn history(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Query(mut query): Query<HashMap<String, String>>,
) -> Result<Answer<Value>, Problem> {
    let Some(metric) = query.remove("metric").filter(|metric| !metric.is_empty()) else {
        return Err(Problem::invalid("metric", "must name a metric"));
    };
    let now: SystemTime = app.cx.clock().now();
    let from = time("from", &query.remove("from").unwrap_or_default())?;
    let to = time("to", &query.remove("to").unwrap_or_default())?;
    let step = match query.remove("step") {
        None => DEFAULT_STEP,
        Some(text) => humantime::parse_duration(&text)
            .map_err(|_| Problem::invalid("step", "must be a duration like 1s, 10s or 1m"))?,
    };
    let request = QueryRangeRequest {
        metric,
        labels: query,
        from: from.or_else(|| Some((now - DEFAULT_RANGE).into())),
        to: to.or_else(|| Some(now.into())),
        step: Some(wire_duration(step)),
    };
    let send = async |mut client: Client, request| client.query_range(request).await;
    let answer = app.upstreams.monitor(Call::read(QUERY_RANGE).by(caller), request, send).await?;
    Ok(Answer(json!({
        "stepSeconds": seconds(Some(wire_duration(step))),
        "series": answer.series.iter().map(series_json).collect::<Vec<_>>(),
        "truncated": answer.truncated,
    })))
}

fn series_json(series: &Series) -> Value {
    let points: Vec<Value> = series
        .points
        .iter()
        .map(|point| {
            json!({
                "at": rfc3339(point.at), "min": point.min, "max": point.max, "mean": point.mean, "last": point.last,
            })
        })
        .collect();
    json!({ "metric": series.metric, "labels": series.labels, "points": points })
}
