//! Web manners around every path: what browsers of other origins may do, compression, headers that keep browsers safe.

use std::time::Duration;

use axum::response::Response;
use http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_MATCH,
    IF_NONE_MATCH, REFERRER_POLICY, RETRY_AFTER, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tower_http::compression::predicate::{Predicate, SizeAbove};
use tower_http::compression::{CompressionLayer, CompressionLevel};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::config::HttpConfig;

const fn named(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

/// What the scripts of other origins may send, beside what they always may.
const SENT: [HeaderName; 12] = [
    ACCEPT,
    AUTHORIZATION,
    CONTENT_TYPE,
    IF_MATCH,
    IF_NONE_MATCH,
    named("x-api-key"),
    named("x-cache-ttl"),
    named("x-cache-tags"),
    named("x-request-id"),
    named("traceparent"),
    named("last-event-id"),
    named("idempotency-key"),
];
/// What they may read, beside what they always may.
const READ: [HeaderName; 9] = [
    ETAG,
    RETRY_AFTER,
    named("x-request-id"),
    named("traceparent"),
    named("x-cache"),
    named("x-cache-ttl"),
    named("x-mainstay-completeness"),
    named("ratelimit"),
    named("ratelimit-policy"),
];
/// Smaller bodies gain nothing.
const SMALLEST_COMPRESSED_BYTES: u64 = 512;
/// For everything that is not a page: a browser that shows it as one must run nothing of it.
const NO_PAGE: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// Lets the configured origins in; none unless configured.
pub(crate) fn cors(config: &HttpConfig) -> CorsLayer {
    let origins = &config.cors.allowed_origins;
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(SENT)
        .expose_headers(READ)
        .max_age(config.cors.max_age)
}

/// Compresses what gains from it.
pub(crate) fn compression(config: &HttpConfig) -> CompressionLayer<Compressed> {
    let gains = Compressed { wanted: config.compress, large: SizeAbove::new(SMALLEST_COMPRESSED_BYTES) };
    CompressionLayer::new().quality(CompressionLevel::Default).compress_when(gains)
}

/// Says which answers are compressed: text that is whole. An event must leave at once, and the bytes of a value must stay
/// those that its strong entity tag names.
#[derive(Clone, Debug)]
pub(crate) struct Compressed {
    wanted: bool,
    large: SizeAbove,
}

impl Predicate for Compressed {
    fn should_compress<B: http_body::Body>(&self, response: &http::Response<B>) -> bool {
        let headers = response.headers();
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        // Also the JSON of problems and of health, which have media types of their own.
        let is_json = kind.starts_with("application/json") || kind.contains("+json");
        let is_text =
            is_json || kind.starts_with("text/") || kind.starts_with("application/openmetrics-text");
        let is_stream = kind.starts_with("text/event-stream");
        let is_tagged = headers.get(ETAG).is_some_and(|tag| !tag.as_bytes().starts_with(b"W/"));
        self.wanted && is_text && !is_stream && !is_tagged && self.large.should_compress(response)
    }
}

/// Adds what keeps browsers safe; pages have said more themselves already.
pub(super) fn guard(response: &mut Response, hsts: Option<Duration>) {
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(named("cross-origin-resource-policy"), HeaderValue::from_static("same-origin"));
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(NO_PAGE);
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Some(hsts) = hsts {
        let text = format!("max-age={}; includeSubDomains", hsts.as_secs());
        headers.insert(
            STRICT_TRANSPORT_SECURITY,
            HeaderValue::try_from(text).expect("words and digits are a header value"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_text_without_a_strong_tag_is_compressed() {
        let config = HttpConfig::default();
        let gains = Compressed { wanted: config.compress, large: SizeAbove::new(SMALLEST_COMPRESSED_BYTES) };
        let answer = |kind: &str, tag: Option<&str>, len_bytes: usize| {
            let mut answer =
                http::Response::new(http_body_util::Full::new(bytes::Bytes::from(vec![b' '; len_bytes])));
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_str(kind).unwrap());
            if let Some(tag) = tag {
                answer.headers_mut().insert(ETAG, HeaderValue::from_str(tag).unwrap());
            }
            gains.should_compress(&answer)
        };
        assert!(
            answer("application/json", None, 4_000)
                && answer("text/html; charset=utf-8", Some("W/\"1\""), 4_000)
        );
        assert!(!answer("application/json", None, 100), "too small to gain");
        assert!(!answer("text/event-stream", None, 4_000), "events must leave at once");
        assert!(!answer("application/json", Some("\"7\""), 4_000), "a value keeps its bytes");
        assert!(!answer("application/octet-stream", None, 4_000) && !answer("image/png", None, 4_000));
    }
}
