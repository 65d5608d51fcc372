//! The server span and the metrics of one request, from its first header to its last trailer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use http::{HeaderMap, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;
use tonic::Code;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::metrics::{MethodLabels, RequestLabels, ServerMetrics, WellMetrics};
use crate::code::ErrorCode;
use crate::trace;

pub(super) const WELL: &str = "OK";
const CANCELLED: &str = "CANCELLED";

/// Follows one request; dropped before its end, it counts as cancelled by the caller.
pub(super) struct Report {
    method: &'static str,
    span: Span,
    started: Instant,
    metrics: Arc<ServerMetrics>,
    /// Of that method, where they are at hand.
    well: Option<Arc<WellMetrics>>,
    ended: bool,
}

impl Report {
    pub(super) fn begin(method: &'static str, headers: &HeaderMap, metrics: &Arc<ServerMetrics>) -> Self {
        let (started, metrics) = (Instant::now(), Arc::clone(metrics));
        Self { method, span: span(method, headers), started, metrics, well: None, ended: false }
    }

    /// Counts and times only, until [`open_span`](Self::open_span).
    pub(super) fn without_span(
        method: &'static str,
        metrics: &Arc<ServerMetrics>,
        well: &Arc<WellMetrics>,
    ) -> Self {
        let (metrics, well) = (Arc::clone(metrics), Some(Arc::clone(well)));
        Self { method, span: Span::none(), started: Instant::now(), metrics, well, ended: false }
    }

    /// Starts the span that continues the caller's.
    pub(super) fn open_span(&mut self, headers: &HeaderMap) {
        self.span = span(self.method, headers);
    }

    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Lets the answer go out and stays with it until its status is known.
    pub(super) fn attach(mut self, response: Response<Body>) -> Response<Body> {
        self.begins();
        if let Some(code) = grpc_status(response.headers()) {
            self.end(label(code));
            return response;
        }
        response.map(|body| Body::new(Reported { body, report: self }))
    }

    /// Takes the time until the answer begins.
    pub(super) fn begins(&self) {
        let took = self.started.elapsed().as_secs_f64();
        match &self.well {
            Some(well) => well.request_seconds.observe(took),
            None => {
                let labels = MethodLabels { method: self.method };
                self.metrics.request_seconds.get_or_create(&labels).observe(took);
            }
        }
    }

    /// Says that somebody else reports the request.
    pub(super) fn forget(mut self) {
        self.ended = true;
    }

    /// Counts the answer by its status.
    pub(super) fn end(&mut self, code: &'static str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        match &self.well {
            Some(well) if code == WELL => well.requests.inc(),
            _ => self.metrics.requests.get_or_create(&RequestLabels { method: self.method, code }).inc(),
        };
        self.span.record("rpc.response.status_code", code);
        let servers_fault = [ErrorCode::Internal, ErrorCode::Unavailable, ErrorCode::DeadlineExceeded];
        if servers_fault.iter().any(|fault| fault.as_str() == code) {
            self.span.record("otel.status_code", "ERROR");
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.end(CANCELLED);
    }
}

/// Starts the span that continues the caller's. Looks at the service itself come every second: they get one only as
/// part of somebody's trace.
fn span(method: &'static str, headers: &HeaderMap) -> Span {
    if trace::is_routine(method) && !headers.contains_key(trace::TRACEPARENT) {
        return Span::none();
    }
    let span = tracing::info_span!(
        parent: None,
        "rpc.server",
        otel.name = method,
        otel.kind = "server",
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = Empty,
        otel.status_code = Empty,
    );
    // Fails only where no tracer is installed, and then there is nothing to continue.
    let _ = span.set_parent(trace::extract(headers));
    span
}

fn grpc_status(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

fn label(code: Code) -> &'static str {
    match code {
        Code::Ok => WELL,
        Code::Cancelled => CANCELLED,
        Code::Unimplemented => "UNIMPLEMENTED",
        code => ErrorCode::from_grpc(code).as_str(),
    }
}

/// Is the body of an answer whose status comes in its trailers.
struct Reported {
    body: Body,
    report: Report,
}

impl HttpBody for Reported {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let polled = this.report.span.in_scope(|| Pin::new(&mut this.body).poll_frame(cx));
        let frame = ready!(polled);
        match &frame {
            None => this.report.end(WELL),
            Some(Err(_)) => this.report.end(ErrorCode::Internal.as_str()),
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    this.report.end(label(grpc_status(trailers).unwrap_or(Code::Ok)));
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
