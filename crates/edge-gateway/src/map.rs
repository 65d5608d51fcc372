//! Turns the URL map into two things that therefore cannot differ: the router and the OpenAPI document.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use mainstay_auth::Role;
use utoipa_axum::router::UtoipaMethodRouter;

use crate::config::HttpConfig;
use crate::middleware::authorize::{Gate, authorize};
use crate::middleware::envelope::envelope;
use crate::middleware::web;
use crate::openapi::{self, Operation};
use crate::state::App;

type Handlers = UtoipaMethodRouter<Arc<App>>;

/// All paths, in the order in which they are named.
#[derive(Default)]
pub(crate) struct Map(Vec<Door>);

struct Door {
    path: &'static str,
    role: Option<Role>,
    handlers: Handlers,
}

impl Map {
    /// Adds a path that needs no credentials.
    pub(crate) fn public(self, path: &'static str, handlers: Handlers) -> Self {
        self.with(path, None, handlers)
    }

    pub(crate) fn viewer(self, path: &'static str, handlers: Handlers) -> Self {
        self.with(path, Some(Role::Viewer), handlers)
    }

    pub(crate) fn operator(self, path: &'static str, handlers: Handlers) -> Self {
        self.with(path, Some(Role::Operator), handlers)
    }

    pub(crate) fn admin(self, path: &'static str, handlers: Handlers) -> Self {
        self.with(path, Some(Role::Admin), handlers)
    }

    fn with(mut self, path: &'static str, role: Option<Role>, handlers: Handlers) -> Self {
        self.0.push(Door { path, role, handlers });
        self
    }

    /// Names every path.
    pub(crate) fn paths(&self) -> HashSet<&'static str> {
        self.0.iter().map(|door| door.path).collect()
    }

    /// Names every path with the smallest role that may use it.
    #[cfg(test)]
    pub(crate) fn roles(&self) -> Vec<(&'static str, Option<Role>)> {
        self.0.iter().map(|door| (door.path, door.role)).collect()
    }

    /// Writes the OpenAPI document of these paths.
    pub(crate) fn document(&self) -> serde_json::Value {
        let mut operations = Vec::new();
        let mut schemas = Vec::new();
        for Door { path, role, handlers: (of_door, paths, _) } in &self.0 {
            schemas.extend(of_door.iter().cloned());
            for (documented, item) in &paths.paths {
                operations.push(Operation {
                    path,
                    documented: documented.clone(),
                    role: *role,
                    item: item.clone(),
                });
            }
        }
        openapi::document(operations, schemas)
    }

    /// Builds the REST door. Health stands outside authentication, limits and load shedding.
    pub(crate) fn router(self, app: Arc<App>, http: &HttpConfig) -> Router {
        let mut router = Router::new();
        for Door { path, role, handlers: (_, _, handlers) } in self.0 {
            let gated = match role {
                None => handlers,
                Some(role) => {
                    let gate = Gate { app: Arc::clone(&app), role };
                    handlers.route_layer(from_fn_with_state(gate, authorize))
                }
            };
            router = router.route(path, gated);
        }
        router
            .layer(DefaultBodyLimit::max(app.max_body_bytes))
            .layer(web::cors(http))
            .layer(from_fn_with_state(Arc::clone(&app), envelope))
            .layer(web::compression(http))
            .with_state(app)
    }
}
