//! The whole URL map on one screen.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post, put};
use mainstay_auth::Role;

use crate::middleware::authorize::{Gate, authorize};
use crate::middleware::envelope::envelope;
use crate::routes::{cache, dashboard, database, health, monitoring, realtime};
use crate::state::App;

/// Builds the REST door. Health stands outside authentication, limits and load shedding.
pub(crate) fn app(app: Arc<App>) -> Router {
    let public = Router::new()
        .route("/health/liveness", get(health::liveness))
        .route("/health/readiness", get(health::readiness))
        .route("/health/metrics", get(health::metrics))
        .route("/health/status", get(health::status))
        .route("/health/components", get(health::components))
        .route("/health/components/{service}/{component}", get(health::component))
        .route("/monitoring/unified/health", get(monitoring::unified_health))
        .route("/dashboard", get(dashboard::page));

    let viewer = Router::new()
        .route("/monitoring/unified/metrics", get(monitoring::unified_metrics))
        .route("/monitoring/unified/alerts", get(monitoring::alerts))
        .route("/monitoring/history", get(monitoring::history))
        .route("/monitoring/websocket/connections", get(realtime::connections))
        .route("/cache/stats", get(cache::stats))
        .route("/cache/{namespace}/{key}", get(cache::get))
        .route("/database/info", get(database::info))
        .route("/database/replica/health", get(database::health))
        .route("/database/replica/stats", get(database::stats))
        .route("/database/replica/lag", get(database::lag))
        .route("/database/replica/pool-stats", get(database::pool_stats))
        .route("/database/query", post(database::query))
        .route("/realtime/channels", get(realtime::channels))
        .route("/realtime/endpoint", get(realtime::endpoint));

    let operator = Router::new()
        .route("/cache/{namespace}/{key}", put(cache::put).delete(cache::delete))
        .route("/monitoring/unified/acknowledge-alert", post(monitoring::acknowledge))
        .route("/realtime/publish", post(realtime::publish))
        .route("/realtime/broadcast", post(realtime::broadcast))
        .route("/realtime/users/{user}/disconnect", post(realtime::disconnect));

    let admin = Router::new().route("/database/execute", post(database::execute));

    let behind = |router: Router<Arc<App>>, role: Role| {
        router.route_layer(from_fn_with_state(Gate { app: Arc::clone(&app), role }, authorize))
    };
    public
        .merge(behind(viewer, Role::Viewer))
        .merge(behind(operator, Role::Operator))
        .merge(behind(admin, Role::Admin))
        .layer(DefaultBodyLimit::max(app.max_body_bytes))
        .layer(from_fn_with_state(Arc::clone(&app), envelope))
        .with_state(app)
}
