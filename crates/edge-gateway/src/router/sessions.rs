//! Sessions of users.

use utoipa_axum::routes;

use crate::map::Map;
use crate::routes::sessions;

pub(super) fn paths(map: Map) -> Map {
    map.operator("/sessions", routes!(sessions::create))
        .viewer("/sessions/{id}", routes!(sessions::get))
        .operator("/sessions/{id}", routes!(sessions::update, sessions::revoke))
        .operator("/sessions/{id}/touch", routes!(sessions::touch))
        .operator("/sessions/{id}/rotate", routes!(sessions::rotate))
        .viewer("/users/{user}/sessions", routes!(sessions::list))
        .operator("/users/{user}/sessions", routes!(sessions::revoke_user))
}
