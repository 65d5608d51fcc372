//! Values by namespace and key.

use utoipa_axum::routes;

use crate::map::Map;
use crate::routes::{batch, cache, cache_monitor, invalidation, policies, warming, write_behind};

pub(super) fn paths(map: Map) -> Map {
    map.viewer("/cache/stats", routes!(cache::stats))
        .viewer("/cache/health", routes!(cache_monitor::health))
        .viewer("/cache/namespaces", routes!(policies::list))
        .viewer("/cache/namespaces/{namespace}", routes!(policies::get))
        .admin("/cache/namespaces/{namespace}", routes!(policies::put))
        .viewer("/cache/namespaces/{namespace}/history", routes!(policies::history))
        .operator("/cache/{namespace}/batch", routes!(batch::batch))
        .viewer("/cache/{namespace}/warm", routes!(warming::status))
        .operator("/cache/{namespace}/warm", routes!(warming::start, warming::cancel))
        .viewer("/cache/{namespace}/{key}", routes!(cache::get))
        .operator("/cache/{namespace}/{key}", routes!(cache::put, cache::delete))
        .operator("/cache/{namespace}/invalidate", routes!(invalidation::invalidate))
        .viewer("/cache/write-behind", routes!(write_behind::queues))
        .viewer("/cache/write-behind/{namespace}/dead-letters", routes!(write_behind::dead_letters))
        .operator("/cache/write-behind/{namespace}/replay", routes!(write_behind::replay))
        .admin("/cache/write-behind/{namespace}/drop", routes!(write_behind::drop_dead))
}
