//! How the cache is, and its figures put back.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use mainstay_proto::cache::v1 as wire;
use mainstay_proto::cache::v1::figures_service_client::FiguresServiceClient;
use mainstay_rpc::{Call, Lane};
use serde::Serialize;
use utoipa::ToSchema;

use super::health::{Process, processes};
use super::words::Status;
use crate::body::Who;
use crate::error::Problem;
use crate::state::App;

const RESET: &str = "mainstay.cache.v1.FiguresService/ResetWindow";
const SERVICE: &str = "cache-service";

/// How the cache is as a whole, and each process of it.
#[derive(Serialize, ToSchema)]
pub(crate) struct CacheHealth {
    status: Status,
    /// What is wrong, one line each.
    reasons: Vec<String>,
    instances: Vec<CacheInstance>,
}

#[derive(Serialize, ToSchema)]
struct CacheInstance {
    endpoint: String,
    status: Status,
}

/// What was put back.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WindowReset {
    /// Operations that were forgotten.
    operations: u64,
}

/// Tells how the cache is.
#[utoipa::path(get, path = "/cache/health", tag = "cache", responses(
    (status = 200, description = "it serves", body = CacheHealth),
    (status = 503, description = "no process of it is healthy", body = CacheHealth),
))]
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    let mut processes = processes(&app).await;
    processes.retain(|process| process.service == SERVICE);
    let states: Vec<Status> = processes.iter().map(Process::status).collect();
    // One healthy process serves; together they are as they should be only if all are.
    let (best, worst) = (states.iter().min().copied(), states.iter().max().copied());
    let status = match (best, worst) {
        (Some(Status::Healthy), Some(Status::Healthy)) => Status::Healthy,
        (Some(Status::Healthy | Status::Degraded), _) => Status::Degraded,
        _ => Status::Unhealthy,
    };
    let body = CacheHealth {
        status,
        reasons: processes.iter().flat_map(Process::reasons).collect(),
        instances: processes
            .iter()
            .map(|process| CacheInstance { endpoint: process.endpoint.clone(), status: process.status() })
            .collect(),
    };
    let code = if status == Status::Unhealthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, Answer(body)).into_response()
}

/// Forgets the last 1,000 operations of each kind, on the node that answers.
#[utoipa::path(post, path = "/monitoring/cache/reset-metrics", tag = "monitoring", responses((status = 200, description = "forgotten; totals go on", body = WindowReset)))]
pub(crate) async fn reset(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<WindowReset>, Problem> {
    let send = async |mut client: FiguresServiceClient<Lane>, request| client.reset_window(request).await;
    let request = wire::ResetWindowRequest {};
    let answer = app.upstreams.cache_figures(Call::write(RESET).by(caller), request, send).await?;
    Ok(Answer(WindowReset { operations: answer.operations }))
}
