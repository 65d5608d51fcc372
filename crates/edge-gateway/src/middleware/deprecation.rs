//! Says on every answer of a path that will go that it will (RFC 9745, RFC 8594).

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use http::header::LINK;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::config::DeprecationConfig;

const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// What is said, by template of the path.
#[derive(Default)]
pub(crate) struct Deprecations(HashMap<String, Vec<(HeaderName, HeaderValue)>>);

impl Deprecations {
    pub(crate) fn new(config: &BTreeMap<String, DeprecationConfig>) -> Self {
        Self(config.iter().map(|(path, one)| (path.clone(), said(one))).collect())
    }

    pub(super) fn stamp(&self, route: &str, headers: &mut HeaderMap) {
        for (name, value) in self.0.get(route).into_iter().flatten() {
            headers.append(name, value.clone());
        }
    }

    /// Marks the paths in the OpenAPI document.
    pub(crate) fn mark(&self, document: &mut Value) {
        for path in self.0.keys() {
            let operations = document["paths"][path].as_object_mut().into_iter().flatten();
            for (_, operation) in operations {
                operation["deprecated"] = json!(true);
            }
        }
    }
}

fn said(config: &DeprecationConfig) -> Vec<(HeaderName, HeaderValue)> {
    let since = config.since().and_then(|since| since.duration_since(SystemTime::UNIX_EPOCH).ok());
    let since = since.map(|since| (DEPRECATION, format!("@{}", since.as_secs())));
    let sunset = config.sunset().map(|at| (SUNSET, httpdate::fmt_http_date(at)));
    let successor = (!config.successor.is_empty())
        .then(|| (LINK, format!("<{}>; rel=\"successor-version\"", config.successor)));
    let texts = since.into_iter().chain(sunset).chain(successor);
    texts.filter_map(|(name, text)| Some((name, HeaderValue::try_from(text).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deprecations() -> Deprecations {
        let one = DeprecationConfig {
            since: "2026-01-31T00:00:00Z".to_owned(),
            sunset: "2026-11-11T23:59:59Z".to_owned(),
            successor: "/database/info".to_owned(),
        };
        Deprecations::new(&[("/database/replica/stats".to_owned(), one)].into())
    }

    #[test]
    fn only_the_path_that_will_go_says_so() {
        let mut headers = HeaderMap::new();
        deprecations().stamp("/database/info", &mut headers);
        assert!(headers.is_empty());
        deprecations().stamp("/database/replica/stats", &mut headers);
        let said = |name: &str| headers[name].to_str().unwrap().to_owned();
        assert_eq!(said("deprecation"), "@1769817600");
        assert_eq!(said("sunset"), "Wed, 11 Nov 2026 23:59:59 GMT");
        assert_eq!(said("link"), "</database/info>; rel=\"successor-version\"");
    }

    #[test]
    fn document_marks_it_too() {
        let mut document =
            json!({ "paths": { "/database/replica/stats": { "get": {} }, "/docs": { "get": {} } } });
        deprecations().mark(&mut document);
        assert_eq!(document["paths"]["/database/replica/stats"]["get"]["deprecated"], true);
        assert_eq!(document["paths"]["/docs"]["get"], json!({}));
    }
}
