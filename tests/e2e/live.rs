use mainstay_auth::Role;
use mainstay_tests::{Watcher, shared};
use serde_json::Value;

#[tokio::test]
async fn watchers_see_one_and_the_same_stream_of_real_figures() {
    let house = shared().await;
    let mut one = Watcher::of(&house.rest(Role::Viewer)).await;
    let mut other = Watcher::of(&house.rest(Role::Operator)).await;

    let first = one.figures().await;
    let figures: Value = serde_json::from_str(&first["data"]).unwrap();
    assert_eq!(figures["replicas"]["nodes"].as_array().map(Vec::len), Some(3), "{figures}");
    assert!(figures["cache"]["cacheHitStats"]["gets"].is_u64(), "{figures}");

    let seen = one.figures().await;
    assert!(seen["id"].parse::<u64>().unwrap() > first["id"].parse().unwrap());
    let mut same = other.figures().await;
    while same["id"].parse::<u64>().unwrap() < seen["id"].parse().unwrap() {
        same = other.figures().await;
    }
    assert_eq!(same, seen, "asked for once, told to both");
}

#[tokio::test]
async fn live_figures_need_a_key_and_a_legal_place_to_resume_from() {
    let house = shared().await;
    house.anonymous().get("/monitoring/live").await.problem(401, "CREDENTIALS_MISSING");
    let lost = house.rest(Role::Viewer).with_header("last-event-id", "yesterday");
    lost.get("/monitoring/live").await.problem(400, "INVALID_FIELD");
    Watcher::of(&house.rest(Role::Viewer).with_header("last-event-id", "1")).await.figures().await;
}
