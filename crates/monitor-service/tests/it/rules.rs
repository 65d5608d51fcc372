//! Rules set at run time, and the stream of what happens.

use mainstay_proto::monitor::v1 as pb;
use mainstay_proto::monitor::v1::monitor_service_client::MonitorServiceClient;
use mainstay_rpc::ErrorCode;
use mainstay_runtime::ComponentKind;
use pb::AlertState;

use crate::harness::{PATIENCE, TargetService, Watcher, quick};

fn low_rule() -> pb::Rule {
    pb::Rule {
        name: "not_up".to_owned(),
        kind: pb::RuleKind::Threshold.into(),
        metric: "up".to_owned(),
        comparison: pb::Comparison::Below.into(),
        critical: Some(2.0),
        summary: "{service} says {value}, below {threshold}".to_owned(),
        annotations: [("runbook".to_owned(), "up.md".to_owned())].into(),
        ..pb::Rule::default()
    }
}

#[tokio::test]
async fn rule_set_at_run_time_fires_and_its_alert_ends_with_it() {
    let target = TargetService::start("cache-service").await;
    let watcher = Watcher::start(quick(&[("cache-service", &target)])).await;
    watcher.all_answer().await;
    let status = watcher.put_rule(low_rule(), false).await.expect("it is legal").status.expect("a status");
    assert_eq!(status.origin(), pb::RuleOrigin::Runtime);
    let firing = watcher.alert("not_up", AlertState::Firing, PATIENCE).await;
    assert_eq!(firing.summary, "cache-service says 1, below 2");
    assert_eq!((firing.source.as_str(), firing.labels["runbook"].as_str()), ("cache-service", "up.md"));
    let rules = watcher.rules().await;
    let of = |name: &str| {
        let found = rules.iter().find(|status| status.rule.as_ref().is_some_and(|rule| rule.name == name));
        found.cloned().expect("the rule is listed")
    };
    assert_eq!((of("not_up").matched, of("not_up").problem.as_str()), (1, ""));
    assert_eq!(of("cache_hit_rate").problem, "matches no series");
    watcher.delete_rule("not_up").await.expect("it is there");
    watcher.alert("not_up", AlertState::Resolved, PATIENCE).await;
    let failure = watcher.delete_rule("not_up").await.expect_err("it is gone");
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::NotFound, "RULE_NOT_FOUND"));
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn dry_run_tells_what_would_have_been_and_bad_rules_are_told_all_at_once() {
    let mut target = TargetService::start("cache-service").await;
    let other = TargetService::start("ws-gateway").await;
    let watcher = Watcher::start(quick(&[("cache-service", &target), ("ws-gateway", &other)])).await;
    watcher.all_answer().await;
    target.vanish().await;
    watcher.alert("instance_down", AlertState::Firing, PATIENCE).await;
    let rule = pb::Rule { critical: Some(1.0), fires_after: Some(Default::default()), ..low_rule() };
    let answer = watcher.put_rule(rule, true).await.expect("it is legal");
    assert_eq!(answer.episodes.len(), 1, "{answer:?}");
    assert_eq!((answer.episodes[0].severity(), answer.episodes[0].value), (pb::Severity::Critical, 0.0));
    let rules = watcher.rules().await;
    assert!(rules.iter().all(|status| status.origin() == pb::RuleOrigin::Stock), "nothing was set");

    let wrong = pb::Rule {
        name: "instance_down".to_owned(),
        metric: String::new(),
        summary: "{x}".to_owned(),
        ..low_rule()
    };
    let failure = watcher.put_rule(wrong, false).await.expect_err("it is not legal");
    let fields: Vec<&str> = failure.fields().iter().map(|field| field.field.as_str()).collect();
    assert_eq!(fields, ["rule.name", "rule.metric", "rule.summary"]);
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn watcher_gets_figures_and_events_and_resumes_where_it_left() {
    let target = TargetService::start("cache-service").await;
    let redis = target.cx.component("redis", ComponentKind::Datastore, true);
    redis.healthy("connected");
    let watcher = Watcher::start(quick(&[("cache-service", &target)])).await;
    watcher.all_answer().await;
    let address = watcher.cx.listening()[0].address;
    let channel = tonic::transport::Endpoint::new(format!("http://{address}")).expect("legal").connect_lazy();
    let mut client = MonitorServiceClient::new(channel);
    let request = pb::WatchRequest { metrics: vec!["up".to_owned()], ..Default::default() };
    let mut stream = client.watch(request).await.expect("the stream begins").into_inner();
    let first = stream.message().await.expect("no error").expect("not over");
    assert_eq!(first.figures.map(|figures| figures.figures[0].value), Some(1.0));
    redis.unhealthy("connection refused");
    let started = loop {
        let next = stream.message().await.expect("no error").expect("not over");
        if let Some(event) = next.event {
            break event;
        }
    };
    assert_eq!(started.change, "started");
    drop(stream);
    let firing = watcher.alert("component_unhealthy", AlertState::Firing, PATIENCE).await;

    let request = pb::WatchRequest { after_event: started.id, ..Default::default() };
    let mut stream = client.watch(request).await.expect("the stream begins").into_inner();
    let missed = stream.message().await.expect("no error").expect("not over").event.expect("an event");
    assert_eq!((missed.change.as_str(), missed.alert.map(|alert| alert.id)), ("fired", Some(firing.id)));
    let request = pb::WatchRequest { after_event: 1, ..Default::default() };
    let mut stream = client.watch(request).await.expect("the stream begins").into_inner();
    let lost = stream.message().await.expect("no error").expect("not over");
    assert!(lost.lost.is_some(), "what was before the monitor is not known: {lost:?}");
    watcher.cx.shut_down().await;
}
