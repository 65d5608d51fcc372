//! What the scenarios need: clients of the SDK, tokens, and what their handlers saw.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use centrifuge::{
    Client, ClientBuilder, Protocol, SubscribedEvent, Subscription, SubscriptionBuilder, TransportEndpoint,
    TransportKind, UnsubscribedEvent,
};
use ring::hmac;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const SECRET: &[u8] = b"secret";

/// A form of the protocol and a way to carry it.
#[derive(Clone, Copy)]
pub struct Variant {
    pub name: &'static str,
    protocol: Protocol,
    transport: TransportKind,
}

pub const VARIANTS: [Variant; 4] = [
    Variant {
        name: "websocket, Protobuf",
        protocol: Protocol::Protobuf,
        transport: TransportKind::WebSocket,
    },
    Variant { name: "websocket, JSON", protocol: Protocol::Json, transport: TransportKind::WebSocket },
    Variant {
        name: "HTTP stream, Protobuf",
        protocol: Protocol::Protobuf,
        transport: TransportKind::HttpStream,
    },
    Variant { name: "HTTP stream, JSON", protocol: Protocol::Json, transport: TransportKind::HttpStream },
];

/// What the handlers of one subscription saw, in order.
pub struct Seen(UnboundedReceiver<Event>);

#[derive(Debug)]
pub enum Event {
    Subscribed(SubscribedEvent),
    Unsubscribed(UnsubscribedEvent),
    /// Data and the user who published.
    Published(Value, Option<String>),
    Joined(String),
    Left(String),
}

impl Variant {
    /// Begins a client that shows a token with these claims.
    pub fn client(self, claims: Value) -> ClientBuilder {
        let text = token(&claims);
        self.builder().token(text)
    }

    /// Begins a client that shows nothing.
    pub fn builder(self) -> ClientBuilder {
        let address = std::env::var("GATEWAY").unwrap_or_else(|_| "127.0.0.1:8000".to_owned());
        let endpoint = match self.transport {
            TransportKind::HttpStream => {
                TransportEndpoint::http_stream(format!("http://{address}/connection/http_stream"))
            }
            _ => TransportEndpoint::websocket(format!("ws://{address}/connection/websocket")),
        };
        Client::builder_with_transports([endpoint])
            .protocol(self.protocol)
            .min_reconnect_delay(Duration::from_millis(20))
            .max_reconnect_delay(Duration::from_millis(100))
            .timeout(Duration::from_secs(60))
    }

    /// Connects a user.
    pub async fn connected(self, user: &str) -> Client {
        let client = self.client(json!({ "sub": user })).build().expect("a client");
        client.connect().expect("it begins to connect");
        client.ready(None).await.expect("it connects");
        client
    }
}

impl Seen {
    /// Finishes a subscription so that all it sees is kept.
    pub fn of(builder: SubscriptionBuilder) -> (Subscription, Self) {
        let (tx, rx) = unbounded_channel();
        let note = move || {
            let tx = tx.clone();
            // Who looks no more is at the end of its scenario.
            move |event| _ = tx.send(event)
        };
        let (subscribed, unsubscribed, published, joined, left) = (note(), note(), note(), note(), note());
        let subscription = builder
            .on_subscribed(move |_, event| subscribed(Event::Subscribed(event)))
            .on_unsubscribed(move |_, event| unsubscribed(Event::Unsubscribed(event)))
            .on_publication(move |_, event| {
                let data = event.json().expect("the gateway carries JSON documents");
                published(Event::Published(data, event.info.as_ref().map(|info| info.user.clone())));
            })
            .on_join(move |_, event| joined(Event::Joined(event.user.clone())))
            .on_leave(move |_, event| left(Event::Left(event.user.clone())))
            .build()
            .expect("a subscription");
        (subscription, Self(rx))
    }

    /// Waits for the next event that is looked for, and passes over others.
    pub async fn next<T>(&mut self, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.0.recv().await.expect("the subscription lives")) {
                return found;
            }
        }
    }

    pub async fn subscribed(&mut self) -> SubscribedEvent {
        self.next(|event| if let Event::Subscribed(event) = event { Some(event) } else { None }).await
    }

    pub async fn published(&mut self) -> Value {
        self.next(|event| if let Event::Published(data, ..) = event { Some(data) } else { None }).await
    }

    pub async fn all_published(&mut self, expected: &[i64]) {
        for &number in expected {
            assert_eq!(self.published().await, json!(number), "of {expected:?}");
        }
    }
}

/// Returns a name that nobody else uses.
pub fn unique(name: &str) -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{}-{}-{number}", std::process::id(), unix_s())
}

pub fn unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later than 1970").as_secs()
}

/// Signs a token.
pub fn token(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(&json!({ "alg": "HS256", "typ": "JWT" })), part(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes()));
    format!("{text}.{signature}")
}

/// Returns the code of what the server answered instead.
pub fn code<T: Debug>(outcome: Result<T, centrifuge::Error>) -> u32 {
    match outcome {
        Err(centrifuge::Error::Server(error)) => error.code,
        other => panic!("expected an error of the server, got {other:?}"),
    }
}
