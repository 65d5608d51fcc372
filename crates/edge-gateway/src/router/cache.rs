//! Values by namespace and key.

use utoipa_axum::routes;

use crate::map::Map;
use crate::routes::{batch, cache, cache_monitor, invalidation, policies};

pub(super) fn paths(map: Map) -> Map {
    map.viewer("/cache/stats", routes!(cache::stats))
        .viewer("/cache/health", routes!(cache_monitor::health))
        .viewer("/cache/namespaces", routes!(policies::list))
        .viewer("/cache/namespaces/{namespace}", routes!(policies::get))
        .admin("/cache/namespaces/{namespace}", routes!(policies::put))
        .viewer("/cache/namespaces/{namespace}/history", routes!(policies::history))
        .operator("/cache/{namespace}/batch", routes!(batch::batch))
        .viewer("/cache/{namespace}/{key}", routes!(cache::get))
        .operator("/cache/{namespace}/{key}", routes!(cache::put, cache::delete))
        .operator("/cache/{namespace}/invalidate", routes!(invalidation::invalidate))
}
