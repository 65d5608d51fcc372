//! What history tells when it is looked at.

use utoipa_axum::routes;

use crate::map::Map;
use crate::routes::analysis;

pub(super) fn paths(map: Map) -> Map {
    map.viewer("/monitoring/trends", routes!(analysis::trends))
        .viewer("/monitoring/forecasts", routes!(analysis::forecasts))
        .viewer("/monitoring/anomalies", routes!(analysis::anomalies))
        .viewer("/monitoring/performance/endpoints", routes!(analysis::endpoints))
        .viewer("/monitoring/performance/bottlenecks", routes!(analysis::bottlenecks))
        .viewer("/monitoring/slos", routes!(analysis::slos))
}
