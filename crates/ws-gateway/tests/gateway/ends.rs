use std::time::Duration;

use bytesize::ByteSize;
use mainstay_proto::realtime::v1::DisconnectRequest;
use serde_json::json;
use tokio::time::Instant;
use ws_gateway::{GatewayConfig, WebSocketConfig};

use crate::client::Client;
use crate::node::{Node, PATIENCE, config, token, user};

fn slow_config() -> GatewayConfig {
    let (max_message_size, outbox_size) = (ByteSize::kib(64), ByteSize::kib(256));
    GatewayConfig {
        websocket: WebSocketConfig { max_message_size, outbox_size, ..config().websocket },
        ..config()
    }
}

/// Publishes until a client that does not read has been given up.
async fn flood(node: &Node) {
    let data = format!("\"{}\"", "x".repeat(60 << 10));
    let deadline = Instant::now() + PATIENCE;
    while node.publish("a", &data).await.unwrap() > 0 {
        assert!(Instant::now() < deadline, "the slow client was never given up");
    }
}

#[tokio::test]
async fn a_client_that_never_reads_is_dropped_and_leaves_nothing() {
    let node = Node::start(slow_config()).await;
    let silent = Client::subscribed(&node, &token(&user("42")), "a").await;
    flood(&node).await;
    let state = node.wait_for("the end of the membership", |node| node.subscriptions == 0).await;
    assert_eq!((state.slow_disconnects, state.channels, state.users), (1, 0, 0));
    // Its socket is kept for the farewell only, although the client still holds its end.
    node.wait_until_empty().await;
    let metrics = node.metrics();
    assert!(metrics.contains("mainstay_ws_disconnects_total{code=\"3008\"} 1"), "{metrics}");
    assert!(metrics.contains("mainstay_ws_slow_disconnects_total 1"), "{metrics}");
    drop(silent);
}

#[tokio::test]
async fn a_slow_client_that_wakes_up_learns_why_it_was_closed() {
    let node = Node::start(slow_config()).await;
    let mut slow = Client::subscribed(&node, &token(&user("42")), "a").await;
    flood(&node).await;
    assert_eq!(slow.end().await, (3008, "slow".to_owned()));
    node.wait_until_empty().await;
}

#[tokio::test]
async fn a_client_that_does_not_answer_pings_is_closed() {
    let (ping_every, pong_within) = (Duration::from_millis(60), Duration::from_millis(30));
    let websocket = WebSocketConfig { ping_every, pong_within, ..config().websocket };
    let node = Node::start(GatewayConfig { websocket, ..config() }).await;
    let mut client = Client::connected(&node, &token(&user("42"))).await;
    assert_eq!(client.line().await, json!({}));
    assert_eq!(client.end().await, (3012, "no pong".to_owned()));
    node.wait_until_empty().await;
}

#[tokio::test]
async fn a_client_that_answers_pings_stays_and_its_round_trip_is_known() {
    let (ping_every, pong_within) = (Duration::from_millis(40), Duration::from_secs(5));
    let websocket = WebSocketConfig { ping_every, pong_within, ..config().websocket };
    let node = Node::start(GatewayConfig { websocket, ..config() }).await;
    let mut client = Client::connected(&node, &token(&user("42"))).await;
    for _ in 0..3 {
        assert_eq!(client.line().await, json!({}));
        client.text("{}").await;
    }
    let seen = node.connections("42", "").await;
    assert!(seen.connections[0].ping_rtt.is_some(), "{seen:?}");
}

#[tokio::test]
async fn a_client_that_never_connects_is_stale() {
    let websocket = WebSocketConfig { connect_within: Duration::from_millis(50), ..config().websocket };
    let node = Node::start(GatewayConfig { websocket, ..config() }).await;
    let mut client = Client::open(&node).await;
    assert_eq!(client.end().await, (3502, "stale".to_owned()));
    node.wait_until_empty().await;
}

#[tokio::test]
async fn a_user_can_be_disconnected_by_servers() {
    let node = Node::start(config()).await;
    let mut clients = Vec::new();
    for sub in ["42", "42", "43"] {
        clients.push(Client::connected(&node, &token(&user(sub))).await);
    }
    let request = DisconnectRequest { user: "42".to_owned() };
    let answer =
        node.grpc("Publish", request, async |mut api, request| api.disconnect(request).await).await.unwrap();
    assert_eq!(answer.disconnected, 2);
    for client in &mut clients[..2] {
        assert_eq!(client.end().await, (3503, "force disconnect".to_owned()));
    }
    node.wait_for("one left", |node| node.connections == 1).await;
    assert_eq!(clients[2].call("rpc", json!({})).await["error"]["code"], json!(108));
    for user in [String::new(), "x".repeat(256)] {
        let request = DisconnectRequest { user };
        let outcome =
            node.grpc("Publish", request, async |mut api, request| api.disconnect(request).await).await;
        assert_eq!(outcome.unwrap_err().reason(), "USER_INVALID");
    }
}

#[tokio::test]
async fn at_the_end_everybody_gets_what_was_queued_and_is_told_to_go() {
    let node = Node::start(config()).await;
    let mut clients = Vec::new();
    for n in 0..150 {
        clients.push(Client::subscribed(&node, &token(&user(&n.to_string())), "a").await);
    }
    assert_eq!(node.publish("a", "\"last\"").await.unwrap(), 150);
    tokio::join!(node.cx.shut_down(), async {
        for client in &mut clients {
            assert_eq!(client.publication().await, json!("last"));
            assert_eq!(client.end().await, (3001, "shutdown".to_owned()));
        }
    });
    let metrics = node.metrics();
    assert!(metrics.contains("mainstay_ws_disconnects_total{code=\"3001\"} 150"), "{metrics}");
    assert!(metrics.contains("mainstay_ws_connections 0"), "{metrics}");
}

#[tokio::test]
async fn a_client_that_breaks_off_at_any_moment_leaves_nothing() {
    let node = Node::start(config()).await;
    for round in 0..20 {
        let mut client = Client::open(&node).await;
        if round % 4 > 0 {
            client.call("connect", json!({"token": token(&user("42"))})).await;
        }
        if round % 4 > 1 {
            client.text(r#"{"id":9,"subscribe":{"channel":"a"}}"#).await;
        }
        if round % 4 > 2 {
            node.publish("a", "1").await.unwrap();
        }
        drop(client);
    }
    node.wait_until_empty().await;
    // And nobody new is refused.
    assert!(Client::try_open(&node, "", &[]).await.is_ok());
}
