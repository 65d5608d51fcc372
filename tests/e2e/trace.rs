use mainstay_auth::Role;
use mainstay_tests::{Answer, Span, shared};
use serde_json::json;

const CLIENT: i32 = 3;
const SERVER: i32 = 2;

fn trace_id(answer: &Answer) -> String {
    answer.header("traceparent").split('-').nth(1).expect("traceparent has a trace id").to_owned()
}

fn find(spans: &[Span], service: &str, kind: i32, says: &str) -> Option<Span> {
    let found =
        spans.iter().find(|span| span.service == service && span.kind == kind && span.name.contains(says));
    found.cloned()
}

/// Tells whether `ancestor` is above `span` in the tree.
fn is_below(spans: &[Span], span: &Span, ancestor: &Span) -> bool {
    let mut parent = span.parent_id.clone();
    while let Some(above) = spans.iter().find(|span| span.span_id == parent) {
        if above.span_id == ancestor.span_id {
            return true;
        }
        parent.clone_from(&above.parent_id);
    }
    false
}

/// Finds the span of a database below the span of a service; other calls of the same trace have their own.
fn below(spans: &[Span], served: &Span, database: &str) -> Option<Span> {
    let of_database = |span: &&Span| span.attribute("db.system.name") == database;
    spans.iter().filter(of_database).find(|span| is_below(spans, span, served)).cloned()
}

async fn assert_tree(answer: &Answer, route: &str, service: &str, method: &str, database: &str) {
    let traces = shared().await.traces.as_ref().expect("the shared house receives traces");
    let trace_id = trace_id(answer);
    let spans = traces.trace(&trace_id, |spans| {
        find(spans, "edge-gateway", SERVER, route).is_some()
            && find(spans, "edge-gateway", CLIENT, method).is_some()
            && find(spans, service, SERVER, method)
                .is_some_and(|served| below(spans, &served, database).is_some())
    });
    let spans = spans.await;
    let edge = find(&spans, "edge-gateway", SERVER, route).unwrap();
    let call = find(&spans, "edge-gateway", CLIENT, method).unwrap();
    let served = find(&spans, service, SERVER, method).unwrap();
    let store = below(&spans, &served, database).unwrap();

    assert!(is_below(&spans, &call, &edge), "the call is not below the request");
    assert_eq!(served.parent_id, call.span_id, "the service's span is not a child of the call");
    assert_eq!(store.kind, CLIENT);
    assert_eq!(edge.attribute("http.route"), route);
}

#[tokio::test]
async fn cache_read_is_one_trace_from_the_edge_to_redis() {
    let rest = shared().await.rest(Role::Operator);
    rest.put("/cache/redis_only/traced", "v").await.ok();
    let answer = rest.get("/cache/redis_only/traced").await;
    assert_eq!(answer.header("x-cache"), "l2");
    assert_tree(
        &answer,
        "/cache/{namespace}/{key}",
        "cache-service",
        "mainstay.cache.v1.CacheService/Get",
        "redis",
    )
    .await;
}

#[tokio::test]
async fn query_is_one_trace_from_the_edge_to_postgresql() {
    let rest = shared().await.rest(Role::Viewer);
    let answer = rest.post("/database/query", &json!({ "sql": "select 1" })).await;
    answer.ok();
    let method = "mainstay.replica.v1.ReplicaService/Query";
    assert_tree(&answer, "/database/query", "replica-service", method, "postgresql").await;
}

#[tokio::test]
async fn trace_of_the_caller_goes_on() {
    let trace_id = format!("{:032x}", rand::random::<u128>() | 1);
    let parent = format!("00-{trace_id}-00f067aa0ba902b7-01");
    let rest = shared().await.rest(Role::Viewer).with_header("traceparent", &parent);
    let answer = rest.get("/cache/redis_only/of-the-caller").await;
    assert_eq!(self::trace_id(&answer), trace_id);
    assert_tree(
        &answer,
        "/cache/{namespace}/{key}",
        "cache-service",
        "mainstay.cache.v1.CacheService/Get",
        "redis",
    )
    .await;
}
