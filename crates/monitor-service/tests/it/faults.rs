//! What goes wrong for long, or all at once: nothing is lost, and people are told.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use mainstay_proto::monitor::v1 as pb;
use mainstay_proto::monitor::v1::monitor_service_client::MonitorServiceClient;
use mainstay_rpc::{Call, Upstream, UpstreamConfig};
use mainstay_runtime::{Clock, ClockHandle, ComponentKind};
use pb::AlertState;
use serde_json::Value;

use crate::harness::{PATIENCE, Spawned, TargetService, Watcher, free_address, quick, wait_for};
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
async fn webhook_that_fails_for_an_hour_loses_nothing_also_over_a_restart() {
    let running = RunningClock::start();
    let folder = tempfile::tempdir().expect("a folder");
    let broken = Receiver::start(free_address(), usize::MAX).await;
    let other = Receiver::start(free_address(), 0).await;
    let target = TargetService::start_at("cache-service", running.clock.clone()).await;
    let component = |name| target.cx.component(name, ComponentKind::Datastore, true);
    let (redis, disk) = (component("redis"), component("disk"));
    redis.healthy("connected");
    disk.healthy("empty");
    let mut config = telling(&target, &[("broken", broken.channel()), ("other", other.channel())]);
    config.store.path = folder.path().join("monitor.db");
    let watcher = Watcher::start_at(config.clone(), running.clock.clone()).await;
    watcher.all_answer().await;
    redis.unhealthy("connection refused");
    let about = told(&other, "channel_failing", "fired").await;
    assert_eq!(about["alert"]["subject"], "broken");
    redis.healthy("connected");
    told(&other, "component_unhealthy", "resolved").await;
    watcher.cx.shut_down().await;

    let watcher = Watcher::start_at(config, running.clock.clone()).await;
    disk.unhealthy("full");
    for _ in 0..2 {
        let n_before = broken.attempts();
        wait_for(PATIENCE, async || {
            let n_attempts = broken.attempts() - n_before;
            if n_attempts >= 30 { Ok(()) } else { Err(format!("{n_attempts} attempts")) }
        })
        .await;
        running.handle.advance(Duration::from_mins(30));
    }
    wait_for(PATIENCE, async || {
        let fired = other.received().iter().filter(|body| body["alert"]["subject"] == "disk").count();
        if fired == 1 { Ok(()) } else { Err(format!("{fired}")) }
    })
    .await;
    assert_eq!(broken.received(), Vec::<Value>::new());
    broken.recovers();
    told(&other, "channel_failing", "resolved").await;
    wait_for(PATIENCE, async || {
        let channels = watcher.channels().await;
        let queued: u32 = channels.iter().map(|channel| channel.queued).sum();
        if queued == 0 { Ok(()) } else { Err(format!("{queued} wait")) }
    })
    .await;
    let received = broken.received();
    let told: Vec<(&str, &str)> = received
        .iter()
        .filter_map(|body| Some((body["alert"]["subject"].as_str()?, body["change"].as_str()?)))
        .collect();
    assert_eq!(told, [("redis", "fired"), ("redis", "resolved"), ("disk", "fired")], "in order, each once");
    watcher.cx.shut_down().await;
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

/// A clock that runs, and can be set.
struct RunningClock {
    clock: Clock,
    handle: ClockHandle,
    _runs: Spawned,
}

impl RunningClock {
    fn start() -> Self {
        let (clock, handle) = Clock::fixed(SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 56));
        let moved = handle.clone();
        let runs = Spawned::new(async move {
            let mut before = tokio::time::Instant::now();
            loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                let now = tokio::time::Instant::now();
                moved.advance(now - before);
                before = now;
            }
        });
        Self { clock, handle, _runs: runs }
    }
}

#[tokio::test]
async fn clock_that_jumps_raises_no_alarm_and_keeps_none_back() {
    let running = RunningClock::start();
    let receiver = Receiver::start(free_address(), 0).await;
    let target = TargetService::start_at("cache-service", running.clock.clone()).await;
    let redis = target.cx.component("redis", ComponentKind::Datastore, true);
    redis.healthy("connected");
    let config = telling(&target, &[("hook", receiver.channel())]);
    let watcher = Watcher::start_at(config, running.clock.clone()).await;
    watcher.all_answer().await;
    let hour = Duration::from_hours(1);
    let jumps: [fn(SystemTime, Duration) -> SystemTime; 3] =
        [|now, by| now + by, |now, by| now - 2 * by, |now, by| now + 24 * by];
    for (number, jump) in jumps.into_iter().enumerate() {
        running.handle.set(jump(running.clock.now(), hour));
        pulled_again(&watcher, 10).await;
        redis.unhealthy("connection refused");
        n_told(&receiver, "fired", number + 1).await;
        // Now while it fires.
        running.handle.set(jump(running.clock.now(), hour));
        pulled_again(&watcher, 10).await;
        redis.healthy("connected");
        n_told(&receiver, "resolved", number + 1).await;
    }
    let rules: Vec<Value> = receiver.received().iter().map(|body| body["alert"]["rule"].clone()).collect();
    assert_eq!(rules, vec![Value::from("component_unhealthy"); 6], "nothing else was told");
    watcher.cx.shut_down().await;
}

async fn n_told(receiver: &Receiver, change: &str, n: usize) {
    wait_for(PATIENCE, async || {
        let all = receiver.received();
        let found = all.iter().filter(|body| body["change"] == change).count();
        if found == n { Ok(()) } else { Err(format!("{found} of {n} {change}: {all:?}")) }
    })
    .await;
}

/// Waits until the target was pulled some more times.
async fn pulled_again(watcher: &Watcher, times: u64) {
    let pulls = async || watcher.overview().await.instances[0].pulls;
    let before = pulls().await;
    wait_for(PATIENCE, async || {
        let n = pulls().await - before;
        if n >= times { Ok(()) } else { Err(format!("{n} pulls")) }
    })
    .await;
}
