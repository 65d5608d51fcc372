//! What history tells when it is looked at, over REST: trends, forecasts, anomalies, performance, objectives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use mainstay_proto::monitor::v1 as wire;
use mainstay_proto::monitor::v1::analysis_service_client::AnalysisServiceClient;
use mainstay_rpc::{Call, Caller, Lane};

mod answer;

use answer::{Anomalies, Forecasts, Slos, Trends};
pub(crate) use answer::{Bottlenecks, Endpoints};

use super::alerting::rule::{METHODS, word};
use super::words::{time, wire_duration};
use crate::body::{Params, Who};
use crate::error::Problem;
use crate::state::App;

type Client = AnalysisServiceClient<Lane>;
type Query = HashMap<String, String>;

const TRENDS: &str = "mainstay.monitor.v1.AnalysisService/Trends";
const FORECASTS: &str = "mainstay.monitor.v1.AnalysisService/Forecasts";
const ANOMALIES: &str = "mainstay.monitor.v1.AnalysisService/Anomalies";
const ENDPOINTS: &str = "mainstay.monitor.v1.AnalysisService/Endpoints";
const BOTTLENECKS: &str = "mainstay.monitor.v1.AnalysisService/Bottlenecks";
const SLOS: &str = "mainstay.monitor.v1.AnalysisService/Slos";

/// Compares a figure with itself a day before. Every parameter that is not named here is a label to match.
#[utoipa::path(get, path = "/monitoring/trends", tag = "monitoring", params(
    ("metric" = String, Query, description = "name of a metric; of a counter it is the increase per second", example = "mainstay_ready"),
    ("window" = Option<String>, Query, description = "length of what is compared, up to now; 1h without it", example = "1h"),
    ("earlier" = Option<String>, Query, description = "how much earlier it is compared with; 1d without it", example = "1d"),
), responses((status = 200, description = "one trend per series", body = Trends)))]
pub(crate) async fn trends(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(mut query): Params<Query>,
) -> Result<Answer<Trends>, Problem> {
    let request = wire::TrendsRequest {
        metric: query.remove("metric").unwrap_or_default(),
        window: length(&mut query, "window")?,
        earlier: length(&mut query, "earlier")?,
        labels: query,
    };
    let send = async |mut client: Client, request| client.trends(request).await;
    let answer = app.upstreams.analysis(Call::read(TRENDS).by(caller), request, send).await?;
    Ok(Answer(answer.into()))
}

/// Tells where gauges go, and when they reach a limit; without a metric, disks, memory and file descriptors.
///
/// Every parameter that is not named here is a label to match.
#[utoipa::path(get, path = "/monitoring/forecasts", tag = "monitoring", params(
    ("metric" = Option<String>, Query, description = "name of a metric", example = "host_disk_used_ratio"),
    ("window" = Option<String>, Query, description = "what it is drawn from; 1h without it", example = "1h"),
    ("limit" = Option<f64>, Query, description = "the level whose time is asked for", example = 1.0),
    ("ahead" = Option<String>, Query, description = "how far ahead; the window without it", example = "6h"),
), responses((status = 200, description = "one forecast per series", body = Forecasts)))]
pub(crate) async fn forecasts(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(mut query): Params<Query>,
) -> Result<Answer<Forecasts>, Problem> {
    let request = wire::ForecastsRequest {
        metric: query.remove("metric").unwrap_or_default(),
        window: length(&mut query, "window")?,
        limit: number(&mut query, "limit")?,
        ahead: length(&mut query, "ahead")?,
        labels: query,
    };
    let send = async |mut client: Client, request| client.forecasts(request).await;
    let answer = app.upstreams.analysis(Call::read(FORECASTS).by(caller), request, send).await?;
    Ok(Answer(answer.into()))
}

/// Tells where figures should have been, where they were not, and when their level changed.
///
/// Every parameter that is not named here is a label to match.
#[utoipa::path(get, path = "/monitoring/anomalies", tag = "monitoring", params(
    ("metric" = String, Query, description = "name of a metric; of a counter it is the increase per second", example = "mainstay_ready"),
    ("from" = Option<String>, Query, description = "time in UTC like 2026-01-31T12:00:00Z; an hour before `to` without it"),
    ("to" = Option<String>, Query, description = "time in UTC; now without it"),
    ("step" = Option<String>, Query, description = "width of a step; as fine as 500 steps allow without it", example = "10s"),
    ("method" = Option<String>, Query, description = "`ewma`, `holt_winters` or `seasonal`", example = "ewma"),
    ("season" = Option<String>, Query, description = "length of a season; a day for `seasonal` without it", example = "1d"),
    ("sensitivity" = Option<f64>, Query, description = "half the width of the band in standard deviations; 5 without it", example = 5.0),
), responses((status = 200, description = "the bands, what is outside them, and changes of level", body = Anomalies)))]
pub(crate) async fn anomalies(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(mut query): Params<Query>,
) -> Result<Answer<Anomalies>, Problem> {
    let method = query.remove("method").map(|method| word(&METHODS, &method, "method")).transpose()?;
    let request = wire::AnomaliesRequest {
        metric: query.remove("metric").unwrap_or_default(),
        from: time("from", &query.remove("from").unwrap_or_default())?,
        to: time("to", &query.remove("to").unwrap_or_default())?,
        step: length(&mut query, "step")?,
        method: method.unwrap_or_default().into(),
        season: length(&mut query, "season")?,
        sensitivity: number(&mut query, "sensitivity")?.unwrap_or_default(),
        labels: query,
    };
    let send = async |mut client: Client, request| client.anomalies(request).await;
    let answer = app.upstreams.analysis(Call::read(ANOMALIES).by(caller), request, send).await?;
    Ok(Answer(answer.into()))
}

/// Sums up every REST route and gRPC method: rate, errors, duration; the busiest first.
#[utoipa::path(get, path = "/monitoring/performance/endpoints", tag = "monitoring", params(
    ("window" = Option<String>, Query, description = "how far it looks back; 5m without it", example = "5m"),
    ("service" = Option<String>, Query, description = "only of this service"),
), responses((status = 200, description = "routes and methods that were asked", body = Endpoints)))]
pub(crate) async fn endpoints(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(mut query): Params<Query>,
) -> Result<Answer<Endpoints>, Problem> {
    let request = wire::EndpointsRequest {
        window: length(&mut query, "window")?,
        service: query.remove("service").unwrap_or_default(),
    };
    nothing_else(&query)?;
    Ok(Answer(ask_endpoints(&app, Call::read(ENDPOINTS).by(caller), request).await?))
}

/// Sums up what the last minutes asked, for an answer that has it as a part.
pub(crate) async fn endpoints_now(
    app: &App,
    caller: Option<Caller>,
    within: Duration,
) -> Result<Endpoints, Problem> {
    let call = Call::read(ENDPOINTS).by(caller).within(within);
    ask_endpoints(app, call, wire::EndpointsRequest::default()).await
}

async fn ask_endpoints(app: &App, call: Call, request: wire::EndpointsRequest) -> Result<Endpoints, Problem> {
    let send = async |mut client: Client, request| client.endpoints(request).await;
    Ok(app.upstreams.analysis(call, request, send).await?.into())
}

/// Ranks what holds the system up, with the figures that speak for it.
#[utoipa::path(get, path = "/monitoring/performance/bottlenecks", tag = "monitoring", params(
    ("window" = Option<String>, Query, description = "how far it looks back; it is compared with as long before; 5m without it", example = "5m"),
), responses((status = 200, description = "the worst first", body = Bottlenecks)))]
pub(crate) async fn bottlenecks(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(mut query): Params<Query>,
) -> Result<Answer<Bottlenecks>, Problem> {
    let request = wire::BottlenecksRequest { window: length(&mut query, "window")? };
    nothing_else(&query)?;
    Ok(Answer(ask_bottlenecks(&app, Call::read(BOTTLENECKS).by(caller), request).await?))
}

/// Ranks what holds the system up now, for an answer that has it as a part.
pub(crate) async fn bottlenecks_now(
    app: &App,
    caller: Option<Caller>,
    within: Duration,
) -> Result<Bottlenecks, Problem> {
    let call = Call::read(BOTTLENECKS).by(caller).within(within);
    ask_bottlenecks(app, call, wire::BottlenecksRequest::default()).await
}

async fn ask_bottlenecks(
    app: &App,
    call: Call,
    request: wire::BottlenecksRequest,
) -> Result<Bottlenecks, Problem> {
    let send = async |mut client: Client, request| client.bottlenecks(request).await;
    Ok(app.upstreams.analysis(call, request, send).await?.into())
}

/// Tells how the configured objectives stand, and how fast their error budgets are used up.
#[utoipa::path(get, path = "/monitoring/slos", tag = "monitoring", responses((status = 200, description = "the objectives, by name", body = Slos)))]
pub(crate) async fn slos(State(app): State<Arc<App>>, Who(caller): Who) -> Result<Answer<Slos>, Problem> {
    let send = async |mut client: Client, request| client.slos(request).await;
    let call = Call::read(SLOS).by(caller);
    Ok(Answer(app.upstreams.analysis(call, wire::SlosRequest {}, send).await?.into()))
}

fn length(query: &mut Query, field: &str) -> Result<Option<prost_types::Duration>, Problem> {
    let Some(text) = query.remove(field) else { return Ok(None) };
    let length = humantime::parse_duration(&text)
        .map_err(|_| Problem::invalid(field, "must be a duration like 10s, 5m or 1h"))?;
    Ok(Some(wire_duration(length)))
}

fn number(query: &mut Query, field: &str) -> Result<Option<f64>, Problem> {
    let Some(text) = query.remove(field) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| Problem::invalid(field, "must be a number"))
}

fn nothing_else(query: &Query) -> Result<(), Problem> {
    match query.keys().next() {
        Some(unknown) => Err(Problem::invalid(unknown, "is no parameter of this path")),
        None => Ok(()),
    }
}
