use std::time::Duration;

use mainstay_auth::Role;
use mainstay_tests::{Answer, Devstack, House, Rest, Service, eventually};
use serde_json::json;
use tokio::time::Instant;

/// The edge answers everything within its own deadline (`http.request_within`, 5 s).
const EDGE_DEADLINE: Duration = Duration::from_millis(5_500);

fn is_honest_outage(answer: &Answer) -> bool {
    matches!(answer.status.as_u16(), 503 | 504) && answer.header("content-type") == "application/problem+json"
}

async fn recovers(rest: &Rest, path: &str) {
    let again = eventually(format!("{path} to answer again"), || async {
        let answer = rest.get(path).await;
        if answer.status == 200 { Ok(()) } else { Err(format!("{} {}", answer.status, answer.text())) }
    });
    again.await;
}

#[tokio::test]
async fn request_in_flight_through_a_killed_service_ends_as_a_problem_in_time() {
    let services = [Service::ReplicaService, Service::EdgeGateway];
    let house = House::start(Devstack::builder().postgres(true).services(services)).await;
    let rest = house.rest(Role::Viewer);
    let service = house.stack().service(Service::ReplicaService).unwrap();

    let began_at = Instant::now();
    let slow = json!({ "sql": "select pg_sleep(4)::text" });
    let in_flight = rest.post("/database/query", &slow);
    let kill = async {
        let stats = eventually("the query to be under way", || async {
            let stats = rest.get("/database/replica/stats").await.ok();
            let nodes = stats["nodes"].as_array().unwrap();
            let running = nodes.iter().any(|node| node["inFlight"].as_u64() > Some(0));
            if running { Ok(()) } else { Err(stats.to_string()) }
        });
        stats.await;
        service.kill().await.unwrap();
    };
    let (answer, ()) = tokio::join!(in_flight, kill);
    assert!(is_honest_outage(&answer), "{} {}", answer.status, answer.text());
    assert!(began_at.elapsed() < EDGE_DEADLINE, "answered after {:?}", began_at.elapsed());

    service.start().await.unwrap();
    recovers(&rest, "/database/info").await;
}

#[tokio::test]
async fn each_killed_service_is_an_honest_outage_and_recovers() {
    let services = [Service::CacheService, Service::WsGateway, Service::MonitorService, Service::EdgeGateway];
    let house = House::start(Devstack::builder().services(services)).await;
    let rest = house.rest(Role::Viewer);
    let doors = [
        (Service::CacheService, "/cache/stats"),
        (Service::WsGateway, "/realtime/channels"),
        (Service::MonitorService, "/monitoring/unified/alerts"),
    ];
    for (service, path) in doors {
        let node = house.stack().service(service).unwrap();
        node.kill().await.unwrap();

        let began_at = Instant::now();
        let answer = rest.get(path).await;
        assert!(is_honest_outage(&answer), "{path}: {} {}", answer.status, answer.text());
        assert!(began_at.elapsed() < EDGE_DEADLINE, "{path} answered after {:?}", began_at.elapsed());

        // The merged answers say so and do not fail.
        let health = rest.get("/monitoring/unified/health").await;
        assert_eq!(health.header("x-mainstay-completeness"), "partial");
        let health = health.ok();
        assert_eq!(health["status"], "unhealthy", "{health}");
        assert!(health["reasons"].to_string().contains(service.name()), "{health}");
        assert_eq!(rest.get("/monitoring/unified/metrics").await.status, 200);
        assert_eq!(rest.get("/health/metrics").await.status, 200);
        assert_eq!(rest.get("/health/readiness").await.status, 200, "one dark room does not close the house");

        node.start().await.unwrap();
        recovers(&rest, path).await;
    }
}

#[tokio::test]
async fn merged_answer_keeps_what_a_dead_service_said_last_with_its_age() {
    let services = [Service::CacheService, Service::EdgeGateway];
    let house = House::start(Devstack::builder().services(services)).await;
    let rest = house.anonymous();
    let of_cache = async || {
        let answer = rest.get("/health/components").await.ok();
        let services = answer["services"].as_array().unwrap();
        services.iter().find(|service| service["service"] == "cache-service").unwrap().clone()
    };
    assert_eq!(of_cache().await["freshness"], "fresh");

    house.stack().service(Service::CacheService).unwrap().kill().await.unwrap();
    let stale = eventually("the age of the stale part to grow", || async {
        let part = of_cache().await;
        if part["ageSeconds"].as_f64() > Some(1.0) { Ok(part) } else { Err(part.to_string()) }
    });
    let stale = stale.await;
    assert_eq!((&stale["freshness"], &stale["status"]), (&json!("stale"), &json!("unhealthy")), "{stale}");
    assert!(stale["instance"].is_string() && stale["reason"].is_string(), "{stale}");
}

#[tokio::test]
async fn readiness_fails_when_nothing_behind_the_edge_answers() {
    let house =
        House::start(Devstack::builder().services([Service::CacheService, Service::EdgeGateway])).await;
    let rest = house.anonymous();
    assert_eq!(rest.get("/health/readiness").await.status, 200);
    house.stack().service(Service::CacheService).unwrap().kill().await.unwrap();
    let answer = rest.get("/health/readiness").await;
    assert_eq!(answer.status, 503);
    assert!(answer.json()["failing"].to_string().contains("cache-service"), "{}", answer.text());
    assert_eq!(rest.get("/health/liveness").await.status, 200, "liveness looks at no dependency");
}
