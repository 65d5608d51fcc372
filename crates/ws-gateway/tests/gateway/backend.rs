//! The application behind the gateway, over gRPC and HTTP.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use ws_gateway::{BackendConfig, GatewayConfig};

use crate::application::Served;
use crate::client::Client;
use crate::node::{Node, PATIENCE, config, token, user};

const WITHIN: Duration = Duration::from_millis(1_500);

fn config_with(served: &Served) -> GatewayConfig {
    let backend = BackendConfig {
        rpc: true,
        within: WITHIN,
        max_in_flight_per_client: 2,
        grpc: served.grpc.clone(),
        http: served.http.clone(),
        ..BackendConfig::default()
    };
    GatewayConfig { backend, ..config() }
}

async fn says_what_the_application_says(client: &mut Client) {
    let answer = client.call("rpc", json!({"method": "echo", "data": {"a": 1}})).await;
    assert_eq!(answer["rpc"]["data"], json!(["42", {"a": 1}]), "{answer}");
    let answer = client.call("rpc", json!({})).await;
    assert_eq!(answer["rpc"]["data"], json!(["42", null]), "{answer}");
    let answer = client.call("rpc", json!({"method": "no"})).await;
    assert_eq!(answer["error"], json!({"code": 412, "message": "not \"now\"", "temporary": true}));
    let answer = client.call("rpc", json!({"method": "broken"})).await;
    assert_eq!((&answer["error"]["code"], &answer["error"]["temporary"]), (&json!(100), &json!(true)));
    let answer = client.call("rpc", json!({"method": "x".repeat(129)})).await;
    assert_eq!(answer["error"]["code"], json!(107), "{answer}");
}

async fn waits_for_none_that_is_slow(client: &mut Client) {
    let began_at = Instant::now();
    for id in [901, 902, 903] {
        client.text(&json!({"id": id, "rpc": {"method": "never"}}).to_string()).await;
    }
    // Two may be under way. Other commands pass them by.
    let line = client.line().await;
    assert_eq!((&line["id"], &line["error"]["code"]), (&json!(903), &json!(111)), "{line}");
    assert!(client.call("subscribe", json!({"channel": "a"})).await["subscribe"].is_object());
    let mut late = Vec::new();
    for _ in 0..2 {
        let line = client.line().await;
        assert_eq!(line["error"]["code"], json!(100), "{line}");
        late.push(line["id"].clone());
    }
    assert!(began_at.elapsed() >= WITHIN);
    late.sort_by_key(Value::as_u64);
    assert_eq!(late, [json!(901), json!(902)]);
}

#[tokio::test]
async fn calls_of_clients_go_to_the_application_over_grpc() {
    let application = Served::over_grpc().await;
    let node = Node::start(config_with(&application)).await;
    let mut client = Client::connected(&node, &token(&user("42"))).await;
    says_what_the_application_says(&mut client).await;
    waits_for_none_that_is_slow(&mut client).await;
    application.cx.shut_down().await;
    let answer = client.call("rpc", json!({"method": "echo"})).await;
    assert_eq!(answer["error"]["code"], json!(100), "{answer}");
    let metrics = node.metrics();
    for line in
        ["{outcome=\"ok\"} 2", "{outcome=\"error\"} 1", "{outcome=\"failed\"} 4", "{outcome=\"refused\"} 1"]
    {
        assert!(metrics.contains(&format!("mainstay_ws_backend_calls_total{line}")), "{line}: {metrics}");
    }
    drop(client);
    node.wait_until_empty().await;
}

#[tokio::test]
async fn calls_of_clients_go_to_the_application_over_http_and_are_held_back_while_it_fails() {
    let application = Served::over_http().await;
    let node = Node::start(config_with(&application)).await;
    let mut client = Client::connected(&node, &token(&user("42"))).await;
    says_what_the_application_says(&mut client).await;
    waits_for_none_that_is_slow(&mut client).await;
    for _ in 0..5 {
        assert_eq!(client.call("rpc", json!({"method": "down"})).await["error"]["code"], json!(100));
    }
    // It is left alone now, and asked again by and by.
    assert_eq!(client.call("rpc", json!({"method": "echo"})).await["error"]["code"], json!(100));
    let deadline = Instant::now() + PATIENCE;
    while client.call("rpc", json!({"method": "echo"})).await["rpc"].is_null() {
        assert!(Instant::now() < deadline, "the breaker never closed");
        sleep(Duration::from_millis(20)).await;
    }
    drop(client);
    node.wait_until_empty().await;
    application.cx.shut_down().await;
}
