//! Values by namespace and key.

use utoipa_axum::routes;

use crate::map::Map;
use crate::routes::{cache, invalidation};

pub(super) fn paths(map: Map) -> Map {
    map.viewer("/cache/stats", routes!(cache::stats))
        .viewer("/cache/{namespace}/{key}", routes!(cache::get))
        .operator("/cache/{namespace}/{key}", routes!(cache::put, cache::delete))
        .operator("/cache/{namespace}/invalidate", routes!(invalidation::invalidate))
}
