//! A way to Redis that works in all but what it is for.

use std::time::Duration;

use serde_json::json;
use ws_gateway::{BrokerConfig, GatewayConfig};

use crate::client::Client;
use crate::cluster::{proxied, redis, subscribe};
use crate::node::{Node, token, user};
use crate::peers::short_leased;

#[tokio::test]
async fn a_node_notices_that_nothing_arrives_although_everything_answers() {
    let stack = redis().await;
    let servers = stack.redis().unwrap();
    let (proxy, behind_proxy) = proxied(&stack);
    let config = short_leased(behind_proxy);
    // Nothing but the canary may find it.
    let broker = BrokerConfig {
        silent_for: Duration::from_secs(1),
        check_positions_every: Duration::from_secs(3_600),
        ..config.broker.clone()
    };
    let node = Node::joined(GatewayConfig { broker, ..config }).await;
    let mut client = Client::connected(&node, &token(&user("a"))).await;
    subscribe(&mut client, json!({"channel": "m:x", "recoverable": true})).await;

    // The address leads to another server from now on; the connection that listens stays with the first one, which
    // answers. On the new one nobody may listen.
    for sentinel in servers.sentinels() {
        sentinel.pause().await.unwrap();
    }
    let other = servers.first_replica();
    other.command(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    other.command(&["ACL", "SETUSER", "default", "-subscribe"]).await.unwrap();
    proxy.redirect(other.public_address());
    servers.first_primary().command(&["CLIENT", "KILL", "TYPE", "normal"]).await.unwrap();

    let line = client.line().await;
    assert_eq!(line["push"]["unsubscribe"]["code"], json!(2500), "{line}");
    assert!(node.metrics().contains("mainstay_ws_canary_silences_total 1\n"), "{}", node.metrics());
    node.wait_for("deafness", |node| node.deaf).await;
    let answer = client.call("subscribe", json!({"channel": "m:x", "recoverable": true})).await;
    assert_eq!((&answer["error"]["code"], &answer["error"]["temporary"]), (&json!(100), &json!(true)));

    other.command(&["ACL", "SETUSER", "default", "+subscribe"]).await.unwrap();
    node.wait_until_heard(true).await;
    subscribe(&mut client, json!({"channel": "m:x", "recoverable": true})).await;
    node.publish_with_key("m:x", "1", "").await.unwrap();
    assert_eq!(client.publication().await, json!(1));

    drop(client);
    node.wait_until_empty().await;
    node.cx.shut_down().await;
    for sentinel in servers.sentinels() {
        sentinel.resume().await.unwrap();
    }
    stack.stop().await.unwrap();
}
