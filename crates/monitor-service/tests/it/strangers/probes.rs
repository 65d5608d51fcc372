//! Probes: what should answer, and what it should answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mainstay_proto::common::v1::Health;
use mainstay_proto::monitor::v1 as pb;
use monitor_service::Config;
use monitor_service::config::{ProbeConfig, ProbeKind};
use tokio::net::TcpListener;

use super::talker::{Says, Talker};
use super::{PATIENCE, instance, last_values, told, values_are};
use crate::harness::{Spawned, TargetService, Watcher, free_address, quick, wait_for};

fn probing(kind: ProbeKind, urls: Vec<String>) -> ProbeConfig {
    ProbeConfig {
        kind,
        urls: urls.into(),
        every: Duration::from_millis(1000),
        within: Duration::from_millis(1000),
        ..ProbeConfig::default()
    }
}

fn with_probes(probes: Vec<(&str, ProbeConfig)>) -> Config {
    let mut config = quick(&[]);
    config.probes = probes.into_iter().map(|(name, probe)| (name.to_owned(), probe)).collect();
    config
}

#[tokio::test]
async fn probe_whose_condition_does_not_hold_is_an_alert_that_says_which() {
    let page = |status, body: &str| Says::Text { status, kind: "application/json", body: body.to_owned() };
    let talker = Talker::start(page(200, r#"{"status":"ok"}"#)).await;
    let mut probe = probing(ProbeKind::Http, vec![talker.url("/health?deep=1")]);
    probe.json.insert("/status".to_owned(), "ok".into());
    (probe.user, probe.password) = ("monitor".to_owned(), "secret".into());
    let watcher = Watcher::start(with_probes(vec![("checkout", probe)])).await;
    watcher.all_answer().await;
    values_are(&watcher, "probe_success", &[1.0]).await;
    values_are(&watcher, "probe_http_status", &[200.0]).await;
    let head = talker.heads.lock().to_ascii_lowercase();
    assert!(head.contains("authorization: basic bw9uaxrvcjpzzwnyzxq="), "{head}");

    talker.say(page(200, r#"{"status":"down"}"#));
    let alert = watcher.alert("probe_failed", pb::AlertState::Firing, PATIENCE).await;
    assert!(alert.summary.ends_with(r#"fails: /status is "down", not "ok""#), "{}", alert.summary);
    assert!(alert.value >= 2.0, "one failure is not enough: {}", alert.value);
    values_are(&watcher, "probe_success", &[0.0]).await;
    values_are(&watcher, "up", &[1.0]).await;
    talker.say(page(500, r#"{"status":"ok"}"#));
    told(&watcher, "checkout", "status is 500").await;
    talker.say(page(200, r#"{"status":"ok"}"#));
    watcher.alert("probe_failed", pb::AlertState::Resolved, PATIENCE).await;
    let others: Vec<_> =
        watcher.alerts().await.into_iter().filter(|alert| alert.rule != "probe_failed").collect();
    assert!(others.is_empty(), "one cause is one alert: {others:?}");
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn connections_grpc_health_and_websockets_are_probed() {
    let service = TargetService::start("cache-service").await;
    let address = service.endpoint().trim_start_matches("http://").to_owned();
    let sockets = echo().await;
    let websocket = |path: &str, expect: &str| ProbeConfig {
        send: "ping".to_owned(),
        expect: expect.to_owned(),
        ..probing(ProbeKind::Websocket, vec![format!("ws://{}{path}", sockets.0)])
    };
    let probes = vec![
        ("tcp", probing(ProbeKind::Tcp, vec![format!("tcp://{address}")])),
        ("nobody", probing(ProbeKind::Tcp, vec![format!("tcp://{}", free_address())])),
        ("grpc", probing(ProbeKind::Grpc, vec![service.endpoint()])),
        (
            "stranger",
            ProbeConfig {
                service: "no.such.Service".to_owned(),
                ..probing(ProbeKind::Grpc, vec![service.endpoint()])
            },
        ),
        ("echo", websocket("/echo", "ping")),
        ("mute", websocket("/echo", "pong")),
        ("no-socket", websocket("/elsewhere", "ping")),
    ];
    let watcher = Watcher::start(with_probes(probes)).await;
    let cases = [
        ("tcp", Health::Healthy, ""),
        ("nobody", Health::Unhealthy, "cannot connect"),
        ("grpc", Health::Healthy, ""),
        ("stranger", Health::Unhealthy, "not ready"),
        ("echo", Health::Healthy, ""),
        ("mute", Health::Unhealthy, "no answer within 1s"),
        ("no-socket", Health::Unhealthy, "404"),
    ];
    for (name, health, reason) in cases {
        wait_for(PATIENCE, async || {
            let found = instance(&watcher, name).await;
            let fits = found.health() == health && found.detail.contains(reason) && found.kind == "probe";
            if fits { Ok(()) } else { Err(format!("{name}: {found:?}")) }
        })
        .await;
    }
    watcher.cx.shut_down().await;
    service.cx.shut_down().await;
}

/// Gives back what comes over a WebSocket at `/echo`; knows no other path.
async fn echo() -> (SocketAddr, Spawned) {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port is there");
    let address = listener.local_addr().expect("it is bound");
    let only_echo = |request: &Request, response: Response| {
        if request.uri().path() == "/echo" {
            return Ok(response);
        }
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = http::StatusCode::NOT_FOUND;
        Err(refusal)
    };
    let server = Spawned::new(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, only_echo).await else {
                    return;
                };
                while let Some(Ok(message)) = socket.next().await {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, server)
}

#[tokio::test]
async fn certificate_that_ends_soon_is_told_before_and_one_that_has_ended_is_no_tls() {
    let soon = TlsServer::start(days_from_now(3)).await;
    let over = TlsServer::start(days_from_now(-2)).await;
    let probe = |server: &TlsServer| {
        let mut probe = probing(ProbeKind::Tls, vec![format!("tls://localhost:{}", server.port)]);
        probe.tls.ca = Some(server.ca.path().to_owned());
        probe
    };
    let watcher = Watcher::start(with_probes(vec![("over", probe(&over)), ("soon", probe(&soon))])).await;
    let alert = watcher.alert("tls_expiry", pb::AlertState::Firing, PATIENCE).await;
    let days = wait_for(PATIENCE, async || {
        let days = last_values(&watcher, "probe_tls_days_left").await;
        if days.len() == 2 { Ok(days) } else { Err(format!("{days:?}")) }
    })
    .await;
    assert!((-2.1..-1.9).contains(&days[0]) && (2.9..3.1).contains(&days[1]), "{days:?}");
    assert_eq!(alert.severity(), pb::Severity::Critical);
    let found = told(&watcher, "soon", "ready").await;
    assert_eq!(found.health(), Health::Healthy);
    let alert = watcher.alert("probe_failed", pb::AlertState::Firing, PATIENCE).await;
    assert_eq!(alert.source, "over");
    assert!(alert.summary.to_lowercase().contains("expired"), "{}", alert.summary);
    watcher.cx.shut_down().await;
}

/// Shakes hands with whoever comes.
struct TlsServer {
    port: u16,
    ca: tempfile::NamedTempFile,
    _server: Spawned,
}

/// Returns the moment some days from now.
fn days_from_now(days: i64) -> std::time::SystemTime {
    let now = mainstay_runtime::Clock::system().now();
    let off = Duration::from_secs(days.unsigned_abs() * 86_400);
    if days < 0 { now - off } else { now + off }
}

impl TlsServer {
    async fn start(ends_at: std::time::SystemTime) -> Self {
        let mut params =
            rcgen::CertificateParams::new(["localhost".to_owned()]).expect("the name can be one");
        params.not_after = ends_at.into();
        let pair = rcgen::KeyPair::generate().expect("a key is made");
        let made = params.self_signed(&pair).expect("a certificate is made");
        let ca = tempfile::NamedTempFile::new().expect("a file is made");
        std::fs::write(ca.path(), made.pem()).expect("the file is ours");
        let key = rustls::pki_types::PrivateKeyDer::try_from(pair.serialize_der()).expect("the key is one");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring knows them")
            .with_no_client_auth()
            .with_single_cert(vec![made.der().clone()], key)
            .expect("key and certificate belong together");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port is there");
        let port = listener.local_addr().expect("it is bound").port();
        let _server = Spawned::new(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Who does not believe the certificate goes away.
                let _ = acceptor.accept(stream).await;
            }
        });
        Self { port, ca, _server }
    }
}
