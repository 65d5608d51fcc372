//! Alerts fire, hold, resolve and are acknowledged.

use std::time::Duration;

use mainstay_proto::common::v1::Health;
use mainstay_proto::introspect::v1 as introspect;
use mainstay_proto::introspect::v1::introspection_client::IntrospectionClient;
use mainstay_proto::monitor::v1::{AlertState, Severity};
use mainstay_rpc::{Call, ErrorCode};
use mainstay_runtime::ComponentKind;
use monitor_service::config::RuleSpec;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

use crate::harness::{PATIENCE, TargetService, Watcher, quick, wait_for, watching};

/// What issue and README promise for the default configuration.
const PROMISED: Duration = Duration::from_secs(4);

#[tokio::test]
async fn ailing_component_fires_and_resolves_within_four_seconds() {
    let target = TargetService::start("replica-service").await;
    let replica = target.cx.component("postgres.replica1", ComponentKind::Datastore, false);
    replica.healthy("streaming");
    let watcher = Watcher::start(watching(&[("replica-service", &target)])).await;
    watcher.all_answer().await;

    let fell_ill_at = Instant::now();
    replica.unhealthy("connection refused (127.0.0.1:5433)");
    let firing = watcher.alert("component_unhealthy", AlertState::Firing, PATIENCE).await;
    assert!(fell_ill_at.elapsed() < PROMISED, "fired after {:?}", fell_ill_at.elapsed());
    assert_eq!((firing.source.as_str(), firing.subject.as_str()), ("replica-service", "postgres.replica1"));
    assert_eq!(firing.severity(), Severity::Warning);
    assert_eq!(firing.summary, "postgres.replica1 is unhealthy: connection refused (127.0.0.1:5433)");

    let recovered_at = Instant::now();
    replica.healthy("streaming");
    let resolved = watcher.alert("component_unhealthy", AlertState::Resolved, PATIENCE).await;
    assert!(recovered_at.elapsed() < PROMISED, "resolved after {:?}", recovered_at.elapsed());
    assert_eq!(resolved.id, firing.id);
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn figure_beyond_its_level_fires_with_the_pull_that_reads_it() {
    let target = TargetService::start("cache-service").await;
    let queue = target.cx.metrics(|registry| {
        let queue = Gauge::<i64>::default();
        registry.register("queue", "Waits", queue.clone());
        queue
    });
    let mut config = quick(&[("cache-service", &target)]);
    // Only what was just read can be the reason to look: no time passes that would be one.
    config.alerts.evaluate_every = Duration::from_mins(1);
    config.collect.every = Duration::from_secs(30);
    config.targets.entry("cache-service".to_owned()).or_default().every = Some(Duration::from_millis(500));
    let rule = RuleSpec {
        metric: "queue".to_owned(),
        critical: Some(10.0),
        fires_after: Some(Duration::ZERO),
        clears_after: Some(Duration::ZERO),
        ..RuleSpec::default()
    };
    config.rules.insert("queue".to_owned(), rule);
    let watcher = Watcher::start(config).await;
    watcher.all_answer().await;
    for _ in 0..3 {
        let began_at = Instant::now();
        queue.set(11);
        let firing = watcher.alert("queue", AlertState::Firing, PATIENCE).await;
        assert_eq!(firing.started_at, firing.fired_at, "pending for no time");
        queue.set(0);
        watcher.alert("queue", AlertState::Resolved, PATIENCE).await;
        assert!(
            began_at.elapsed() < Duration::from_secs(30),
            "it was not the pull: {:?}",
            began_at.elapsed()
        );
    }
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn vanished_target_is_one_alert_until_it_is_back_and_its_other_alerts_are_held() {
    let mut target = TargetService::start("cache-service").await;
    let other = TargetService::start("ws-gateway").await;
    let redis = target.cx.component("redis", ComponentKind::Datastore, true);
    redis.unhealthy("connection refused");
    let watcher = Watcher::start(quick(&[("cache-service", &target), ("ws-gateway", &other)])).await;
    let held = watcher.alert("component_unhealthy", AlertState::Firing, PATIENCE).await;
    assert_eq!(held.severity(), Severity::Critical);

    target.vanish().await;
    let down = watcher.alert("instance_down", AlertState::Firing, PATIENCE).await;
    assert_eq!((down.source.as_str(), down.severity()), ("cache-service", Severity::Critical));
    let rules: Vec<_> = watcher.alerts().await.into_iter().map(|alert| (alert.rule, alert.id)).collect();
    assert_eq!(
        rules,
        [("instance_down".to_owned(), down.id.clone()), ("component_unhealthy".to_owned(), held.id.clone())]
    );
    let overview = watcher.overview().await;
    let gone = &overview.instances[0];
    assert_eq!((gone.health(), gone.ready), (Health::Unhealthy, false));
    assert_eq!(gone.components[0].name, "redis", "what was known stays");
    assert!(gone.seen_at.is_some() && gone.pull_failures > 0);

    redis.healthy("connected");
    target.come_back().await;
    let back = watcher.alert("instance_down", AlertState::Resolved, PATIENCE).await;
    assert_eq!(back.id, down.id);
    let released = watcher.alert("component_unhealthy", AlertState::Resolved, PATIENCE).await;
    assert_eq!(released.id, held.id);
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn monitor_that_reaches_nobody_says_so_once() {
    let mut one = TargetService::start("cache-service").await;
    let mut two = TargetService::start("ws-gateway").await;
    let watcher = Watcher::start(quick(&[("cache-service", &one), ("ws-gateway", &two)])).await;
    watcher.all_answer().await;
    one.vanish().await;
    two.vanish().await;

    let isolated = watcher.alert("monitor_isolated", AlertState::Firing, PATIENCE).await;
    assert_eq!((isolated.source.as_str(), isolated.subject.as_str()), ("monitor-service", "collector"));
    let firing = watcher.alerts().await.into_iter().filter(|alert| alert.state() == AlertState::Firing);
    assert_eq!(firing.map(|alert| alert.rule).collect::<Vec<_>>(), ["monitor_isolated"]);
    wait_for(PATIENCE, async || {
        let collector = own_component(&watcher, "collector").await;
        if collector.health() == Health::Unhealthy { Ok(()) } else { Err(format!("{collector:?}")) }
    })
    .await;

    one.come_back().await;
    two.come_back().await;
    watcher.alert("monitor_isolated", AlertState::Resolved, PATIENCE).await;
    watcher.all_answer().await;
    let rules: Vec<_> = watcher.alerts().await.into_iter().map(|alert| alert.rule).collect();
    assert_eq!(rules, ["monitor_isolated"]);
    watcher.cx.shut_down().await;
}

async fn own_component(watcher: &Watcher, name: &str) -> introspect::Component {
    let call = Call::read("mainstay.introspect.v1.Introspection/Components");
    let ask = |lane| async move {
        IntrospectionClient::new(lane).components(introspect::ComponentsRequest {}).await
    };
    let components = watcher.upstream.call(call, ask).await.expect("the monitor describes itself").components;
    components.into_iter().find(|component| component.name == name).expect("the component is there")
}

#[tokio::test]
async fn target_that_is_not_ready_for_no_visible_reason_is_an_alert() {
    let target = TargetService::start("cache-service").await;
    let latch = target.cx.latch("warming");
    let watcher = Watcher::start(quick(&[("cache-service", &target)])).await;
    let firing = watcher.alert("not_ready", AlertState::Firing, PATIENCE).await;
    assert_eq!(firing.summary, "cache-service is not ready: warming");
    drop(latch);
    watcher.alert("not_ready", AlertState::Resolved, PATIENCE).await;
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn acknowledgement_names_the_caller_and_is_refused_where_it_makes_no_sense() {
    let target = TargetService::start("cache-service").await;
    let redis = target.cx.component("redis", ComponentKind::Datastore, true);
    redis.unhealthy("connection refused");
    let watcher = Watcher::start(quick(&[("cache-service", &target)])).await;
    let firing = watcher.alert("component_unhealthy", AlertState::Firing, PATIENCE).await;

    let acknowledged = watcher.acknowledge(&firing.id, "restarting it", Some("ann")).await.expect("it fires");
    assert_eq!(acknowledged.state(), AlertState::Firing);
    let by = acknowledged.acknowledgement.expect("somebody looks after it");
    assert_eq!((by.by.as_str(), by.comment.as_str()), ("ann", "restarting it"));
    let again = watcher.acknowledge(&firing.id, "", None).await.expect("it still fires");
    assert_eq!(again.acknowledgement.map(|by| by.by).as_deref(), Some("internal"));

    let unknown =
        watcher.acknowledge("00000000-0000-4000-8000-000000000000", "", None).await.expect_err("unknown");
    assert_eq!((unknown.code(), unknown.reason()), (ErrorCode::NotFound, "ALERT_NOT_FOUND"));
    let wordy = watcher.acknowledge(&firing.id, &"x".repeat(1001), None).await.expect_err("too long");
    assert_eq!((wordy.code(), wordy.fields()[0].field.as_str()), (ErrorCode::InvalidArgument, "comment"));

    redis.healthy("connected");
    watcher.alert("component_unhealthy", AlertState::Resolved, PATIENCE).await;
    let late = watcher.acknowledge(&firing.id, "", None).await.expect_err("over");
    assert_eq!((late.code(), late.reason()), (ErrorCode::Conflict, "ALERT_ALREADY_RESOLVED"));
    watcher.cx.shut_down().await;
}
