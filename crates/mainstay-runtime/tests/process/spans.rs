//! Spans of a real process, as an OTLP endpoint receives them.

use std::net::SocketAddr;
use std::sync::Arc;

use mainstay_proto::introspect::v1::DescribeRequest;
use mainstay_proto::introspect::v1::introspection_client::IntrospectionClient;
use mainstay_rpc::{Reply, Request, Response};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use parking_lot::Mutex;
use rustix::process::Signal;
use tonic::transport::{Endpoint, Server};

use crate::service::{Service, WITHIN, poll};

#[derive(Clone, Default)]
struct Collector {
    received: Arc<Mutex<Vec<ResourceSpans>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Reply<ExportTraceServiceResponse> {
        self.received.lock().extend(request.into_inner().resource_spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn call_describe(address: SocketAddr, traceparent: &'static str) {
    let channel =
        Endpoint::try_from(format!("http://{address}")).expect("an address makes a URI").connect_lazy();
    let mut request = Request::new(DescribeRequest {});
    request.metadata_mut().insert("traceparent", traceparent.parse().expect("the header is ASCII"));
    let answer = tokio::time::timeout(WITHIN, IntrospectionClient::new(channel).describe(request)).await;
    let described =
        answer.expect("the service answers in time").expect("nothing is wrong with the request").into_inner();
    assert_eq!(described.service, "echo-service");
}

#[test]
fn the_last_spans_are_sent_before_the_process_ends_and_continue_the_callers_trace() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let collector = Collector::default();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("a bound port has an address"));
    listener.set_nonblocking(true).expect("a socket can be made non-blocking");
    let service = TraceServiceServer::new(collector.clone());
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming)
            .await
            .map_err(std::io::Error::other)
    });

    // Only errors are logged, and only the flush at the end can have sent anything: neither may cost a span.
    let echo = Service::listening(&[
        ("MAINSTAY__TELEMETRY__OTLP_ENDPOINT", &endpoint),
        ("MAINSTAY__TELEMETRY__EXPORT_EVERY", "60s"),
        ("MAINSTAY__TELEMETRY__LOG", "error,mainstay_runtime=info"),
    ]);
    let address = echo.address.expect("the service listens");
    let (trace_id, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    runtime.block_on(call_describe(address, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
    echo.signal(Signal::TERM);
    assert_eq!(echo.end().0.code(), Some(0));

    let received = collector.received.lock();
    let [of_service] = received.as_slice() else { panic!("one batch was expected: {received:#?}") };
    let resource = of_service.resource.as_ref().expect("spans name their service");
    let name = resource.attributes.iter().find(|attribute| attribute.key == "service.name");
    let name = name.and_then(|attribute| attribute.value.clone()?.value);
    assert_eq!(name, Some(Value::StringValue("echo-service".into())));
    let spans: Vec<_> = of_service.scope_spans.iter().flat_map(|scope| &scope.spans).collect();
    let [span] = spans.as_slice() else { panic!("one span was expected: {spans:#?}") };
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (trace_id.to_owned(), parent.to_owned()));
    let paths = span.attributes.iter().filter(|attribute| attribute.key.starts_with("code."));
    assert_eq!(paths.count(), 0, "spans do not carry paths of the build machine");
}

#[test]
fn a_dead_endpoint_costs_spans_and_nothing_else() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let nobody = format!("http://{}", listener.local_addr().expect("a bound port has an address"));
    drop(listener);
    let mut echo = Service::listening(&[
        ("MAINSTAY__TELEMETRY__OTLP_ENDPOINT", &nobody),
        ("MAINSTAY__TELEMETRY__EXPORT_EVERY", "10ms"),
    ]);
    let address = echo.address.expect("the service listens");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(call_describe(address, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
    echo.wait_for_line(|line| line["fields"]["component"] == "otlp" && line["fields"]["to"] == "unhealthy");
    let lost = "mainstay_telemetry_spans_lost_total 1\n";
    poll("the lost span to be counted", || echo.get("/metrics").1.contains(lost).then_some(()));
    assert_eq!(echo.wait_for_status("/readyz", "200"), "ready\n");
    echo.signal(Signal::TERM);
    assert_eq!(echo.end().0.code(), Some(0));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
