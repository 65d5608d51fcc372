//! Requests that act are done once, however often they are sent (draft-ietf-httpapi-idempotency-key-header).
//!
//! The claim and, later, the answer are entries of the cache, so that all edges know them. A claim is a conditional write,
//! which the cache never confirms without having it.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use mainstay_auth::{Principal, Role};
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::{DeleteRequest, GetRequest, SetRequest};
use mainstay_rpc::{Call, Failure, Lane};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::Problem;
use crate::routes::words::wire_duration;
use crate::state::App;

pub(crate) const KEY: &str = "idempotency-key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Longest key, in bytes; a UUID has 36.
const MAX_KEY_BYTES: usize = 128;
/// Largest answer that is kept; a larger one leaves its claim to run out, so that a repetition is refused for so long.
const MAX_ANSWER_BYTES: usize = 256 << 10;

const GET: &str = "mainstay.cache.v1.CacheService/Get";
const SET: &str = "mainstay.cache.v1.CacheService/Set";
const DELETE: &str = "mainstay.cache.v1.CacheService/Delete";

/// Where claims and answers are kept, and for how long.
#[derive(Clone, Debug)]
pub(crate) struct Once {
    pub(crate) namespace: String,
    pub(crate) keep: Duration,
    /// How long a claim without an answer holds: whoever made it may have died.
    pub(crate) claim: Duration,
}

/// What is kept of a request.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Of the body: the same key must not come with another request.
    fingerprint: String,
    /// Absent while the request is under way.
    answer: Option<KeptAnswer>,
}

#[derive(Serialize, Deserialize)]
struct KeptAnswer {
    status: u16,
    content_type: String,
    body: String,
}

/// Runs a request, or gives the answer of the one before it with the same key. Without a key, and for requests that only
/// read, it is not in the way.
pub(super) async fn once(
    app: &App,
    principal: &Principal,
    role: Role,
    request: Request,
    next: Next,
) -> Response {
    let key = request.headers().get(KEY).filter(|_| request.method() == Method::POST && role > Role::Viewer);
    let Some(key) = key.cloned() else { return next.run(request).await };
    // Rare, and its state is large: it shall not make that of every request so.
    match Box::pin(run(app, principal, &key, request, next)).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn run(
    app: &App,
    principal: &Principal,
    key: &HeaderValue,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if !is_legal(key) {
        let form = "must be 1 to 128 printable ASCII characters, best a UUID";
        return Err(Problem::invalid(KEY, form));
    }
    let path = request.uri().path().to_owned();
    let place = digest(&[
        principal.method.as_str().as_bytes(),
        principal.subject.as_bytes(),
        path.as_bytes(),
        key.as_bytes(),
    ]);
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, app.max_body_bytes)
        .await
        .map_err(|_| Problem::for_bare_status(StatusCode::PAYLOAD_TOO_LARGE))?;
    let fingerprint = digest(&[&body]);

    match claim(app, &place, &fingerprint).await {
        Ok(()) => {}
        Err(failure) if failure.reason() == "VERSION_MISMATCH" => {
            return replay(app, &place, &fingerprint).await;
        }
        Err(failure) => return Err(unavailable(&failure)),
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    Ok(settle(app, &place, fingerprint, response).await)
}

fn is_legal(key: &HeaderValue) -> bool {
    (1..=MAX_KEY_BYTES).contains(&key.len()) && key.as_bytes().iter().all(|byte| (0x21..=0x7e).contains(byte))
}

/// Ends of parts are marked by their lengths, so that no two lists of parts look the same.
fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize())
}

async fn claim(app: &App, place: &str, fingerprint: &str) -> Result<(), Failure> {
    let kept = Kept { fingerprint: fingerprint.to_owned(), answer: None };
    set(app, place, &kept, app.once.claim, Some(0)).await
}

async fn set(
    app: &App,
    place: &str,
    kept: &Kept,
    ttl: Duration,
    if_version: Option<u64>,
) -> Result<(), Failure> {
    let request = SetRequest {
        namespace: app.once.namespace.clone(),
        key: place.to_owned(),
        value: serde_json::to_vec(kept).expect("text and numbers always serialize").into(),
        ttl: Some(wire_duration(ttl)),
        if_version,
        ..SetRequest::default()
    };
    let send = async |mut client: CacheServiceClient<Lane>, request| client.set(request).await;
    app.upstreams.cache(Call::write(SET), request, send).await.map(|_| ())
}

/// Gives the answer that was given before.
async fn replay(app: &App, place: &str, fingerprint: &str) -> Result<Response, Problem> {
    let request =
        GetRequest { namespace: app.once.namespace.clone(), key: place.to_owned(), ..GetRequest::default() };
    let send = async |mut client: CacheServiceClient<Lane>, request| client.get(request).await;
    let found =
        app.upstreams.cache(Call::read(GET), request, send).await.map_err(|failure| unavailable(&failure))?;
    let kept = found.entry.and_then(|entry| serde_json::from_slice::<Kept>(&entry.value).ok());
    let conflict = |code, detail: &str| Problem::new(StatusCode::CONFLICT, code, detail);
    match kept {
        Some(kept) if kept.fingerprint != fingerprint => Err(conflict(
            "IDEMPOTENCY_KEY_REUSED",
            "this key came with another body before; take a new key for a new request",
        )),
        Some(Kept { answer: Some(answer), .. }) => {
            let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
            let kind = HeaderValue::try_from(answer.content_type);
            let kind = kind.unwrap_or(HeaderValue::from_static("application/json"));
            let replayed = (REPLAYED, HeaderValue::from_static("true"));
            Ok((status, [(CONTENT_TYPE, kind), replayed], answer.body).into_response())
        }
        _ => {
            let detail = "the request with this key is under way, or ended without anybody knowing how";
            Err(conflict("IDEMPOTENCY_KEY_IN_USE", detail).retry_after(Duration::from_secs(1)))
        }
    }
}

/// Keeps a success for later. What was refused did nothing: its key is free again. Where nobody knows what happened the
/// claim stays until it runs out.
async fn settle(app: &App, place: &str, fingerprint: String, response: Response) -> Response {
    let status = response.status();
    if status.is_client_error() || status == StatusCode::SERVICE_UNAVAILABLE {
        let request = DeleteRequest {
            namespace: app.once.namespace.clone(),
            key: place.to_owned(),
            ..DeleteRequest::default()
        };
        let send = async |mut client: CacheServiceClient<Lane>, request| client.delete(request).await;
        if let Err(failure) = app.upstreams.cache(Call::write(DELETE), request, send).await {
            tracing::warn!(error = %failure, "an idempotency key stays taken until its claim runs out");
        }
        return response;
    }
    // What must not be kept anywhere, like the secret of a new API key, cannot be given again: a repetition is refused until
    // the claim runs out.
    let is_unkept = response.headers().get(CACHE_CONTROL).is_some_and(|value| value == "no-store");
    if !status.is_success() || is_unkept {
        return response;
    }
    let (parts, body) = response.into_parts();
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return Problem::for_bare_status(StatusCode::INTERNAL_SERVER_ERROR).into_response();
    };
    if let Some(answer) = KeptAnswer::of(&parts, &body) {
        let kept = Kept { fingerprint, answer: Some(answer) };
        if let Err(failure) = set(app, place, &kept, app.once.keep, None).await {
            tracing::warn!(error = %failure, "an answer could not be kept: its repetition will be refused");
        }
    }
    Response::from_parts(parts, Body::from(body))
}

impl KeptAnswer {
    fn of(parts: &http::response::Parts, body: &Bytes) -> Option<Self> {
        let text = std::str::from_utf8(body).ok().filter(|text| text.len() <= MAX_ANSWER_BYTES)?;
        let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        Some(Self { status: parts.status.as_u16(), content_type: kind.to_owned(), body: text.to_owned() })
    }
}

/// Without its memory the promise cannot be kept, so nothing is done.
fn unavailable(failure: &Failure) -> Problem {
    let detail =
        format!("the request was not begun, since its key cannot be remembered now: {}", failure.message());
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "IDEMPOTENCY_UNAVAILABLE", detail)
        .retry_after(failure.retry_delay().unwrap_or(Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_short_and_printable() {
        let long = "x".repeat(129);
        for (key, good) in [
            ("8e03978e-40d5-43dd-bc93-6894a57f9324", true),
            ("a", true),
            ("", false),
            ("a b", false),
            (long.as_str(), false),
        ] {
            assert_eq!(is_legal(&HeaderValue::from_str(key).unwrap()), good, "{key:?}");
        }
        assert!(!is_legal(&HeaderValue::from_bytes(b"\xe4").unwrap()));
    }

    #[test]
    fn parts_cannot_be_shifted_into_each_other() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
        assert_ne!(digest(&[b"", b"a"]), digest(&[b"a", b""]));
        assert_eq!(digest(&[b"ab"]), digest(&[b"ab"]));
    }
}
