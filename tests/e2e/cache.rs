use mainstay_auth::Role;
use mainstay_tests::{Devstack, House, Service, shared};

#[tokio::test]
async fn value_is_stored_read_from_memory_and_deleted() {
    let rest = shared().await.rest(Role::Operator);
    let stored =
        rest.clone().with_header("content-type", "text/plain").put("/cache/e2e/hello", "world").await;
    assert!(stored.ok()["version"].as_u64().unwrap() > 0);

    let read = rest.get("/cache/e2e/hello").await;
    assert_eq!((read.status.as_u16(), read.text().as_str()), (200, "world"));
    assert_eq!((read.header("x-cache"), read.header("content-type")), ("l1", "text/plain"));
    assert_eq!(read.header("etag"), stored.header("etag"));

    assert_eq!(rest.delete("/cache/e2e/hello").await.ok()["existed"], true);
    let gone = rest.get("/cache/e2e/hello").await;
    gone.problem(404, "KEY_NOT_FOUND");
    assert_eq!(gone.header("x-cache"), "miss");
    assert_eq!(rest.delete("/cache/e2e/hello").await.ok()["existed"], false);
}

#[tokio::test]
async fn value_of_a_namespace_without_memory_is_read_from_redis() {
    let rest = shared().await.rest(Role::Operator);
    rest.put("/cache/redis_only/k", "from redis").await.ok();
    let read = rest.get("/cache/redis_only/k").await;
    assert_eq!((read.text().as_str(), read.header("x-cache")), ("from redis", "l2"));
}

#[tokio::test]
async fn versions_grow_with_every_write() {
    let rest = shared().await.rest(Role::Operator);
    let mut last = 0;
    for value in ["a", "b", "c"] {
        let version = rest.put("/cache/e2e/versioned", value).await.ok()["version"].as_u64().unwrap();
        assert!(version > last, "{version} after {last}");
        last = version;
    }
}

#[tokio::test]
async fn entry_expires_after_its_ttl() {
    let rest = shared().await.rest(Role::Operator);
    rest.clone().with_header("x-cache-ttl", "150ms").put("/cache/e2e/short", "soon gone").await.ok();
    mainstay_tests::eventually("the entry to expire", || async {
        let read = rest.get("/cache/e2e/short").await;
        if read.status == 404 { Ok(()) } else { Err(format!("{} {}", read.status, read.header("x-cache"))) }
    })
    .await;
}

#[tokio::test]
async fn bad_input_gets_one_clear_error_and_stores_nothing() {
    let rest = shared().await.rest(Role::Operator);
    let long_key = "k".repeat(1025);
    let table = [
        ("/cache/e2e/bad-ttl", Some("soon"), "x-cache-ttl"),
        ("/cache/e2e/bad-ttl", Some("0s"), "ttl"),
        ("/cache/e2e/bad-ttl", Some("9000days"), "ttl"),
        ("/cache/Not-A-Namespace/k", None, "namespace"),
        ("/cache/e2e/tab%09key", None, "key"),
        (&format!("/cache/e2e/{long_key}"), None, "key"),
    ];
    for (path, ttl, field) in table {
        let rest = ttl.map_or_else(|| rest.clone(), |ttl| rest.clone().with_header("x-cache-ttl", ttl));
        let answer = rest.put(path, "x").await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        let problem = answer.json();
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    rest.get("/cache/e2e/bad-ttl").await.problem(404, "KEY_NOT_FOUND");

    let too_large = rest.put("/cache/e2e/large", vec![b'x'; (1 << 20) + 1]).await;
    too_large.problem(413, "VALUE_TOO_LARGE");
    let beyond_the_edge = rest.put("/cache/e2e/large", vec![b'x'; 3 << 20]).await;
    beyond_the_edge.problem(413, "BODY_TOO_LARGE");
}

#[tokio::test]
async fn viewer_reads_but_does_not_write() {
    let house = shared().await;
    house.rest(Role::Viewer).put("/cache/e2e/viewer", "x").await.problem(403, "ROLE_TOO_LOW");
    house.anonymous().get("/cache/e2e/viewer").await.problem(401, "CREDENTIALS_MISSING");
    house.rest(Role::Viewer).get("/cache/e2e/viewer").await.problem(404, "KEY_NOT_FOUND");
}

#[tokio::test]
async fn stats_tell_redis_through_sentinel() {
    let stats = shared().await.rest(Role::Viewer).get("/cache/stats").await.ok();
    let redis = &stats["redisStats"];
    assert_eq!(
        (redis["type"].as_str(), redis["available"].as_bool()),
        (Some("sentinel"), Some(true)),
        "{stats}"
    );
    assert_eq!(redis["redisInfo"]["role"], "master", "{redis}");
    assert_eq!((&redis["sentinel"]["configured"], &redis["sentinel"]["reachable"]), (&3.into(), &3.into()));
}

#[tokio::test]
async fn cache_without_redis_runs_on_its_own_memory() {
    let services = [Service::CacheService, Service::EdgeGateway];
    let house = House::start(Devstack::builder().services(services)).await;
    let rest = house.rest(Role::Operator);
    rest.put("/cache/e2e/alone", "v").await.ok();
    let read = rest.get("/cache/e2e/alone").await;
    assert_eq!((read.text().as_str(), read.header("x-cache")), ("v", "l1"));
    assert_eq!(rest.get("/cache/stats").await.ok()["redisStats"]["type"], "none");
    house
        .rest(Role::Viewer)
        .get("/health/components/cache-service/redis")
        .await
        .problem(404, "COMPONENT_NOT_FOUND");
}
