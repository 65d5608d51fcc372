//! One connection to a source, by WebSocket or as server-sent events.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mainstay_rpc::Wire;
use mainstay_runtime::{Context, Secret};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::events::{Event, Reader, Unreadable};
use super::pool::Endpoint;
use crate::config::{FeedConfig, bytes};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const READ_BUFFER_BYTES: usize = 16 << 10;

/// An open connection.
pub(super) enum Source {
    WebSocket(Box<WebSocketStream<Wire>>),
    Events(Events),
}

/// An event stream.
pub(super) struct Events {
    body: Incoming,
    reader: Reader,
    waiting: VecDeque<Event>,
    /// The connection lives as long as it does.
    _sender: http1::SendRequest<Empty<Bytes>>,
}

/// What a source sends.
#[derive(Debug)]
pub(super) enum Sent {
    Message(Event),
    /// That it is there.
    Sign,
}

/// Why there is no connection, or no longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("it cannot be connected to")]
    Connect(#[source] io::Error),
    #[error("it did not answer the handshake in time")]
    Late,
    #[error("the websocket broke")]
    WebSocket(#[source] Box<tungstenite::Error>),
    #[error("the exchange broke")]
    Http(#[from] hyper::Error),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("it sends no event stream")]
    NotEvents,
    #[error("a message is larger than max_message")]
    TooLarge,
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("it ended the connection")]
    Ended,
    #[error("nothing came for too long")]
    Silent,
    #[error("no message came for too long")]
    NoMessage,
    #[error("numbers are missing: its events are read again")]
    Gap,
    #[error("a header is illegal")]
    Header(#[source] http::Error),
}

impl From<tungstenite::Error> for Broken {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Http(answer) => Self::Status(answer.status()),
            tungstenite::Error::Capacity(_) => Self::TooLarge,
            tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => Self::Ended,
            error => Self::WebSocket(Box::new(error)),
        }
    }
}

impl Broken {
    /// Says it with its causes, none of which has more of a source in it than its host.
    pub(super) fn in_full(&self) -> String {
        let (mut text, mut cause) = (self.to_string(), std::error::Error::source(self));
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}

impl Source {
    /// Connects; `after` is the id of the last event.
    pub(super) async fn open(
        endpoint: &Endpoint,
        config: &FeedConfig,
        after: &str,
        cx: &Context,
    ) -> Result<Self, Broken> {
        let max_bytes = bytes(config.max_message);
        let wire = endpoint.connector.connect(endpoint.url.clone()).await.map_err(Broken::Connect)?;
        if endpoint.is_websocket {
            let url = format!("ws{}", endpoint.url.to_string().trim_start_matches("http"));
            let mut request = url.into_client_request()?;
            request.headers_mut().extend(headers(config)?);
            let limits = WebSocketConfig::default()
                .read_buffer_size(READ_BUFFER_BYTES)
                .max_message_size(Some(max_bytes))
                .max_frame_size(Some(max_bytes));
            let (socket, _) = client_async_with_config(request, wire, Some(limits)).await?;
            return Ok(Self::WebSocket(Box::new(socket)));
        }
        let (mut sender, connection) = http1::handshake(TokioIo::new(wire)).await?;
        cx.spawn_work(async move {
            // What ends it ends the body too, which says so.
            let _ = connection.await;
        });
        let answer = sender.send_request(events_request(endpoint, config, after)?).await?;
        if answer.status() != StatusCode::OK {
            return Err(Broken::Status(answer.status()));
        }
        let kind = answer.headers().get(http::header::CONTENT_TYPE);
        if !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
            return Err(Broken::NotEvents);
        }
        let (body, reader) = (answer.into_body(), Reader::new(max_bytes));
        Ok(Self::Events(Events { body, reader, waiting: VecDeque::new(), _sender: sender }))
    }

    /// Returns what comes next. Dropping it loses nothing.
    pub(super) async fn next(&mut self) -> Result<Sent, Broken> {
        match self {
            Self::WebSocket(socket) => match socket.next().await.ok_or(Broken::Ended)?? {
                Message::Text(text) => Ok(message(text.as_str())),
                // What is no text is no JSON, and will be found to be none.
                Message::Binary(bytes) => Ok(message(&String::from_utf8_lossy(&bytes))),
                Message::Close(_) => Err(Broken::Ended),
                _ => Ok(Sent::Sign),
            },
            Self::Events(Events { body, reader, waiting, .. }) => {
                if let Some(event) = waiting.pop_front() {
                    return Ok(Sent::Message(event));
                }
                let frame = body.frame().await.ok_or(Broken::Ended)??;
                if let Some(bytes) = frame.data_ref() {
                    reader.take(bytes, waiting)?;
                }
                Ok(waiting.pop_front().map_or(Sent::Sign, Sent::Message))
            }
        }
    }

    /// Asks for a sign, with `heartbeat` if there is one; a source of events sends one when it likes.
    pub(super) async fn ping(&mut self, heartbeat: &Secret) -> Result<(), Broken> {
        match self {
            Self::WebSocket(socket) if heartbeat.is_empty() => {
                Ok(socket.send(Message::Ping(Bytes::new())).await?)
            }
            Self::WebSocket(socket) => Ok(socket.send(Message::text(heartbeat.expose())).await?),
            Self::Events(_) => Ok(()),
        }
    }

    /// Tells it something, where it listens.
    pub(super) async fn say(&mut self, text: String) -> Result<(), Broken> {
        match self {
            Self::WebSocket(socket) => Ok(socket.send(Message::text(text)).await?),
            Self::Events(_) => Ok(()),
        }
    }

    pub(super) fn listens(&self) -> bool {
        matches!(self, Self::WebSocket(_))
    }
}

fn message(text: &str) -> Sent {
    Sent::Message(Event { id: String::new(), data: text.to_owned() })
}

fn events_request(
    endpoint: &Endpoint,
    config: &FeedConfig,
    after: &str,
) -> Result<Request<Empty<Bytes>>, Broken> {
    let path = endpoint.url.path_and_query().map_or("/", |path| path.as_str());
    let host = endpoint.url.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let mut request = Request::get(path).body(Empty::new()).map_err(Broken::Header)?;
    let all = request.headers_mut();
    all.extend(headers(config)?);
    all.insert(HOST, HeaderValue::try_from(host).map_err(|error| Broken::Header(error.into()))?);
    all.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    all.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let (false, Ok(after)) = (after.is_empty(), HeaderValue::try_from(after)) {
        all.insert(LAST_EVENT_ID, after);
    }
    Ok(request)
}

fn headers(config: &FeedConfig) -> Result<HeaderMap, Broken> {
    let secret = |value: &Secret| {
        let mut value =
            HeaderValue::try_from(value.expose()).map_err(|error| Broken::Header(error.into()))?;
        value.set_sensitive(true);
        Ok::<_, Broken>(value)
    };
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static("mainstay-ws-gateway"));
    for (name, value) in &config.headers {
        let name = HeaderName::try_from(name).map_err(|error| Broken::Header(error.into()))?;
        headers.insert(name, secret(value)?);
    }
    if !config.authorization.is_empty() {
        headers.insert(AUTHORIZATION, secret(&config.authorization)?);
    }
    Ok(headers)
}
