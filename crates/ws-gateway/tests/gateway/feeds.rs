//! Sources of messages elsewhere, which fail in every way, and the nodes that read them, which fail too.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse as _;
use axum::routing::get;
use bytesize::ByteSize;
use futures_util::{SinkExt as _, StreamExt as _, stream};
use http::HeaderMap;
use mainstay_devstack::{ChaosProxy, Direction};
use mainstay_proto::realtime::v1::realtime_feed_service_client::RealtimeFeedServiceClient;
use mainstay_proto::realtime::v1::{Feed, FeedState, FeedsRequest};
use mainstay_rpc::{Call, Failure, ServeOptions};
use mainstay_runtime::{Context, Secret};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async};
use ws_gateway::{FeedConfig, GatewayConfig, RedisConfig};

use crate::client::Client;
use crate::cluster::{proxied, redis, single, with_redis};
use crate::node::{Node, config, token, user};
use crate::peers::Process;

/// Longest wait for anything to become true.
const WAIT: Duration = Duration::from_mins(3);

/// A place where a source listens, and one connection after the other.
pub(crate) struct Listening(TcpListener);

/// A source somebody reads.
pub(crate) struct Connected(WebSocketStream<TcpStream>);

impl Listening {
    pub(crate) async fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/stream", self.address())
    }

    async fn tcp(&self) -> TcpStream {
        timeout(WAIT, self.0.accept()).await.expect("nobody connects").unwrap().0
    }

    async fn accept(&self) -> Connected {
        loop {
            if let Ok(socket) = timeout(WAIT, accept_async(self.tcp().await)).await.unwrap() {
                return Connected(socket);
            }
        }
    }

    /// Waits for a reader, and for what it wants; one that went away again without a word is none.
    pub(crate) async fn reader(&self) -> (Connected, String) {
        loop {
            let mut connected = self.accept().await;
            if let Some(wanted) = connected.hear().await {
                return (connected, wanted);
            }
        }
    }
}

impl Connected {
    pub(crate) async fn say(&mut self, message: &Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    /// Returns the next text that is said to the source; none when the reader goes.
    pub(crate) async fn hear(&mut self) -> Option<String> {
        loop {
            match timeout(WAIT, self.0.next()).await.expect("nothing is said")?.ok()? {
                Message::Text(text) => return Some(text.as_str().to_owned()),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }
}

pub(crate) fn feed(endpoints: Vec<String>) -> FeedConfig {
    FeedConfig {
        channel: "news".to_owned(),
        endpoints,
        subscribe: vec![Secret::from(r#"{"want":"news","after":{after}}"#)],
        id: "/id".to_owned(),
        sequence: "/n".to_owned(),
        data: "/data".to_owned(),
        reconnect_after: Duration::from_millis(20),
        reconnect_after_max: Duration::from_millis(100),
        // Longer than a slow machine stands still.
        silent_for: Duration::from_mins(2),
        connect_within: Duration::from_secs(30),
        hold_for: Duration::from_secs(5),
        lease: Duration::from_secs(20),
        ..FeedConfig::default()
    }
}

pub(crate) fn with_feed(config: GatewayConfig, feed: FeedConfig) -> GatewayConfig {
    GatewayConfig { feeds: [("wire".to_owned(), feed)].into(), ..config }
}

pub(crate) fn message(n: u64) -> Value {
    json!({"id": format!("m{n}"), "n": n, "data": {"v": n}})
}

pub(crate) async fn state(node: &Node, name: &str) -> Result<Feed, Failure> {
    let call = Call::read("mainstay.realtime.v1.RealtimeFeedService/Feeds");
    let request = FeedsRequest { name: name.to_owned() };
    let answer = node.upstream.call(call, |lane| {
        let (mut api, request) = (RealtimeFeedServiceClient::new(lane), request.clone());
        async move { api.feeds(request).await }
    });
    Ok(answer.await?.feeds.remove(0))
}

pub(crate) async fn wait_for(node: &Node, name: &str, what: &str, condition: impl Fn(&Feed) -> bool) -> Feed {
    let deadline = Instant::now() + WAIT;
    loop {
        let feed = state(node, name).await;
        if let Ok(feed) = &feed
            && condition(feed)
        {
            return feed.clone();
        }
        assert!(Instant::now() < deadline, "{what} did not happen: {feed:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn listener(node: &Node) -> Client {
    Client::subscribed(node, &token(&user("42")), "news").await
}

pub(crate) async fn hears(client: &mut Client, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        assert_eq!(client.publication().await, json!({"v": number}));
    }
}

#[tokio::test]
async fn messages_of_a_source_go_on_once_and_in_order() {
    let source = Listening::new().await;
    let node = Node::start(with_feed(config(), feed(vec![source.url()]))).await;
    let mut client = listener(&node).await;
    let (mut connected, wanted) = source.reader().await;
    assert_eq!(wanted, r#"{"want":"news","after":0}"#);
    connected.say(&json!({"subscribed": true})).await;
    for n in [1, 2, 2, 4, 5] {
        connected.say(&message(n)).await;
    }
    hears(&mut client, [1, 2]).await;
    // It is asked for what is missing, and sends all of it again.
    assert_eq!(connected.hear().await.unwrap(), r#"{"want":"news","after":2}"#);
    for n in [3, 4, 5, 6] {
        connected.say(&message(n)).await;
    }
    hears(&mut client, 3..=6).await;
    // What is never filled is counted, and what follows goes on.
    connected.say(&message(9)).await;
    hears(&mut client, [9]).await;
    let told = wait_for(&node, "wire", "a count", |feed| feed.published == 7).await;
    assert_eq!((told.state(), told.received), (FeedState::Live, 11));
    // A machine that stands still lets a gap pass unfilled, and what fills it comes twice then.
    assert_eq!((told.rejected, told.gaps, told.missed), (1, 2, 2), "{told:?}");
    assert_eq!((told.failures, &told.endpoints[0].breaker[..]), (0, "closed"));
    let metrics = node.metrics();
    for line in [
        "mainstay_ws_feed_messages_total{feed=\"wire\",outcome=\"published\"} 7",
        "mainstay_ws_feed_messages_total{feed=\"wire\",outcome=\"missed\"} 2",
        "mainstay_ws_feed_gaps_total{feed=\"wire\"} 2",
        "mainstay_ws_feed_live{feed=\"wire\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    drop(client);
    node.wait_until_empty().await;
}

#[tokio::test]
async fn a_source_that_fails_gives_way_to_the_next() {
    let (first, second) = (Listening::new().await, Listening::new().await);
    let proxy = ChaosProxy::start(first.address()).unwrap();
    let by_proxy = format!("ws://{}/stream?token=s3cret", proxy.address());
    let mut feed = feed(vec![by_proxy, second.url()]);
    feed.ping_every = Duration::from_millis(200);
    feed.max_message = ByteSize::b(256);
    let node = Node::start(with_feed(config(), feed)).await;
    let mut client = listener(&node).await;

    // The way to it is cut, and stays so.
    let (mut connected, _) = first.reader().await;
    connected.say(&message(1)).await;
    hears(&mut client, [1]).await;
    proxy.cut().await.unwrap();
    let (mut connected, wanted) = second.reader().await;
    assert_eq!(wanted, r#"{"want":"news","after":1}"#);
    // It is pinged, though nothing is to be said.
    let ping = timeout(WAIT, connected.0.next()).await.unwrap().unwrap().unwrap();
    assert!(ping.is_ping(), "{ping:?}");
    connected.say(&message(2)).await;
    hears(&mut client, [2]).await;
    // What is no message is counted and passed over.
    connected.0.send(Message::text("{")).await.unwrap();
    connected.0.send(Message::binary(vec![0xff, 0])).await.unwrap();
    // A message that is too large ends it.
    connected.say(&json!("x".repeat(300))).await;
    // Garbage in place of a handshake.
    let mut garbage = second.tcp().await;
    garbage.write_all(b"ceci n'est pas un websocket\r\n\r\n").await.unwrap();
    drop(garbage);
    let (mut connected, _) = second.reader().await;
    connected.say(&message(3)).await;
    hears(&mut client, [3]).await;
    let told = wait_for(&node, "wire", "failures", |feed| feed.failures >= 4).await;
    assert_eq!((told.published, told.rejected), (3, 2), "{told:?}");
    assert!(!format!("{told:?}").contains("s3cret"), "{told:?}");
    drop((connected, second));
    // Nobody is there: it is tried again, in bounds, and the node is none the worse for it.
    let is_open = |feed: &Feed| feed.endpoints.iter().all(|one| one.breaker == "open");
    wait_for(&node, "wire", "an open breaker", is_open).await;
    assert_eq!(node.publish("news", "\"direct\"").await.unwrap(), 1);
    assert_eq!(client.publication().await, json!("direct"));
    // And when the first is there again it is found.
    proxy.restore().await.unwrap();
    let (mut connected, _) = first.reader().await;
    connected.say(&message(4)).await;
    hears(&mut client, [4]).await;
    drop(client);
    node.wait_until_empty().await;
}

#[tokio::test]
async fn sources_that_do_not_speak_are_given_up() {
    let served = Context::for_test("source");
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let bound = served.bind("http", "listen", any_port).await.unwrap();
    let address = bound.local_addr().unwrap();
    let large = async || ([("content-type", "text/event-stream")], format!("data: {}\n\n", "x".repeat(300)));
    let app = Router::new().route("/page", get(async || "a page")).route("/large", get(large));
    served.serve_http(bound, app, ServeOptions::new("http"));
    let (late, silent) = (Listening::new().await, Listening::new().await);
    let (quiet, loud) = (Listening::new().await, Listening::new().await);
    let deaf = Listening::new().await;
    let half_open = ChaosProxy::start(deaf.address()).unwrap();
    half_open.stall(Direction::Downstream);
    let within = Duration::from_secs(1);
    let one = |url: String| FeedConfig { connect_within: within, ..feed(vec![url]) };
    let feeds = [
        ("late", one(late.url()), "handshake in time"),
        ("half-open", one(format!("ws://{}/", half_open.address())), "handshake in time"),
        ("silent", FeedConfig { silent_for: within, ..one(silent.url()) }, "nothing came"),
        (
            "quiet",
            FeedConfig { no_message_for: within, ping_every: within / 8, ..one(quiet.url()) },
            "no message",
        ),
        ("loud", FeedConfig { max_message: ByteSize::b(256), ..one(loud.url()) }, "larger than max_message"),
        (
            "large",
            FeedConfig { max_message: ByteSize::b(256), ..one(format!("http://{address}/large")) },
            "larger",
        ),
        ("refused", one(format!("ws://{address}/nowhere")), "404"),
        ("page", one(format!("http://{address}/page")), "no event stream"),
        ("nobody", one("ws://127.0.0.1:9/".to_owned()), "refused"),
    ];
    let accepting_late = async {
        let mut kept = Vec::new();
        loop {
            kept.push(late.tcp().await);
        }
    };
    let accepting_silent = async {
        let mut kept = Vec::new();
        loop {
            // Never read from: it answers no ping.
            kept.push(silent.accept().await);
        }
    };
    let accepting_deaf = async {
        let mut kept = Vec::new();
        loop {
            // It answers, but the answer gets lost.
            kept.push(deaf.accept().await);
        }
    };
    let accepting_quiet = async {
        loop {
            let mut connected = quiet.accept().await;
            // Reads, so it answers pings, and says nothing else.
            while connected.hear().await.is_some() {}
        }
    };
    let accepting_loud = async {
        loop {
            let mut connected = loud.accept().await;
            // It may be gone already.
            let _ = connected.0.send(Message::text("x".repeat(300))).await;
        }
    };
    let named = feeds.iter().map(|(name, feed, _)| ((*name).to_owned(), feed.clone())).collect();
    let node = Node::start(GatewayConfig { feeds: named, ..config() }).await;
    let seen = async {
        for (name, _, failure) in &feeds {
            wait_for(&node, name, failure, |feed| feed.failures >= 2 && feed.last_failure.contains(failure))
                .await;
        }
    };
    tokio::select! {
        () = seen => {}
        () = accepting_late => {}
        () = accepting_silent => {}
        () = accepting_deaf => {}
        () = accepting_quiet => {}
        () = accepting_loud => {}
    }
    node.cx.shut_down().await;
    served.shut_down().await;
}

#[tokio::test]
async fn events_over_http_are_read_and_resumed() {
    let served = Context::for_test("source");
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let bound = served.bind("http", "listen", any_port).await.unwrap();
    let address = bound.local_addr().unwrap();
    // Sends what follows the last event, two at a time, and ends.
    let events = async |headers: HeaderMap| {
        assert_eq!(headers["authorization"], "Bearer s3cret");
        let after = headers.get("last-event-id").map_or(0, |id| id.to_str().unwrap().parse().unwrap());
        let text = |n: u64| Ok::<_, Infallible>(format!(": hello\n\nid: {n}\ndata: {{\"v\": {n}}}\n\n"));
        let body = Body::from_stream(stream::iter([text(after + 1), text(after + 2)]));
        ([("content-type", "text/event-stream")], body).into_response()
    };
    served.serve_http(bound, Router::new().route("/events", get(events)), ServeOptions::new("http"));
    let feed = FeedConfig {
        authorization: Secret::from("Bearer s3cret"),
        subscribe: Vec::new(),
        id: String::new(),
        sequence: String::new(),
        data: String::new(),
        ..feed(vec![format!("http://{address}/events")])
    };
    let node = Node::start(with_feed(config(), feed)).await;
    // Those that came before anybody listened are gone.
    let mut client = listener(&node).await;
    let first = client.publication().await["v"].as_u64().unwrap();
    hears(&mut client, first + 1..first + 9).await;
    let told = wait_for(&node, "wire", "events", |feed| feed.published >= 9).await;
    assert_eq!((told.duplicates, told.rejected), (0, 0), "{told:?}");
    drop(client);
    node.wait_until_empty().await;
    node.cx.shut_down().await;
    served.shut_down().await;
}

#[tokio::test]
async fn one_node_runs_a_feed_and_another_goes_on_where_it_stopped() {
    let stack = redis().await;
    a_feed_is_handed_over(single(&stack)).await;
    stack.stop().await.unwrap();
}

pub(crate) async fn a_feed_is_handed_over(redis: RedisConfig) {
    let source = Listening::new().await;
    let config = || with_feed(with_redis(redis.clone()), feed(vec![source.url()]));
    let one = Node::joined(config()).await;
    let (mut connected, wanted) = source.reader().await;
    assert_eq!(wanted, r#"{"want":"news","after":0}"#);
    let other = Node::joined(config()).await;
    let mut client = listener(&other).await;
    for n in [1, 2] {
        connected.say(&message(n)).await;
    }
    hears(&mut client, [1, 2]).await;
    let held = wait_for(&other, "wire", "the same from everywhere", |feed| feed.published == 2).await;
    assert_eq!(held.state(), FeedState::Live);
    // The holder goes in order: the other need not wait for the end of the lease, and knows how far it got.
    one.cx.shut_down().await;
    assert_eq!(connected.hear().await, None, "the first still reads");
    let (mut connected, wanted) = source.reader().await;
    assert_eq!(wanted, r#"{"want":"news","after":2}"#);
    for n in [2, 3] {
        connected.say(&message(n)).await;
    }
    hears(&mut client, [3]).await;
    let taken = wait_for(&other, "wire", "a new holder", |feed| feed.duplicates == 1).await;
    assert_ne!(taken.node, held.node);
    drop(client);
    other.wait_until_empty().await;
    other.cx.shut_down().await;
}

#[tokio::test]
async fn a_node_that_loses_its_way_to_redis_gives_its_feeds_up() {
    let stack = redis().await;
    let source = Listening::new().await;
    let feed = FeedConfig { lease: Duration::from_secs(8), ..feed(vec![source.url()]) };
    let (proxy, by_proxy) = proxied(&stack);
    let one = Node::joined(with_feed(with_redis(by_proxy), feed.clone())).await;
    let (mut connected, _) = source.reader().await;
    let other = Node::joined(with_feed(with_redis(single(&stack)), feed)).await;
    let mut client = listener(&other).await;
    connected.say(&message(1)).await;
    hears(&mut client, [1]).await;
    proxy.cut().await.unwrap();
    // Nobody but who comes next tells of it: what has no way to all nodes is not published to some.
    connected.say(&message(2)).await;
    wait_for(&one, "wire", "an end of the lease", |feed| feed.state() == FeedState::Standby).await;
    let (mut connected, _) = source.reader().await;
    for n in [1, 2, 3] {
        connected.say(&message(n)).await;
    }
    hears(&mut client, [2, 3]).await;
    drop(client);
    other.wait_until_empty().await;
    other.cx.shut_down().await;
    proxy.restore().await.unwrap();
    one.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_feed_of_a_killed_node_is_taken_over() {
    let stack = redis().await;
    a_feed_of_the_dead_is_taken_over(single(&stack)).await;
    stack.stop().await.unwrap();
}

pub(crate) async fn a_feed_of_the_dead_is_taken_over(redis: RedisConfig) {
    let source = Listening::new().await;
    let more = format!(
        "[feeds.wire]\nchannel = \"news\"\nendpoints = [\"{}\"]\nid = \"/id\"\nsequence = \"/n\"\ndata = \"/data\"\n",
        source.url()
    );
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), &redis, &more).await;
    let mut connected = source.accept().await;
    let taken = FeedConfig { lease: FeedConfig::default().lease, ..feed(vec![source.url()]) };
    let survivor = Node::joined(with_feed(with_redis(redis), taken)).await;
    let mut client = listener(&survivor).await;
    connected.say(&message(1)).await;
    hears(&mut client, [1]).await;

    process.child.kill().unwrap();
    process.child.wait().unwrap();
    let killed_at = Instant::now();
    let (mut connected, _) = source.reader().await;
    println!("taken over {:?} after the kill", killed_at.elapsed());
    for n in [1, 2] {
        connected.say(&message(n)).await;
    }
    hears(&mut client, [2]).await;
    drop(client);
    survivor.wait_until_empty().await;
    survivor.cx.shut_down().await;
}
