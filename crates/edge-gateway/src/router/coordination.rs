//! What all nodes share: rate limits, locks and counters.

use utoipa_axum::routes;

use crate::map::Map;
use crate::routes::coordination;

pub(super) fn paths(map: Map) -> Map {
    map.operator("/rate-limits/check", routes!(coordination::check_rate))
        .viewer("/locks/{name}", routes!(coordination::lock))
        .operator("/locks/{name}/acquire", routes!(coordination::acquire))
        .operator("/locks/{name}/renew", routes!(coordination::renew))
        .operator("/locks/{name}/release", routes!(coordination::release))
        .viewer("/counters/{name}", routes!(coordination::counter))
        .operator("/counters/{name}", routes!(coordination::reset))
        .operator("/counters/{name}/increment", routes!(coordination::increment))
}
