//! The internal port as the edge and the monitor see it: gRPC of one process, in this process.

use std::time::Duration;

use mainstay_proto::common::v1::Health;
use mainstay_proto::introspect::v1 as pb;
use mainstay_proto::introspect::v1::introspection_client::IntrospectionClient;
use mainstay_rpc::Routes;
use mainstay_runtime::{ComponentKind, Context, Schedule};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

async fn served() -> (Context, Channel) {
    let cx = Context::for_test("test-service");
    cx.serve(Routes::default()).await.expect("loopback has a free port");
    let address = cx.listening()[0].address;
    let endpoint = Endpoint::try_from(format!("http://{address}")).expect("an address makes a URI");
    (cx, endpoint.timeout(Duration::from_secs(10)).connect_lazy())
}

#[tokio::test]
async fn describe_tells_who_and_why_not_ready() {
    let (cx, channel) = served().await;
    let _held = cx.latch("migrations");
    cx.component("redis", ComponentKind::Datastore, true).unhealthy("connection refused");
    let (round_tx, mut round_rx) = tokio::sync::mpsc::channel(1);
    cx.background("probe", Schedule::Every(Duration::from_secs(3600)), move || {
        let round_tx = round_tx.clone();
        async move { Ok(round_tx.send(()).await?) }
    });
    round_rx.recv().await.expect("the first round is at once");

    let answer = IntrospectionClient::new(channel).describe(pb::DescribeRequest {}).await;
    let described = answer.expect("introspection answers").into_inner();
    assert_eq!(described.service, "test-service");
    assert!(described.instance.starts_with("test-service-"));
    assert!(!described.ready && !described.draining);
    assert_eq!(described.not_ready_because, ["migrations", "redis"]);
    assert_eq!(described.listeners[0].name, "internal");
    assert_eq!(described.listeners[0].address, cx.listening()[0].address.to_string());
    let task = &described.background_tasks[0];
    assert_eq!((task.name.as_str(), task.activations, task.failures), ("probe", 1, 0));
    cx.shut_down().await;
}

#[tokio::test]
async fn components_and_metrics_are_told() {
    let (cx, channel) = served().await;
    let redis = cx.component("redis", ComponentKind::Datastore, true);
    redis.degraded("no replica");
    redis.latency(Duration::from_millis(2));
    redis.attribute("role", "primary");
    let mut client = IntrospectionClient::new(channel);
    let answer =
        client.components(pb::ComponentsRequest {}).await.expect("introspection answers").into_inner();
    let [component] = answer.components.as_slice() else { panic!("one component was added: {answer:?}") };
    assert_eq!((component.name.as_str(), component.health()), ("redis", Health::Degraded));
    assert_eq!((component.kind(), component.critical), (pb::ComponentKind::Datastore, true));
    assert_eq!((component.detail.as_str(), component.attributes["role"].as_str()), ("no replica", "primary"));
    assert_eq!(component.latency.map(|latency| latency.nanos), Some(2_000_000));

    let answer = client.metrics(pb::MetricsRequest {}).await.expect("introspection answers").into_inner();
    let text = std::str::from_utf8(&answer.openmetrics).expect("metrics are text");
    assert!(text.contains("mainstay_component_health{component=\"redis\"} 2\n"), "{text}");
    assert!(text.ends_with("# EOF\n"));
    cx.shut_down().await;
}

#[tokio::test]
async fn grpc_health_follows_readiness_and_the_shutdown() {
    let (cx, channel) = served().await;
    let latch = cx.latch("start");
    let mut client = HealthClient::new(channel);
    let watch = client.watch(HealthCheckRequest::default()).await.expect("health answers");
    let mut watch = watch.into_inner();
    let mut wait_for = async |wanted| loop {
        let message: Option<HealthCheckResponse> = watch.message().await.expect("the watch goes on");
        if message.expect("the watch goes on").status() == wanted {
            return;
        }
    };
    wait_for(ServingStatus::NotServing).await;
    latch.release();
    wait_for(ServingStatus::Serving).await;
    let begun_at = tokio::time::Instant::now();
    tokio::join!(cx.shut_down(), wait_for(ServingStatus::NotServing));
    let took = begun_at.elapsed();
    assert!(took < Duration::from_secs(4), "the open watch held the shutdown up for {took:?}");
}

#[tokio::test]
async fn reflection_lists_our_services() {
    let (cx, channel) = served().await;
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..ServerReflectionRequest::default()
    };
    let mut client = ServerReflectionClient::new(channel);
    let answers =
        client.server_reflection_info(tokio_stream::once(request)).await.expect("reflection answers");
    let answer = answers.into_inner().message().await.expect("one answer per question").expect("one answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("a list was asked for: {answer:?}")
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["mainstay.introspect.v1.Introspection", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|found| found == name), "{name} is not in {names:?}");
    }
    cx.shut_down().await;
}
