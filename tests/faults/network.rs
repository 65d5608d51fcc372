use std::time::Duration;

use mainstay_auth::Role;
use mainstay_tests::{Component, Devstack, Direction, House, Service, eventually};
use tokio::time::Instant;

#[tokio::test]
async fn stalled_service_is_answered_for_within_the_deadline() {
    let builder = Devstack::builder().services([Service::CacheService, Service::EdgeGateway]);
    let house = House::start(builder.proxied(Component::Service(Service::CacheService))).await;
    let rest = house.rest(Role::Operator);
    rest.put("/cache/net/k", "v").await.ok();
    let proxy = house.stack().proxy(Component::Service(Service::CacheService)).unwrap();

    proxy.stall(Direction::Both);
    let began_at = Instant::now();
    let answer = rest.get("/cache/net/k").await;
    assert!(matches!(answer.status.as_u16(), 503 | 504), "{} {}", answer.status, answer.text());
    assert!(began_at.elapsed() < Duration::from_secs(5), "answered after {:?}", began_at.elapsed());
    let began_at = Instant::now();
    let health = rest.get("/monitoring/unified/health").await.ok();
    assert_eq!(health["status"], "unhealthy", "{health}");
    assert!(began_at.elapsed() < Duration::from_secs(2), "merged after {:?}", began_at.elapsed());

    proxy.unstall(Direction::Both);
    let again = eventually("the cache to be reached again", || async {
        let answer = rest.get("/cache/net/k").await;
        if answer.text() == "v" { Ok(()) } else { Err(answer.text()) }
    });
    again.await;
}

#[tokio::test]
async fn cut_service_is_an_outage_only_while_it_is_cut() {
    let builder = Devstack::builder().services([Service::CacheService, Service::EdgeGateway]);
    let house = House::start(builder.proxied(Component::Service(Service::CacheService))).await;
    let rest = house.rest(Role::Operator);
    rest.put("/cache/net/k", "v").await.ok();
    let proxy = house.stack().proxy(Component::Service(Service::CacheService)).unwrap();

    proxy.cut().await.unwrap();
    assert_eq!(rest.get("/cache/net/k").await.status, 503);
    proxy.restore().await.unwrap();
    let again = eventually("the cache to be reached again", || async {
        let answer = rest.get("/cache/net/k").await;
        if answer.text() == "v" { Ok(()) } else { Err(answer.text()) }
    });
    again.await;
}
