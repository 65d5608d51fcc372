//! Two monitors that watch the same and share a Redis: real processes, which are killed, as Redis is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::routing::post;
use mainstay_devstack::{ChaosProxy, Devstack, http_get};
use mainstay_proto::monitor::v1 as pb;
use mainstay_proto::monitor::v1::monitor_service_client::MonitorServiceClient;
use parking_lot::Mutex;
use serde_json::Value;

use crate::harness::{Spawned, TargetService, free_address, wait_for};

/// Far more than anything takes; a wait ends as soon as there is what is waited for.
const PATIENCE: Duration = Duration::from_mins(3);
const ASKED_WITHIN: Duration = Duration::from_secs(5);

/// Takes the messages of both, and can leave them without an answer.
#[derive(Default)]
struct Hook {
    is_mute: AtomicBool,
    /// Who tried while nobody was answered.
    tried: Mutex<Vec<String>>,
    /// Who told what.
    told: Mutex<Vec<(String, Value)>>,
}

async fn take(State(hook): State<Arc<Hook>>, UrlPath(who): UrlPath<String>, body: String) -> StatusCode {
    if hook.is_mute.load(Ordering::SeqCst) {
        hook.tried.lock().push(who);
        return std::future::pending().await;
    }
    hook.told.lock().push((who, serde_json::from_str(&body).expect("the body is JSON")));
    StatusCode::NO_CONTENT
}

impl Hook {
    async fn start() -> (Arc<Self>, SocketAddr, Spawned) {
        let hook = Arc::new(Self::default());
        let app = axum::Router::new().route("/{who}", post(take)).with_state(Arc::clone(&hook));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let address = listener.local_addr().expect("bound");
        let stopping = tokio_util::sync::CancellationToken::new();
        let options = mainstay_rpc::ServeOptions::new("receiver");
        let served = mainstay_rpc::serve(listener, app, options, stopping.clone(), stopping);
        let server = Spawned::new(async move {
            served.await.expect("the listener is ours");
        });
        (hook, address, server)
    }

    /// Lists what was told: by whom, what, and of which alert.
    fn told(&self) -> Vec<(String, String, String)> {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let told = self.told.lock();
        let of = |(who, body): &(String, Value)| {
            (who.clone(), text(&body["change"]), text(&body["alert"]["fingerprint"]))
        };
        told.iter().map(of).collect()
    }

    fn changes(&self) -> Vec<String> {
        self.told().into_iter().map(|(_, change, _)| change).collect()
    }
}

/// A monitor in a process of its own.
struct Monitor {
    who: &'static str,
    address: SocketAddr,
    config: PathBuf,
    process: Option<Child>,
}

impl Monitor {
    fn start(who: &'static str, folder: &Path, target: &str, hook: SocketAddr, redis: &str) -> Self {
        let (address, config) = (free_address(), folder.join(format!("{who}.toml")));
        let store = folder.join(who).join("monitor.db");
        let text = format!(
            r#"
            [server]
            listen = "{address}"
            [targets.cache-service]
            endpoints = ["{target}"]
            [targets.edge-gateway]
            endpoints = []
            [targets.replica-service]
            endpoints = []
            [targets.ws-gateway]
            endpoints = []
            [store]
            path = "{}"
            [host]
            enabled = false
            [collect]
            within = "1s"
            [alerts]
            # A busy machine must not look like a dead target.
            missing_for = "3s"
            clear_for = "200ms"
            [notify]
            retry_after = "50ms"
            retry_after_max = "100ms"
            lease = "4s"
            {redis}
            [notify.channels.hook]
            kind = "webhook"
            url = "http://{hook}/{who}"
            allow_private = true
            within = "3s"
            "#,
            store.display(),
        );
        std::fs::write(&config, text).expect("the folder is ours");
        let mut monitor = Self { who, address, config, process: None };
        monitor.launch();
        monitor
    }

    fn launch(&mut self) {
        let process = Command::new(env!("CARGO_BIN_EXE_monitor-service"))
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(process.expect("the binary is built"));
    }

    fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().expect("it is ours");
        process.wait().expect("it is ours");
    }

    /// Reads a figure of it; 0 where there is none.
    async fn figure(&self, series: &str) -> Result<f64, String> {
        let (status, text) =
            http_get(self.address, "/metrics", ASKED_WITHIN).await.map_err(|error| format!("{error:?}"))?;
        if status != 200 {
            return Err(format!("{} answers {status}", self.who));
        }
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        Ok(value.unwrap_or(0.0))
    }

    async fn told(&self, result: &str) -> Result<f64, String> {
        self.figure(&format!("mainstay_monitor_notifications_total{{channel=\"hook\",result=\"{result}\"}}"))
            .await
    }

    /// Waits until it says that of the agreement: 1 not at all, 2 degraded, 3 well.
    async fn agrees(&self, health: f64) {
        wait_for(PATIENCE, async || {
            let (_, text) = http_get(self.address, "/metrics", ASKED_WITHIN)
                .await
                .map_err(|error| format!("{error:?}"))?;
            let line = text.lines().find(|line| {
                line.starts_with("mainstay_component_health{") && line.contains("\"notify.shared\"")
            });
            let line = line.ok_or("no component")?;
            if line.ends_with(&format!("}} {health}")) { Ok(()) } else { Err(line.to_owned()) }
        })
        .await;
    }
}

impl Monitor {
    fn client(&self) -> MonitorServiceClient<tonic::transport::Channel> {
        let endpoint = tonic::transport::Endpoint::new(format!("http://{}", self.address)).expect("legal");
        MonitorServiceClient::new(endpoint.connect_lazy())
    }

    /// Waits for a firing alert that people look after with this comment; none: after which nobody looks.
    async fn firing(&self, comment: Option<&str>) -> pb::Alert {
        wait_for(PATIENCE, async || {
            let answer = self.client().list_alerts(pb::ListAlertsRequest::default()).await;
            let alerts = answer.map_err(|error| error.to_string())?.into_inner().alerts;
            let is_it = |alert: &&pb::Alert| {
                let by = alert.acknowledgement.as_ref().map(|by| by.comment.as_str());
                alert.state() == pb::AlertState::Firing && by == comment
            };
            alerts.iter().find(is_it).cloned().ok_or_else(|| format!("{}: {alerts:?}", self.who))
        })
        .await
    }

    async fn acknowledge(&self, alert: &pb::Alert, comment: &str) {
        let request = pb::AcknowledgeAlertRequest {
            alert_id: alert.id.clone(),
            comment: comment.to_owned(),
            ..Default::default()
        };
        self.client().acknowledge_alert(request).await.expect("it fires");
    }

    /// Waits until there are these silences, by their comments.
    async fn silences(&self, comments: &[&str]) -> Vec<pb::Silence> {
        wait_for(PATIENCE, async || {
            let answer = self.client().list_silences(pb::ListSilencesRequest {}).await;
            let silences = answer.map_err(|error| error.to_string())?.into_inner().silences;
            let found: Vec<&str> = silences.iter().map(|silence| silence.comment.as_str()).collect();
            if found == comments { Ok(silences.clone()) } else { Err(format!("{}: {silences:?}", self.who)) }
        })
        .await
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself; then there is nothing to kill.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Waits until both are done with so many events together: one of them told each, the other one knew.
async fn both_are_done(monitors: &[Monitor; 2], n: f64) {
    wait_for(PATIENCE, async || {
        let [a, b] = monitors;
        let delivered = a.told("delivered").await? + b.told("delivered").await?;
        let elsewhere = a.told("elsewhere").await? + b.told("elsewhere").await?;
        if (delivered, elsewhere) == (n, n) { Ok(()) } else { Err(format!("{delivered} and {elsewhere}")) }
    })
    .await;
}

async fn until_told(hook: &Hook, n: usize) {
    wait_for(PATIENCE, async || {
        let told = hook.told();
        if told.len() >= n { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_monitors_tell_once_through_redis_and_both_tell_without_it() {
    let stack = Devstack::builder().redis(true).start().await.expect("it starts");
    let server = &stack.redis().expect("asked for").nodes()[0];
    let redis = format!(
        "[notify.redis]\nmode = \"single\"\naddress = \"{}\"\npassword = \"{}\"\ncommand_within = \"4s\"",
        server.public_address(),
        stack.redis().expect("asked for").password(),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let mut target = TargetService::start("cache-service").await;
    let (hook, hook_at, _server) = Hook::start().await;
    let start = |who| Monitor::start(who, folder.path(), &target.endpoint(), hook_at, &redis);
    let mut monitors = [start("a"), start("b")];
    for monitor in &monitors {
        monitor.agrees(3.0).await;
    }

    target.vanish().await;
    both_are_done(&monitors, 1.0).await;
    target.come_back().await;
    both_are_done(&monitors, 2.0).await;
    assert_eq!(hook.changes(), ["fired", "resolved"]);

    // One has claimed the next event, and dies while it is sending.
    hook.is_mute.store(true, Ordering::SeqCst);
    target.vanish().await;
    let claimer =
        wait_for(PATIENCE, async || hook.tried.lock().first().cloned().ok_or_else(|| "nobody".to_owned()))
            .await;
    let claimer = monitors.iter_mut().find(|monitor| monitor.who == claimer).expect("one of the two");
    claimer.kill();
    let claimed_by = claimer.who;
    hook.is_mute.store(false, Ordering::SeqCst);
    until_told(&hook, 3).await;
    let (who, change, fingerprint) = hook.told().pop().expect("three");
    assert_eq!(change, "fired");
    assert_ne!(who, claimed_by, "the other one");
    assert!(hook.told().iter().all(|(_, _, other)| *other == fingerprint), "one alert: {:?}", hook.told());

    // When it is back it has the message still, and learns that it was told.
    let back = monitors.iter_mut().find(|monitor| monitor.who == claimed_by).expect("one of the two");
    back.launch();
    wait_for(PATIENCE, async || {
        let elsewhere = back.told("elsewhere").await?;
        if elsewhere == 1.0 { Ok(()) } else { Err(format!("{elsewhere}")) }
    })
    .await;
    assert_eq!(hook.changes(), ["fired", "resolved", "fired"]);

    server.kill().await.expect("it is ours");
    for monitor in &monitors {
        monitor.agrees(2.0).await;
    }
    target.come_back().await;
    until_told(&hook, 5).await;
    let mut told: Vec<(String, String)> =
        hook.told().split_off(3).into_iter().map(|(who, change, _)| (who, change)).collect();
    told.sort();
    let resolved = |who: &str| (who.to_owned(), "resolved".to_owned());
    assert_eq!(told, [resolved("a"), resolved("b")], "rather twice than never");
    for monitor in &monitors {
        let alone = monitor.figure("mainstay_monitor_notified_alone_total{channel=\"hook\"}").await;
        assert_eq!(alone, Ok(1.0), "{}", monitor.who);
    }
    drop(monitors);
    stack.stop().await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_say_to_one_monitor_holds_on_the_other() {
    let stack = Devstack::builder().redis(true).start().await.expect("it starts");
    let server = &stack.redis().expect("asked for").nodes()[0];
    let proxy = ChaosProxy::start(server.public_address()).expect("a port is free");
    let redis = format!(
        "[notify.redis]\nmode = \"single\"\naddress = \"{}\"\npassword = \"{}\"\ncommand_within = \"4s\"",
        proxy.address(),
        stack.redis().expect("asked for").password(),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let mut target = TargetService::start("cache-service").await;
    let (_hook, hook_at, _server) = Hook::start().await;
    let start = |who| Monitor::start(who, folder.path(), &target.endpoint(), hook_at, &redis);
    let [a, mut b] = [start("a"), start("b")];
    a.agrees(3.0).await;
    b.agrees(3.0).await;

    target.vanish().await;
    let (on_a, on_b) = (a.firing(None).await, b.firing(None).await);
    assert_ne!(on_a.id, on_b.id, "each has its own");
    a.acknowledge(&on_a, "on it").await;
    let taken = b.firing(Some("on it")).await;
    assert_eq!((&taken.id, taken.acknowledgement.expect("it has one").by.as_str()), (&on_b.id, "internal"));
    b.acknowledge(&on_b, "it takes longer").await;
    a.firing(Some("it takes longer")).await;

    let request = pb::CreateSilenceRequest {
        matchers: [("subject".to_owned(), "disk".to_owned())].into(),
        duration: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
        comment: "moving it".to_owned(),
        ..Default::default()
    };
    b.client().create_silence(request.clone()).await.expect("it is legal");
    let silence = a.silences(&["moving it"]).await.remove(0);
    assert_eq!(silence, b.silences(&["moving it"]).await.remove(0), "the same on both");
    a.client().delete_silence(pb::DeleteSilenceRequest { id: silence.id }).await.expect("it is there");
    b.silences(&[]).await;

    // Without Redis each keeps what it was told; when it is back they compare.
    proxy.cut().await.expect("it is ours");
    a.agrees(2.0).await;
    b.agrees(2.0).await;
    a.acknowledge(&on_a, "Redis, too").await;
    b.client().create_silence(request).await.expect("it is legal");
    // Also over a restart: what was taken over is stored.
    b.kill();
    b.launch();
    b.firing(Some("it takes longer")).await;
    proxy.restore().await.expect("it is ours");
    b.firing(Some("Redis, too")).await;
    a.silences(&["moving it"]).await;

    // It was of that episode; the next one nobody looks after.
    target.come_back().await;
    for monitor in [&a, &b] {
        wait_for(PATIENCE, async || {
            let answer = monitor.client().list_alerts(pb::ListAlertsRequest::default()).await;
            let alerts = answer.map_err(|error| error.to_string())?.into_inner().alerts;
            let over = alerts.iter().all(|alert| alert.state() == pb::AlertState::Resolved);
            if over { Ok(()) } else { Err(format!("{}: {alerts:?}", monitor.who)) }
        })
        .await;
    }
    target.vanish().await;
    a.firing(None).await;
    b.firing(None).await;
    // An acknowledgement and two silences; what the other one took over before its restart it does not count any more.
    for (monitor, at_least) in [(&a, 3.0), (&b, 1.0)] {
        let mut all = 0.0;
        for kind in ["acknowledgement", "silence"] {
            let series = format!("mainstay_monitor_taken_over_total{{kind=\"{kind}\"}}");
            all += monitor.figure(&series).await.expect("it tells");
        }
        assert!(all >= at_least, "{}: {all}", monitor.who);
    }
    drop((a, b));
    stack.stop().await.expect("it stops");
}
