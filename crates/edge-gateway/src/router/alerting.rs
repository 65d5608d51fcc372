//! Alert configuration, what happened to alerts, and internal errors.

use utoipa_axum::routes;

use crate::map::Map;
use crate::routes::alerting;

pub(super) fn paths(map: Map) -> Map {
    map.viewer("/monitoring/errors", routes!(alerting::errors))
        .viewer("/monitoring/errors/{fingerprint}", routes!(alerting::error_group))
        .viewer("/monitoring/alerts/audit", routes!(alerting::audit))
        .viewer("/monitoring/alerts/rules", routes!(alerting::rules))
        .viewer("/monitoring/alerts/rules/{name}", routes!(alerting::rule))
        .admin("/monitoring/alerts/rules/{name}", routes!(alerting::put_rule, alerting::delete_rule))
        .viewer("/monitoring/alerts/silences", routes!(alerting::silences))
        .operator("/monitoring/alerts/silences", routes!(alerting::create_silence))
        .operator("/monitoring/alerts/silences/{id}", routes!(alerting::delete_silence))
        .viewer("/monitoring/alerts/channels", routes!(alerting::channels))
        .operator("/monitoring/alerts/channels/{name}/test", routes!(alerting::test_channel))
}
