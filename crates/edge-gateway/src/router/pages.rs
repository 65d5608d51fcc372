//! Pages for people, and the document.

use utoipa_axum::routes;

use crate::map::Map;
use crate::routes::{dashboard, docs};

pub(super) fn paths(map: Map) -> Map {
    map.public("/dashboard", routes!(dashboard::page))
        .public("/dashboard/assets/{file}", routes!(dashboard::asset))
        .public("/docs", routes!(docs::page))
        .public("/openapi.json", routes!(docs::document))
}
