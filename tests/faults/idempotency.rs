use mainstay_auth::Role;
use mainstay_tests::{Devstack, House, Service};
use serde_json::json;

#[tokio::test]
async fn without_the_cache_nothing_is_begun_that_was_to_be_done_only_once() {
    let services = [Service::CacheService, Service::WsGateway, Service::EdgeGateway];
    let house = House::start(Devstack::builder().services(services)).await;
    let rest = house.rest(Role::Operator);
    house.stack().service(Service::CacheService).unwrap().kill().await.unwrap();
    let body = json!({ "channel": "news", "data": 1 });
    let keyed = rest.clone().with_header("idempotency-key", "a-key");
    keyed.post("/realtime/publish", &body).await.problem(503, "IDEMPOTENCY_UNAVAILABLE");
    assert_eq!(rest.post("/realtime/publish", &body).await.status, 200, "without a key it is done");
}
