//! What is no service of ours: metrics of other programs, and probes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mainstay_proto::common::v1::Health;
use mainstay_proto::monitor::v1 as pb;
use monitor_service::Config;
use monitor_service::config::{Comparison, ProbeConfig, ProbeKind, RuleKind, RuleSpec, ScrapeConfig};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Spawned, TargetService, Watcher, free_address, quick, wait_for};

/// Far more than anything takes; a wait ends as soon as there is what is waited for.
const PATIENCE: Duration = Duration::from_mins(3);

/// Says over HTTP whatever it is told to say, also what no server should.
struct Talker {
    address: SocketAddr,
    says: Arc<Mutex<Says>>,
    heads: Arc<Mutex<String>>,
    _server: Spawned,
}

#[derive(Clone)]
enum Says {
    /// An answer of HTTP, whole.
    Text { status: u16, kind: &'static str, body: String },
    /// The beginning of an answer, then nothing.
    Nothing,
    /// A megabyte at a time, so many times; counts what it got rid of.
    Megabytes(usize, Arc<AtomicUsize>),
    /// Something that is not HTTP.
    Nonsense,
}

impl Talker {
    async fn start(says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port is there");
        let address = listener.local_addr().expect("it is bound");
        let (says, heads) = (Arc::new(Mutex::new(says)), Arc::new(Mutex::new(String::new())));
        let (told, heard) = (Arc::clone(&says), Arc::clone(&heads));
        let _server = Spawned::new(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (says, heard) = (told.lock().clone(), Arc::clone(&heard));
                connections.spawn(async move {
                    // A client that goes away in the middle is its own affair.
                    let _ = talk(stream, says, &heard).await;
                });
            }
        });
        Self { address, says, heads, _server }
    }

    async fn showing(body: &str) -> Self {
        Self::start(metrics(body)).await
    }

    fn say(&self, says: Says) {
        *self.says.lock() = says;
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn metrics(body: &str) -> Says {
    Says::Text { status: 200, kind: "text/plain; version=0.0.4", body: body.to_owned() }
}

async fn talk(mut stream: TcpStream, says: Says, heard: &Mutex<String>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut part = [0; 4096];
        let n_read = stream.read(&mut part).await?;
        if n_read == 0 {
            return Ok(());
        }
        head.extend_from_slice(&part[..n_read]);
    }
    *heard.lock() = String::from_utf8_lossy(&head).into_owned();
    match says {
        Says::Text { status, kind, body } => {
            let head = format!(
                "HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body.as_bytes()).await
        }
        Says::Nothing => {
            stream.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 10\r\n\r\na").await?;
            std::future::pending().await
        }
        Says::Megabytes(n, written) => {
            stream.write_all(b"HTTP/1.1 200 x\r\n\r\n").await?;
            let megabyte = Bytes::from("# another line of no use\n".repeat(1024 * 1024 / 25));
            for _ in 0..n {
                stream.write_all(&megabyte).await?;
                written.fetch_add(1, Ordering::Relaxed);
            }
            stream.shutdown().await
        }
        Says::Nonsense => stream.write_all(b"220 mail.example.org ESMTP\r\n").await,
    }
}

fn scraping(urls: Vec<String>) -> ScrapeConfig {
    ScrapeConfig {
        urls: urls.into(),
        every: Duration::from_millis(200),
        within: Duration::from_millis(200),
        ..ScrapeConfig::default()
    }
}

fn with_scrape(name: &str, scrape: ScrapeConfig) -> Config {
    let mut config = quick(&[]);
    config.scrapes.insert(name.to_owned(), scrape);
    config
}

async fn instance(watcher: &Watcher, name: &str) -> pb::Instance {
    let instances = watcher.overview().await.instances;
    instances.into_iter().find(|instance| instance.service == name).expect("it is watched")
}

/// Waits until the detail of a target begins so; returns the target.
async fn told(watcher: &Watcher, name: &str, start: &str) -> pb::Instance {
    wait_for(PATIENCE, async || {
        let found = instance(watcher, name).await;
        if found.detail.contains(start) { Ok(found) } else { Err(format!("{found:?}")) }
    })
    .await
}

async fn last_values(watcher: &Watcher, metric: &str) -> Vec<f64> {
    let series = watcher.range(metric).await.series;
    series.iter().filter_map(|series| series.points.last().map(|point| point.last)).collect()
}

/// Waits until a metric has these newest values, one for each series.
async fn values_are(watcher: &Watcher, metric: &str, expected: &[f64]) {
    wait_for(PATIENCE, async || {
        let values = last_values(watcher, metric).await;
        if values == expected { Ok(()) } else { Err(format!("{metric} is {values:?}")) }
    })
    .await;
}

#[tokio::test]
async fn real_prometheus_is_read_by_its_metrics() {
    let address = free_address();
    let dir = tempfile::tempdir().expect("a directory is made");
    let file = dir.path().join("prometheus.yml");
    std::fs::write(&file, "global:\n  scrape_interval: 1m\n").expect("the directory is ours");
    let _process = tokio::process::Command::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("prometheus is installed: scripts/test sees to it");
    let mut scrape = scraping(vec![format!("http://{address}/metrics")]);
    // It has much to tell, and the machine may be busy.
    (scrape.every, scrape.within) = (Duration::from_secs(1), Duration::from_secs(1));
    scrape.labels.insert("stage".to_owned(), "test".to_owned());
    let watcher = Watcher::start(with_scrape("prometheus", scrape)).await;
    watcher.all_answer().await;

    let known = wait_for(PATIENCE, async || {
        let series = watcher.range("prometheus_http_requests_total").await.series;
        let of_metrics = series.iter().find(|series| {
            series.labels.get("handler").is_some_and(|handler| handler == "/metrics")
                && series.points.last().is_some_and(|point| point.last >= 2.0)
        });
        of_metrics.cloned().ok_or_else(|| format!("{series:?}"))
    })
    .await;
    assert_eq!(known.labels["service"], "prometheus");
    assert_eq!(known.labels["stage"], "test");
    values_are(&watcher, "up", &[1.0]).await;
    assert!(last_values(&watcher, "go_goroutines").await[0] > 1.0);
    let found = told(&watcher, "prometheus", "ready").await;
    assert_eq!((found.kind.as_str(), found.health()), ("scrape", Health::Healthy));
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn whatever_a_target_says_instead_of_metrics_is_a_failed_scrape_with_its_reason() {
    let talker = Talker::showing("a 1\n").await;
    let mut scrape = scraping(vec![talker.url("/metrics")]);
    (scrape.every, scrape.within) = (Duration::from_secs(1), Duration::from_secs(1));
    (scrape.token, scrape.max_bytes) = ("t0ken".into(), 65_536);
    let watcher = Watcher::start(with_scrape("talker", scrape)).await;
    watcher.all_answer().await;
    let head = talker.heads.lock().to_ascii_lowercase();
    assert!(head.contains("authorization: bearer t0ken") && head.starts_with("get /metrics "), "{head}");

    let written = Arc::new(AtomicUsize::new(0));
    let text = |status, body: &str| Says::Text { status, kind: "text/plain", body: body.to_owned() };
    let cut_off = Says::Text {
        status: 200,
        kind: "application/openmetrics-text; version=1.0.0",
        body: "# TYPE a counter\na_total 1\n".to_owned(),
    };
    let cases = [
        (Says::Nothing, "no answer within 1s"),
        (text(503, "a 1\n"), "answered 503"),
        (text(200, "a 1\nb {\n"), "metrics cannot be read: line 2"),
        (cut_off, "does not end with # EOF"),
        (Says::Nonsense, "no answer of HTTP"),
        (Says::Megabytes(100, Arc::clone(&written)), "longer than 65536 bytes"),
    ];
    for (says, reason) in cases {
        talker.say(says);
        let found = told(&watcher, "talker", reason).await;
        assert_eq!(found.health(), Health::Unhealthy, "{found:?}");
        values_are(&watcher, "up", &[0.0]).await;
    }
    assert!(written.load(Ordering::Relaxed) < 100, "all of it was read");
    watcher.alert("instance_down", pb::AlertState::Firing, PATIENCE).await;
    talker.say(metrics("a 2\n"));
    watcher.alert("instance_down", pb::AlertState::Resolved, PATIENCE).await;
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn target_whose_labels_explode_keeps_what_it_had_and_an_alert_says_so() {
    let talker = Talker::showing("steady 1\n").await;
    let scrape = ScrapeConfig { max_series: 10, ..scraping(vec![talker.url("/")]) };
    let watcher = Watcher::start(with_scrape("talker", scrape)).await;
    watcher.all_answer().await;
    let explosion: String = (0..90).map(|id| format!("hits{{request=\"{id}\"}} 1\n")).collect();
    talker.say(metrics(&format!("steady 2\n{explosion}")));
    let alert = watcher.alert("series_limit", pb::AlertState::Firing, PATIENCE).await;
    assert!(alert.summary.contains("its max_series is 10"), "{}", alert.summary);
    assert_eq!(alert.source, "talker");
    assert_eq!(last_values(&watcher, "steady").await, [2.0]);
    assert!(watcher.overview().await.series <= 10);
    talker.say(metrics("steady 3\n"));
    watcher.alert("series_limit", pb::AlertState::Resolved, PATIENCE).await;
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn figures_that_are_no_numbers_have_no_history_fire_nothing_and_harm_no_others() {
    let text = "wild NaN\nwilder +Inf\nwildest -Inf\nsteady 1\ncounted_total NaN\n";
    let talker = Talker::showing(text).await;
    let mut config = with_scrape("talker", scraping(vec![talker.url("/")]));
    let rule = |metric: &str, comparison| RuleSpec {
        metric: metric.to_owned(),
        critical: Some(0.5),
        comparison,
        fires_after: Some(Duration::ZERO),
        ..RuleSpec::default()
    };
    let (above, unequal) = (Comparison::Above, Comparison::Unequal);
    for (name, metric, comparison) in [
        ("wild", "wild", unequal),
        ("wilder", "wilder", above),
        ("wildest", "wildest", unequal),
        ("steady", "steady", above),
    ] {
        config.rules.insert(name.to_owned(), rule(metric, comparison));
    }
    let watcher = Watcher::start(config).await;
    watcher.all_answer().await;
    // It was looked at: what is a number, read at the same time, fires.
    watcher.alert("steady", pb::AlertState::Firing, PATIENCE).await;
    values_are(&watcher, "up", &[1.0]).await;
    for metric in ["wild", "wilder", "wildest", "counted_total"] {
        assert_eq!(last_values(&watcher, metric).await, Vec::<f64>::new(), "{metric}");
    }
    let rules: Vec<String> = watcher.alerts().await.into_iter().map(|alert| alert.rule).collect();
    assert_eq!(rules, ["steady"]);
    // Numbers again: they have a history from now on.
    talker.say(metrics(&text.replace("NaN", "7").replace("+Inf", "8").replace("-Inf", "9")));
    values_are(&watcher, "wild", &[7.0]).await;
    watcher.alert("wilder", pb::AlertState::Firing, PATIENCE).await;
    // And none: what was known last is not taken for what is.
    talker.say(metrics(text));
    watcher.alert("wilder", pb::AlertState::Resolved, PATIENCE).await;
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn history_that_is_full_keeps_what_it_has_and_an_alert_says_so() {
    let talker = Talker::showing("steady 1\n").await;
    let mut config = with_scrape("talker", scraping(vec![talker.url("/")]));
    config.history.max_series = 100;
    let watcher = Watcher::start(config).await;
    watcher.all_answer().await;
    values_are(&watcher, "steady", &[1.0]).await;
    let flood: String = (0..300).map(|id| format!("hits{{request=\"{id}\"}} 1\n")).collect();
    talker.say(metrics(&format!("steady 2\n{flood}")));
    let alert = watcher.alert("history_full", pb::AlertState::Firing, PATIENCE).await;
    assert!(alert.summary.contains("history.max_series is 100"), "{}", alert.summary);
    values_are(&watcher, "steady", &[2.0]).await;
    assert!(watcher.overview().await.series <= 100);
    talker.say(metrics("steady 3\n"));
    watcher.alert("history_full", pb::AlertState::Resolved, PATIENCE).await;
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn counter_that_begins_anew_is_no_loss_and_a_rare_figure_stays_in_force_between_scrapes() {
    let talker = Talker::showing("work_total 100\nlevel 1\n").await;
    let mut scrape = scraping(vec![talker.url("/")]);
    (scrape.every, scrape.within) = (Duration::from_secs(2), Duration::from_secs(2));
    let mut config = with_scrape("talker", scrape);
    // Far less than lies between two scrapes.
    config.alerts.missing_for = Duration::from_millis(300);
    config.alerts.clear_for = Duration::ZERO;
    let rule = |kind, metric: &str| RuleSpec {
        kind,
        metric: metric.to_owned(),
        critical: Some(0.5),
        ..RuleSpec::default()
    };
    config.rules.insert("level".to_owned(), rule(RuleKind::Threshold, "level"));
    config.rules.insert("work".to_owned(), rule(RuleKind::Rate, "work_total"));
    let watcher = Watcher::start(config).await;
    let firing = watcher.alert("level", pb::AlertState::Firing, PATIENCE).await;

    talker.say(metrics("work_total 70\nlevel 1\n"));
    // 70 since it began anew, over a minute at most: a rate of more than one a second.
    let rate = watcher.alert("work", pb::AlertState::Firing, PATIENCE).await;
    assert!(rate.value > 0.5, "{}", rate.value);
    let still = watcher.alert("level", pb::AlertState::Firing, PATIENCE).await;
    assert_eq!(still.id, firing.id, "it was resolved between two scrapes");
    watcher.cx.shut_down().await;
}

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
