//! A cache in front of an HTTP server.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Router, routing};
use bytes::Bytes;
use bytesize::ByteSize;
use cache_service::{CacheConfig, HttpOriginConfig, NamespaceOverrides, OriginConfig, RedisConfig, Strategy};
use mainstay_devstack::wait_until;
use mainstay_proto::cache::v1::{GetRequest, Layer, SetRequest};
use mainstay_rpc::{ClientTls, Failure, ServeOptions, ServerTls, server_tls};
use mainstay_runtime::{Context, Secret};
use parking_lot::Mutex;

use crate::node::{CacheNode, LOOK_EVERY, WITHIN};

/// A server that keeps what is PUT, by path.
#[derive(Clone, Default)]
struct Shop {
    values: Arc<Mutex<HashMap<String, Bytes>>>,
    versions: Arc<Mutex<Vec<String>>>,
    n_requests: Arc<AtomicU64>,
    /// Not zero: the answer to everything.
    status: Arc<AtomicU16>,
}

async fn shop(State(shop): State<Shop>, request: Request) -> Response {
    shop.n_requests.fetch_add(1, Ordering::Relaxed);
    let status = shop.status.load(Ordering::Relaxed);
    if status != 0 {
        return (StatusCode::from_u16(status).unwrap(), "told to").into_response();
    }
    if request.headers().get(header::AUTHORIZATION).is_none_or(|value| value != "Bearer hunter2") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    if let Some(version) = parts.headers.get("x-mainstay-version") {
        shop.versions.lock().push(version.to_str().unwrap().to_owned());
    }
    match parts.method {
        Method::PUT => {
            assert_eq!(parts.headers[header::CONTENT_TYPE], "text/plain");
            let body = to_bytes(body, 1 << 20).await.unwrap();
            shop.values.lock().insert(path, body);
            StatusCode::CREATED.into_response()
        }
        Method::DELETE => match shop.values.lock().remove(&path) {
            Some(_) => StatusCode::NO_CONTENT.into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        },
        _ => match shop.values.lock().get(&path).cloned() {
            Some(value) => ([(header::CONTENT_TYPE, "text/plain")], value).into_response(),
            None => (StatusCode::NOT_FOUND, "no such thing").into_response(),
        },
    }
}

impl Shop {
    async fn serve(&self, tls: &ServerTls) -> (Context, SocketAddr) {
        let cx = Context::for_test("shop");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = cx.bind("http", "http.listen", any).await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(routing::any(shop)).with_state(self.clone());
        let options = ServeOptions { tls: server_tls(tls).unwrap(), ..ServeOptions::new("http") };
        cx.serve_http(listener, app, options);
        (cx, address)
    }
}

async fn node(http: HttpOriginConfig, strategy: Strategy) -> CacheNode {
    let mut config = CacheConfig { redis: RedisConfig::default(), ..CacheConfig::default() };
    let http = HttpOriginConfig { authorization: Secret::from("Bearer hunter2"), ..http };
    config.origins.insert("shop".to_owned(), OriginConfig { http, ..OriginConfig::default() });
    let policy = NamespaceOverrides {
        strategy: Some(strategy),
        origin: Some("shop".to_owned()),
        negative_ttl: Some(Duration::from_millis(10)),
        ..NamespaceOverrides::default()
    };
    config.namespaces.insert("test".to_owned(), policy);
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    node
}

fn at(scheme: &str, address: SocketAddr) -> HttpOriginConfig {
    HttpOriginConfig {
        url: format!("{scheme}://localhost:{}/v1/{{namespace}}/{{key}}", address.port()),
        ..HttpOriginConfig::default()
    }
}

async fn reason(node: &CacheNode, key: &str) -> String {
    let request = GetRequest { namespace: "test".to_owned(), key: key.to_owned(), ..GetRequest::default() };
    let failed = node.client.clone().get(request).await.unwrap_err();
    Failure::from(failed).reason().to_owned()
}

#[tokio::test]
async fn an_http_server_is_read_and_written_through() {
    let shop = Shop::default();
    shop.values.lock().insert("/v1/test/a%2Fb".to_owned(), Bytes::from_static(b"from the shop"));
    let (shop_cx, address) = shop.serve(&ServerTls::default()).await;
    let node = node(at("http", address), Strategy::WriteThrough).await;
    let found = node.get("a/b").await;
    assert_eq!(found.layer(), Layer::Origin);
    let entry = found.entry.unwrap();
    assert_eq!((&entry.value[..], entry.content_type.as_str()), (&b"from the shop"[..], "text/plain"));
    assert_eq!(node.get("a/b").await.layer(), Layer::L1);
    assert!(node.get("absent").await.entry.is_none());

    let version = node.set("new", "value").await.version;
    assert_eq!(shop.values.lock()["/v1/test/new"], "value");
    assert_eq!(*shop.versions.lock(), [version.to_string()]);
    assert!(node.delete("new").await.unwrap());
    assert!(!shop.values.lock().contains_key("/v1/test/new"));
    // What is absent there is deleted all the same.
    assert!(!node.delete("never").await.unwrap());
    // A key that would leave its place is not asked for.
    let n_requests = shop.n_requests.load(Ordering::Relaxed);
    assert_eq!(reason(&node, "..").await, "ORIGIN_UNAVAILABLE");
    assert_eq!(shop.n_requests.load(Ordering::Relaxed), n_requests);

    let text = node.cx.openmetrics();
    let calls = "mainstay_cache_origin_calls_total{origin=\"shop\",op=\"store\",outcome=\"done\"} 3";
    assert!(text.contains(calls), "{text}");
    node.cx.shut_down().await;
    shop_cx.shut_down().await;
}

#[tokio::test]
async fn another_status_is_a_failure_and_opens_the_breaker() {
    let shop = Shop::default();
    let (shop_cx, address) = shop.serve(&ServerTls::default()).await;
    let node = node(at("http", address), Strategy::WriteThrough).await;
    for status in [301, 400, 500] {
        shop.status.store(status, Ordering::Relaxed);
        assert_eq!(reason(&node, &format!("k{status}")).await, "ORIGIN_UNAVAILABLE", "{status}");
    }
    let request = SetRequest { namespace: "test".to_owned(), key: "k".to_owned(), ..SetRequest::default() };
    let refused = Failure::from(node.client.clone().set(request).await.unwrap_err());
    assert_eq!(refused.reason(), "ORIGIN_UNAVAILABLE");
    let opens = || async {
        reason(&node, "k").await;
        if node.cx.openmetrics().contains("origin_breaker_state{origin=\"shop\"} 2") {
            return Ok(());
        }
        Err("closed".to_owned())
    };
    wait_until("the breaker to open", LOOK_EVERY, WITHIN, opens).await.unwrap();
    shop.status.store(0, Ordering::Relaxed);
    shop.values.lock().insert("/v1/test/k".to_owned(), Bytes::from_static(b"back"));
    let is_back = || async {
        let request =
            GetRequest { namespace: "test".to_owned(), key: "k".to_owned(), ..GetRequest::default() };
        node.client.clone().get(request).await.map(drop).map_err(|error| error.to_string())
    };
    wait_until("the breaker to close", LOOK_EVERY, WITHIN, is_back).await.unwrap();
    node.cx.shut_down().await;
    shop_cx.shut_down().await;
}

#[tokio::test]
async fn a_value_over_the_limit_is_refused_and_so_is_a_port_without_a_server() {
    let shop = Shop::default();
    shop.values.lock().insert("/v1/test/large".to_owned(), Bytes::from(vec![7; 2_000]));
    let (shop_cx, address) = shop.serve(&ServerTls::default()).await;
    let config = HttpOriginConfig { max_answer: ByteSize::b(1_999), ..at("http", address) };
    let node = node(config, Strategy::ReadThrough).await;
    assert_eq!(reason(&node, "large").await, "ORIGIN_UNAVAILABLE");
    node.cx.shut_down().await;
    shop_cx.shut_down().await;

    // Nobody listens there any more.
    let node = self::node(at("http", address), Strategy::ReadThrough).await;
    assert_eq!(reason(&node, "k").await, "ORIGIN_UNAVAILABLE");
    node.cx.shut_down().await;
}

#[tokio::test]
async fn tls_is_spoken_with_whom_the_authority_vouches_for() {
    let directory = tempfile::tempdir().unwrap();
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert_path, key_path) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&cert_path, cert.pem()).unwrap();
    std::fs::write(&key_path, signing_key.serialize_pem()).unwrap();
    let shop = Shop::default();
    shop.values.lock().insert("/v1/test/k".to_owned(), Bytes::from_static(b"secret"));
    let tls = ServerTls { cert: Some(cert_path.clone()), key: Some(key_path), client_ca: None };
    let (shop_cx, address) = shop.serve(&tls).await;
    let trusting = HttpOriginConfig {
        tls: ClientTls { ca: Some(cert_path), ..ClientTls::default() },
        ..at("https", address)
    };
    let trusting = node(trusting, Strategy::ReadThrough).await;
    assert_eq!(trusting.value("k").await, Some(Bytes::from_static(b"secret")));
    let wary = node(at("https", address), Strategy::ReadThrough).await;
    assert_eq!(reason(&wary, "k").await, "ORIGIN_UNAVAILABLE");
    for cx in [trusting.cx, wary.cx, shop_cx] {
        cx.shut_down().await;
    }
}
