//! What history tells, of a target that is really asked.

use std::time::Duration;

use mainstay_proto::monitor::v1 as pb;
use mainstay_proto::monitor::v1::analysis_service_client::AnalysisServiceClient;
use mainstay_rpc::{Call, Failure};
use monitor_service::config::SloConfig;

use crate::harness::{PATIENCE, TargetService, Watcher, quick, wait_for};

const METHOD: &str = "mainstay.introspect.v1.Introspection/Describe";

impl Watcher {
    async fn slos(&self) -> Result<Vec<pb::Slo>, Failure> {
        let call = Call::read("mainstay.monitor.v1.AnalysisService/Slos");
        let ask = |lane| async move { AnalysisServiceClient::new(lane).slos(pb::SlosRequest {}).await };
        Ok(self.upstream.call(call, ask).await?.slos)
    }

    async fn endpoints(&self) -> Result<Vec<pb::EndpointFigures>, Failure> {
        let call = Call::read("mainstay.monitor.v1.AnalysisService/Endpoints");
        let window = Some(prost_types::Duration { seconds: 30, nanos: 0 });
        let request = pb::EndpointsRequest { window, service: "cache-service".to_owned() };
        let ask = |lane| {
            let request = request.clone();
            async move { AnalysisServiceClient::new(lane).endpoints(request).await }
        };
        Ok(self.upstream.call(call, ask).await?.endpoints)
    }
}

#[tokio::test]
async fn budget_that_is_used_up_too_fast_is_an_alert() {
    let target = TargetService::start("cache-service").await;
    let mut config = quick(&[("cache-service", &target)]);
    // What goes right for everybody else goes wrong for this promise: every pull is a failure.
    let requests = "mainstay_rpc_requests_total".to_owned();
    let slo = SloConfig {
        objective: 0.99,
        total: requests.clone(),
        bad: requests,
        bad_labels: [("code".to_owned(), "O*".to_owned())].into(),
        min_traffic: 10.0,
        ..SloConfig::default()
    };
    config.history.buckets.insert("mainstay_rpc_request_seconds".to_owned());
    config.slos.insert("promise".to_owned(), slo);
    let watcher = Watcher::start(config).await;
    let burning = watcher.alert("slo_burn", pb::AlertState::Firing, Duration::from_secs(20)).await;
    assert_eq!((burning.subject.as_str(), burning.severity()), ("promise", pb::Severity::Critical));
    assert!(burning.value > 90.0, "{burning:?}");
    let slo = watcher.slos().await.expect("they are told").remove(0);
    assert!(slo.budget_left < -90.0 && slo.right_share == Some(0.0) && slo.total > 0.0, "{slo:?}");
    assert!(slo.known_from.is_some() && slo.burns.len() == 5, "{slo:?}");
    let method = wait_for(PATIENCE, async || {
        let endpoints = watcher.endpoints().await.expect("they are told");
        endpoints
            .iter()
            .find(|endpoint| endpoint.name == METHOD)
            .cloned()
            .ok_or_else(|| format!("{endpoints:?}"))
    })
    .await;
    assert_eq!((method.protocol.as_str(), method.error_share), ("grpc", Some(0.0)));
    assert!(method.per_second > 0.0 && method.p95_seconds.is_some(), "{method:?}");
    watcher.cx.shut_down().await;
}
