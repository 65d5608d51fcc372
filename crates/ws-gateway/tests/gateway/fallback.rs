use std::collections::VecDeque;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use ws_gateway::{GatewayConfig, WebSocketConfig};

use crate::cluster::{redis, single, with_redis};
use crate::node::{Node, PATIENCE, config, token, user};

/// A client whose answers come in the body of one request.
struct Stream {
    body: Incoming,
    text: String,
    lines: VecDeque<Value>,
    session: Value,
    node: Value,
}

async fn send(node: &Node, request: Request<Full<Bytes>>) -> Response<Incoming> {
    let stream = TcpStream::connect(node.websocket).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    node.cx.spawn_work(async move {
        let _ = connection.await;
    });
    timeout(PATIENCE, sender.send_request(request)).await.expect("an answer in time").unwrap()
}

fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::post(path).header("host", "gateway").header("content-type", "application/json");
    request.body(Full::new(body.into())).unwrap()
}

impl Stream {
    /// Connects; the first line is the answer.
    async fn open(node: &Node, path: &str, token: &str) -> Self {
        let connect = json!({"id": 1, "connect": {"token": token}}).to_string();
        let request = match path {
            "/connection/sse" => {
                let query: String = connect.bytes().map(|byte| format!("%{byte:02x}")).collect();
                Request::get(format!("{path}?cf_connect={query}"))
                    .header("host", "gateway")
                    .body(Full::default())
                    .unwrap()
            }
            _ => post(path, connect),
        };
        let response = send(node, request).await;
        assert_eq!(response.status(), 200);
        let (text, lines) = (String::new(), VecDeque::new());
        let mut stream =
            Self { body: response.into_body(), text, lines, session: Value::Null, node: Value::Null };
        let begun = stream.line().await.unwrap()["connect"].clone();
        (stream.session, stream.node) = (begun["session"].clone(), begun["node"].clone());
        assert!(stream.session.is_string() && stream.node.is_string(), "{begun}");
        stream
    }

    /// Returns the next line; none at the end.
    async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("the server said nothing")?;
            self.text.push_str(str::from_utf8(&frame.ok()?.into_data().unwrap()).unwrap());
            while let Some((line, rest)) = self.text.split_once('\n') {
                let line = line.strip_prefix("data: ").unwrap_or(line);
                if !line.is_empty() {
                    self.lines.push_back(serde_json::from_str(line).unwrap());
                }
                self.text = rest.to_owned();
            }
        }
    }

    async fn say(&self, node: &Node, command: Value) -> u16 {
        let body = json!({"session": self.session, "node": self.node, "data": command.to_string()});
        send(node, post("/emulation", body.to_string())).await.status().as_u16()
    }
}

#[tokio::test]
async fn a_client_without_websocket_subscribes_and_hears() {
    let node = Node::start(config()).await;
    for path in ["/connection/http_stream", "/connection/sse"] {
        let mut stream = Stream::open(&node, path, &token(&user("42"))).await;
        assert_eq!(stream.say(&node, json!({"id": 2, "subscribe": {"channel": "news"}})).await, 204);
        assert_eq!(stream.line().await.unwrap(), json!({"id": 2, "subscribe": {}}));
        assert_eq!(node.publish("news", "[1,\r\n 2]").await.unwrap(), 1);
        assert_eq!(
            stream.line().await.unwrap()["push"],
            json!({"channel": "news", "pub": {"data": [1, 2]}}),
            "{path}"
        );
        let shown = node.connections("42", "news").await.connections;
        assert_eq!((shown.len(), shown[0].messages_received), (1, 2));
        drop(stream);
        node.wait_until_empty().await;
    }
    assert!(node.metrics().contains("mainstay_ws_disconnects_total{code=\"3000\"} 2"), "{}", node.metrics());
}

#[tokio::test]
async fn streams_end_with_the_reason() {
    let node = Node::start(config()).await;
    let mut stream = Stream::open(&node, "/connection/http_stream", &token(&user("42"))).await;
    assert_eq!(stream.say(&node, json!({"id": 2, "connect": {}})).await, 204);
    let end = json!({"push": {"disconnect": {"code": 3501, "reason": "bad request", "reconnect": false}}});
    assert_eq!(stream.line().await, Some(end));
    assert_eq!(stream.line().await, None);
    node.wait_until_empty().await;
    // The stream has told the client already.
    assert_eq!(stream.say(&node, json!({"id": 3, "subscribe": {"channel": "news"}})).await, 204);

    let mut stream = Stream::open(&node, "/connection/http_stream", &token(&user("43"))).await;
    let end = json!({"push": {"disconnect": {"code": 3001, "reason": "shutdown", "reconnect": true}}});
    let ((), lines) = tokio::join!(node.cx.shut_down(), async { [stream.line().await, stream.line().await] });
    assert_eq!(lines, [Some(end), None]);
}

#[tokio::test]
async fn requests_that_belong_to_no_session_here_are_turned_away() {
    let websocket =
        WebSocketConfig { allowed_origins: vec!["https://good.example".into()], ..config().websocket };
    let node = Node::start(GatewayConfig { websocket, ..config() }).await;
    let mut stream = Stream::open(&node, "/connection/http_stream", &token(&user("42"))).await;
    stream.node = json!("another node");
    assert_eq!(stream.say(&node, json!({"id": 2, "subscribe": {"channel": "news"}})).await, 404);
    let status = async |request| send(&node, request).await.status().as_u16();
    assert_eq!(status(post("/emulation", "{")).await, 400);
    assert_eq!(status(post("/connection/http_stream", vec![b' '; 70_000])).await, 413);
    for (origin, expected) in [("https://good.example", 204), ("https://evil.example", 403)] {
        for path in ["/connection/http_stream", "/connection/sse", "/emulation"] {
            let request = Request::options(path)
                .header("host", "gateway")
                .header("origin", origin)
                .header("access-control-request-method", "POST");
            let response = send(&node, request.body(Full::default()).unwrap()).await;
            assert_eq!(response.status(), expected, "{path} {origin}");
            let allowed = response.headers().get("access-control-allow-origin");
            assert_eq!(allowed.map(|value| value.to_str().unwrap()), (expected == 204).then_some(origin));
        }
    }
}

#[tokio::test]
async fn fallbacks_can_be_turned_off() {
    let websocket = WebSocketConfig { fallbacks: false, ..config().websocket };
    let node = Node::start(GatewayConfig { websocket, ..config() }).await;
    assert_eq!(send(&node, post("/emulation", "{}")).await.status(), 404);
}

#[tokio::test]
async fn what_a_client_says_to_any_node_reaches_its_stream() {
    let stack = redis().await;
    let (one, other) =
        tokio::join!(Node::joined(with_redis(single(&stack))), Node::joined(with_redis(single(&stack))));
    for node in [&one, &other] {
        node.wait_for_metric("mainstay_ws_nodes 2").await;
    }
    for path in ["/connection/http_stream", "/connection/sse"] {
        let mut stream = Stream::open(&one, path, &token(&user("42"))).await;
        assert_eq!(stream.say(&other, json!({"id": 2, "subscribe": {"channel": "news"}})).await, 204);
        assert_eq!(stream.line().await.unwrap(), json!({"id": 2, "subscribe": {}}));
        assert_eq!(stream.say(&one, json!({"id": 3, "unsubscribe": {"channel": "news"}})).await, 204);
        assert_eq!(stream.line().await.unwrap(), json!({"id": 3, "unsubscribe": {}}));
        stream.node = json!("nobody");
        assert_eq!(stream.say(&other, json!({"id": 4, "ping": {}})).await, 404);
        drop(stream);
        one.wait_until_empty().await;
    }
    other.wait_for_metric("mainstay_ws_requests_passed_on_total{outcome=\"heard\"} 2").await;
    other.wait_for_metric("mainstay_ws_requests_passed_on_total{outcome=\"lost\"} 2").await;
}
