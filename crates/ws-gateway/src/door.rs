//! The HTTP side of a connection: who may begin one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{ConnectInfo, RawQuery, State, WebSocketUpgrade};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::header::{HeaderMap, HeaderValue, ORIGIN, RETRY_AFTER};
use http::{HeaderName, StatusCode};
use mainstay_runtime::Context;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::conn::{self, Conn};
use crate::hub::{Hub, NoRoom};
use crate::origin::OriginPattern;
use crate::session::{Now, Rules, Session};

/// Where clients connect.
pub(crate) const PATH: &str = "/connection/websocket";

const JSON: HeaderValue = HeaderValue::from_static("centrifuge-json");
const PROTOBUF: HeaderValue = HeaderValue::from_static("centrifuge-protobuf");

/// Time between the answer to a handshake and the socket.
const UPGRADE_WITHIN: Duration = Duration::from_secs(5);

/// Lets clients in.
pub(crate) struct Door {
    pub(crate) cx: Context,
    pub(crate) hub: Arc<Hub>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) origins: Vec<OriginPattern>,
    pub(crate) max_message_bytes: usize,
}

/// Why a handshake leads to no connection.
#[derive(Clone, Copy, Debug)]
enum Refused {
    Origin,
    Protobuf,
    NoRoom(NoRoom),
}

pub(crate) fn app(door: Arc<Door>) -> Router {
    Router::new().route(PATH, get(handshake)).with_state(door)
}

async fn handshake(
    State(door): State<Arc<Door>>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => {
            door.hub.metrics().refused("not_websocket");
            return rejection.into_response();
        }
    };
    door.admit(remote, query.as_deref().unwrap_or_default(), &headers, upgrade).unwrap_or_else(|refused| {
        door.hub.metrics().refused(refused.label());
        refused.into_response()
    })
}

impl Door {
    fn admit(
        &self,
        remote: SocketAddr,
        query: &str,
        headers: &HeaderMap,
        mut upgrade: WebSocketUpgrade,
    ) -> Result<Response, Refused> {
        if !self.is_welcome(headers.get(ORIGIN)) {
            return Err(Refused::Origin);
        }
        if let Some(subprotocol) = choose_subprotocol(query, &upgrade)? {
            upgrade.set_selected_protocol(subprotocol);
        }
        let clock = self.cx.clock().clone();
        let seat = self.hub.open(remote, clock.now()).map_err(Refused::NoRoom)?;
        let now = Now { at: Instant::now(), unix_s: clock.unix_s() };
        let client = seat.connection().client.to_string();
        let session = Session::new(Arc::clone(&self.rules), client, now, rand::random());
        let max_message_bytes = self.max_message_bytes;

        // The library runs what it is given in a task nobody owns, so it is given nothing but the way to hand over.
        let (socket_tx, socket_rx) = oneshot::channel();
        self.cx.spawn_work(Box::pin(async move {
            if let Ok(Ok(socket)) = timeout(UPGRADE_WITHIN, socket_rx).await {
                Conn::new(socket, seat, session, clock, max_message_bytes).run().await;
            }
        }));
        Ok(conn::sized(upgrade, max_message_bytes).on_upgrade(async move |socket| {
            let _ = socket_tx.send(socket);
        }))
    }

    /// Requests without `Origin` come from programs, which could send any.
    fn is_welcome(&self, origin: Option<&HeaderValue>) -> bool {
        let Some(origin) = origin else { return true };
        origin.to_str().is_ok_and(|origin| self.origins.iter().any(|pattern| pattern.matches(origin)))
    }
}

fn choose_subprotocol(query: &str, upgrade: &WebSocketUpgrade) -> Result<Option<HeaderValue>, Refused> {
    let wants_protobuf =
        query.split('&').any(|pair| matches!(pair, "format=protobuf" | "cf_protocol=protobuf"));
    let offered: Vec<_> = upgrade.requested_protocols().collect();
    if wants_protobuf || (offered.contains(&&PROTOBUF) && !offered.contains(&&JSON)) {
        return Err(Refused::Protobuf);
    }
    Ok(offered.contains(&&JSON).then_some(JSON))
}

impl Refused {
    fn label(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Protobuf => "protobuf",
            Self::NoRoom(NoRoom::Full) => "full",
            Self::NoRoom(NoRoom::Draining) => "draining",
        }
    }

    fn into_response(self) -> Response {
        const SOON: [(HeaderName, &str); 1] = [(RETRY_AFTER, "1")];
        match self {
            Self::Origin => (StatusCode::FORBIDDEN, "this origin is not allowed\n").into_response(),
            Self::Protobuf => {
                let text = "the Protobuf form of the protocol is not served here: connect without a subprotocol for JSON\n";
                (StatusCode::BAD_REQUEST, text).into_response()
            }
            Self::NoRoom(NoRoom::Full) => {
                (StatusCode::SERVICE_UNAVAILABLE, SOON, "this node is full\n").into_response()
            }
            Self::NoRoom(NoRoom::Draining) => {
                (StatusCode::SERVICE_UNAVAILABLE, SOON, "this node is shutting down\n").into_response()
            }
        }
    }
}
