//! Targets are pulled, each on its own, and what they say has a history.

use std::collections::HashMap;

use mainstay_proto::common::v1::Health;
use mainstay_proto::monitor::v1 as pb;
use mainstay_proto::monitor::v1::monitor_service_client::MonitorServiceClient;
use mainstay_rpc::Call;

use crate::harness::{PATIENCE, TargetService, Watcher, quick, wait_for};

#[tokio::test]
async fn hung_target_delays_nobody_and_is_found_out() {
    let mut hung = TargetService::start("cache-service").await;
    let lively = TargetService::start("ws-gateway").await;
    let watcher = Watcher::start(quick(&[("cache-service", &hung), ("ws-gateway", &lively)])).await;
    watcher.all_answer().await;
    hung.hang().await;
    let found_out = wait_for(PATIENCE, async || {
        let overview = watcher.overview().await;
        if overview.instances[0].health() == Health::Unhealthy {
            Ok(overview)
        } else {
            Err(format!("{overview:?}"))
        }
    })
    .await;

    let (slow, quick) = (&found_out.instances[0], &found_out.instances[1]);
    assert!(slow.detail.starts_with("does not answer"), "{}", slow.detail);
    let (slow_before, quick_before) = (slow.pulls, quick.pulls - quick.pull_failures);
    wait_for(PATIENCE, async || {
        let instances = watcher.overview().await.instances;
        let (slow, quick) = (&instances[0], &instances[1]);
        let answered = quick.pulls - quick.pull_failures;
        let went_on = answered >= quick_before + 10 && slow.pulls >= slow_before + 5;
        if went_on { Ok(()) } else { Err(format!("{} and {answered} pulls", slow.pulls)) }
    })
    .await;
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn figures_of_a_target_have_a_history_that_outlives_its_absence() {
    let mut target = TargetService::start("cache-service").await;
    let other = TargetService::start("ws-gateway").await;
    let watcher = Watcher::start(quick(&[("cache-service", &target), ("ws-gateway", &other)])).await;
    watcher.all_answer().await;
    target.vanish().await;

    let labels = HashMap::from([("service".to_owned(), "cache-service".to_owned())]);
    let points = wait_for(PATIENCE, async || {
        let up = range(&watcher, "up", labels.clone()).await.series;
        assert_eq!(up.len(), 1);
        let points = &up[0].points;
        let (min, max) =
            points.iter().fold((1.0, 0.0), |(min, max), point| (point.min.min(min), point.max.max(max)));
        if (min, max) == (0.0, 1.0) { Ok(points.clone()) } else { Err(format!("{points:?}")) }
    })
    .await;
    assert_eq!(points.last().map(|point| point.last), Some(0.0), "the newest pull failed");

    let known = range(&watcher, "mainstay_ready", labels).await.series;
    assert_eq!(known[0].labels["endpoint"], target.endpoint());
    assert!(known[0].points.iter().all(|point| point.last == 1.0));

    let names = names(&watcher).await;
    assert!(names.iter().any(|name| name == "mainstay_rpc_request_seconds_count"), "{names:?}");
    assert!(!names.iter().any(|name| name.ends_with("_bucket")), "{names:?}");
    watcher.cx.shut_down().await;
}

async fn range(watcher: &Watcher, metric: &str, labels: HashMap<String, String>) -> pb::QueryRangeResponse {
    let request =
        pb::QueryRangeRequest { metric: metric.to_owned(), labels, ..pb::QueryRangeRequest::default() };
    let call = Call::read("mainstay.monitor.v1.MonitorService/QueryRange");
    let ask = |lane| {
        let request = request.clone();
        async move { MonitorServiceClient::new(lane).query_range(request).await }
    };
    watcher.upstream.call(call, ask).await.expect("the range is legal")
}

async fn names(watcher: &Watcher) -> Vec<String> {
    let call = Call::read("mainstay.monitor.v1.MonitorService/ListSeries");
    let ask = |lane| async move {
        MonitorServiceClient::new(lane).list_series(pb::ListSeriesRequest::default()).await
    };
    let series = watcher.upstream.call(call, ask).await.expect("series are listed").series;
    series.into_iter().map(|series| series.metric).collect()
}
