//! Health: public, outside limits and load shedding.

use utoipa_axum::routes;

use crate::map::Map;
use crate::routes::health;

pub(super) fn paths(map: Map) -> Map {
    map.public("/health/liveness", routes!(health::liveness))
        .public("/health/readiness", routes!(health::readiness))
        .public("/health/metrics", routes!(health::metrics))
        .public("/health/status", routes!(health::status))
        .public("/health/components", routes!(health::components))
        .public("/health/components/{service}/{component}", routes!(health::component))
}
