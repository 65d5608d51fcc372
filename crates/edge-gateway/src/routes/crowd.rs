//! The WebSocket clients as a crowd: how many, what passes, who comes and goes, with what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use mainstay_proto::monitor::v1::monitor_service_client::MonitorServiceClient;
use mainstay_proto::monitor::v1::{Figures, QueryRangeRequest, QueryRangeResponse};
use mainstay_proto::realtime::v1::realtime_service_client::RealtimeServiceClient;
use mainstay_proto::realtime::v1::{ConnectionsRequest, ConnectionsResponse};
use mainstay_rpc::{Call, Lane};
use serde::Serialize;
use utoipa::ToSchema;

use super::health::completeness;
use super::monitoring::Parts;
use super::realtime::{self, WebsocketFigures};
use super::system;
use super::words::{rfc3339, wire_duration};
use crate::body::Who;
use crate::error::Problem;
use crate::part::PartInfo;
use crate::state::App;

const CONNECTIONS: &str = "mainstay.realtime.v1.RealtimeService/Connections";
const QUERY_RANGE: &str = "mainstay.monitor.v1.MonitorService/QueryRange";

const CONNECTIONS_METRIC: &str = "mainstay_ws_connections";
const COMMANDS_METRIC: &str = "mainstay_ws_commands_total";
const DISCONNECTS_METRIC: &str = "mainstay_ws_disconnects_total";
const RATES: [&str; 7] = [
    "mainstay_ws_messages_sent_total",
    "mainstay_ws_messages_received_total",
    "mainstay_ws_bytes_sent_total",
    "mainstay_ws_bytes_received_total",
    "mainstay_ws_publications_total",
    COMMANDS_METRIC,
    DISCONNECTS_METRIC,
];
/// Connections that kinds of clients and users are counted over.
const LOOKED_AT: u32 = 1_000;
const PEAK_OVER: Duration = Duration::from_hours(24);
const PEAK_STEP: Duration = Duration::from_mins(5);

/// Figures of all WebSocket clients; a part that does not answer is null, and `parts` says why.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WebsocketAnalytics {
    /// All nodes together, and each.
    now: Option<WebsocketFigures>,
    /// Over the last minute, all nodes together.
    per_second: Option<CrowdRates>,
    peak: Option<Peak>,
    clients: Option<Clients>,
    parts: BTreeMap<&'static str, PartInfo>,
}

#[derive(Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CrowdRates {
    messages_sent: f64,
    messages_received: f64,
    bytes_sent: f64,
    bytes_received: f64,
    publications: f64,
    /// Clients that were let in.
    connects: f64,
    disconnects: f64,
    /// By close code.
    disconnects_by_code: BTreeMap<String, f64>,
    /// Subscriptions begun and ended by clients.
    joins: f64,
    leaves: f64,
}

/// The most connections at once in the last 24 hours, as far back as history reaches.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
struct Peak {
    connections: f64,
    /// Start of the five minutes in which it was.
    at: Option<String>,
}

/// Who the clients are. Of more connections than are looked at it is a sample.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Clients {
    looked_at: u64,
    total: u64,
    /// Different users among those looked at.
    users: u64,
    kinds: Vec<ClientKind>,
    /// Nodes that did not answer in time: what they hold is not in this answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing_nodes: Vec<String>,
}

/// Connections of one SDK; empty where the client did not say.
#[derive(Serialize, ToSchema)]
struct ClientKind {
    name: String,
    version: String,
    connections: u64,
}

/// Tells how many clients there are and were, what passes, who comes and goes, and with what.
#[utoipa::path(get, path = "/monitoring/websocket/analytics", tag = "monitoring", responses(
    (status = 200, description = "the crowd", body = WebsocketAnalytics, headers(
        ("x-mainstay-completeness" = String, description = "`full` or `partial`"),
    )),
))]
pub(crate) async fn analytics(State(app): State<Arc<App>>, Who(caller): Who) -> Response {
    let call = |path| Call::read(path).by(caller.clone()).within(app.part_within);
    let nodes = realtime::nodes_call(caller.clone()).within(app.part_within);
    let (nodes, rates, peak, clients) = tokio::join!(
        realtime::nodes(&app, nodes),
        system::latest(&app, system::latest_call(caller.clone()).within(app.part_within), &RATES),
        peak(&app, call(QUERY_RANGE)),
        clients(&app, call(CONNECTIONS)),
    );
    let mut parts = Parts::default();
    let body = WebsocketAnalytics {
        now: parts.take("now", nodes.map(|nodes| WebsocketFigures::from(&*nodes))),
        per_second: parts.take("perSecond", rates.map(CrowdRates::from)),
        peak: parts.take("peak", peak).flatten(),
        clients: parts.take("clients", clients),
        parts: parts.told,
    };
    ([completeness(!parts.incomplete)], Answer(body)).into_response()
}

async fn peak(app: &App, call: Call) -> Result<Option<Peak>, Problem> {
    let now = app.cx.clock().now();
    let request = QueryRangeRequest {
        metric: CONNECTIONS_METRIC.to_owned(),
        from: Some((now - PEAK_OVER).into()),
        to: Some(now.into()),
        step: Some(wire_duration(PEAK_STEP)),
        ..QueryRangeRequest::default()
    };
    let send = async |mut client: MonitorServiceClient<Lane>, request| client.query_range(request).await;
    Ok(highest(&app.upstreams.monitor(call, request, send).await?))
}

async fn clients(app: &App, call: Call) -> Result<Clients, Problem> {
    let request = ConnectionsRequest { limit: LOOKED_AT, ..ConnectionsRequest::default() };
    let send = async |mut client: RealtimeServiceClient<Lane>, request| client.connections(request).await;
    Ok(app.upstreams.realtime(call, request, send).await?.into())
}

/// Adds up the nodes bucket by bucket: their highest need not have been at the same moment, so this is never too low.
fn highest(answer: &QueryRangeResponse) -> Option<Peak> {
    let mut by_bucket: BTreeMap<i64, (f64, Option<prost_types::Timestamp>)> = BTreeMap::new();
    for point in answer.series.iter().flat_map(|series| &series.points) {
        let bucket = by_bucket.entry(point.at.map_or(0, |at| at.seconds)).or_insert((0.0, point.at));
        bucket.0 += point.max;
    }
    let (connections, at) = by_bucket.into_values().max_by(|one, other| one.0.total_cmp(&other.0))?;
    Some(Peak { connections, at: rfc3339(at) })
}

impl From<Figures> for CrowdRates {
    fn from(figures: Figures) -> Self {
        let mut rates = Self::default();
        for figure in figures.figures {
            let Some(rate) = figure.per_second else { continue };
            let label = |name: &str| figure.labels.get(name).map(String::as_str).unwrap_or_default();
            let sum = match (figure.metric.as_str(), label("method"), label("result")) {
                ("mainstay_ws_messages_sent_total", ..) => &mut rates.messages_sent,
                ("mainstay_ws_messages_received_total", ..) => &mut rates.messages_received,
                ("mainstay_ws_bytes_sent_total", ..) => &mut rates.bytes_sent,
                ("mainstay_ws_bytes_received_total", ..) => &mut rates.bytes_received,
                ("mainstay_ws_publications_total", ..) => &mut rates.publications,
                (COMMANDS_METRIC, "connect", "ok") => &mut rates.connects,
                (COMMANDS_METRIC, "subscribe", "ok") => &mut rates.joins,
                (COMMANDS_METRIC, "unsubscribe", "ok") => &mut rates.leaves,
                (DISCONNECTS_METRIC, ..) => {
                    *rates.disconnects_by_code.entry(label("code").to_owned()).or_default() += rate;
                    &mut rates.disconnects
                }
                _ => continue,
            };
            *sum += rate;
        }
        rates
    }
}

impl From<ConnectionsResponse> for Clients {
    fn from(answer: ConnectionsResponse) -> Self {
        let mut kinds: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for connection in &answer.connections {
            *kinds.entry((&connection.client_name, &connection.client_version)).or_default() += 1;
        }
        let users: BTreeSet<&str> = answer.connections.iter().map(|one| one.user.as_str()).collect();
        let kind = |((name, version), connections): ((&str, &str), u64)| ClientKind {
            name: name.to_owned(),
            version: version.to_owned(),
            connections,
        };
        let mut kinds: Vec<_> = kinds.into_iter().map(kind).collect();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.connections));
        Self {
            looked_at: answer.connections.len() as u64,
            total: answer.total,
            users: users.iter().filter(|user| !user.is_empty()).count() as u64,
            kinds,
            missing_nodes: answer.missing_nodes,
        }
    }
}

#[cfg(test)]
mod tests {
    use mainstay_proto::monitor::v1::{Figure, Point, Series};

    use super::*;

    #[test]
    fn nodes_add_up_before_the_highest_is_taken() {
        let point = |seconds, max| Point {
            at: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            max,
            ..Point::default()
        };
        let node = |points| Series { points, ..Series::default() };
        let series =
            vec![node(vec![point(0, 90.0), point(300, 50.0)]), node(vec![point(0, 5.0), point(300, 60.0)])];
        let peak = highest(&QueryRangeResponse { series, truncated: false });
        let at = Some("1970-01-01T00:05:00.000Z".to_owned());
        assert_eq!(peak, Some(Peak { connections: 110.0, at }));
        assert_eq!(highest(&QueryRangeResponse::default()), None);
    }

    #[test]
    fn rates_of_all_nodes_and_codes_add_up() {
        let figure = |metric: &str, labels: &[(&str, &str)], per_second| Figure {
            metric: metric.to_owned(),
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            value: 1e6,
            per_second,
        };
        let figures = vec![
            figure(COMMANDS_METRIC, &[("method", "connect"), ("result", "ok")], Some(2.0)),
            figure(COMMANDS_METRIC, &[("method", "connect"), ("result", "101")], Some(8.0)),
            figure(COMMANDS_METRIC, &[("method", "subscribe"), ("result", "ok")], Some(3.0)),
            figure(DISCONNECTS_METRIC, &[("code", "3000")], Some(1.0)),
            figure(DISCONNECTS_METRIC, &[("code", "3501")], Some(0.5)),
            figure("mainstay_ws_bytes_sent_total", &[("endpoint", "a")], Some(10.0)),
            figure("mainstay_ws_bytes_sent_total", &[("endpoint", "b")], Some(20.0)),
            figure("mainstay_ws_bytes_sent_total", &[("endpoint", "c")], None),
        ];
        let rates = CrowdRates::from(Figures { at: None, figures });
        assert_eq!((rates.connects, rates.joins, rates.disconnects, rates.bytes_sent), (2.0, 3.0, 1.5, 30.0));
        assert_eq!(rates.disconnects_by_code.values().copied().collect::<Vec<_>>(), [1.0, 0.5]);
    }
}
