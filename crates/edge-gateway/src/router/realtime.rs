//! Publishing, and who listens.

use utoipa_axum::routes;

use crate::map::Map;
use crate::routes::{channels, feeds, realtime};

pub(super) fn paths(map: Map) -> Map {
    map.viewer("/realtime/channels", routes!(realtime::channels))
        .viewer("/realtime/channels/{channel}/presence", routes!(channels::presence))
        .viewer("/realtime/channels/{channel}/history", routes!(channels::history))
        .operator("/realtime/channels/{channel}/history", routes!(channels::forget_history))
        .operator("/realtime/users/{user}/subscribe", routes!(channels::subscribe))
        .operator("/realtime/users/{user}/unsubscribe", routes!(channels::unsubscribe))
        .viewer("/realtime/feeds", routes!(feeds::list))
        .viewer("/realtime/feeds/{name}", routes!(feeds::get))
        .admin("/realtime/feeds/{name}", routes!(feeds::put, feeds::remove))
        .viewer("/realtime/endpoint", routes!(realtime::endpoint))
        .operator("/realtime/publish", routes!(realtime::publish))
        .operator("/realtime/broadcast", routes!(realtime::broadcast))
        .operator("/realtime/batch", routes!(realtime::publish_batch))
        .operator("/realtime/nodes/{node}/drain", routes!(realtime::drain))
        .operator("/realtime/users/{user}/disconnect", routes!(realtime::disconnect))
}
