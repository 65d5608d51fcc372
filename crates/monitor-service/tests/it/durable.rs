//! What is stored survives a restart, also one that nobody announced.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mainstay_proto::monitor::v1 as pb;
use mainstay_proto::monitor::v1::monitor_service_client::MonitorServiceClient;
use mainstay_rpc::{Call, Upstream, UpstreamConfig};
use mainstay_runtime::ComponentKind;
use pb::AlertState;

use crate::harness::{PATIENCE, TargetService, Watcher, free_address, quick, wait_for};
use crate::notify::Receiver;

#[tokio::test]
async fn alerts_acknowledgements_silences_and_rules_survive_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = TargetService::start("cache-service").await;
    let redis = target.cx.component("redis", ComponentKind::Datastore, true);
    redis.unhealthy("connection refused");
    let mut config = quick(&[("cache-service", &target)]);
    config.store.path = folder.path().join("monitor.db");
    let watcher = Watcher::start(config.clone()).await;
    let firing = watcher.alert("component_unhealthy", AlertState::Firing, PATIENCE).await;
    watcher.acknowledge(&firing.id, "on it", Some("ann")).await.expect("it fires");
    let silence = watcher.silence(&[("rule", "not_ready")], "planned").await.expect("it is legal").id;
    let rule = pb::Rule {
        name: "mine".to_owned(),
        kind: pb::RuleKind::Threshold.into(),
        metric: "up".to_owned(),
        comparison: pb::Comparison::Below.into(),
        warning: Some(1.0),
        ..pb::Rule::default()
    };
    watcher.put_rule(rule, false).await.expect("it is legal");
    watcher.cx.shut_down().await;

    let watcher = Watcher::start(config).await;
    let restored =
        watcher.alerts().await.into_iter().find(|alert| alert.id == firing.id).expect("it is there");
    assert_eq!((restored.state(), restored.fired_at), (AlertState::Firing, firing.fired_at));
    assert_eq!(restored.acknowledgement.as_ref().map(|by| by.by.as_str()), Some("ann"));
    assert_eq!(watcher.silences().await.first().map(|silence| silence.id.clone()), Some(silence));
    let rules = watcher.rules().await;
    let mine = rules.iter().find(|status| status.rule.as_ref().is_some_and(|rule| rule.name == "mine"));
    assert_eq!(mine.map(pb::RuleStatus::origin), Some(pb::RuleOrigin::Runtime));
    redis.healthy("connected");
    watcher.alert("component_unhealthy", AlertState::Resolved, PATIENCE).await;
    let changes: Vec<String> =
        watcher.alert_events(&firing.id).await.into_iter().rev().map(|event| event.change).collect();
    assert_eq!(changes, ["started", "fired", "acknowledged", "recovering", "resolved"]);
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn history_reaches_back_beyond_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = TargetService::start("cache-service").await;
    let mut config = quick(&[("cache-service", &target)]);
    config.store.path = folder.path().join("monitor.db");
    let watcher = Watcher::start(config.clone()).await;
    // A target that answers need not have told its metrics in time.
    let before = wait_for(PATIENCE, async || {
        let answer = watcher.range("mainstay_ready").await;
        let oldest = answer.series.first().and_then(|series| series.points.first()?.at);
        oldest.ok_or_else(|| format!("{answer:?}"))
    })
    .await;
    watcher.cx.shut_down().await;

    let watcher = Watcher::start(config).await;
    let oldest = wait_for(PATIENCE, async || {
        let answer = watcher.range("mainstay_ready").await;
        let oldest = answer.series.first().and_then(|series| series.points.first()?.at);
        oldest.filter(|at| at.seconds <= before.seconds).ok_or_else(|| format!("{answer:?}"))
    })
    .await;
    assert!(before.seconds - oldest.seconds < 10, "the step under way was stored on the way out");
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn kill_loses_no_alert_and_no_message() {
    let folder = tempfile::tempdir().expect("a folder");
    let (address, receiver_at) = (free_address(), free_address());
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
        url = "http://{receiver_at}/hook"
        allow_private = true
        "#,
        free_address(),
        folder.path().join("monitor.db").display(),
    );
    std::fs::write(&config, text).expect("the folder is ours");

    let mut first = start(&config);
    let upstream =
        Upstream::try_new("monitor", &UpstreamConfig::of([format!("http://{address}")])).expect("legal");
    let firing = firing(&upstream).await;
    // Nobody receives yet: the message waits in the outbox.
    wait_for(PATIENCE, async || {
        let queued = channels(&upstream).await?.iter().map(|channel| channel.failures).sum::<u64>();
        if queued > 0 { Ok(()) } else { Err("no attempt yet".to_owned()) }
    })
    .await;
    first.kill().expect("it is ours");
    first.wait().expect("it is ours");

    let receiver = Receiver::start(receiver_at, 0).await;
    let mut second = start(&config);
    let received = receiver.one(PATIENCE).await;
    assert_eq!(received["alert"]["id"], firing.id);
    let still = crate::durable::firing(&upstream).await;
    assert_eq!((still.id, still.fired_at), (firing.id, firing.fired_at));
    wait_for(PATIENCE, async || {
        let left = channels(&upstream).await?.iter().map(|channel| channel.queued).sum::<u32>();
        if left == 0 { Ok(()) } else { Err(format!("{left} left")) }
    })
    .await;
    assert_eq!(receiver.received().len(), 1, "told once");
    second.kill().expect("it is ours");
    second.wait().expect("it is ours");
}

fn start(config: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_monitor-service"))
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary is built")
}

async fn firing(upstream: &Upstream) -> pb::Alert {
    wait_for(PATIENCE, async || {
        let call = Call::read("mainstay.monitor.v1.MonitorService/ListAlerts").within(Duration::from_secs(1));
        let list = |lane| async move {
            MonitorServiceClient::new(lane).list_alerts(pb::ListAlertsRequest::default()).await
        };
        let alerts = upstream.call(call, list).await.map_err(|failure| failure.to_string())?.alerts;
        let found = alerts.iter().find(|alert| alert.state() == AlertState::Firing).cloned();
        found.ok_or_else(|| format!("{alerts:?}"))
    })
    .await
}

async fn channels(upstream: &Upstream) -> Result<Vec<pb::Channel>, String> {
    let call = Call::read("mainstay.monitor.v1.MonitorService/ListChannels").within(Duration::from_secs(1));
    let list =
        |lane| async move { MonitorServiceClient::new(lane).list_channels(pb::ListChannelsRequest {}).await };
    upstream.call(call, list).await.map(|answer| answer.channels).map_err(|failure| failure.to_string())
}
