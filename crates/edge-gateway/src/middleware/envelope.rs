//! The outside of every request: id, span, deadline, shedding, figures, access log, problem bodies.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;
use mainstay_rpc::trace;
use tokio::time::Instant;
use tracing::Instrument as _;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::web;
use crate::error::Problem;
use crate::state::App;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Longest request id taken over from a caller, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;
/// How long a body that is too large is read without being kept.
const DISCARD_WITHIN: Duration = Duration::from_secs(1);
/// What is logged of the name of a client, in characters.
pub(super) const MAX_AGENT_CHARS: usize = 200;

/// Wraps a request from its head to its answer's head.
pub(crate) async fn envelope(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
    let outside = Outside::of(&app, &request, route.clone().into(), peer);
    request.extensions_mut().insert(RequestId(outside.request_id.clone()));
    let answer = answer(&app, &route, request, next);
    enveloped(&app, outside, answer).await
}

/// Gives an answer everything that all answers have.
pub(crate) async fn enveloped(
    app: &Arc<App>,
    outside: Outside,
    answer: impl Future<Output = Response>,
) -> Response {
    let Outside { began_at, method, path, route, request_id, visitor, .. } = &outside;
    let shown = without_secret(route, path);
    let span = outside.span(app, shown);
    app.figures.in_flight.inc();
    let guard = InFlight(Arc::clone(app));
    let (mut response, traceparent) =
        async { (finish(answer.await, path, request_id), trace::traceparent()) }
            .instrument(span.clone())
            .await;
    drop(guard);

    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    let took = began_at.elapsed();
    app.figures.answered(method, route, status.as_u16(), took);
    span.in_scope(|| {
        tracing::debug!(%method, path = shown, status = status.as_u16(), took_ms = took.as_secs_f64() * 1e3, "answered");
    });
    if let Some(Visitor { peer, agent }) = visitor {
        let subject = response.extensions().get::<Subject>().map_or("", |subject| subject.0.as_str());
        tracing::info!(
            target: "access", %method, path = shown, route = &**route, status = status.as_u16(), took_ms = took.as_secs_f64() * 1e3,
            peer, subject, agent, request_id, "request"
        );
    }
    app.deprecations.stamp(route, response.headers_mut());
    stamp(&mut response, request_id, traceparent, app.hsts);
    response
}

/// What is known of a request before anything is done with it.
pub(crate) struct Outside {
    began_at: Instant,
    method: Method,
    path: String,
    /// Template of the path.
    route: Cow<'static, str>,
    request_id: String,
    /// For the access log, where there is one.
    visitor: Option<Visitor>,
    /// What the caller says of its trace.
    parent: Option<opentelemetry::Context>,
}

impl Outside {
    pub(crate) fn of<B>(
        app: &App,
        request: &http::Request<B>,
        route: Cow<'static, str>,
        peer: Option<SocketAddr>,
    ) -> Self {
        let headers = request.headers();
        Self {
            began_at: Instant::now(),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            route,
            request_id: request_id(headers),
            visitor: app.access_log.then(|| Visitor::of(headers, peer)),
            parent: headers.contains_key(TRACEPARENT).then(|| trace::extract(headers)),
        }
    }

    /// Opens the span; where nobody records any, it is there for its ids, which go into the log.
    fn span(&self, app: &App, shown: &str) -> tracing::Span {
        let Self { method, route, request_id, .. } = self;
        let span = if app.cx.records_spans() {
            tracing::info_span!(
                "http.request",
                otel.name = format!("{method} {route}"),
                otel.kind = "server",
                otel.status_code = Empty,
                http.request.method = %method,
                http.route = &**route,
                url.path = shown,
                http.response.status_code = Empty,
                error.r#type = Empty,
                request_id,
            )
        } else {
            tracing::info_span!("http.request", request_id)
        };
        // A caller's trace goes on here; without one, or with an invalid one, a new trace begins.
        if let Some(parent) = &self.parent {
            let _ = span.set_parent(parent.clone());
        }
        span
    }
}

/// Name of a request, for whatever is said of it inside.
#[derive(Clone)]
pub(super) struct RequestId(pub(super) String);

/// Who was let in; the authorisation leaves it on the answer, for the access log.
#[derive(Clone)]
pub(super) struct Subject(pub(super) String);

/// What the access log tells of the caller beside that.
struct Visitor {
    peer: String,
    agent: String,
}

impl Visitor {
    fn of(headers: &HeaderMap, peer: Option<SocketAddr>) -> Self {
        let peer = peer.map(|peer| peer.ip().to_string());
        let agent = headers.get(http::header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let agent = agent.unwrap_or_default().chars().take(MAX_AGENT_CHARS).collect();
        Self { peer: peer.unwrap_or_default(), agent }
    }
}

/// Gives the path as it may be written down: who knows the id of a session has the session.
pub(crate) fn without_secret<'a>(route: &'a str, path: &'a str) -> &'a str {
    if route.starts_with("/sessions/") { route } else { path }
}

/// Counts a request as under way until it is dropped, also when its client goes away.
struct InFlight(Arc<App>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.figures.in_flight.dec();
    }
}

/// Lets the request in, or sheds it; health is outside of both limits.
async fn answer(app: &App, route: &str, request: Request, next: Next) -> Response {
    if route.starts_with("/health/") {
        return next.run(request).await;
    }
    if declared_bytes(request.headers()).is_some_and(|bytes| bytes > app.max_body_bytes as u64) {
        // Who still writes reads no answer, so the body is thrown away for a moment; nobody waits for all of it.
        let _ = tokio::time::timeout(DISCARD_WITHIN, discard(request)).await;
        return Problem::for_bare_status(StatusCode::PAYLOAD_TOO_LARGE).into_response();
    }
    admitted(app, next.run(request)).await
}

/// Waits for an answer for as long as a request may take, or says that too many are under way.
pub(crate) async fn admitted(app: &App, answer: impl Future<Output = Response>) -> Response {
    let Ok(_permit) = app.admission.try_acquire() else {
        app.figures.shed.inc();
        let detail = "too many requests are under way; try again shortly";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED", detail)
            .retry_after(Duration::from_secs(1))
            .into_response();
    };
    tokio::time::timeout(app.request_within, answer).await.unwrap_or_else(|_| {
        let detail = format!("no answer within {}", humantime::format_duration(app.request_within));
        Problem::new(StatusCode::GATEWAY_TIMEOUT, "DEADLINE_EXCEEDED", detail).into_response()
    })
}

async fn discard(request: Request) {
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
}

fn declared_bytes(headers: &HeaderMap) -> Option<u64> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Gives every error its problem body.
fn finish(mut response: Response, path: &str, request_id: &str) -> Response {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        tracing::Span::current().record("error.type", problem.code());
        return with_headers_of(&response, problem.render(path, request_id));
    }
    let status = response.status();
    let is_bare_error =
        status.as_u16() >= 400 && !response.headers().contains_key(http::header::CONTENT_TYPE);
    let is_rejection = matches!(status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::BAD_REQUEST)
        && response
            .headers()
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|kind| kind == "text/plain; charset=utf-8");
    if is_bare_error || is_rejection {
        return with_headers_of(&response, Problem::for_bare_status(status).render(path, request_id));
    }
    response
}

/// Keeps what was said beside the body: `allow`, `www-authenticate`, `x-cache`, and who was let in.
fn with_headers_of(original: &Response, mut rendered: Response) -> Response {
    for (name, value) in original.headers() {
        if name != http::header::CONTENT_TYPE && name != http::header::CONTENT_LENGTH {
            rendered.headers_mut().insert(name, value.clone());
        }
    }
    if let Some(subject) = original.extensions().get::<Subject>() {
        rendered.extensions_mut().insert(subject.clone());
    }
    rendered
}

fn stamp(response: &mut Response, request_id: &str, traceparent: Option<String>, hsts: Option<Duration>) {
    web::guard(response, hsts);
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, value);
    }
    if let Some(value) = traceparent.and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(TRACEPARENT, value);
    }
}

/// Takes the caller's request id if it is short and plain, else makes one.
fn request_id(headers: &HeaderMap) -> String {
    let sent = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    match sent {
        Some(id) if !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES && id.bytes().all(is_plain) => {
            id.to_owned()
        }
        _ => uuid::Uuid::now_v7().to_string(),
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_sessions_are_not_written_down() {
        for (route, path, told) in [
            ("/sessions/{id}", "/sessions/s3cret", "/sessions/{id}"),
            ("/sessions/{id}/touch", "/sessions/s3cret/touch", "/sessions/{id}/touch"),
            ("/users/{user}/sessions", "/users/ann/sessions", "/users/ann/sessions"),
            ("/cache/{namespace}/{key}", "/cache/a/b", "/cache/a/b"),
        ] {
            assert_eq!(without_secret(route, path), told);
        }
    }

    #[test]
    fn request_id_of_the_caller_is_kept_only_when_short_and_plain() {
        let long = "x".repeat(129);
        for (sent, kept) in
            [("abc-1.2:3_4", true), ("", false), ("a b", false), ("a\"b", false), (&long, false)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(sent).unwrap());
            assert_eq!(request_id(&headers) == sent, kept, "{sent:?}");
        }
    }
}
