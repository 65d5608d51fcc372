//! The doors for networks that let no WebSocket through: an answer without end carries what the client is told
//! (`/connection/http_stream`, `/connection/sse`), requests to `/emulation` bring what it says.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Query, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream::poll_fn;
use http::StatusCode;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use serde::Deserialize;
use tokio::time::{Instant, timeout};

use super::{Door, Refused};
use crate::backend::Headers;
use crate::conn::{Form, Framing, StreamConn};
use crate::emulation::{Emulation, NotHeard, Overheard};
use crate::mesh::Method;
use crate::protocol::protobuf;
use crate::session::{Now, Session};

const BINARY: &str = "application/octet-stream";
/// A request names its session and its node beside its commands, and JSON writes some characters as six.
const ENVELOPE_BYTES: usize = 1 << 10;
/// Tells nginx and its like to pass on what comes when it comes.
const NO_BUFFER: HeaderName = HeaderName::from_static("x-accel-buffering");

#[derive(Deserialize)]
struct FirstCommands {
    #[serde(default)]
    cf_connect: String,
}

#[derive(Deserialize)]
struct JsonRequest {
    #[serde(default)]
    node: String,
    #[serde(default)]
    session: String,
    #[serde(default)]
    data: String,
}

#[derive(Clone)]
struct Fallback {
    door: Arc<Door>,
    emulation: Arc<Emulation>,
}

pub(super) fn routes(door: &Arc<Door>, emulation: &Arc<Emulation>) -> Router<Arc<Door>> {
    let fallback = Fallback { door: Arc::clone(door), emulation: Arc::clone(emulation) };
    Router::new()
        .route("/connection/http_stream", post(http_stream).options(preflight))
        .route("/connection/sse", get(events).options(preflight))
        .route("/emulation", post(hear).options(preflight))
        .route_layer(from_fn_with_state(Arc::clone(door), cross_origin))
        .with_state(fallback)
}

async fn http_stream(
    State(fallback): State<Fallback>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let form = form_of(request.headers());
    let headers = fallback.door.told_headers(request.headers());
    let limit = fallback.door.max_message_bytes;
    fallback
        .respond(async {
            let first = fallback.body(request, limit).await?;
            fallback.begin(remote, (form, Framing::Stream), first, headers)
        })
        .await
}

async fn events(
    State(fallback): State<Fallback>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Query(first): Query<FirstCommands>,
) -> Response {
    let (first, headers) = (first.cf_connect.into(), fallback.door.told_headers(&headers));
    fallback.respond(async { fallback.begin(remote, (Form::Json, Framing::Events), first, headers) }).await
}

/// Takes what a client says to a session begun earlier.
async fn hear(State(fallback): State<Fallback>, request: Request) -> Response {
    let form = form_of(request.headers());
    let limit = 6 * fallback.door.max_message_bytes + ENVELOPE_BYTES;
    fallback
        .respond(async {
            let body = fallback.body(request, limit).await?;
            let request = match form {
                Form::Protobuf => protobuf::emulation_request(&body).ok().map(|request| {
                    let frame = body.slice_ref(request.frame);
                    (request.node.to_owned(), Overheard { session: request.session.to_owned(), frame })
                }),
                Form::Json => serde_json::from_slice(&body).ok().map(|request: JsonRequest| {
                    let JsonRequest { node, session, data } = request;
                    (node, Overheard { session, frame: data.into() })
                }),
            };
            Ok(match request {
                Some((node, overheard)) => fallback.hand_over(&node, overheard).await.into_response(),
                None => StatusCode::BAD_REQUEST.into_response(),
            })
        })
        .await
}

async fn preflight() -> Response {
    let headers = [
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (ACCESS_CONTROL_ALLOW_HEADERS, "content-type"),
        (ACCESS_CONTROL_MAX_AGE, "300"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Lets the same web pages in as the handshake does, and tells their browsers so.
async fn cross_origin(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(ORIGIN).cloned();
    if !door.is_welcome(origin.as_ref()) {
        door.hub.metrics().refused(Refused::Origin.label());
        return Refused::Origin.into_response();
    }
    // A preflight of the browser itself; all else is answered by the routes.
    let mut response =
        if request.method() == http::Method::OPTIONS { preflight().await } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    response
}

impl Fallback {
    async fn respond(&self, answer: impl Future<Output = Result<Response, Refused>>) -> Response {
        answer.await.unwrap_or_else(|refused| {
            self.door.hub.metrics().refused(refused.label());
            refused.into_response()
        })
    }

    async fn body(&self, request: Request, max_bytes: usize) -> Result<Bytes, Refused> {
        match timeout(self.door.body_within, to_bytes(request.into_body(), max_bytes)).await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(_)) => Err(Refused::Body(StatusCode::PAYLOAD_TOO_LARGE)),
            Err(_) => Err(Refused::Body(StatusCode::REQUEST_TIMEOUT)),
        }
    }

    /// Begins a session whose first commands came with the request.
    fn begin(
        &self,
        remote: SocketAddr,
        kind: (Form, Framing),
        first: Bytes,
        headers: Headers,
    ) -> Result<Response, Refused> {
        let Door { hub, rules, cx, max_message_bytes, .. } = &*self.door;
        if first.len() > *max_message_bytes {
            return Err(Refused::Body(StatusCode::PAYLOAD_TOO_LARGE));
        }
        let clock = cx.clock().clone();
        let seat = hub.open(remote, clock.now()).map_err(Refused::NoRoom)?;
        let now = Now { at: Instant::now(), unix_s: clock.unix_s() };
        let client = seat.connection().client.to_string();
        let session = Session::new(Arc::clone(rules), client, now, rand::random()).with_headers(headers);
        let (emulated, inbox) = self.emulation.begin(seat.connection(), first);
        let mut conn = StreamConn::new(kind, seat, session, clock, (emulated, inbox));
        let body =
            Body::from_stream(poll_fn(move |cx| -> std::task::Poll<Option<Result<Bytes, Infallible>>> {
                conn.poll_next(cx)
            }));
        let content_type = match kind {
            (_, Framing::Events) => "text/event-stream",
            (Form::Json, Framing::Stream) => "application/json",
            (Form::Protobuf, Framing::Stream) => BINARY,
        };
        let headers = [
            (CONTENT_TYPE, content_type),
            (CACHE_CONTROL, "private, no-cache, no-store, must-revalidate, max-age=0"),
            (NO_BUFFER, "no"),
        ];
        Ok((headers, body).into_response())
    }

    async fn hand_over(&self, node: &str, overheard: Overheard) -> StatusCode {
        if overheard.frame.len() > self.door.max_message_bytes {
            return StatusCode::PAYLOAD_TOO_LARGE;
        }
        match self.emulation.hand_over(node, &overheard.session, overheard.frame.clone()) {
            Ok(()) => StatusCode::NO_CONTENT,
            Err(NotHeard::Elsewhere) => self.pass_on(node, &overheard).await,
            Err(NotHeard::TooMuch) => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// Gives what a client says to the node that holds its stream.
    async fn pass_on(&self, node: &str, overheard: &Overheard) -> StatusCode {
        let hub = &self.door.hub;
        let Some(broker) = hub.broker() else { return StatusCode::NOT_FOUND };
        let (status, outcome) = match broker.mesh().ask_one(node, Method::Hear, overheard).await {
            Some(true) => (StatusCode::NO_CONTENT, "heard"),
            Some(false) => (StatusCode::TOO_MANY_REQUESTS, "refused"),
            None => (StatusCode::NOT_FOUND, "lost"),
        };
        hub.metrics().passed_on(outcome);
        status
    }
}

fn form_of(headers: &HeaderMap) -> Form {
    match headers.get(CONTENT_TYPE) {
        Some(kind) if kind.as_bytes().starts_with(BINARY.as_bytes()) => Form::Protobuf,
        _ => Form::Json,
    }
}
