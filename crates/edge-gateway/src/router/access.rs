//! Who may come in, and what was changed.

use utoipa_axum::routes;

use crate::map::Map;
use crate::routes::{audit, keys};

pub(super) fn paths(map: Map) -> Map {
    map.admin("/api-keys", routes!(keys::list, keys::create))
        .admin("/api-keys/{name}", routes!(keys::revoke))
        .admin("/api-keys/{name}/rotate", routes!(keys::rotate))
        .admin("/audit", routes!(audit::list))
}
