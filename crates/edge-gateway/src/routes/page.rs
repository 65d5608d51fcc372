//! Pages and what they load, all part of the binary.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::etag;

/// What a page may do: it brings all it needs, nothing may be loaded from anywhere else.
#[derive(Clone, Copy)]
pub(super) enum Policy {
    /// Style and script stand in the page.
    Inline,
    /// Style and script are assets of this door.
    Assets,
}

impl Policy {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Inline => {
                "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                 img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            }
            Self::Assets => {
                "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; \
                 base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            }
        }
    }
}

/// Bytes that do not change while the process lives, with an entity tag: a browser that has them need not fetch them
/// again. The tag is weak, since the bytes may be sent compressed.
pub(crate) struct Page {
    body: Bytes,
    kind: &'static str,
    policy: Policy,
    etag: HeaderValue,
}

impl Page {
    pub(super) fn html(text: impl Into<Bytes>, policy: Policy) -> Self {
        Self::new(text.into(), "text/html; charset=utf-8", policy)
    }

    pub(super) fn json(body: Bytes) -> Self {
        Self::new(body, "application/json", Policy::Inline)
    }

    fn new(body: Bytes, kind: &'static str, policy: Policy) -> Self {
        let etag = HeaderValue::try_from(format!("W/\"{}\"", digest(&body)));
        Self { body, kind, policy, etag: etag.expect("hex digits and quotes are a header value") }
    }

    /// Sends the page, or says that the client already has it.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response {
        // A browser takes the headers of a 304 over into what it has kept: what the page may do belongs to them.
        let common = [
            (ETAG, self.etag.clone()),
            (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (CONTENT_SECURITY_POLICY, HeaderValue::from_static(self.policy.as_str())),
        ];
        if headers.get(IF_NONE_MATCH).is_some_and(|known| etag::matches(known, &self.etag)) {
            return (StatusCode::NOT_MODIFIED, common).into_response();
        }
        (common, [(CONTENT_TYPE, self.kind)], self.body.clone()).into_response()
    }
}

/// A file that a page loads. Its content is in its name, so that whoever has it once never asks again.
pub(super) struct Asset {
    body: &'static str,
    kind: &'static str,
}

impl Asset {
    pub(super) fn new(name: &str, body: &'static str) -> Self {
        let kind =
            if name.ends_with(".css") { "text/css; charset=utf-8" } else { "text/javascript; charset=utf-8" };
        Self { body, kind }
    }

    /// Gives the name under which it is served: `app.js` becomes `app-0123456789abcdef.js`.
    pub(super) fn hashed(&self, name: &str) -> String {
        let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
        format!("{stem}-{}.{extension}", digest(self.body.as_bytes()))
    }

    pub(super) fn answer(&self) -> Response {
        let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
        ([(CACHE_CONTROL, forever)], [(CONTENT_TYPE, self.kind)], self.body).into_response()
    }
}

/// The same for the same bytes in every process of this build.
fn digest(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
