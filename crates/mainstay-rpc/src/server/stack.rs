use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse as _;
use axum::routing::Route;
use futures_util::FutureExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::time::timeout_at;
use tonic::Status;
use tonic::service::Routes;
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::config::ServerConfig;
use super::deadline::Deadline;
use super::metrics::{ServerMetrics, WellMetrics};
use super::quick::{QuickCalls, QuickMethod};
use super::report::Report;
use super::shed::Shed;
use super::token::TokenCheck;
use super::{methods, panic, unreadable};
use crate::failure::Failure;
use crate::trace;

/// Puts the rules that hold for every gRPC request around `routes`.
///
/// Plain HTTP routes (`/livez`, `/metrics`) are added to the result afterwards and are not touched by any of this.
pub fn stack(routes: Routes, config: &ServerConfig, metrics: ServerMetrics) -> Router {
    Stack::new(config, metrics, true).around(routes)
}

/// The rules that hold for every gRPC request of a port.
pub struct Stack(Arc<Rules>);

impl Stack {
    /// Makes the rules. Where no span leaves the process, `records_spans` is false, and [`AtOnce`](super::AtOnce) makes none.
    pub fn new(config: &ServerConfig, metrics: ServerMetrics, records_spans: bool) -> Self {
        let metrics = Arc::new(metrics);
        Self(Arc::new(Rules {
            token: TokenCheck::new(config),
            shed: Shed::new(config.max_in_flight, Arc::clone(&metrics)),
            default_deadline: config.default_deadline,
            metrics,
            records_spans,
        }))
    }

    /// Puts them around `routes`, as [`stack()`] does.
    pub fn around(&self, routes: Routes) -> Router {
        routes.into_axum_router().layer(RulesLayer(Arc::clone(&self.0)))
    }

    /// Puts them around methods that are answered at once.
    pub fn quick(&self, methods: Vec<QuickMethod>) -> QuickCalls {
        QuickCalls::new(Arc::clone(&self.0), methods)
    }
}

/// Holds the rules; [`handle`](Self::handle) is their order.
pub(super) struct Rules {
    token: TokenCheck,
    shed: Shed,
    default_deadline: Duration,
    metrics: Arc<ServerMetrics>,
    records_spans: bool,
}

impl Rules {
    /// Runs one request through all rules, and turns whatever goes wrong into a proper gRPC answer.
    async fn handle(self: Arc<Self>, next: Route, request: Request<Body>) -> Response<Body> {
        if !is_grpc(request.headers()) {
            return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
        }
        let method = methods::label(request.uri().path());
        let report = Report::begin(method, request.headers(), &self.metrics);
        let answer = self.admit_and_run(next, request).instrument(report.span()).await;
        let response =
            answer.unwrap_or_else(|failure| report.span().in_scope(|| Status::from(failure).into_http()));
        report.attach(response)
    }

    /// Tells whether a request that is answered at once may be; if not, the usual way says why.
    pub(super) fn admit(&self, path: &str, headers: &HeaderMap) -> bool {
        self.shed.has_room() && self.token.check(path, headers).is_ok()
    }

    /// Finds what is counted of such requests.
    pub(super) fn well_metrics(&self, method: &'static str) -> Arc<WellMetrics> {
        Arc::new(self.metrics.well(method))
    }

    /// Begins the report of such a request; whether it gets a span is known when it is answered.
    pub(super) fn quick_report(&self, method: &'static str, well: &Arc<WellMetrics>) -> Report {
        Report::without_span(method, &self.metrics, well)
    }

    /// Tells whether somebody looks at the span of such a request.
    pub(super) fn wants_span(&self, headers: &HeaderMap) -> bool {
        self.records_spans && !trace::is_left_out(headers)
    }

    async fn admit_and_run(
        &self,
        mut next: Route,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        self.token.check(request.uri().path(), request.headers())?;
        let _slot = self.shed.enter(request.uri().path())?;
        let deadline = Deadline::of_request(request.headers(), self.default_deadline);
        request.extensions_mut().insert(deadline);
        let handled = AssertUnwindSafe(next.call(request)).catch_unwind();
        match timeout_at(deadline.at(), handled).await {
            Ok(Ok(Ok(response))) => match unreadable::of_answer(response.headers()) {
                Some(failure) => Err(failure),
                None => Ok(response),
            },
            Ok(Err(panic)) => Err(panic::failure(&*panic)),
            Err(_) => Err(deadline.missed()),
        }
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

#[derive(Clone)]
struct RulesLayer(Arc<Rules>);

impl Layer<Route> for RulesLayer {
    type Service = Ruled;

    fn layer(&self, next: Route) -> Ruled {
        Ruled { rules: Arc::clone(&self.0), next }
    }
}

/// Is one route behind the rules.
#[derive(Clone)]
struct Ruled {
    rules: Arc<Rules>,
    next: Route,
}

impl Service<Request<Body>> for Ruled {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.next, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The route that was polled ready goes; its clone stays.
        let clone = self.next.clone();
        let ready = std::mem::replace(&mut self.next, clone);
        Box::pin(Arc::clone(&self.rules).handle(ready, request).map(Ok))
    }
}
