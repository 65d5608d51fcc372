//! The HTTP side of a connection: who may begin one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, ORIGIN, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderName, StatusCode};
use hyper::upgrade::OnUpgrade;
use mainstay_runtime::Context;
use tokio::time::{Instant, timeout};

use crate::backend::Headers;
use crate::codec::{NotWebSocket, check_request};
use crate::conn::{Conn, Form};
use crate::emulation::Emulation;
use crate::hub::{Hub, NoRoom};
use crate::origin::OriginPattern;
use crate::session::{Now, Rules, Session};

mod fallback;

/// Where clients connect.
pub(crate) const PATH: &str = "/connection/websocket";

const JSON: &str = "centrifuge-json";
const PROTOBUF: &str = "centrifuge-protobuf";

/// Time between the answer to a handshake and the socket.
const UPGRADE_WITHIN: Duration = Duration::from_secs(5);

/// Lets clients in.
pub(crate) struct Door {
    pub(crate) cx: Context,
    pub(crate) hub: Arc<Hub>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) origins: Vec<OriginPattern>,
    pub(crate) max_message_bytes: usize,
    /// None when nothing but WebSocket is served.
    pub(crate) emulation: Option<Arc<Emulation>>,
    /// Time for the body of a request.
    pub(crate) body_within: Duration,
}

/// Why a handshake leads to no connection.
#[derive(Clone, Copy, Debug)]
enum Refused {
    NotWebSocket(NotWebSocket),
    Origin,
    NoRoom(NoRoom),
    /// The body of a request did not come, or is none.
    Body(StatusCode),
}

pub(crate) fn app(door: Arc<Door>) -> Router {
    let app = Router::new().route(PATH, get(handshake));
    let app = match &door.emulation {
        Some(emulation) => app.merge(fallback::routes(&door, emulation)),
        None => app,
    };
    app.with_state(door)
}

async fn handshake(
    State(door): State<Arc<Door>>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    door.admit(remote, request).unwrap_or_else(|refused| {
        door.hub.metrics().refused(refused.label());
        refused.into_response()
    })
}

impl Door {
    fn admit(&self, remote: SocketAddr, mut request: Request) -> Result<Response, Refused> {
        let accept = check_request(request.method(), request.version(), request.headers())?;
        let upgrade = request.extensions_mut().remove::<OnUpgrade>().ok_or(NotWebSocket::NoUpgrade)?;
        if !self.is_welcome(request.headers().get(ORIGIN)) {
            return Err(Refused::Origin);
        }
        let (form, subprotocol) = choose_form(request.uri().query().unwrap_or_default(), request.headers());
        let clock = self.cx.clock().clone();
        let seat = self.hub.open(remote, clock.now()).map_err(Refused::NoRoom)?;
        let now = Now { at: Instant::now(), unix_s: clock.unix_s() };
        let client = seat.connection().client.to_string();
        let headers = self.told_headers(request.headers());
        let session =
            Session::new(Arc::clone(&self.rules), client, now, rand::random()).with_headers(headers);
        let max_message_bytes = self.max_message_bytes;
        self.cx.spawn_work(Box::pin(async move {
            if let Ok(Ok(stream)) = timeout(UPGRADE_WITHIN, upgrade).await {
                Conn::new((stream, max_message_bytes), form, seat, session, clock).run().await;
            }
        }));
        Ok(switching(accept, subprotocol))
    }

    /// Takes the headers that the application is told of.
    fn told_headers(&self, headers: &HeaderMap) -> Headers {
        let told = |name: &String| {
            let value = headers.get(name)?.to_str().ok()?;
            Some((name.clone(), value.to_owned()))
        };
        self.rules.hooks.headers.iter().filter_map(told).collect()
    }

    /// Requests without `Origin` come from programs, which could send any.
    fn is_welcome(&self, origin: Option<&HeaderValue>) -> bool {
        let Some(origin) = origin else { return true };
        origin.to_str().is_ok_and(|origin| self.origins.iter().any(|pattern| pattern.matches(origin)))
    }
}

fn switching(accept: HeaderValue, subprotocol: Option<HeaderValue>) -> Response {
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(subprotocol) = subprotocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    response
}

/// Chooses the form of the protocol, and the subprotocol to confirm if one was offered.
fn choose_form(query: &str, headers: &HeaderMap) -> (Form, Option<HeaderValue>) {
    let lists = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|list| list.to_str().ok());
    let offered: Vec<_> = lists.flat_map(|list| list.split(',')).map(str::trim).collect();
    if offered.contains(&JSON) {
        return (Form::Json, Some(HeaderValue::from_static(JSON)));
    }
    if offered.contains(&PROTOBUF) {
        return (Form::Protobuf, Some(HeaderValue::from_static(PROTOBUF)));
    }
    let wants_protobuf =
        query.split('&').any(|pair| matches!(pair, "format=protobuf" | "cf_protocol=protobuf"));
    (if wants_protobuf { Form::Protobuf } else { Form::Json }, None)
}

impl From<NotWebSocket> for Refused {
    fn from(problem: NotWebSocket) -> Self {
        Self::NotWebSocket(problem)
    }
}

impl Refused {
    fn label(self) -> &'static str {
        match self {
            Self::NotWebSocket(_) => "not_websocket",
            Self::Origin => "origin",
            Self::NoRoom(NoRoom::Full) => "full",
            Self::NoRoom(NoRoom::Crowded) => "crowded",
            Self::NoRoom(NoRoom::Draining) => "draining",
            Self::Body(_) => "body",
        }
    }

    fn into_response(self) -> Response {
        const SOON: [(HeaderName, &str); 1] = [(RETRY_AFTER, "1")];
        const SPOKEN: [(HeaderName, &str); 1] = [(SEC_WEBSOCKET_VERSION, "13")];
        match self {
            Self::NotWebSocket(NotWebSocket::Version) => {
                (StatusCode::UPGRADE_REQUIRED, SPOKEN, format!("{}\n", NotWebSocket::Version)).into_response()
            }
            Self::NotWebSocket(problem) => (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response(),
            Self::Body(status) => (status, "the body cannot be read\n").into_response(),
            Self::Origin => (StatusCode::FORBIDDEN, "this origin is not allowed\n").into_response(),
            Self::NoRoom(NoRoom::Full) => {
                (StatusCode::SERVICE_UNAVAILABLE, SOON, "this node is full\n").into_response()
            }
            Self::NoRoom(NoRoom::Crowded) => {
                (StatusCode::TOO_MANY_REQUESTS, SOON, "too many connections from this address\n")
                    .into_response()
            }
            Self::NoRoom(NoRoom::Draining) => {
                (StatusCode::SERVICE_UNAVAILABLE, SOON, "this node is shutting down\n").into_response()
            }
        }
    }
}
