//! The dashboard, embedded in the binary.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};

use super::page::{Asset, Page, Policy};
use crate::error::Problem;
use crate::state::App;

const PAGE: &str = include_str!("../../assets/dashboard/index.html");
/// What the page loads, under the names that it calls it by: `{{app.js}}`.
const ASSETS: [(&str, &str); 11] = [
    ("style.css", include_str!("../../assets/dashboard/style.css")),
    ("uplot.css", include_str!("../../assets/dashboard/vendor/uplot.css")),
    ("theme.js", include_str!("../../assets/dashboard/theme.js")),
    ("uplot.js", include_str!("../../assets/dashboard/vendor/uplot.js")),
    ("core.js", include_str!("../../assets/dashboard/core.js")),
    ("charts.js", include_str!("../../assets/dashboard/charts.js")),
    ("overview.js", include_str!("../../assets/dashboard/overview.js")),
    ("views.js", include_str!("../../assets/dashboard/views.js")),
    ("alerts.js", include_str!("../../assets/dashboard/alerts.js")),
    ("insight.js", include_str!("../../assets/dashboard/insight.js")),
    ("app.js", include_str!("../../assets/dashboard/app.js")),
];

/// The page and its assets; made once, at start.
pub(crate) struct Dashboard {
    page: Page,
    assets: HashMap<String, Asset>,
}

impl Default for Dashboard {
    fn default() -> Self {
        let mut text = PAGE.to_owned();
        let mut assets = HashMap::new();
        for (name, body) in ASSETS {
            let asset = Asset::new(name, body);
            let hashed = asset.hashed(name);
            text = text.replace(&format!("{{{{{name}}}}}"), &format!("/dashboard/assets/{hashed}"));
            assets.insert(hashed, asset);
        }
        Self { page: Page::html(text, Policy::Assets), assets }
    }
}

/// Shows the state of the system to people; its figures need a key.
#[utoipa::path(get, path = "/dashboard", tag = "pages", responses((status = 200, description = "the page", body = String, content_type = "text/html")))]
pub(crate) async fn page(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    app.pages.dashboard.page.answer(&headers)
}

/// Gives a file that the dashboard loads; its name changes with its content, so it may be kept for ever.
#[utoipa::path(get, path = "/dashboard/assets/{file}", tag = "pages", params(("file" = String, Path, description = "as the page names it")), responses(
    (status = 200, description = "style or script", content((String = "text/css"), (String = "text/javascript")), headers(("cache-control" = String, description = "immutable"))),
    (status = 404, description = "this version has no such file"),
))]
pub(crate) async fn asset(
    State(app): State<Arc<App>>,
    Path(file): Path<String>,
) -> Result<Response, Problem> {
    let detail = "this version of the dashboard has no such file; load the page again";
    let missing = || Problem::new(StatusCode::NOT_FOUND, "ASSET_NOT_FOUND", detail);
    app.pages.dashboard.assets.get(&file).map(Asset::answer).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_names_every_asset_and_nothing_else() {
        let names =
            PAGE.match_indices("{{").map(|(at, _)| &PAGE[at + 2..at + PAGE[at..].find("}}").unwrap()]);
        let mut named: Vec<_> = names.collect();
        let mut known: Vec<_> = ASSETS.iter().map(|(name, _)| *name).collect();
        named.sort_unstable();
        known.sort_unstable();
        assert_eq!(named, known);
        assert_eq!(Dashboard::default().assets.len(), ASSETS.len());
    }
}
