//! The checks that operators run, against a stack that loses its parts one by one.

use mainstay_devstack::{Devstack, Service};
use mainstay_tests::{House, eventually, run_checks};

#[tokio::test]
async fn checks_fail_and_say_why_when_a_replica_redis_and_a_service_are_gone() {
    let builder = Devstack::builder().redis(true).postgres(true).demo_data(true).services(Service::ALL);
    let house = House::start(builder).await;
    house.healthy().await;
    let stack = house.stack();

    let load = run_checks(&house, "load").await;
    assert_eq!((load.n_checks(), load.code), (6, Some(0)), "{}", load.text);

    stack.postgres().unwrap().first_replicas()[0].stop().await.unwrap();
    failure(&house, "smoke", "every replica is healthy", "replica1").await;
    failure(&house, "observability", "every replica streams", "replica1").await;
    for node in stack.redis().unwrap().nodes() {
        node.kill().await.unwrap();
    }
    failure(&house, "smoke", "Redis is there", "not available").await;
    failure(&house, "observability", "Redis answers the cache", "not available").await;
    stack.service(Service::WsGateway).unwrap().kill().await.unwrap();
    failure(&house, "smoke", "every service is healthy", "ws-gateway").await;
    failure(&house, "observability", "figures of every service are fresh", "ws-gateway").await;
}

async fn failure(house: &House, suite: &str, check: &str, why: &str) {
    eventually(format!("the check {check:?} of {suite} to fail because of {why}"), || async {
        let report = run_checks(house, suite).await;
        let failed = report.failures();
        let told = failed.iter().any(|failure| failure.starts_with(check) && failure.contains(why));
        if told && report.code == Some(1) { Ok(()) } else { Err(format!("{failed:#?}")) }
    })
    .await;
}
