use mainstay_auth::Role;
use mainstay_tests::shared;
use serde_json::json;

#[tokio::test]
async fn operator_lets_a_user_into_a_channel_and_out_again() {
    let house = shared().await;
    let rest = house.rest(Role::Operator);
    let _client = house.websocket("e2e-led").await;
    let body = json!({ "channel": "e2e-led-channel" });
    assert_eq!(rest.post("/realtime/users/e2e-led/subscribe", &body).await.ok()["subscribed"], 1);
    assert_eq!(
        rest.post("/realtime/users/e2e-led/subscribe", &body).await.ok()["subscribed"],
        0,
        "already in"
    );
    let publish = json!({ "channel": "e2e-led-channel", "data": 1 });
    assert_eq!(rest.post("/realtime/publish", &publish).await.ok()["receivers"], 1);
    assert_eq!(rest.post("/realtime/users/e2e-led/unsubscribe", &body).await.ok()["unsubscribed"], 1);
    assert_eq!(rest.post("/realtime/publish", &publish).await.ok()["receivers"], 0);
}

#[tokio::test]
async fn history_is_read_from_a_whole_position_or_from_the_start() {
    let rest = shared().await.rest(Role::Viewer);
    let half = rest.get("/realtime/channels/e2e/history?offset=3").await;
    assert_eq!(half.problem(400, "INVALID_FIELD")["errors"][0]["field"], "epoch");
    rest.get("/realtime/channels/e2e/history").await.problem(412, "HISTORY_OFF");
    rest.get("/realtime/channels/e2e/presence").await.problem(412, "PRESENCE_OFF");
}
