//! A page that is part of the binary, with an entity tag: a browser that has it need not fetch it again.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::etag;

/// A page brings all it needs: nothing may be loaded from anywhere else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Bytes that do not change while the process lives.
pub(crate) struct Page {
    body: Bytes,
    kind: &'static str,
    etag: HeaderValue,
}

impl Page {
    pub(super) fn html(text: &'static str) -> Self {
        Self::new(Bytes::from_static(text.as_bytes()), "text/html; charset=utf-8")
    }

    pub(super) fn json(body: Bytes) -> Self {
        Self::new(body, "application/json")
    }

    fn new(body: Bytes, kind: &'static str) -> Self {
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let etag = HeaderValue::try_from(format!("\"{:016x}\"", hasher.finish()));
        Self { body, kind, etag: etag.expect("hex digits and quotes are a header value") }
    }

    /// Sends the page, or says that the client already has it.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response {
        let common = [(ETAG, self.etag.clone()), (CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
        if headers.get(IF_NONE_MATCH).is_some_and(|known| etag::matches(known, &self.etag)) {
            return (StatusCode::NOT_MODIFIED, common).into_response();
        }
        let own = [(CONTENT_TYPE, self.kind), (CONTENT_SECURITY_POLICY, POLICY)];
        (common, own, self.body.clone()).into_response()
    }
}
