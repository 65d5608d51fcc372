use mainstay_auth::jwt::Claims;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use ws_gateway::{AuthConfig, GatewayConfig, WebSocketConfig};

use crate::client::{Client, refusal};
use crate::node::{Node, PATIENCE, config, token, user};

#[tokio::test]
async fn a_token_opens_a_connection_that_servers_can_see() {
    let node = Node::start(config()).await;
    let mut client = Client::open(&node).await;
    let claims = Claims { channels: vec!["news".to_owned()], ..user("42") };
    let connect = json!({"token": token(&claims), "name": "js", "version": "5.8.0", "data": {"ignored": 1}});
    let answer = client.call("connect", connect).await;
    let result = &answer["connect"];
    assert_eq!(
        (&result["ping"], &result["pong"], &result["expires"]),
        (&json!(25), &json!(true), &json!(true))
    );
    assert_eq!(result["subs"], json!({"news": {}}));
    client.call("subscribe", json!({"channel": "chat"})).await;

    let seen = node.connections("42", "news").await;
    let [connection] = &seen.connections[..] else { panic!("{seen:?}") };
    assert_eq!(json!(connection.client), result["client"]);
    assert_eq!((connection.client_name.as_str(), connection.client_version.as_str()), ("js", "5.8.0"));
    assert_eq!(connection.channels, ["news", "chat"]);
    assert_eq!(connection.messages_received, 2);
    assert!(
        connection.bytes_received > 0 && connection.connected_at.is_some() && connection.ping_rtt.is_none()
    );
    assert!(node.connections("43", "").await.connections.is_empty());

    client.socket.close(None).await.unwrap();
    node.wait_until_empty().await;
}

#[tokio::test]
async fn bad_and_expired_tokens_are_told_apart() {
    let node = Node::start(config()).await;
    let mut client = Client::open(&node).await;
    client.text(&json!({"id": 1, "connect": {"token": "not.a.token"}}).to_string()).await;
    assert_eq!(client.end().await, (3500, "invalid token".to_owned()));

    let mut client = Client::open(&node).await;
    let expired = token(&Claims { exp: Some(1_000_000_000), ..user("42") });
    let answer = client.call("connect", json!({"token": expired})).await;
    assert_eq!(answer["error"], json!({"code": 109, "message": "token expired"}));
    client.text(r#"{"id":2,"subscribe":{"channel":"a"}}"#).await;
    assert_eq!(client.end().await, (3501, "bad request".to_owned()));
    node.wait_until_empty().await;
}

#[tokio::test]
async fn malformed_frames_get_the_reaction_the_protocol_names() {
    let node = Node::start(config()).await;
    let large = format!(r#"{{"id":2,"subscribe":{{"channel":"{}"}}}}"#, "x".repeat(70_000));
    let frames = [
        (Message::text(""), 3501),
        (Message::text("\n"), 3501),
        (Message::text("{}"), 3501),
        (Message::text("not json"), 3501),
        (Message::text("[]"), 3501),
        (Message::text(r#"{"id":2"#), 3501),
        (Message::text(r#"{"id":"2","subscribe":{"channel":"a"}}"#), 3501),
        (Message::text(r#"{"id":2,"connect":{}}"#), 3501),
        (Message::text(r#"{"subscribe":{"channel":"a"}}"#), 3501),
        (Message::binary(vec![0_u8]), 3506),
        (Message::text(large), 1009),
    ];
    for (frame, code) in frames {
        let mut client = Client::connected(&node, &token(&user("42"))).await;
        client.socket.get_mut().set_nodelay(true).unwrap();
        futures_util::SinkExt::send(&mut client.socket, frame.clone()).await.unwrap();
        assert_eq!(client.end().await.0, code, "{frame:?}");
    }
    node.wait_until_empty().await;
}

#[tokio::test]
async fn the_handshake_says_why_it_refuses() {
    let allowed_origins = vec!["https://*.example.org".to_owned()];
    let websocket = WebSocketConfig { max_connections: 1, allowed_origins, ..config().websocket };
    let node = Node::start(GatewayConfig { websocket, ..config() }).await;
    let foreign = Client::try_open(&node, "", &[("origin", "https://evil.net")]).await;
    assert_eq!(refusal(foreign), (403, "this origin is not allowed".to_owned()));
    let both = &[
        ("sec-websocket-protocol", "centrifuge-protobuf, centrifuge-json"),
        ("origin", "https://a.example.org"),
    ];
    let first = Client::try_open(&node, "", both).await.unwrap();
    assert_eq!(refusal(Client::try_open(&node, "", &[]).await), (503, "this node is full".to_owned()));
    drop(first);
    node.wait_until_empty().await;
    Client::open(&node).await;

    let mut plain = TcpStream::connect(node.websocket).await.unwrap();
    plain
        .write_all(b"GET /connection/websocket HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, plain.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");

    let metrics = node.metrics();
    for (reason, count) in [("origin", 1), ("full", 1), ("not_websocket", 1)] {
        let line = format!("mainstay_ws_handshakes_refused_total{{reason=\"{reason}\"}} {count}");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_user_can_have_only_so_many_connections() {
    let websocket = WebSocketConfig { max_connections_per_user: 1, ..config().websocket };
    let node = Node::start(GatewayConfig { websocket, ..config() }).await;
    let first = Client::connected(&node, &token(&user("42"))).await;
    let mut second = Client::open(&node).await;
    second.text(&json!({"id": 1, "connect": {"token": token(&user("42"))}}).to_string()).await;
    assert_eq!(second.end().await, (3504, "connection limit".to_owned()));
    Client::connected(&node, &token(&user("43"))).await;
    drop((first, second));
    node.wait_until_empty().await;
    Client::connected(&node, &token(&user("42"))).await;
}

#[tokio::test]
async fn anonymous_clients_may_be_welcome() {
    let auth = AuthConfig { allow_anonymous: true, ..AuthConfig::default() };
    let node = Node::start(GatewayConfig { auth, ..config() }).await;
    let mut client = Client::subscribed(&node, "", "news").await;
    assert_eq!(node.publish("news", "1").await.unwrap(), 1);
    assert_eq!(client.publication().await, json!(1));
    assert_eq!(node.state().await.users, 0);
}
