//! The whole URL map on one screen.

use utoipa_axum::routes;

use crate::map::Map;
use crate::routes::{
    cache, channels, dashboard, database, docs, health, invalidation, live, monitoring, realtime,
};

/// Names every path with the smallest role that may use it. Everything else about a path stands at its handler.
pub(crate) fn map() -> Map {
    Map::default()
        .public("/health/liveness", routes!(health::liveness))
        .public("/health/readiness", routes!(health::readiness))
        .public("/health/metrics", routes!(health::metrics))
        .public("/health/status", routes!(health::status))
        .public("/health/components", routes!(health::components))
        .public("/health/components/{service}/{component}", routes!(health::component))
        .public("/monitoring/unified/health", routes!(monitoring::unified_health))
        .public("/dashboard", routes!(dashboard::page))
        .public("/docs", routes!(docs::page))
        .public("/openapi.json", routes!(docs::document))
        .viewer("/monitoring/unified/metrics", routes!(monitoring::unified_metrics))
        .viewer("/monitoring/unified/alerts", routes!(monitoring::alerts))
        .operator("/monitoring/unified/acknowledge-alert", routes!(monitoring::acknowledge))
        .viewer("/monitoring/live", routes!(live::events))
        .viewer("/monitoring/history", routes!(monitoring::history))
        .viewer("/monitoring/websocket/connections", routes!(realtime::connections))
        .viewer("/cache/stats", routes!(cache::stats))
        .viewer("/cache/{namespace}/{key}", routes!(cache::get))
        .operator("/cache/{namespace}/{key}", routes!(cache::put, cache::delete))
        .operator("/cache/{namespace}/invalidate", routes!(invalidation::invalidate))
        .viewer("/monitoring/cache/invalidation-metrics", routes!(invalidation::metrics))
        .viewer("/monitoring/cache/key-stats", routes!(invalidation::key_stats))
        .viewer("/database/info", routes!(database::info))
        .viewer("/database/replica/health", routes!(database::health))
        .viewer("/database/replica/stats", routes!(database::stats))
        .viewer("/database/replica/lag", routes!(database::lag))
        .viewer("/database/replica/pool-stats", routes!(database::pool_stats))
        .viewer("/database/query", routes!(database::query))
        .admin("/database/execute", routes!(database::execute))
        .viewer("/realtime/channels", routes!(realtime::channels))
        .viewer("/realtime/channels/{channel}/presence", routes!(channels::presence))
        .viewer("/realtime/channels/{channel}/history", routes!(channels::history))
        .operator("/realtime/users/{user}/subscribe", routes!(channels::subscribe))
        .operator("/realtime/users/{user}/unsubscribe", routes!(channels::unsubscribe))
        .viewer("/realtime/endpoint", routes!(realtime::endpoint))
        .operator("/realtime/publish", routes!(realtime::publish))
        .operator("/realtime/broadcast", routes!(realtime::broadcast))
        .operator("/realtime/users/{user}/disconnect", routes!(realtime::disconnect))
}
