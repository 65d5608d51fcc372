//! An OTLP/gRPC receiver that keeps the spans it is sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};

use crate::eventually;

/// One finished span.
#[derive(Clone, Debug)]
pub struct Span {
    pub service: String,
    pub name: String,
    pub trace_id: String,
    pub span_id: String,
    pub parent_id: String,
    /// 1 internal, 2 server, 3 client.
    pub kind: i32,
    pub attributes: Vec<(String, String)>,
}

/// A receiver on a free port, on a thread of its own: it outlives the runtime of the test that started it.
pub struct OtlpReceiver {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
}

struct Sink(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let mut spans = self.0.lock().expect("no holder panics");
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let service = text_of(&attributes, "service.name");
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.push(Span {
                    service: service.clone(),
                    name: span.name,
                    trace_id: hex(&span.trace_id),
                    span_id: hex(&span.span_id),
                    parent_id: hex(&span.parent_span_id),
                    kind: span.kind,
                    attributes: span
                        .attributes
                        .iter()
                        .map(|pair| (pair.key.clone(), text(&pair.value)))
                        .collect(),
                });
            }
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl OtlpReceiver {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("sockets can be non-blocking");
        let address = listener.local_addr().expect("a bound socket has an address");
        let spans = Arc::new(Mutex::new(Vec::new()));
        let sink = TraceServiceServer::new(Sink(Arc::clone(&spans)));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be built").block_on(async move {
                let listener =
                    tokio::net::TcpListener::from_std(listener).expect("the socket is non-blocking");
                let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
                // Ends with the process: the thread belongs to the whole test binary.
                let _ =
                    tonic::transport::Server::builder().add_service(sink).serve_with_incoming(incoming).await;
            });
        });
        Self { address, spans }
    }

    /// Where services send their spans.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until the spans of one trace satisfy `complete`, and gives them.
    pub async fn trace(&self, trace_id: &str, complete: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let complete_trace = eventually(format!("the spans of trace {trace_id}"), || {
            let spans: Vec<Span> = self
                .spans
                .lock()
                .expect("no holder panics")
                .iter()
                .filter(|span| span.trace_id == trace_id)
                .cloned()
                .collect();
            let verdict = if complete(&spans) { Ok(spans) } else { Err(outline(&spans)) };
            std::future::ready(verdict)
        });
        complete_trace.await
    }
}

fn outline(spans: &[Span]) -> String {
    let lines: Vec<String> = spans
        .iter()
        .map(|span| format!("{}: {} ({} < {})", span.service, span.name, span.span_id, span.parent_id))
        .collect();
    format!("{} spans\n{}", spans.len(), lines.join("\n"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text_of(attributes: &[KeyValue], key: &str) -> String {
    attributes.iter().find(|pair| pair.key == key).map(|pair| text(&pair.value)).unwrap_or_default()
}

fn text(value: &Option<AnyValue>) -> String {
    match value.as_ref().and_then(|any| any.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(int)) => int.to_string(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        Some(Value::DoubleValue(double)) => double.to_string(),
        _ => String::new(),
    }
}

impl Span {
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
    }
}
