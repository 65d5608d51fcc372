use mainstay_auth::Role;
use mainstay_tests::{Devstack, House, Service, eventually};

async fn house(quota: &str) -> House {
    let builder = Devstack::builder()
        .services([Service::CacheService, Service::EdgeGateway])
        .env(Service::EdgeGateway, "MAINSTAY__LIMITS__READ__QUOTA", quota)
        .env(Service::EdgeGateway, "MAINSTAY__LIMITS__READ__WINDOW", "10m")
        .env(Service::EdgeGateway, "MAINSTAY__LIMITS__SHARED_WITHIN", "1s")
        .env(Service::EdgeGateway, "MAINSTAY__LIMITS__REFUSED__QUOTA", "5")
        .env(Service::EdgeGateway, "MAINSTAY__LIMITS__REFUSED__WINDOW", "10m");
    House::start(builder).await
}

#[tokio::test]
async fn caller_over_its_limit_is_told_when_to_come_back_and_nobody_else_is_touched() {
    let house = house("5").await;
    let viewer = house.rest(Role::Viewer);
    for left in (0..5).rev() {
        let answer = viewer.get("/cache/stats").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("ratelimit-policy"), "\"read\";q=5;w=600");
        assert!(
            answer.header("ratelimit").starts_with(&format!("\"read\";r={left};t=")),
            "{}",
            answer.header("ratelimit")
        );
    }
    let refused = viewer.get("/cache/stats").await;
    let problem = refused.problem(429, "QUOTA_EXCEEDED");
    assert_eq!(problem["retryAfter"].to_string(), refused.header("retry-after"));
    assert!((1..=120).contains(&problem["retryAfter"].as_u64().unwrap()), "{problem}");

    assert_eq!(house.rest(Role::Operator).get("/cache/stats").await.status, 200, "another key");
    assert_eq!(viewer.get("/health/status").await.header("ratelimit"), "", "health is outside");
}

#[tokio::test]
async fn limit_holds_while_the_cache_is_away() {
    let house = house("4").await;
    house.stack().service(Service::CacheService).unwrap().kill().await.unwrap();
    let viewer = house.rest(Role::Viewer);
    let limited = eventually("the local count to be used up", || async {
        let answer = viewer.get("/cache/stats").await;
        if answer.status == 429 { Ok(answer) } else { Err(answer.text()) }
    });
    limited.await.problem(429, "QUOTA_EXCEEDED");
}

#[tokio::test]
async fn address_that_guesses_keys_is_not_listened_to_any_more() {
    let house = house("1000").await;
    let guesser = house.anonymous().with_api_key("not-a-key-of-this-house");
    for _ in 0..5 {
        guesser.get("/cache/stats").await.problem(401, "CREDENTIALS_REFUSED");
    }
    let refused = guesser.get("/cache/stats").await;
    refused.problem(429, "TOO_MANY_BAD_CREDENTIALS");
    assert_eq!(house.anonymous().get("/health/readiness").await.status, 200, "health still answers");
}
