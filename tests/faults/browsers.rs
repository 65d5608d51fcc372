use bytes::Bytes;
use http::Method;
use mainstay_auth::Role;
use mainstay_tests::{Devstack, House, Service};

async fn house() -> House {
    let edge = Service::EdgeGateway;
    let builder = Devstack::builder()
        .services([Service::CacheService, edge])
        .env(edge, "MAINSTAY__HTTP__CORS__ALLOWED_ORIGINS", "https://app.example.org")
        .env(edge, "MAINSTAY__HTTP__ACCESS_LOG", "true");
    House::start(builder).await
}

#[tokio::test]
async fn only_pages_of_allowed_origins_may_ask_and_every_answer_is_guarded() {
    let house = house().await;
    let asked = |origin: &str| {
        let rest = house.anonymous().with_header("origin", origin);
        rest.with_header("access-control-request-method", "PUT")
            .with_header("access-control-request-headers", "x-api-key,x-cache-ttl")
    };
    let allowed =
        asked("https://app.example.org").send(Method::OPTIONS, "/cache/a/b", Bytes::new()).await.unwrap();
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example.org");
    assert!(allowed.header("access-control-allow-methods").contains("PUT"), "{:?}", allowed.headers);
    assert!(allowed.header("access-control-allow-headers").contains("x-api-key"), "{:?}", allowed.headers);
    assert_ne!(allowed.header("x-request-id"), "");
    let refused =
        asked("https://evil.example").send(Method::OPTIONS, "/cache/a/b", Bytes::new()).await.unwrap();
    assert_eq!(refused.header("access-control-allow-origin"), "");

    let answer = house.rest(Role::Viewer).get("/cache/stats").await;
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("strict-transport-security", ""),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
}

#[tokio::test]
async fn values_keep_their_bytes_and_other_answers_are_compressed() {
    let house = house().await;
    let rest = house.rest(Role::Operator).with_header("accept-encoding", "gzip");
    let value = "{\"a\":1}".repeat(500);
    let json = rest.clone().with_header("content-type", "application/json");
    assert_eq!(json.put("/cache/browsers/value", value.clone()).await.status, 200);
    let read = rest.get("/cache/browsers/value").await;
    assert_eq!((read.header("content-encoding"), read.text()), ("", value));
    let document = rest.get("/openapi.json").await;
    assert_eq!(document.header("content-encoding"), "gzip");
    assert!(
        document.headers.get_all("vary").iter().any(|vary| vary == "accept-encoding"),
        "{:?}",
        document.headers
    );
    assert!(document.body.len() < 60_000, "{}", document.body.len());
}

#[tokio::test]
async fn access_log_tells_who_asked_what_and_shows_no_credential() {
    let house = house().await;
    house.rest(Role::Viewer).with_header("user-agent", "test-agent/1").get("/cache/stats?secret=1").await;
    let edge = house.stack().service(Service::EdgeGateway).unwrap();
    let line = mainstay_tests::eventually("a line about the request", || async {
        let log = edge.log_tail(50);
        log.lines().find(|line| line.contains("test-agent/1")).map(str::to_owned).ok_or(log)
    })
    .await;
    for part in ["/cache/stats", "viewer", "127.0.0.1", "200"] {
        assert!(line.contains(part), "{part} is missing: {line}");
    }
    let key = &house.stack().credentials().api_keys.viewer;
    assert!(!line.contains(key) && !line.contains("secret=1"), "{line}");
}
