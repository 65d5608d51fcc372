use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use opentelemetry::trace::{SpanKind, TracerProvider as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, Span, SpanData, SpanProcessor};
use tokio::sync::{Notify, Semaphore};
use tonic::Code;
use tower::ServiceExt as _;
use tracing::Instrument as _;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;
use crate::testing::{Answers, GET, House, eventually, found_nothing, get, soon};
use crate::{Call, ErrorCode, Failure, Secret, Upstream, UpstreamConfig, trace};

type Headers = &'static [(&'static str, &'static str)];

fn request(path: &str, headers: Headers) -> Request<Body> {
    let mut request = Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    // An empty message with its five bytes of framing.
    request.body(Body::from(vec![0; 5])).unwrap()
}

async fn status(response: Response<Body>) -> (Code, HeaderMap) {
    assert_eq!(response.status(), StatusCode::OK, "gRPC answers are always 200");
    let (parts, body) = response.into_parts();
    let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or_default();
    let code =
        parts.headers.get("grpc-status").or_else(|| trailers.get("grpc-status")).expect("a grpc-status");
    (Code::from_bytes(code.as_bytes()), parts.headers)
}

fn config(adjust: impl FnOnce(&mut ServerConfig)) -> ServerConfig {
    let mut config = ServerConfig::default();
    adjust(&mut config);
    config
}

#[tokio::test]
async fn a_service_token_is_asked_for_except_for_health() {
    let open = ["/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"];
    let get = "/mainstay.cache.v1.CacheService/Get";
    let cases: [(&str, Headers, Code); 9] = [
        (get, &[], Code::Unauthenticated),
        (get, &[("authorization", "Bearer wrong")], Code::Unauthenticated),
        (get, &[("authorization", "Bearer righ")], Code::Unauthenticated),
        (get, &[("authorization", "right")], Code::Unauthenticated),
        (get, &[("authorization", "Bearer right")], Code::Ok),
        (get, &[("authorization", "bearer right")], Code::Ok),
        ("/no.such.Service/Method", &[], Code::Unauthenticated),
        (open[0], &[], Code::Unimplemented),
        (open[1], &[], Code::Unimplemented),
    ];
    let config = config(|config| config.token = Secret::from("right"));
    for (path, headers, expected) in cases {
        let app = stack(Answers::nothing().routes(), &config, ServerMetrics::default());
        let (code, _) = status(app.oneshot(request(path, headers)).await.unwrap()).await;
        assert_eq!(code, expected, "{path} {headers:?}");
    }
    let public = ServerConfig { listen: "0.0.0.0:1".parse().unwrap(), ..config };
    let app = stack(Answers::nothing().routes(), &public, ServerMetrics::default());
    assert_eq!(status(app.oneshot(request(open[1], &[])).await.unwrap()).await.0, Code::Unauthenticated);
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_the_mistake_of_who_sent_it() {
    let app = stack(Answers::nothing().routes(), &config(|_| {}), ServerMetrics::default());
    let mut sent = request("/mainstay.cache.v1.CacheService/Get", &[]);
    // Its first field is longer than the message.
    *sent.body_mut() = Body::from(vec![0, 0, 0, 0, 2, 0x0a, 0x7f]);
    let (code, headers) = status(app.oneshot(sent).await.unwrap()).await;
    assert_eq!(code, Code::InvalidArgument, "{headers:?}");
}

#[tokio::test]
async fn what_is_not_grpc_is_refused_by_its_type_and_plain_routes_are_left_alone() {
    let config = config(|config| config.token = Secret::from("right"));
    let app = stack(Answers::nothing().routes(), &config, ServerMetrics::default())
        .route("/livez", axum::routing::get(|| async { "alive" }));
    let browser = Request::get("/").body(Body::empty()).unwrap();
    assert_eq!(app.clone().oneshot(browser).await.unwrap().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let probe = Request::get("/livez").body(Body::empty()).unwrap();
    let answer = app.oneshot(probe).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(answer, "alive");
}

#[tokio::test]
async fn beyond_max_in_flight_requests_are_shed_and_told_when_to_return() {
    let gate = Arc::new(Semaphore::new(0));
    let arrived = Arc::new(Notify::new());
    let (pass, tell) = (Arc::clone(&gate), Arc::clone(&arrived));
    let house = House::open_with(
        Answers::with(move |_| {
            let pass = Arc::clone(&pass);
            tell.notify_one();
            async move {
                pass.acquire().await.unwrap().forget();
                found_nothing()
            }
        }),
        |config, _| config.max_in_flight = 1,
    )
    .await;
    let upstream = Upstream::try_new("cache", &UpstreamConfig::of([house.uri()])).unwrap();
    let (first, ()) = tokio::join!(get(&upstream, Call::write(GET), "k"), async {
        soon("the first request", arrived.notified()).await;
        let shed = get(&upstream, Call::write(GET), "k").await.unwrap_err();
        assert_eq!((shed.code(), shed.reason()), (ErrorCode::ResourceExhausted, "OVERLOADED"));
        assert_eq!(shed.retry_delay(), Some(Duration::from_secs(1)));
        gate.add_permits(2);
    });
    first.unwrap();
    get(&upstream, Call::write(GET), "k").await.unwrap();
    let metrics = house.metrics();
    for line in [
        "mainstay_rpc_shed_total 1",
        "mainstay_rpc_in_flight 0",
        r#"mainstay_rpc_requests_total{method="mainstay.cache.v1.CacheService/Get",code="OK"} 2"#,
        r#"mainstay_rpc_requests_total{method="mainstay.cache.v1.CacheService/Get",code="RESOURCE_EXHAUSTED"} 1"#,
        r#"mainstay_rpc_request_seconds_count{method="mainstay.cache.v1.CacheService/Get"} 3"#,
        r#"mainstay_rpc_connections{listener="test"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn an_overloaded_service_still_tells_how_it_is() {
    let metrics = ServerMetrics::default();
    let config = config(|config| config.max_in_flight = 0);
    for (path, expected) in [
        ("/mainstay.cache.v1.CacheService/Get", Code::ResourceExhausted),
        ("/grpc.health.v1.Health/Check", Code::Unimplemented),
        ("/mainstay.introspect.v1.Introspection/Describe", Code::Unimplemented),
    ] {
        let app = stack(Answers::nothing().routes(), &config, metrics.clone());
        assert_eq!(status(app.oneshot(request(path, &[])).await.unwrap()).await.0, expected, "{path}");
    }
}

#[tokio::test]
async fn a_panic_is_one_failed_request() {
    let house = House::open(Answers::with(|request| async move {
        assert!(request.get_ref().key != "boom", "password=hunter2");
        found_nothing()
    }))
    .await;
    let upstream = Upstream::try_new("cache", &UpstreamConfig::of([house.uri()])).unwrap();
    let failure = get(&upstream, Call::write(GET), "boom").await.unwrap_err();
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::Internal, "PANIC"));
    assert!(!failure.to_string().contains("hunter2"), "{failure}");
    get(&upstream, Call::write(GET), "fine").await.unwrap();
}

#[tokio::test]
async fn without_a_callers_deadline_the_servers_own_holds() {
    let config = config(|config| config.default_deadline = Duration::from_millis(30));
    let app = stack(
        Answers::with(|_| async { std::future::pending().await }).routes(),
        &config,
        ServerMetrics::default(),
    );
    let answer = app.oneshot(request("/mainstay.cache.v1.CacheService/Get", &[]));
    let (code, headers) = status(soon("the deadline", answer).await.unwrap()).await;
    assert_eq!(code, Code::DeadlineExceeded);
    let failure = Failure::from(tonic::Status::from_header_map(&headers).unwrap());
    assert_eq!(failure.reason(), crate::DEADLINE_EXCEEDED);
}

#[derive(Debug, Clone, Default)]
struct Ended(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Ended {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().unwrap().push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[tokio::test]
async fn one_call_is_one_trace() {
    let ended = Ended::default();
    let provider = SdkTracerProvider::builder().with_span_processor(ended.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let subscriber = tracing_subscriber::registry().with(LevelFilter::INFO).with(layer);
    let _guard = tracing::subscriber::set_default(subscriber);

    let seen = Arc::new(Mutex::new(None));
    let see = Arc::clone(&seen);
    let house = House::open(Answers::with(move |_| {
        let see = Arc::clone(&see);
        async move {
            *see.lock().unwrap() = trace::trace_id();
            found_nothing()
        }
    }))
    .await;
    let upstream = Upstream::try_new("cache", &UpstreamConfig::of([house.uri()])).unwrap();
    let root = tracing::info_span!("root");
    let expected = async {
        get(&upstream, Call::read(GET), "k").await.unwrap();
        trace::trace_id().unwrap()
    }
    .instrument(root)
    .await;
    assert_eq!(seen.lock().unwrap().as_deref(), Some(expected.as_str()));

    let spans = eventually("three ended spans", || async {
        let spans = ended.0.lock().unwrap().clone();
        if spans.len() == 3 { Ok(spans) } else { Err(spans) }
    })
    .await;
    let of = |name: &str, kind: SpanKind| {
        spans.iter().find(|span| span.name == name && span.span_kind == kind).expect("the span has ended")
    };
    let (root, client, server) =
        (of("root", SpanKind::Internal), of(GET, SpanKind::Client), of(GET, SpanKind::Server));
    assert_eq!(client.parent_span_id, root.span_context.span_id());
    assert_eq!(server.parent_span_id, client.span_context.span_id());
    assert!(server.parent_span_is_remote);
    assert_eq!(server.span_context.trace_id(), root.span_context.trace_id());
    let address = house.address.to_string();
    assert!(
        client.attributes.iter().any(|a| a.key.as_str() == "server.address" && a.value.as_str() == address)
    );
}
