//! The unified view: figures of every part in one answer, alerts, history.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json as Answer;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use mainstay_proto::cache::v1::StatsRequest;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::common::v1::PageRequest;
use mainstay_proto::monitor::v1::monitor_service_client::MonitorServiceClient;
use mainstay_proto::monitor::v1::{
    AcknowledgeAlertRequest, ListAlertsRequest, ListAlertsResponse, QueryRangeRequest,
};
use mainstay_rpc::{Call, Caller, Lane};
use serde::Deserialize;
use utoipa::ToSchema;

mod answer;

pub(crate) use answer::Alert;
use answer::{Acknowledged, AlertsPage, AlertsSummary, History, HistorySeries, QuickCheck, SystemFigures};
pub(crate) use answer::{Parts, UnifiedMetrics};

use super::cache::CacheStats;
use super::database::{self, DatabaseInfo};
use super::health::{Process, completeness, overall, processes, uptime_seconds};
use super::partitions::{self, PartitionFigures};
use super::realtime::{self, WebsocketFigures};
use super::system;
use super::words::{self, seconds, time, wire_duration};
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
#[utoipa::path(get, path = "/monitoring/unified/health", tag = "monitoring", responses((status = 200, description = "whatever the status is", body = QuickCheck)))]
pub(crate) async fn unified_health(State(app): State<Arc<App>>) -> Response {
    let processes = processes(&app).await;
    let all_fresh = processes.iter().all(|process| process.part.is_fresh());
    let body = QuickCheck {
        status: overall(&processes),
        uptime_seconds: uptime_seconds(&app),
        reasons: processes.iter().flat_map(Process::reasons).collect(),
    };
    ([completeness(all_fresh)], Answer(body)).into_response()
}

/// Merges the figures of every part; a part that does not answer is null and says why under `parts`.
#[utoipa::path(get, path = "/monitoring/unified/metrics", tag = "monitoring", responses(
    (status = 200, description = "all figures", body = UnifiedMetrics, headers(
        ("x-mainstay-completeness" = String, description = "`full` or `partial`"),
    )),
))]
pub(crate) async fn unified_metrics(State(app): State<Arc<App>>, Who(caller): Who) -> Response {
    let (figures, complete) = unified(&app, caller).await;
    ([completeness(complete)], Answer(figures)).into_response()
}

/// Asks every service at once; says also whether every part answered.
pub(crate) async fn unified(app: &App, caller: impl Into<Option<Caller>>) -> (UnifiedMetrics, bool) {
    let (figures, _, complete) = Box::pin(with_processes(app, caller.into())).await;
    (figures, complete)
}

/// Asks for the figures of [`unified`], and gives the processes that were looked at for them.
pub(crate) async fn with_processes(
    app: &App,
    caller: Option<Caller>,
) -> (UnifiedMetrics, Vec<Process>, bool) {
    let within = app.part_within;
    let (processes, partitions, cache, topology, nodes, host, alerts) = tokio::join!(
        processes(app),
        Box::pin(partitions::fetch(app, caller.clone(), within)),
        cache_stats(app, caller.clone(), within),
        database::topology(app, caller.clone(), within),
        realtime::nodes(app, realtime::nodes_call(caller.clone()).within(within)),
        system::fetch(app, system::latest_call(caller.clone()).within(within)),
        recent_alerts(app, caller, within),
    );
    let mut parts = Parts::default();
    let figures = UnifiedMetrics {
        system: SystemFigures {
            status: overall(&processes),
            uptime: uptime_seconds(app),
            reasons: processes.iter().flat_map(Process::reasons).collect(),
        },
        edge: app.figures.recent.traffic(),
        partitions: parts.take("partitions", partitions.map(PartitionFigures::from)),
        cache: parts.take("cache", cache),
        replicas: parts.take("replicas", topology.map(|topology| DatabaseInfo::from(&topology))),
        websockets: parts.take("websockets", nodes.map(|nodes| WebsocketFigures::from(&*nodes))),
        host: parts.take("host", host),
        alerts: parts.take("alerts", alerts.map(AlertsSummary::from)),
        parts: parts.told,
    };
    (figures, processes, !parts.incomplete)
}

async fn cache_stats(app: &App, caller: Option<Caller>, within: Duration) -> Result<CacheStats, Problem> {
    let call = Call::read(CACHE_STATS).by(caller).within(within);
    let send = async |mut client: CacheServiceClient<Lane>, request| client.stats(request).await;
    Ok(app.upstreams.cache(call, StatsRequest {}, send).await?.into())
}

async fn recent_alerts(
    app: &App,
    caller: Option<Caller>,
    within: Duration,
) -> Result<ListAlertsResponse, Problem> {
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

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AlertsQuery {
    /// `critical`, `warning`, `info`, or several joined by commas.
    #[serde(default)]
    level: String,
    /// `pending`, `firing`, `resolved`, or several joined by commas.
    #[serde(default)]
    state: String,
    /// Only alerts of this service.
    #[serde(default)]
    source: String,
    /// Only alerts that started at this time or later, like 2026-01-31T12:00:00Z.
    #[serde(default)]
    from: String,
    /// Only alerts that started before this time.
    #[serde(default)]
    to: String,
    /// Most alerts on a page; 0 means 100.
    #[serde(default)]
    limit: u32,
    /// The `nextCursor` of the page before.
    #[serde(default)]
    cursor: String,
}

/// Lists alerts, newest first; `level` and `state` take several words joined by commas.
#[utoipa::path(get, path = "/monitoring/unified/alerts", tag = "monitoring", params(AlertsQuery), responses((status = 200, description = "one page", body = AlertsPage)))]
pub(crate) async fn alerts(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(query): Params<AlertsQuery>,
) -> Result<Answer<AlertsPage>, Problem> {
    let request = ListAlertsRequest {
        states: each_word("state", &query.state, "pending, firing or resolved", words::alert_state_of)?,
        severities: each_word("level", &query.level, "critical, warning or info", words::severity_of)?,
        source: query.source,
        from: time("from", &query.from)?,
        to: time("to", &query.to)?,
        page: Some(PageRequest { limit: query.limit, cursor: query.cursor }),
    };
    let answer = list_alerts(&app, Call::read(LIST_ALERTS).by(caller), request).await?;
    Ok(Answer(answer.into()))
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

/// Who looks after an alert comes from the credentials.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AcknowledgeBody {
    alert_id: String,
    #[serde(default)]
    #[schema(max_length = 1000)]
    comment: String,
    /// The acknowledgement ends after this, like `2h`; without it, with the alert.
    #[serde(default, with = "humantime_serde")]
    #[schema(value_type = Option<String>, example = "2h")]
    expires_in: Option<Duration>,
    /// Only if this is still the alert's `version`; else 412.
    #[serde(default)]
    if_version: u32,
}

/// Records that somebody has seen an alert and looks after it.
#[utoipa::path(post, path = "/monitoring/unified/acknowledge-alert", tag = "monitoring", request_body = AcknowledgeBody, responses(
    (status = 200, description = "the alert after it", body = Acknowledged),
    (status = 404, description = "there is no such alert"),
    (status = 409, description = "the alert is already over"),
    (status = 412, description = "the alert has another version by now"),
))]
pub(crate) async fn acknowledge(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Json(body): Json<AcknowledgeBody>,
) -> Result<Answer<Acknowledged>, Problem> {
    let request = AcknowledgeAlertRequest {
        alert_id: body.alert_id,
        comment: body.comment,
        expires_in: body.expires_in.map(wire_duration),
        if_version: body.if_version,
    };
    let send = async |mut client: Client, request| client.acknowledge_alert(request).await;
    let answer = app.upstreams.monitor(Call::write(ACKNOWLEDGE).by(caller), request, send).await?;
    Ok(Answer(Acknowledged { alert: answer.alert.map(Alert::from) }))
}

/// Longest range answered without `from`.
const DEFAULT_RANGE: Duration = Duration::from_secs(15 * 60);
const DEFAULT_STEP: Duration = Duration::from_secs(10);

/// Returns series over a range. Every parameter that is not named here is a label to match.
#[utoipa::path(get, path = "/monitoring/history", tag = "monitoring", params(
    ("metric" = String, Query, description = "name of a metric", example = "mainstay_ready"),
    ("from" = Option<String>, Query, description = "time in UTC like 2026-01-31T12:00:00Z; 15 minutes ago without it"),
    ("to" = Option<String>, Query, description = "time in UTC; now without it"),
    ("step" = Option<String>, Query, description = "width of a bucket like `10s`", example = "10s"),
), responses((status = 200, description = "the series", body = History)))]
pub(crate) async fn history(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(mut query): Params<HashMap<String, String>>,
) -> Result<Answer<History>, Problem> {
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
    Ok(Answer(History {
        step_seconds: seconds(Some(wire_duration(step))),
        series: answer.series.into_iter().map(HistorySeries::from).collect(),
        truncated: answer.truncated,
    }))
}
