//! What goes wrong for long, or all at once: nothing is lost, and people are told.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mainstay_proto::monitor::v1 as pb;
use mainstay_proto::monitor::v1::monitor_service_client::MonitorServiceClient;
use mainstay_rpc::{Call, Upstream, UpstreamConfig};
use mainstay_runtime::ComponentKind;
use pb::AlertState;
use serde_json::Value;

use crate::harness::{PATIENCE, TargetService, Watcher, free_address, quick, wait_for};
use crate::notify::{Receiver, telling};

const STORE_FAILING: &str = "store_failing";

/// Waits for a message about a rule with this change.
async fn told(receiver: &Receiver, rule: &str, change: &str) -> Value {
    wait_for(PATIENCE, async || {
        let all = receiver.received();
        let found =
            all.iter().find(|body| body["alert"]["rule"] == rule && body["change"] == change).cloned();
        found.ok_or_else(|| format!("no {change} {rule} among {all:?}"))
    })
    .await
}

#[tokio::test]
async fn damaged_store_is_kept_aside_and_people_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("monitor.db");
    let receiver = Receiver::start(free_address(), 0).await;
    let target = TargetService::start("cache-service").await;
    let redis = target.cx.component("redis", ComponentKind::Datastore, true);
    redis.unhealthy("connection refused");
    let mut config = telling(&target, &[("hook", receiver.channel())]);
    config.store.path.clone_from(&path);
    let watcher = Watcher::start(config.clone()).await;
    watcher.alert("component_unhealthy", AlertState::Firing, PATIENCE).await;
    watcher.cx.shut_down().await;

    let mut bytes = fs::read(&path).expect("it was stored");
    bytes.iter_mut().take(4096).for_each(|byte| *byte ^= 0x5a);
    fs::write(&path, &bytes).expect("the folder is ours");
    let watcher = Watcher::start(config.clone()).await;
    let failing = told(&receiver, STORE_FAILING, "fired").await;
    let summary = failing["alert"]["summary"].as_str().expect("a text").to_owned();
    assert!(summary.contains("damaged file kept as"), "{summary}");
    let names = fs::read_dir(folder.path()).expect("it can be listed");
    let kept = names
        .map(|file| file.expect("it can be listed").path())
        .find(|path| path.to_string_lossy().contains(".damaged-"))
        .expect("it was kept");
    assert_eq!(fs::read(kept).expect("it can be read"), bytes, "as it was found");
    let firing = watcher.alert("component_unhealthy", AlertState::Firing, PATIENCE).await;
    watcher.acknowledge(&firing.id, "on it", Some("ann")).await.expect("what is new is stored");
    watcher.cx.shut_down().await;

    let watcher = Watcher::start(config).await;
    let again = watcher.alert("component_unhealthy", AlertState::Firing, PATIENCE).await;
    assert_eq!((&again.id, again.acknowledgement.is_some()), (&firing.id, true));
    told(&receiver, STORE_FAILING, "resolved").await;
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn disk_that_takes_no_more_keeps_nobody_uninformed_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let address = free_address();
    let receiver = Receiver::start(free_address(), 0).await;
    let config = folder.path().join("config.toml");
    let text = format!(
        r#"
        [server]
        listen = "{address}"
        [targets.cache-service]
        endpoints = ["http://{}"]
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
        [alerts]
        missing_for = "200ms"
        [notify]
        retry_after = "50ms"
        retry_after_max = "100ms"
        [notify.channels.hook]
        kind = "webhook"
        url = "http://{}/hook"
        allow_private = true
        "#,
        free_address(),
        folder.path().join("monitor.db").display(),
        receiver.address(),
    );
    fs::write(&config, text).expect("the folder is ours");
    let mut monitor = start_where_files_stay_small(&config);
    let upstream =
        Upstream::try_new("monitor", &UpstreamConfig::of([format!("http://{address}")])).expect("legal");
    told(&receiver, "instance_down", "fired").await;

    // Every commit makes the log of the store longer.
    wait_for(PATIENCE, async || match put_rule(&upstream).await {
        Err(reason) if reason.contains("NOT_STORED") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let failing = told(&receiver, STORE_FAILING, "fired").await;
    let summary = failing["alert"]["summary"].as_str().expect("a text").to_owned();
    assert!(summary.contains("not stored"), "{summary}");

    let freed = Command::new("prlimit")
        .args(["--pid", &monitor.id().to_string(), "--fsize=unlimited:"])
        .status()
        .expect("prlimit is part of every Linux");
    assert!(freed.success());
    wait_for(PATIENCE, async || put_rule(&upstream).await).await;
    told(&receiver, STORE_FAILING, "resolved").await;
    monitor.kill().expect("it is ours");
    monitor.wait().expect("it is ours");
}

/// Files may grow to 512 KiB; a write beyond fails as on a full disk, until the limit is lifted.
fn start_where_files_stay_small(config: &Path) -> Child {
    Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -S -f 1024; exec \"$0\" --config \"$1\""])
        .arg(env!("CARGO_BIN_EXE_monitor-service"))
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("there is a shell")
}

async fn put_rule(upstream: &Upstream) -> Result<(), String> {
    let rule = pb::Rule {
        name: "large".to_owned(),
        kind: pb::RuleKind::Threshold.into(),
        metric: "none".to_owned(),
        critical: Some(1.0),
        summary: "x".repeat(500),
        annotations: (0..20).map(|n| (format!("label{n}"), "y".repeat(500))).collect(),
        ..pb::Rule::default()
    };
    let request = pb::PutRuleRequest { rule: Some(rule), dry_run: false };
    let call = Call::write("mainstay.monitor.v1.MonitorService/PutRule").within(Duration::from_secs(5));
    let put = |lane| {
        let request = request.clone();
        async move { MonitorServiceClient::new(lane).put_rule(request).await }
    };
    let answer = upstream.call(call, put).await;
    answer.map(drop).map_err(|failure| format!("{} {failure}", failure.reason()))
}

#[tokio::test]
async fn alert_that_is_pending_over_a_restart_goes_on_from_where_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = TargetService::start("cache-service").await;
    let redis = target.cx.component("redis", ComponentKind::Datastore, true);
    redis.unhealthy("connection refused");
    let mut config = quick(&[("cache-service", &target)]);
    config.store.path = folder.path().join("monitor.db");
    config.alerts.unhealthy_for = Duration::from_hours(1);
    let watcher = Watcher::start(config.clone()).await;
    let pending = watcher.alert("component_unhealthy", AlertState::Pending, PATIENCE).await;
    watcher.cx.shut_down().await;
    config.alerts.unhealthy_for = Duration::from_millis(200);
    let watcher = Watcher::start(config).await;
    let firing = watcher.alert("component_unhealthy", AlertState::Firing, PATIENCE).await;
    assert_eq!((&firing.id, firing.started_at), (&pending.id, pending.started_at));
    watcher.cx.shut_down().await;
}
