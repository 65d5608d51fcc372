//! Writes the OpenAPI document: what handlers say about themselves, with what the door adds to all of them.

use std::collections::BTreeMap;

use mainstay_auth::Role;
use serde_json::{Map, Value, json};
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{PathItem, RefOr};

use crate::error;
use crate::middleware::idempotency::KEY;

/// One documented path.
pub(crate) struct Operation {
    /// Where the router has it.
    pub(crate) path: &'static str,
    /// Where its handler says that it is.
    pub(crate) documented: String,
    pub(crate) role: Option<Role>,
    pub(crate) item: PathItem,
}

/// The version that today's validators and generators read; nothing here needs a later one.
const OPENAPI: &str = "3.1.0";
const ABOUT: &str = "The one REST door of Mainstay. Errors are problem+json (RFC 9457); every answer carries \
                     `x-request-id` and `traceparent`. Roles grow: viewer < operator < admin.";

/// Puts the document together.
pub(crate) fn document(operations: Vec<Operation>, schemas: BTreeMap<String, RefOr<Schema>>) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations {
        assert_eq!(operation.path, operation.documented, "a handler documents another path than it has");
        let entry = paths.entry(operation.path).or_insert_with(|| json!({}));
        let Ok(Value::Object(item)) = serde_json::to_value(&operation.item) else {
            unreachable!("path items always serialize, as objects");
        };
        for (method, mut described) in item {
            described["operationId"] = json!(operation_id(&method, operation.path));
            if method == "post" && operation.role > Some(Role::Viewer) {
                done_once(&mut described);
            }
            complete(&mut described, operation.path, operation.role);
            entry[method] = described;
        }
    }
    // By name: a new path then adds lines in one place of the document.
    paths.sort_keys();
    let written = |(name, schema): (String, RefOr<Schema>)| {
        (name, serde_json::to_value(&schema).expect("schemas always serialize"))
    };
    let mut schemas: Map<String, Value> = schemas.into_iter().map(written).collect();
    schemas.insert("Problem".to_owned(), error::schema());
    json!({
        "openapi": OPENAPI,
        "info": { "title": "Mainstay", "version": env!("CARGO_PKG_VERSION"), "description": ABOUT, "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" } },
        "servers": [{ "url": "/" }],
        "tags": [
            { "name": "health", "description": "Public; outside authentication, limits and load shedding." },
            { "name": "monitoring", "description": "The unified view: figures, alerts, history." },
            { "name": "cache", "description": "Values by namespace and key." },
            { "name": "sessions", "description": "Sessions of users: begin, read, change, end." },
            { "name": "coordination", "description": "What all nodes share: rate limits, locks, counters." },
            { "name": "database", "description": "SQL, and the PostgreSQL nodes." },
            { "name": "realtime", "description": "Publishing, and who listens." },
            { "name": "access", "description": "Who may come in, and what was changed." },
            { "name": "pages", "description": "Pages for people, and this document." },
        ],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "apiKey": { "type": "apiKey", "in": "header", "name": "x-api-key" },
                "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
            },
        },
    })
}

/// Names an operation after its method and path: handlers of different resources share their names.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(|byte: char| !byte.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.fold(method.to_owned(), |name, word| name + "_" + word)
}

/// Adds what the door does for requests that act.
fn done_once(operation: &mut Value) {
    let parameter = json!({
        "name": KEY, "in": "header", "required": false, "schema": { "type": "string", "pattern": "^[!-~]{1,128}$" },
        "description": "the request is done once; sent again with the same key it gets the answer of the first",
    });
    match operation["parameters"].as_array_mut() {
        Some(parameters) => parameters.push(parameter),
        None => operation["parameters"] = json!([parameter]),
    }
    if let Some(responses) = operation["responses"].as_object_mut() {
        responses.entry("409").or_insert_with(|| json!({ "description": "the idempotency key is taken" }));
    }
}

/// Adds what the door does around every handler: credentials, limits, deadlines, problem bodies.
fn complete(operation: &mut Value, path: &str, role: Option<Role>) {
    let health = path.starts_with("/health/");
    let has_input = operation.get("parameters").is_some();
    let body = operation.get("requestBody").map(|body| body["content"].get("application/json").is_some());

    let mut problems: Vec<(u16, &str)> = vec![(500, "a mistake of ours; `requestId` finds it in the log")];
    if has_input || body.is_some() {
        problems.push((400, "something in the request is wrong; `errors` names every field"));
    }
    if let Some(is_json) = body {
        problems.push((413, "the body is too large"));
        if is_json {
            problems.push((415, "the body is not JSON"));
        }
    }
    if !health {
        problems.push((503, "what is behind this path does not answer, or too many requests are under way"));
        problems.push((504, "no answer in time"));
    }
    if let Some(role) = role {
        problems.push((401, "credentials are missing, or not good"));
        problems.push((403, "the role of the credentials is too low, or their scopes do not name this"));
        problems
            .push((429, "too many requests with these credentials; `retry-after` says when to come back"));
        operation["security"] = json!([{ "apiKey": [] }, { "bearer": [] }]);
        operation["x-mainstay-role"] = json!(role);
    } else {
        operation["security"] = json!([]);
        operation["x-mainstay-role"] = json!("public");
    }
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    for (status, description) in problems {
        responses.entry(status.to_string()).or_insert_with(|| json!({ "description": description }));
    }
    for (status, response) in responses.iter_mut() {
        if status.as_str() >= "400" && response.get("content").is_none() {
            response["content"] = json!({
                (error::MEDIA_TYPE): { "schema": { "$ref": "#/components/schemas/Problem" } },
            });
        }
    }
    responses.sort_keys();
}

#[cfg(test)]
mod tests {
    use crate::router::map;

    #[test]
    fn document_names_every_path_with_its_role_and_answers() {
        insta::assert_json_snapshot!("openapi", map().take_document());
    }

    #[test]
    fn every_operation_has_a_summary_a_success_and_an_id_of_its_own() {
        let document = map().take_document();
        let mut ids = std::collections::BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let name = format!("{method} {path}");
                assert!(operation["summary"].is_string(), "{name} has no summary");
                assert!(operation["responses"]["200"].is_object(), "{name} has no success");
                assert!(ids.insert(operation["operationId"].to_string()), "{name}: its id is taken");
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let in_path = path.contains(&format!("{{{}}}", parameter["name"].as_str().unwrap()));
                    assert_eq!(parameter["in"] == "path", in_path, "{name}: {}", parameter["name"]);
                }
            }
        }
        assert!(ids.len() > 25, "{ids:?}");
    }
}
