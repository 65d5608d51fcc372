use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;

use crate::component::{ComponentSnapshot, Health};
use crate::context::Context;
use crate::metrics::OPENMETRICS;

/// Returns `/livez`, `/readyz` and `/metrics`, which need no token.
pub(crate) fn routes(cx: Context) -> Router {
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(cx)
}

async fn ready(State(cx): State<Context>, RawQuery(query): RawQuery) -> Response {
    let verbose =
        query.is_some_and(|query| query.split('&').any(|part| part == "verbose" || part == "verbose=1"));
    let obstacles = cx.inner.readiness.obstacles();
    let status = if obstacles.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let failing = obstacles.iter().map(|obstacle| (obstacle.name.as_str(), obstacle.reason.as_str()));
    let body = match (verbose, obstacles.is_empty()) {
        (false, true) => "ready\n".to_owned(),
        (false, false) => failing.map(|(name, reason)| format!("{name}: {reason}\n")).collect(),
        (true, _) => {
            let failed: String = failing.map(|(name, reason)| format!("[-]{name} {reason}\n")).collect();
            let components = cx.inner.components.snapshot();
            let passed =
                components.iter().filter(|c| !obstacles.iter().any(|obstacle| obstacle.name == c.name));
            failed + &passed.map(verbose_line).collect::<String>()
        }
    };
    (status, body).into_response()
}

fn verbose_line(component: &ComponentSnapshot) -> String {
    let ComponentSnapshot { name, health, detail, .. } = component;
    match health {
        Health::Healthy => format!("[+]{name} ok\n"),
        // Named although the process is ready: it is not critical, but somebody asked for all of it.
        other => format!("[+]{name} {} (not critical): {detail}\n", other.as_str()),
    }
}

async fn metrics(State(cx): State<Context>) -> Response {
    ([(CONTENT_TYPE, OPENMETRICS)], cx.inner.metrics.render()).into_response()
}
