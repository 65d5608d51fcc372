use std::collections::BTreeSet;
use std::time::Duration;

use mainstay_devstack::{Node, http_get};
use mainstay_tests::{Devstack, House, Service, eventually};

/// Longest wait for one answer of a probe.
const PROBE_WITHIN: Duration = Duration::from_secs(2);

/// Waits until `/readyz` of a service has this status and speaks of this.
async fn readyz(service: &Node, status: u16, of: &str) {
    let what = format!("/readyz of {} to answer {status} and speak of {of:?}", service.name());
    let seen = eventually(what, || async {
        match http_get(service.address(), "/readyz", PROBE_WITHIN).await {
            Ok((seen, body)) if seen == status && body.contains(of) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    seen.await
}

/// Waits until the rules of which alerts fire are such.
async fn firing_rules(rest: &mainstay_tests::Rest, what: &str, wanted: impl Fn(&BTreeSet<String>) -> bool) {
    let seen = eventually(what, || async {
        let answer = rest.get("/monitoring/unified/alerts?state=firing").await;
        let alerts = answer.json()["alerts"].as_array().cloned().ok_or_else(|| answer.text())?;
        let rules = alerts.iter().filter_map(|alert| alert["rule"].as_str()).map(str::to_owned).collect();
        if wanted(&rules) { Ok(()) } else { Err(answer.text()) }
    });
    seen.await
}

async fn is_alive(service: &Node) -> bool {
    matches!(http_get(service.address(), "/livez", PROBE_WITHIN).await, Ok((200, _)))
}

#[tokio::test]
async fn cache_started_without_its_redis_is_alive_says_so_and_becomes_ready_by_itself() {
    let house = House::start(Devstack::builder().redis(true).services([Service::CacheService])).await;
    let (redis, cache) =
        (house.stack().redis().unwrap(), house.stack().service(Service::CacheService).unwrap());
    cache.stop().await.unwrap();
    for node in redis.nodes().iter().map(|node| &**node).chain(redis.sentinels()) {
        node.stop().await.unwrap();
    }

    cache.launch().unwrap();
    readyz(cache, 503, "redis").await;
    assert!(is_alive(cache).await);

    for node in redis.nodes().iter().map(|node| &**node).chain(redis.sentinels()) {
        node.start().await.unwrap();
    }
    readyz(cache, 200, "").await;
}

#[tokio::test]
async fn replica_service_started_without_postgresql_is_alive_says_so_and_becomes_ready_by_itself() {
    let house = House::start(Devstack::builder().postgres(true).services([Service::ReplicaService])).await;
    let postgres = house.stack().postgres().unwrap();
    let service = house.stack().service(Service::ReplicaService).unwrap();
    service.stop().await.unwrap();
    for node in postgres.nodes() {
        node.kill().await.unwrap();
    }

    service.launch().unwrap();
    // Before the first probe it says that it has not probed yet.
    readyz(service, 503, "primary: does not answer").await;
    assert!(is_alive(service).await);

    for node in postgres.nodes() {
        node.start().await.unwrap();
    }
    readyz(service, 200, "").await;
}

#[tokio::test]
async fn redis_killed_under_a_running_cache_degrades_it_and_its_return_heals_it() {
    let services = [Service::CacheService, Service::MonitorService, Service::EdgeGateway];
    let house = House::start(Devstack::builder().redis(true).services(services)).await;
    let (redis, cache) =
        (house.stack().redis().unwrap(), house.stack().service(Service::CacheService).unwrap());
    let rest = house.rest(mainstay_auth::Role::Operator);
    rest.put("/cache/faults/k", "before").await.ok();
    // Counters are seen to grow only from their second look on.
    let counted = "/monitoring/history?metric=mainstay_cache_invalidation_failures_total";
    eventually("the monitor to have seen the cache", || async {
        let answer = rest.get(counted).await;
        if answer.status == 200 && answer.text().contains("cache-service") {
            Ok(())
        } else {
            Err(answer.text())
        }
    })
    .await;

    for node in redis.nodes() {
        node.kill().await.unwrap();
    }
    readyz(cache, 503, "redis").await;
    let stored = rest.put("/cache/faults/during", "memory only").await;
    assert_eq!(stored.ok()["degraded"], true);
    assert_eq!(rest.get("/cache/faults/during").await.text(), "memory only");
    rest.delete("/cache/faults/k").await.problem(503, "REDIS_UNAVAILABLE");
    for _ in 0..25 {
        let failed = rest.post("/cache/faults/invalidate", &serde_json::json!({ "keys": ["k"] })).await;
        failed.problem(503, "REDIS_UNAVAILABLE");
    }
    let of_redis = ["invalidation_failures", "redis_unavailable"];
    firing_rules(&rest, "the alerts of a dead Redis", |rules| {
        of_redis.iter().all(|rule| rules.contains(*rule))
    })
    .await;

    for node in redis.nodes() {
        node.start().await.unwrap();
    }
    readyz(cache, 200, "").await;
    let again = eventually("a write to reach Redis again", || async {
        let answer = rest.put("/cache/faults/after", "v").await;
        if answer.status == 200 && answer.json()["degraded"] == false { Ok(()) } else { Err(answer.text()) }
    });
    again.await;
}
