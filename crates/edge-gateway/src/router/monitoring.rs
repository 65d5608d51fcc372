//! The unified view.

use utoipa_axum::routes;

use crate::map::Map;
use crate::routes::{
    cache_monitor, crowd, glance, invalidation, journeys, live, monitoring, realtime, system,
};

pub(super) fn paths(map: Map) -> Map {
    map.public("/monitoring/unified/health", routes!(monitoring::unified_health))
        .viewer("/monitoring/unified/metrics", routes!(monitoring::unified_metrics))
        .viewer("/monitoring/unified/alerts", routes!(monitoring::alerts))
        .operator("/monitoring/unified/acknowledge-alert", routes!(monitoring::acknowledge))
        .viewer("/monitoring/live", routes!(live::events))
        .viewer("/monitoring/dashboard", routes!(glance::dashboard))
        .viewer("/monitoring/system/metrics", routes!(system::metrics))
        .viewer("/monitoring/history", routes!(monitoring::history))
        .viewer("/monitoring/websocket/analytics", routes!(crowd::analytics))
        .viewer("/monitoring/websocket/journeys", routes!(journeys::journeys))
        .viewer("/monitoring/websocket/connections", routes!(realtime::connections))
        .viewer("/monitoring/websocket/connections/{id}", routes!(realtime::connection))
        .viewer("/monitoring/cache/invalidation-metrics", routes!(invalidation::metrics))
        .viewer("/monitoring/cache/key-stats", routes!(invalidation::key_stats))
        .operator("/monitoring/cache/reset-metrics", routes!(cache_monitor::reset))
}
