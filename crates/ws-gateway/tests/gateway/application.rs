//! An application behind the gateway, over gRPC and over HTTP, that decides as its questions say.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::Path;
use axum::routing::post;
use mainstay_proto::realtime::v1::realtime_backend_server::{RealtimeBackend, RealtimeBackendServer};
use mainstay_proto::realtime::v1::{
    BackendClient, BackendConnectRequest, BackendConnectResponse, BackendError, BackendPublishRequest,
    BackendPublishResponse, BackendRefreshRequest, BackendRefreshResponse, BackendRpcRequest,
    BackendRpcResponse, BackendSubRefreshRequest, BackendSubRefreshResponse, BackendSubscribeRequest,
    BackendSubscribeResponse,
};
use mainstay_rpc::{Reply, Request, Response, Routes, ServeOptions};
use mainstay_runtime::{Context, UpstreamConfig};
use serde_json::{Value, json};
use ws_gateway::HttpBackendConfig;

use crate::node::now_unix_s;

/// Answers as its questions say.
struct Application;

/// The same application, ready to be asked one way.
pub(crate) struct Served {
    pub(crate) cx: Context,
    pub(crate) grpc: UpstreamConfig,
    pub(crate) http: HttpBackendConfig,
}

impl Served {
    pub(crate) async fn over_grpc() -> Self {
        let cx = Context::for_test("application");
        cx.serve(Routes::new(RealtimeBackendServer::new(Application))).await.unwrap();
        let grpc = UpstreamConfig::of([format!("http://{}", address(&cx, "internal"))]);
        Self { cx, grpc, http: HttpBackendConfig::default() }
    }

    pub(crate) async fn over_http() -> Self {
        let cx = Context::for_test("application");
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = cx.bind("http", "listen", any_port).await.unwrap();
        let app =
            Router::new().route("/rpc", post(rpc_over_http)).route("/hooks/{hook}", post(hook_over_http));
        cx.serve_http(listener, app, ServeOptions::new("http"));
        let url = |path: &str| format!("http://{}/{path}", address(&cx, "http"));
        let http = HttpBackendConfig {
            rpc_url: url("rpc"),
            hooks_url: url("hooks"),
            ..HttpBackendConfig::default()
        };
        Self { cx, grpc: UpstreamConfig::default(), http }
    }
}

fn address(cx: &Context, name: &str) -> SocketAddr {
    cx.listening().into_iter().find(|port| port.name == name).unwrap().address
}

/// Returns what the application says, in the form of HTTP; text that is none for garbage.
async fn decide(hook: &str, asked: &Value) -> String {
    let wish = match hook {
        "connect" => &asked["data"]["as"],
        "publish" => &asked["data"]["how"],
        "subscribe" => &asked["channel"],
        _ => &Value::Null,
    };
    let no = json!({"error": {"code": 403, "message": "not \"you\"", "temporary": false}});
    let soon = now_unix_s() + 4;
    match (hook, wish.as_str().unwrap_or_default()) {
        (_, "never") => std::future::pending().await,
        (_, "no") => no,
        (_, "garbage") => return "[garbage".to_owned(),
        ("connect", "fan" | "elsewhere" | "nonsense") => {
            let channel = if wish == "elsewhere" { "o:other" } else { "o:s" };
            let filter = match wish.as_str() {
                Some("nonsense") => json!({"op": "nand"}),
                _ => json!({"key": "sport", "cmp": "eq", "val": "golf"}),
            };
            json!({"user": wish, "channels": ["o:s", "t:s"], "filters": {channel: filter}})
        }
        ("connect", user) => json!({
            "user": user,
            "info": {"cookie": asked["headers"]["cookie"]},
            "meta": {"sdk": asked["name"]},
            "data": {"hello": user},
            "channels": ["granted"],
            "expire_at": if user == "mayfly" { soon } else { 0 },
        }),
        ("subscribe", "o:golf" | "t:golf") => {
            json!({"filter": {"key": "sport", "cmp": "eq", "val": "golf"}})
        }
        ("subscribe", "o:nonsense") => json!({"filter": {"op": "nand"}}),
        ("subscribe", "short") => json!({"expire_at": soon, "info": [asked["user"]], "data": asked["data"]}),
        ("subscribe", _) => json!({"info": [asked["user"], asked["meta"]], "data": asked["data"]}),
        ("publish", "changed") => json!({"data": {"by": asked["user"], "into": asked["channel"]}}),
        ("publish", _) => json!({}),
        _ => json!({"expire_at": now_unix_s() + 3_600}),
    }
    .to_string()
}

async fn hook_over_http(Path(hook): Path<String>, body: String) -> String {
    decide(&hook, &serde_json::from_str(&body).unwrap()).await
}

/// Asks the same over gRPC, where each document is bytes; garbage stays in one of them.
async fn decided(hook: &str, client: Option<BackendClient>, mut asked: Value) -> Value {
    let client = client.unwrap_or_default();
    asked["client"] = client.client.into();
    asked["user"] = client.user.into();
    asked["meta"] = document(&client.meta);
    let said = decide(hook, &asked).await;
    serde_json::from_str(&said).unwrap_or_else(|_| json!({"data": said, "garbage": true}))
}

fn document(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_default()
}

fn bytes(said: &Value, field: &str) -> bytes::Bytes {
    match &said[field] {
        Value::Null => bytes::Bytes::new(),
        Value::String(text) if said["garbage"] == true => text.clone().into(),
        value => value.to_string().into(),
    }
}

fn error(said: &Value) -> Option<BackendError> {
    let error = said["error"].as_object()?;
    Some(BackendError {
        code: error["code"].as_u64().unwrap() as u32,
        message: error["message"].as_str().unwrap().to_owned(),
        temporary: error["temporary"].as_bool().unwrap(),
    })
}

fn expire_at(said: &Value) -> u64 {
    said["expire_at"].as_u64().unwrap_or_default()
}

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

    async fn on_connect(&self, request: Request<BackendConnectRequest>) -> Reply<BackendConnectResponse> {
        let request = request.into_inner();
        assert!(request.remote.starts_with("127.0.0.1:"), "{}", request.remote);
        let asked = json!({
            "data": document(&request.data),
            "headers": request.headers,
            "name": request.name,
            "version": request.version,
        });
        let said = decided("connect", request.client, asked).await;
        Ok(Response::new(BackendConnectResponse {
            user: said["user"].as_str().unwrap_or_default().to_owned(),
            info: bytes(&said, "info"),
            meta: bytes(&said, "meta"),
            data: bytes(&said, "data"),
            channels: said["channels"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|name| name.as_str().unwrap().to_owned())
                .collect(),
            filters: said["filters"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(channel, filter)| (channel.clone(), filter.to_string().into()))
                .collect(),
            expire_at: expire_at(&said),
            error: error(&said),
        }))
    }

    async fn on_refresh(&self, request: Request<BackendRefreshRequest>) -> Reply<BackendRefreshResponse> {
        let said = decided("refresh", request.into_inner().client, json!({})).await;
        Ok(Response::new(BackendRefreshResponse { expire_at: expire_at(&said), expired: false }))
    }

    async fn on_subscribe(
        &self,
        request: Request<BackendSubscribeRequest>,
    ) -> Reply<BackendSubscribeResponse> {
        let request = request.into_inner();
        let asked = json!({"channel": request.channel, "data": document(&request.data)});
        let said = decided("subscribe", request.client, asked).await;
        Ok(Response::new(BackendSubscribeResponse {
            info: bytes(&said, "info"),
            data: bytes(&said, "data"),
            expire_at: expire_at(&said),
            error: error(&said),
            filter: bytes(&said, "filter"),
            ..BackendSubscribeResponse::default()
        }))
    }

    async fn on_sub_refresh(
        &self,
        request: Request<BackendSubRefreshRequest>,
    ) -> Reply<BackendSubRefreshResponse> {
        let request = request.into_inner();
        let said = decided("sub_refresh", request.client, json!({"channel": request.channel})).await;
        Ok(Response::new(BackendSubRefreshResponse { expire_at: expire_at(&said), expired: false }))
    }

    async fn on_publish(&self, request: Request<BackendPublishRequest>) -> Reply<BackendPublishResponse> {
        let request = request.into_inner();
        let asked = json!({"channel": request.channel, "data": document(&request.data)});
        let said = decided("publish", request.client, asked).await;
        Ok(Response::new(BackendPublishResponse { data: bytes(&said, "data"), error: error(&said) }))
    }
}

async fn rpc_over_http(body: String) -> Result<String, http::StatusCode> {
    let asked: Value = serde_json::from_str(&body).unwrap();
    match asked["method"].as_str().unwrap() {
        "never" => std::future::pending().await,
        "no" => Ok(json!({"error": {"code": 412, "message": "not \"now\"", "temporary": true}}).to_string()),
        "broken" => Ok("{".to_owned()),
        "down" => Err(http::StatusCode::SERVICE_UNAVAILABLE),
        _ => Ok(json!({"data": [asked["user"], asked["data"]]}).to_string()),
    }
}
