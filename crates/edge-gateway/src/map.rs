//! Turns the URL map into two things that therefore cannot differ: the router and the OpenAPI document.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::MethodRouter;
use mainstay_auth::Role;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
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
pub(crate) struct Map {
    doors: Vec<Door>,
    operations: Vec<Operation>,
    /// Every handler brings all that it refers to: most come many times, and are kept once.
    schemas: BTreeMap<String, RefOr<Schema>>,
}

struct Door {
    path: &'static str,
    role: Option<Role>,
    handlers: MethodRouter<Arc<App>>,
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
        let (schemas, documented, handlers) = handlers;
        self.schemas.extend(schemas);
        let operations = documented.paths.into_iter();
        self.operations.extend(operations.map(|(documented, item)| Operation {
            path,
            documented,
            role,
            item,
        }));
        self.doors.push(Door { path, role, handlers });
        self
    }

    /// Names every path.
    pub(crate) fn paths(&self) -> HashSet<&'static str> {
        self.doors.iter().map(|door| door.path).collect()
    }

    /// Names every path with the smallest role that may use it.
    #[cfg(test)]
    pub(crate) fn roles(&self) -> Vec<(&'static str, Option<Role>)> {
        self.doors.iter().map(|door| (door.path, door.role)).collect()
    }

    /// Writes the OpenAPI document of these paths, which forget what they said of themselves.
    pub(crate) fn take_document(&mut self) -> serde_json::Value {
        openapi::document(std::mem::take(&mut self.operations), std::mem::take(&mut self.schemas))
    }

    /// Builds the REST door. Health stands outside authentication, limits and load shedding.
    pub(crate) fn router(self, app: Arc<App>, http: &HttpConfig) -> Router {
        let mut router = Router::new();
        for Door { path, role, handlers } in self.doors {
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
