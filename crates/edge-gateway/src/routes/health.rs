//! Health of the edge and of everything behind it; public, outside limits and load shedding.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use mainstay_openmetrics::{Exposition, Limits};
use mainstay_proto::common::v1::Health;
use mainstay_proto::introspect::v1::{Component, DescribeResponse};
use serde::Deserialize;

mod answer;

pub(crate) use answer::AllComponents;
use answer::{
    ComponentInstance, ComponentInstances, ComponentState, HealthCheck, HealthDocument, Liveness, Readiness,
    ServiceComponents, ServiceSummary, SystemStatus,
};

use super::words::{self, Status, rfc3339};
use crate::body::Params;
use crate::error::Problem;
use crate::part::{Freshness, Part};
use crate::state::App;
use crate::upstream::Introspected;

/// Says whether every part of a merged answer is fresh.
pub(crate) const COMPLETENESS: HeaderName = HeaderName::from_static("x-mainstay-completeness");

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const LIMITS: Limits = Limits { max_samples: 200_000, max_bytes: 32 << 20 };

/// One process of the system, as the edge sees it now.
pub(crate) struct Process {
    pub(crate) service: &'static str,
    pub(crate) endpoint: String,
    pub(crate) part: Part<Introspected>,
}

/// Asks every process at once; the edge itself comes first.
pub(crate) async fn processes(app: &App) -> Vec<Process> {
    let own = Introspected { about: app.cx.describe(), components: app.cx.component_list() };
    let own = Part { value: Some(own), freshness: Freshness::Fresh, age: Some(Duration::ZERO), reason: None };
    let asked = app.peers.iter().map(async |peer| Process {
        service: peer.service(),
        endpoint: peer.endpoint().to_owned(),
        part: peer.introspect(app.part_within).await,
    });
    let mut processes = vec![Process { service: "edge-gateway", endpoint: "self".to_owned(), part: own }];
    processes.extend(join_all(asked).await);
    processes
}

impl Process {
    /// Judges the process: one that does not answer is unhealthy, whatever it said before.
    pub(crate) fn status(&self) -> Status {
        match &self.part.value {
            Some(known) if self.part.is_fresh() => judge(&known.about, &known.components, self.service),
            _ => Status::Unhealthy,
        }
    }

    fn about(&self) -> Option<&DescribeResponse> {
        self.part.value.as_ref().map(|known| &known.about)
    }

    fn components(&self) -> &[Component] {
        self.part.value.as_ref().map(|known| known.components.as_slice()).unwrap_or_default()
    }

    /// Names what is wrong, one line each.
    pub(crate) fn reasons(&self) -> Vec<String> {
        if let Some(reason) = &self.part.reason {
            return vec![reason.clone()];
        }
        self.components()
            .iter()
            .filter(|component| counts(self.service, component))
            .filter(|component| matches!(component.health(), Health::Unhealthy | Health::Degraded))
            .map(|component| {
                let health = words::health(component.health);
                format!("{}/{}: {health}: {}", self.service, component.name, component.detail)
            })
            .collect()
    }

    fn summary(&self) -> ServiceSummary {
        let about = self.about();
        let info = self.part.info();
        ServiceSummary {
            service: self.service,
            instance: about.map(|about| about.instance.clone()),
            endpoint: self.endpoint.clone(),
            status: self.status(),
            ready: self.is_ready(),
            version: about.map(|about| about.version.clone()),
            started_at: about.and_then(|about| rfc3339(about.started_at)),
            freshness: info.freshness,
            age_seconds: info.age_seconds,
            reason: info.reason,
        }
    }

    fn is_ready(&self) -> bool {
        self.part.is_fresh() && self.about().is_some_and(|about| about.ready)
    }
}

/// The edge's components are the other services, which stand in the answer by themselves.
fn counts(service: &str, component: &Component) -> bool {
    service != "edge-gateway" || !component.name.contains('@')
}

fn judge(about: &DescribeResponse, components: &[Component], service: &str) -> Status {
    let mut worst = if about.ready || about.draining { Status::Healthy } else { Status::Unhealthy };
    for component in components.iter().filter(|component| counts(service, component)) {
        let status = match component.health() {
            Health::Unhealthy if component.critical => Status::Unhealthy,
            Health::Unhealthy | Health::Degraded => Status::Degraded,
            _ => Status::Healthy,
        };
        worst = worst.max(status);
    }
    worst
}

/// Judges the whole: healthy only when every process is.
pub(crate) fn overall(processes: &[Process]) -> Status {
    processes.iter().map(Process::status).max().unwrap_or(Status::Healthy)
}

/// Gives the completeness header of a merged answer.
pub(crate) fn completeness(all_fresh: bool) -> (HeaderName, HeaderValue) {
    (COMPLETENESS, HeaderValue::from_static(if all_fresh { "full" } else { "partial" }))
}

/// Says that the process turns; looks at nothing else.
#[utoipa::path(get, path = "/health/liveness", tag = "health", responses((status = 200, description = "alive", body = Liveness)))]
pub(crate) async fn liveness() -> axum::Json<Liveness> {
    axum::Json(Liveness { status: "alive" })
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadinessQuery {
    /// Lines for people instead of JSON; any value, or none.
    verbose: Option<String>,
}

/// Says whether traffic can be served now.
///
/// Ready while the edge itself is and at least one service answers: taking the whole door away because one room is
/// dark would make a small outage a large one.
#[utoipa::path(get, path = "/health/readiness", tag = "health", params(ReadinessQuery), responses(
    (status = 200, description = "ready", content((Readiness = "application/json"), (String = "text/plain"))),
    (status = 503, description = "not ready, and why", content((Readiness = "application/json"), (String = "text/plain"))),
))]
pub(crate) async fn readiness(
    State(app): State<Arc<App>>,
    Params(query): Params<ReadinessQuery>,
) -> Result<Response, Problem> {
    let processes = processes(&app).await;
    let any_behind = processes.iter().skip(1).any(|process| process.part.is_fresh());
    let ready = app.cx.is_ready() && any_behind;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if query.verbose.is_some() {
        return Ok((status, verbose(&processes)).into_response());
    }
    let failing: Vec<String> = processes.iter().flat_map(Process::reasons).collect();
    let word = if ready { "ready" } else { "not_ready" };
    Ok((status, axum::Json(Readiness { status: word, failing })).into_response())
}

fn verbose(processes: &[Process]) -> String {
    let mut text = String::new();
    for process in processes {
        let ready = process.is_ready();
        let mark = if ready { "[+]" } else { "[-]" };
        let what = process.part.reason.as_deref().unwrap_or(if ready { "ok" } else { "not ready" });
        text.push_str(&format!("{mark}{} {} {what}\n", process.service, process.endpoint));
    }
    text
}

/// Tells the overall status, and that of every service with its age.
#[utoipa::path(get, path = "/health/status", tag = "health", responses(
    (status = 200, description = "the status, whatever it is", headers(("x-mainstay-completeness" = String, description = "`full` or `partial`")),
        content((SystemStatus = "application/json"), (HealthDocument = "application/health+json"))),
    (status = 503, description = "unhealthy, told only to who accepts `application/health+json`", content((HealthDocument = "application/health+json"))),
))]
pub(crate) async fn status(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let processes = processes(&app).await;
    if wants(&headers, "application/health+json") {
        return health_json(&app, &processes);
    }
    let about = app.cx.describe();
    let all_fresh = processes.iter().all(|process| process.part.is_fresh());
    let body = SystemStatus {
        status: overall(&processes),
        version: about.version,
        uptime_seconds: uptime_seconds(&app),
        reasons: processes.iter().flat_map(Process::reasons).collect(),
        services: processes.iter().map(Process::summary).collect(),
    };
    ([completeness(all_fresh)], axum::Json(body)).into_response()
}

/// Gives the time since the edge began to listen.
pub(crate) fn uptime_seconds(app: &App) -> u64 {
    app.cx.clock().now().duration_since(app.cx.started_at()).unwrap_or_default().as_secs()
}

/// Answers in the form of draft-inadarei-api-health-check-06.
fn health_json(app: &App, processes: &[Process]) -> Response {
    let pass = |status: Status| match status {
        Status::Healthy => "pass",
        Status::Degraded => "warn",
        Status::Unhealthy => "fail",
    };
    let mut checks: BTreeMap<String, Vec<HealthCheck>> = BTreeMap::new();
    for process in processes {
        checks.entry(format!("{}:status", process.service)).or_default().push(HealthCheck {
            component_id: process.endpoint.clone(),
            component_type: "component",
            status: pass(process.status()),
            output: process.reasons().join("; "),
        });
    }
    let overall = overall(processes);
    let body = HealthDocument {
        status: pass(overall),
        version: "1",
        release_id: app.cx.describe().version,
        service_id: app.cx.identity().instance.clone(),
        checks,
    };
    let status = if overall == Status::Unhealthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, [(CONTENT_TYPE, "application/health+json")], axum::Json(body)).into_response()
}

/// Lists every component of every service.
#[utoipa::path(get, path = "/health/components", tag = "health", responses(
    (status = 200, description = "the components", body = AllComponents, headers(("x-mainstay-completeness" = String, description = "`full` or `partial`"))),
))]
pub(crate) async fn components(State(app): State<Arc<App>>) -> Response {
    let processes = processes(&app).await;
    let all_fresh = processes.iter().all(|process| process.part.is_fresh());
    ([completeness(all_fresh)], axum::Json(AllComponents::of(&processes))).into_response()
}

impl AllComponents {
    pub(crate) fn of(processes: &[Process]) -> Self {
        let services = processes.iter().map(|process| ServiceComponents {
            summary: process.summary(),
            components: process.components().iter().map(ComponentState::from).collect(),
        });
        Self { status: overall(processes), services: services.collect() }
    }
}

/// Tells one component of one service, of every instance that has it.
#[utoipa::path(get, path = "/health/components/{service}/{component}", tag = "health", params(
    ("service" = String, Path, description = "like `cache-service`"),
    ("component" = String, Path, description = "like `redis`"),
), responses(
    (status = 200, description = "the component", body = ComponentInstances),
    (status = 404, description = "no instance has such a component"),
))]
pub(crate) async fn component(
    State(app): State<Arc<App>>,
    Path((service, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let processes = processes(&app).await;
    let of_service: Vec<&Process> = processes.iter().filter(|process| process.service == service).collect();
    let found: Vec<ComponentInstance> = of_service
        .iter()
        .filter_map(|process| {
            let component = process.components().iter().find(|component| component.name == name)?;
            Some(ComponentInstance {
                component: component.into(),
                endpoint: process.endpoint.clone(),
                freshness: process.part.freshness,
            })
        })
        .collect();
    if found.is_empty() {
        let detail = format!("{service} has no component {name}, or has never been reached");
        return Err(Problem::new(StatusCode::NOT_FOUND, "COMPONENT_NOT_FOUND", detail));
    }
    let all_fresh = of_service.iter().all(|process| process.part.is_fresh());
    let body = ComponentInstances { service, instances: found };
    Ok(([completeness(all_fresh)], axum::Json(body)).into_response())
}

/// Merges the metrics of every process that answers; each sample says whose it is.
#[utoipa::path(get, path = "/health/metrics", tag = "health", responses(
    (status = 200, description = "OpenMetrics where accepted, else Prometheus text", content((String = "text/plain"), (String = "application/openmetrics-text"))),
))]
pub(crate) async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, Problem> {
    let fetched = app.peers.iter().map(async |peer| {
        let text = peer.metrics(app.part_within).await.ok()?;
        labelled(&text, peer.service(), peer.endpoint())
    });
    let own = labelled(&app.cx.openmetrics(), "edge-gateway", &app.cx.identity().instance);
    let parts: Vec<Option<Exposition>> = join_all(fetched).await;
    let all_fresh = parts.iter().all(Option::is_some);
    let merged = Exposition::merge(own.into_iter().chain(parts.into_iter().flatten()).collect());

    let (kind, text) = if wants(&headers, "application/openmetrics-text") {
        (OPENMETRICS, merged.render_openmetrics())
    } else {
        (PROMETHEUS, merged.render_prometheus())
    };
    Ok(([completeness(all_fresh)], [(CONTENT_TYPE, kind)], text).into_response())
}

fn labelled(text: &str, service: &str, instance: &str) -> Option<Exposition> {
    match mainstay_openmetrics::parse(text, LIMITS) {
        Ok(exposition) => Some(exposition.with_labels(&[("service", service), ("instance", instance)])),
        Err(error) => {
            tracing::warn!(service, %error, "metrics of a service cannot be read");
            None
        }
    }
}

fn wants(headers: &HeaderMap, kind: &str) -> bool {
    headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accept| accept.contains(kind))
}
