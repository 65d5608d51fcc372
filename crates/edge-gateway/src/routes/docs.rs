//! The OpenAPI document and the page that shows it, embedded in the binary.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderMap;

use super::dashboard::Dashboard;
use super::page::{Page, Policy};
use crate::state::App;

const PAGE: &str = include_str!("../../assets/docs.html");

/// The pages of the edge; made once, at start.
pub(crate) struct Pages {
    pub(super) dashboard: Dashboard,
    docs: Page,
    document: Page,
}

impl Pages {
    pub(crate) fn new(document: &serde_json::Value) -> Self {
        Self {
            dashboard: Dashboard::default(),
            docs: Page::html(PAGE, Policy::Inline),
            document: Page::json(Bytes::from(document.to_string())),
        }
    }
}

/// Shows this document to people.
#[utoipa::path(get, path = "/docs", tag = "pages", responses((status = 200, description = "the page", body = String, content_type = "text/html")))]
pub(crate) async fn page(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    app.pages.docs.answer(&headers)
}

/// Gives this document.
#[utoipa::path(get, path = "/openapi.json", tag = "pages", responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)))]
pub(crate) async fn document(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    app.pages.document.answer(&headers)
}
