use mainstay_auth::Role;
use mainstay_tests::shared;
use serde_json::{Value, json};

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
    let some = json!({ "channel": "e2e-led-some", "filter": { "key": "tier", "cmp": "eq", "val": "free" } });
    assert_eq!(rest.post("/realtime/users/e2e-led/subscribe", &some).await.ok()["subscribed"], 1);
    for (tier, n_receivers) in [("free", 1), ("paid", 0)] {
        let publish = json!({ "channel": "e2e-led-some", "data": 1, "tags": { "tier": tier } });
        assert_eq!(rest.post("/realtime/publish", &publish).await.ok()["receivers"], n_receivers, "{tier}");
    }
    let slip =
        json!({ "channel": "e2e-led-slip", "filter": { "key": "tier", "cmp": "eq", "value": "free" } });
    rest.post("/realtime/users/e2e-led/subscribe", &slip).await.problem(400, "FILTER_INVALID");
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

#[tokio::test]
async fn a_message_comes_once_and_not_to_whom_it_excludes() {
    let house = shared().await;
    let rest = house.rest(Role::Operator);
    let (mut ann, mut ben) = (house.websocket("e2e-once-ann").await, house.websocket("e2e-once-ben").await);
    for client in [&mut ann, &mut ben] {
        client.subscribe("kept:once").await;
    }
    let message = |n: u32, exclude: Value| json!({ "channel": "kept:once", "data": n, "tags": { "n": "1" }, "idempotencyKey": format!("k{n}"), "exclude": exclude });
    let keyed = message(1, json!({ "user": "e2e-once-ann" }));
    let first = rest.post("/realtime/publish", &keyed).await.ok();
    assert_eq!((&first["receivers"], &first["duplicate"]), (&json!(1), &Value::Null), "{first}");
    let again = rest.post("/realtime/publish", &keyed).await.ok();
    assert_eq!(again["duplicate"], true, "{again}");
    assert_eq!((&again["offset"], &again["epoch"]), (&first["offset"], &first["epoch"]));
    let everybody = json!({ "channels": ["kept:once", "kept:empty"], "data": 2, "idempotencyKey": "k2" });
    for expected in [Value::Null, json!(true)] {
        let answer = rest.post("/realtime/broadcast", &everybody).await.ok();
        let duplicates: Vec<_> =
            answer["results"].as_array().unwrap().iter().map(|r| &r["duplicate"]).collect();
        assert_eq!(duplicates, [&expected, &expected], "{answer}");
    }
    assert_eq!(ben.next_publication("kept:once").await, json!(1));
    for client in [&mut ann, &mut ben] {
        assert_eq!(client.next_publication("kept:once").await, json!(2));
    }
    let bad = rest.post("/realtime/publish", &message(3, json!({ "client": "nobody" }))).await;
    assert_eq!(bad.problem(400, "CLIENT_INVALID")["errors"][0]["field"], "client");
    let unknown = rest.post("/realtime/publish", &message(3, json!({ "users": ["a"] }))).await;
    unknown.problem(400, "INVALID_FIELD");
}

#[tokio::test]
async fn a_batch_of_messages_has_an_outcome_each_and_a_history_is_forgotten() {
    let house = shared().await;
    let rest = house.rest(Role::Operator);
    let mut client = house.websocket("e2e-batch").await;
    client.subscribe("kept:batch").await;
    let numbered = (1..=20).map(|n| json!({ "channel": "kept:batch", "data": n }));
    let others =
        [json!({ "channel": "not a channel", "data": 1 }), json!({ "channel": "e2e-b9", "data": 1 })];
    let messages: Vec<Value> = numbered.chain(others).collect();
    let answer = rest.post("/realtime/batch", &json!({ "messages": messages })).await.ok();
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 22, "{answer}");
    for n in 1..=20_usize {
        assert_eq!(
            (&results[n - 1]["offset"], &results[n - 1]["receivers"]),
            (&json!(n), &json!(1)),
            "{answer}"
        );
        assert_eq!(client.next_publication("kept:batch").await, json!(n));
    }
    assert_eq!(results[20]["code"], "CHANNEL_INVALID", "{answer}");
    assert_eq!(results[21], json!({ "channel": "e2e-b9", "receivers": 0 }), "{answer}");
    let empty = rest.post("/realtime/batch", &json!({ "messages": [] })).await;
    assert_eq!(empty.problem(400, "TOO_MANY_MESSAGES")["errors"][0]["field"], "messages");

    let history = "/realtime/channels/kept:batch/history";
    house.rest(Role::Viewer).delete(history).await.problem(403, "ROLE_TOO_LOW");
    assert_eq!(rest.delete(history).await.ok(), json!({ "removed": true }));
    let left = rest.get(history).await.ok();
    assert_eq!((&left["publications"], &left["offset"]), (&json!([]), &json!(20)), "offsets go on: {left}");
    rest.delete("/realtime/channels/e2e/history").await.problem(412, "HISTORY_OFF");
}
