use std::collections::BTreeSet;

use mainstay_auth::Role;
use mainstay_tests::{eventually, shared};

const SERVICES: [&str; 5] =
    ["edge-gateway", "cache-service", "ws-gateway", "replica-service", "monitor-service"];

#[tokio::test]
async fn liveness_and_readiness_need_no_credentials() {
    let rest = shared().await.anonymous();
    assert_eq!(rest.get("/health/liveness").await.ok()["status"], "alive");
    assert_eq!(rest.get("/health/readiness").await.ok()["status"], "ready");
    let verbose = rest.get("/health/readiness?verbose").await.text();
    assert_eq!(verbose.lines().filter(|line| line.starts_with("[+]")).count(), 5, "{verbose}");
}

#[tokio::test]
async fn status_tells_every_service_with_its_age() {
    let rest = shared().await.anonymous();
    let status = eventually("the house to be healthy", || async {
        let status = rest.get("/health/status").await.ok();
        if status["status"] == "healthy" { Ok(status) } else { Err(status.to_string()) }
    });
    let status = status.await;
    let services = status["services"].as_array().unwrap();
    let names: BTreeSet<_> = services.iter().map(|service| service["service"].as_str().unwrap()).collect();
    assert_eq!(names, SERVICES.into());
    for service in services {
        assert_eq!(
            (service["freshness"].as_str(), service["ready"].as_bool()),
            (Some("fresh"), Some(true)),
            "{service}"
        );
        assert!(service["ageSeconds"].is_number() && service["startedAt"].is_string(), "{service}");
    }

    let draft = rest.clone().with_header("accept", "application/health+json").get("/health/status").await;
    assert_eq!((draft.status.as_u16(), draft.header("content-type")), (200, "application/health+json"));
    assert_eq!(draft.json()["checks"]["cache-service:status"][0]["status"], "pass", "{}", draft.text());
}

#[tokio::test]
async fn components_name_what_each_service_stands_on() {
    let rest = shared().await.anonymous();
    let answer = rest.get("/health/components").await;
    assert_eq!(answer.header("x-mainstay-completeness"), "full");
    let mut seen = BTreeSet::new();
    for service in answer.ok()["services"].as_array().unwrap() {
        for component in service["components"].as_array().unwrap() {
            seen.insert(format!(
                "{}/{}",
                service["service"].as_str().unwrap(),
                component["name"].as_str().unwrap()
            ));
        }
    }
    for name in [
        "cache-service/redis",
        "cache-service/sentinel",
        "replica-service/postgres.primary",
        "replica-service/postgres.replica1",
        "replica-service/postgres.replica2",
        "replica-service/pgbouncer.primary",
    ] {
        assert!(seen.contains(name), "{name} is missing from {seen:?}");
    }
    let one = rest.get("/health/components/cache-service/redis").await.ok();
    assert_eq!(one["instances"][0]["status"], "healthy", "{one}");
    rest.get("/health/components/cache-service/nothing").await.problem(404, "COMPONENT_NOT_FOUND");
}

#[tokio::test]
async fn merged_metrics_parse_in_both_formats_and_say_whose_they_are() {
    let rest = shared().await.anonymous();
    for (accept, kind) in
        [("application/openmetrics-text", "application/openmetrics-text"), ("text/plain", "text/plain")]
    {
        let answer = rest.clone().with_header("accept", accept).get("/health/metrics").await;
        assert!(answer.header("content-type").starts_with(kind), "{}", answer.header("content-type"));
        let limits = mainstay_openmetrics::Limits { max_samples: 100_000, max_bytes: 8 << 20 };
        let exposition = mainstay_openmetrics::parse(&answer.text(), limits).unwrap();
        for service in SERVICES {
            let ready = exposition.value("mainstay_ready", &[("service", service)]);
            assert_eq!(ready, Some(1.0), "{service} in {kind}");
        }
    }
}

#[tokio::test]
async fn unified_answers_have_the_fields_that_scripts_read() {
    let house = shared().await;
    let quick = house.anonymous().get("/monitoring/unified/health").await.ok();
    assert!(quick["status"].is_string() && quick["reasons"].is_array(), "{quick}");

    let answer = house.rest(Role::Viewer).get("/monitoring/unified/metrics").await;
    assert_eq!(answer.header("x-mainstay-completeness"), "full");
    let all = answer.ok();
    assert!(all["system"]["status"].is_string() && all["system"]["uptime"].is_u64(), "{all}");
    assert!(all["alerts"]["critical"].is_u64() && all["alerts"]["recent"].is_array(), "{all}");
    assert!(all["cache"]["cacheHitStats"]["gets"].is_u64(), "{all}");
    assert_eq!(all["replicas"]["nodes"].as_array().map(Vec::len), Some(3), "{all}");
    assert_eq!(all["websockets"]["nodes"].as_array().map(Vec::len), Some(1), "{all}");
}

#[tokio::test]
async fn unknown_paths_are_problems_with_a_request_id_and_a_trace() {
    let rest = shared().await.anonymous().with_header("x-request-id", "my-own-id");
    let answer = rest.get("/no/such/path").await;
    let problem = answer.problem(404, "PATH_NOT_FOUND");
    assert_eq!(
        (problem["requestId"].as_str(), problem["instance"].as_str()),
        (Some("my-own-id"), Some("/no/such/path"))
    );
    assert_eq!(answer.header("traceparent").len(), 55, "{}", answer.header("traceparent"));
}
