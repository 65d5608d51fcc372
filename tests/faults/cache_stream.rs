//! Reads of the cache over the edge's stream: the same answers as behind the router, and no answer that depends on the stream.

use std::collections::BTreeSet;

use mainstay_auth::Role;
use mainstay_tests::{Answer, Devstack, House, Rest, Service, eventually};
use serde_json::Value;

async fn house() -> House {
    House::start(Devstack::builder().services([Service::CacheService, Service::EdgeGateway])).await
}

/// Reads a figure of the edge's own metrics; 0 where it is not there yet.
async fn figure(house: &House, name: &str) -> f64 {
    let text = house.anonymous().get("/health/metrics").await.text();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok()).unwrap_or_default()
}

async fn streamed(house: &House) -> f64 {
    let text = house.anonymous().get("/health/metrics").await.text();
    let is_it =
        |line: &&str| line.starts_with("mainstay_edge_cache_reads") && line.contains("way=\"stream\"");
    let line = text.lines().find(is_it);
    line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok()).unwrap_or_default()
}

/// Waits until a read has gone over the stream.
async fn stream_is_used(house: &House, path: &str) {
    let rest = house.rest(Role::Viewer);
    let seen = eventually("a read to travel over the stream", || async {
        let before = streamed(house).await;
        let answer = rest.get(path).await;
        let after = streamed(house).await;
        if after > before { Ok(()) } else { Err(format!("{} {} reads", answer.status, after)) }
    });
    seen.await
}

/// What two answers to the same question must share: status, names of headers, what they say but for clocks and ids, and body.
fn told(answer: &Answer) -> (u16, BTreeSet<(String, String)>, Value) {
    const OF_THE_MOMENT: [&str; 8] = [
        "x-request-id",
        "traceparent",
        "ratelimit",
        "age",
        "x-cache-ttl",
        "date",
        "content-length",
        "retry-after",
    ];
    let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        let name = name.as_str();
        let value =
            if OF_THE_MOMENT.contains(&name) { "" } else { value.to_str().expect("the edge sends text") };
        (name.to_owned(), value.to_owned())
    };
    let mut body: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|_| answer.text().into());
    if let Some(problem) = body.as_object_mut() {
        problem.remove("requestId");
        problem.remove("instance");
    }
    if !answer.header("content-encoding").is_empty() {
        // Packed with its request id inside.
        body = Value::Null;
    }
    (answer.status.as_u16(), answer.headers.iter().map(header).collect(), body)
}

#[tokio::test]
async fn read_past_the_router_is_answered_as_behind_it() {
    let house = house().await;
    let (operator, viewer) = (house.rest(Role::Operator), house.rest(Role::Viewer));
    let stored = operator.clone().with_header("content-type", "text/plain").with_header("x-cache-ttl", "1h");
    let stored = stored.put("/cache/e2e/same", "v".repeat(600)).await;
    stored.ok();
    stream_is_used(&house, "/cache/e2e/same").await;

    let known = viewer.clone().with_header("if-none-match", stored.header("etag"));
    let packed = viewer.clone().with_header("accept-encoding", "gzip");
    let absent = format!("/cache/e2e/{}", "a".repeat(700));
    let cases: [(&str, &Rest, &str, &str, u16); 8] = [
        ("a value", &viewer, "/cache/e2e/same", "/cache/e2e/s%61me", 200),
        ("a value that is known", &known, "/cache/e2e/same", "/cache/e2e/s%61me", 304),
        ("a value, to who unpacks", &packed, "/cache/e2e/same", "/cache/e2e/s%61me", 200),
        ("nothing", &viewer, "/cache/e2e/absent", "/cache/e2e/%61bsent", 404),
        ("nothing, to who unpacks", &packed, &absent, &absent.replacen("/a", "/%61", 1), 404),
        ("no credentials", &house.anonymous(), "/cache/e2e/same", "/cache/e2e/s%61me", 401),
        ("bad namespace", &viewer, "/cache/No/same", "/cache/No/s%61me", 400),
        ("asked with a query", &viewer, "/cache/e2e/same?x=1", "/cache/e2e/s%61me?x=1", 200),
    ];
    for (what, rest, past, behind, status) in cases {
        let (past, behind) = (rest.get(past).await, rest.get(behind).await);
        assert_eq!(past.status, status, "{what}: {}", past.text());
        assert_eq!(told(&past), told(&behind), "{what}");
    }
    for taken in ["/cache/namespaces/e2e", "/cache/e2e/batch", "/cache/e2e/warm"] {
        let answer = viewer.get(taken).await;
        assert_ne!(answer.header("x-cache"), "miss", "{taken} is another path: {}", answer.text());
    }
}

#[tokio::test]
async fn many_at_once_each_get_their_own() {
    let house = house().await;
    let rest = house.rest(Role::Operator);
    for n in 0..50 {
        rest.put(&format!("/cache/e2e/many-{n}"), format!("value {n}")).await.ok();
    }
    stream_is_used(&house, "/cache/e2e/many-0").await;
    let asked = (0..1_000).map(|n| {
        let rest = rest.clone();
        async move { (n % 50, rest.get(&format!("/cache/e2e/many-{}", n % 50)).await) }
    });
    for (n, answer) in futures_util::future::join_all(asked).await {
        assert_eq!((answer.status.as_u16(), answer.text()), (200, format!("value {n}")));
    }
}

#[tokio::test]
async fn stream_that_breaks_fails_nobody_for_good_and_comes_back() {
    let house = house().await;
    let rest = house.rest(Role::Operator);
    rest.put("/cache/e2e/k", "v").await.ok();
    stream_is_used(&house, "/cache/e2e/k").await;

    let cache = house.stack().service(Service::CacheService).unwrap();
    cache.kill().await.unwrap();
    let gone = rest.get("/cache/e2e/k").await;
    gone.problem(503, "UPSTREAM_UNAVAILABLE");
    let closed = eventually("the stream to be seen as closed", || async {
        let open = figure(&house, "mainstay_edge_cache_streams").await;
        if open == 0.0 { Ok(()) } else { Err(format!("{open} open")) }
    });
    closed.await;

    cache.launch().unwrap();
    let back = eventually("reads to be answered again", || async {
        let answer = rest.get("/cache/e2e/k").await;
        if answer.status == 404 { Ok(()) } else { Err(answer.text()) }
    });
    back.await;
    stream_is_used(&house, "/cache/e2e/k").await;
}

#[tokio::test]
async fn silent_peer_is_left_and_found_again() {
    let house = house().await;
    let rest = house.rest(Role::Operator);
    rest.put("/cache/e2e/k", "v").await.ok();
    stream_is_used(&house, "/cache/e2e/k").await;

    let cache = house.stack().service(Service::CacheService).unwrap();
    cache.pause().await.unwrap();
    let late = rest.get("/cache/e2e/k").await;
    late.problem(504, "DEADLINE_EXCEEDED");
    cache.resume().await.unwrap();
    let back = eventually("reads to be answered again", || async {
        let answer = rest.get("/cache/e2e/k").await;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    });
    back.await;
    stream_is_used(&house, "/cache/e2e/k").await;
}
