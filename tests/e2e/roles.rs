use std::collections::BTreeMap;

use bytes::Bytes;
use http::Method;
use mainstay_auth::Role;
use mainstay_tests::{Rest, shared};
use serde_json::Value;

/// Everybody who may knock, the smallest first.
const CALLERS: [Option<Role>; 4] = [None, Some(Role::Viewer), Some(Role::Operator), Some(Role::Admin)];

/// Fills a path template so that nothing that exists is touched.
fn filled(template: &str) -> String {
    let parts = template.split('/').map(|part| if part.starts_with('{') { "roles-test" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

/// Says how far a request came: stopped for want of credentials, of a role, or let in to the handler.
async fn outcome(rest: &Rest, method: &str, path: &str) -> &'static str {
    let method: Method = method.to_ascii_uppercase().parse().expect("the document names methods");
    let (status, body) = rest.head(method, path, Bytes::new()).await.expect("the edge answers");
    match status.as_u16() {
        401 => "who are you",
        403 if body["code"] == "ROLE_TOO_LOW" => "not you",
        404 if body["code"] == "PATH_NOT_FOUND" => "no such path",
        405 => "no such method",
        _ => "let in",
    }
}

#[tokio::test]
async fn every_path_lets_in_exactly_the_roles_that_the_document_names() {
    let house = shared().await;
    let document = house.anonymous().get("/openapi.json").await.ok();
    let rest = |role: Option<Role>| role.map_or_else(|| house.anonymous(), |role| house.rest(role));
    let mut per_role: BTreeMap<String, u32> = BTreeMap::new();
    for (template, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let needed = needed(operation);
            *per_role.entry(format!("{needed:?}")).or_default() += 1;
            for caller in CALLERS {
                let expected = match (needed, caller) {
                    (None, _) => "let in",
                    (Some(_), None) => "who are you",
                    (Some(needed), Some(role)) if role < needed => "not you",
                    _ => "let in",
                };
                let seen = outcome(&rest(caller), method, &filled(template)).await;
                assert_eq!(seen, expected, "{method} {template} as {caller:?}");
            }
        }
    }
    assert!(per_role.len() == 4 && per_role.values().sum::<u32>() > 28, "{per_role:?}");
}

fn needed(operation: &Value) -> Option<Role> {
    match operation["x-mainstay-role"].as_str().expect("every operation names its role") {
        "public" => None,
        role => Some(role.parse().expect("a role of ours")),
    }
}
