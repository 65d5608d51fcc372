//! The status page, embedded in the binary.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;

use crate::state::App;

pub(super) const PAGE: &str = include_str!("../../assets/dashboard.html");

/// Shows the state of the system to people; its figures need a key.
#[utoipa::path(get, path = "/dashboard", tag = "pages", responses((status = 200, description = "the page", body = String, content_type = "text/html")))]
pub(crate) async fn page(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    app.pages.dashboard.answer(&headers)
}
