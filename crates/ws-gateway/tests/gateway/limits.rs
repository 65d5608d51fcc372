use serde_json::json;
use ws_gateway::{
    ChannelsConfig, GatewayConfig, NamespaceConfig, RateConfig, RatesConfig, Slow, WebSocketConfig, Who,
};

use crate::client::{Client, refusal};
use crate::node::{Node, config, token, user};

#[tokio::test]
async fn commands_that_come_too_fast_are_refused_for_a_while() {
    let rates = RatesConfig { publish: RateConfig { per_second: 1, burst: 2 }, ..RatesConfig::default() };
    let default = NamespaceConfig { publish: Who::Everyone, ..NamespaceConfig::default() };
    let config = GatewayConfig {
        websocket: WebSocketConfig { rates, ..config().websocket },
        channels: ChannelsConfig { default, ..ChannelsConfig::default() },
        ..config()
    };
    let node = Node::start(config).await;
    let mut client = Client::connected(&node, &token(&user("42"))).await;
    for _ in 0..2 {
        assert_eq!(client.call("publish", json!({"channel": "a", "data": 1})).await["publish"], json!({}));
    }
    let refused = client.call("publish", json!({"channel": "a", "data": 1})).await;
    let error = json!({"code": 111, "message": "too many requests", "temporary": true});
    assert_eq!(refused["error"], error);
    assert_eq!(client.call("subscribe", json!({"channel": "a"})).await["subscribe"], json!({}));
    let mut other = Client::connected(&node, &token(&user("42"))).await;
    assert_eq!(other.call("publish", json!({"channel": "a", "data": 1})).await["publish"], json!({}));
    let text = node.metrics();
    assert!(text.contains("mainstay_ws_commands_total{method=\"publish\",result=\"111\"} 1"), "{text}");
}

#[tokio::test]
async fn one_address_has_a_limited_number_of_connections() {
    let websocket = WebSocketConfig { max_connections_per_address: 2, ..config().websocket };
    let node = Node::start(GatewayConfig { websocket, ..config() }).await;
    let first = Client::open(&node).await;
    let _second = Client::open(&node).await;
    let refused = refusal(Client::try_open(&node, "", &[]).await);
    assert_eq!(refused, (429, "too many connections from this address".to_owned()));
    assert!(node.metrics().contains("mainstay_ws_handshakes_refused_total{reason=\"crowded\"} 1"));
    drop(first);
    node.wait_for("a place", |state| state.connections == 1).await;
    Client::open(&node).await;
}

#[tokio::test]
async fn a_client_that_stops_reading_finds_the_latest_value_when_it_goes_on() {
    let price = NamespaceConfig { slow: Slow::KeepLatest, ..NamespaceConfig::default() };
    let namespaces = [("price".to_owned(), price)].into();
    let channels = ChannelsConfig { namespaces, ..ChannelsConfig::default() };
    let node = Node::start(GatewayConfig { channels, ..config() }).await;
    let mut client = Client::subscribed(&node, &token(&user("42")), "price:a").await;
    let filling = "x".repeat(60_000);
    let mut n = 0;
    while !node.metrics().contains("mainstay_ws_publications_dropped_total{policy=\"keep_latest\"}") {
        n += 1;
        assert!(n < 2_000, "nothing was left out");
        assert_eq!(node.publish("price:a", &json!([n, filling]).to_string()).await.unwrap(), 1);
    }
    assert_eq!(node.publish("price:a", "[\"last\"]").await.unwrap(), 1);
    let (mut latest, mut n_seen) = (0, 0);
    loop {
        let data = client.publication().await;
        if data == json!(["last"]) {
            break;
        }
        assert!(data[0].as_u64().unwrap() > latest);
        latest = data[0].as_u64().unwrap();
        n_seen += 1;
    }
    assert!(n_seen < n, "all of them came");
}
