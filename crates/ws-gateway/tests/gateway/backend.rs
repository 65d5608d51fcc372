//! The application behind the gateway, over gRPC and HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use mainstay_proto::realtime::v1::realtime_backend_server::{RealtimeBackend, RealtimeBackendServer};
use mainstay_proto::realtime::v1::{BackendError, BackendRpcRequest, BackendRpcResponse};
use mainstay_rpc::{Reply, Request, Response, Routes, ServeOptions};
use mainstay_runtime::{Context, UpstreamConfig};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use ws_gateway::{BackendConfig, GatewayConfig, HttpBackendConfig};

use crate::client::Client;
use crate::node::{Node, PATIENCE, config, token, user};

const WITHIN: Duration = Duration::from_millis(1_500);

/// Answers as its method says.
struct Application;

#[tonic::async_trait]
impl RealtimeBackend for Application {
    async fn rpc(&self, request: Request<BackendRpcRequest>) -> Reply<BackendRpcResponse> {
        let request = request.into_inner();
        let client = request.client.unwrap_or_default();
        let data = match request.method.as_str() {
            "never" => std::future::pending().await,
            "no" => {
                let error = BackendError { code: 412, message: "not \"now\"".to_owned(), temporary: true };
                return Ok(Response::new(BackendRpcResponse { error: Some(error), ..Default::default() }));
            }
            "broken" => "{".to_owned(),
            _ => json!([client.user, serde_json::from_slice::<Value>(&request.data).ok()]).to_string(),
        };
        Ok(Response::new(BackendRpcResponse { data: data.into(), error: None }))
    }
}

async fn over_http(body: String) -> Result<String, http::StatusCode> {
    let asked: Value = serde_json::from_str(&body).unwrap();
    match asked["method"].as_str().unwrap() {
        "never" => std::future::pending().await,
        "no" => Ok(json!({"error": {"code": 412, "message": "not \"now\"", "temporary": true}}).to_string()),
        "broken" => Ok("{".to_owned()),
        "down" => Err(http::StatusCode::SERVICE_UNAVAILABLE),
        _ => Ok(json!({"data": [asked["user"], asked["data"]]}).to_string()),
    }
}

fn config_with(grpc: UpstreamConfig, http: HttpBackendConfig) -> GatewayConfig {
    let backend = BackendConfig {
        rpc: true,
        within: WITHIN,
        max_in_flight_per_client: 2,
        grpc,
        http,
        ..BackendConfig::default()
    };
    GatewayConfig { backend, ..config() }
}

fn address(cx: &Context, name: &str) -> SocketAddr {
    cx.listening().into_iter().find(|port| port.name == name).unwrap().address
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
    let application = Context::for_test("application");
    application.serve(Routes::new(RealtimeBackendServer::new(Application))).await.unwrap();
    let url = format!("http://{}", address(&application, "internal"));
    let node = Node::start(config_with(UpstreamConfig::of([url]), HttpBackendConfig::default())).await;
    let mut client = Client::connected(&node, &token(&user("42"))).await;
    says_what_the_application_says(&mut client).await;
    waits_for_none_that_is_slow(&mut client).await;
    application.shut_down().await;
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
    let application = Context::for_test("application");
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = application.bind("http", "listen", any_port).await.unwrap();
    let app = Router::new().route("/rpc", post(over_http));
    application.serve_http(listener, app, ServeOptions::new("http"));
    let rpc_url = format!("http://{}/rpc", address(&application, "http"));
    let http = HttpBackendConfig { rpc_url, ..HttpBackendConfig::default() };
    let node = Node::start(config_with(UpstreamConfig::default(), http)).await;
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
    application.shut_down().await;
}
