use std::time::Duration;

use futures_util::SinkExt as _;
use mainstay_auth::Role;
use mainstay_auth::jwt::{Claims, sign_hs256};
use mainstay_tests::{Centrifuge, eventually, shared};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn subscriber_receives_what_is_published_over_rest() {
    let house = shared().await;
    let mut alice = house.websocket("alice").await;
    let mut bob = house.websocket("bob").await;
    alice.subscribe("e2e-news").await;
    bob.subscribe("e2e-news").await;

    let rest = house.rest(Role::Operator);
    for n in 0..20 {
        let body = json!({ "channel": "e2e-news", "data": { "n": n, "text": "grüße" } });
        assert_eq!(rest.post("/realtime/publish", &body).await.ok()["receivers"], 2);
    }
    for client in [&mut alice, &mut bob] {
        for n in 0..20 {
            assert_eq!(client.next_publication("e2e-news").await, json!({ "n": n, "text": "grüße" }));
        }
    }
}

#[tokio::test]
async fn broadcast_answers_for_each_channel() {
    let house = shared().await;
    let mut client = house.websocket("carol").await;
    client.subscribe("e2e-b1").await;
    let body = json!({ "channels": ["e2e-b1", "e2e-b2", "not a channel"], "data": 1 });
    let answer = house.rest(Role::Operator).post("/realtime/broadcast", &body).await.ok();
    assert_eq!(answer["results"][0], json!({ "channel": "e2e-b1", "receivers": 1 }));
    assert_eq!(answer["results"][1], json!({ "channel": "e2e-b2", "receivers": 0 }));
    assert_eq!(answer["results"][2]["code"], "CHANNEL_INVALID", "{answer}");
    assert_eq!(client.next_publication("e2e-b1").await, json!(1));
}

#[tokio::test]
async fn forged_token_is_closed_with_invalid_token() {
    let house = shared().await;
    let claims = Claims { sub: "mallory".to_owned(), exp: Some(u64::MAX / 2), ..Claims::default() };
    let forged = sign_hs256(&claims, &[b'x'; 32]).unwrap();
    let address = house.stack().websocket().unwrap();
    let closed = Centrifuge::connect(address, Some(&forged)).await.err().expect("a forged token is refused");
    assert_eq!(closed.code, 3500, "{closed:?}");
}

#[tokio::test]
async fn connections_channels_and_endpoint_are_told() {
    let house = shared().await;
    let mut client = house.websocket("dave").await;
    client.subscribe("e2e-told").await;
    let rest = house.rest(Role::Operator);

    let connections = rest.get("/monitoring/websocket/connections?user=dave").await.ok();
    assert_eq!(connections["connections"][0]["channels"], json!(["e2e-told"]), "{connections}");
    let id = connections["connections"][0]["client"].as_str().unwrap();
    let health = rest.get(&format!("/monitoring/websocket/connections/{id}")).await.ok();
    assert_eq!((&health["user"], &health["lastCommand"]), (&json!("dave"), &json!("subscribe")), "{health}");
    let channels = rest.get("/realtime/channels?prefix=e2e-told").await.ok();
    assert_eq!(channels["channels"], json!([{ "name": "e2e-told", "subscribers": 1 }]));
    let url = rest.get("/realtime/endpoint").await.ok()["url"].as_str().unwrap().to_owned();
    assert_eq!(url, format!("ws://{}/connection/websocket", house.stack().websocket().unwrap()));

    let answer = rest.post("/realtime/users/dave/disconnect", &json!({})).await.ok();
    assert_eq!(answer["disconnected"], 1);
    assert_eq!(client.closed().await.code, 3503);
}

#[tokio::test]
async fn the_journey_of_a_user_is_told_with_its_moves() {
    let house = shared().await;
    let rest = house.rest(Role::Viewer);
    let mut client = house.websocket("wanderer").await;
    for channel in ["e2e-way-1", "e2e-way-2"] {
        client.subscribe(channel).await;
    }
    client.call("unsubscribe", json!({ "channel": "e2e-way-1" })).await.unwrap();
    drop(client);
    let path = "/monitoring/websocket/journeys?user=wanderer&since=2020-01-01T00:00:00Z";
    let answer = eventually("the end of the journey", || async {
        let answer = rest.get(path).await;
        assert_eq!(answer.header("x-mainstay-completeness"), "full");
        let body = answer.ok();
        if body["events"].as_u64() >= Some(6) { Ok(body) } else { Err(body.to_string()) }
    })
    .await;
    let events = answer["users"][0]["events"].as_array().unwrap();
    let steps: Vec<_> = events.iter().map(|event| event["step"].as_str().unwrap()).collect();
    let expected = ["connected", "subscribed", "subscribed", "unsubscribed", "unsubscribed", "disconnected"];
    assert_eq!(steps, expected, "{answer}");
    assert!(events[5]["seconds"].as_f64() >= Some(0.0) && events[0]["node"].is_string(), "{answer}");
    let moves = answer["moves"].as_array().unwrap();
    for (from, to) in [(json!(null), "e2e-way-1"), (json!("e2e-way-1"), "e2e-way-2")] {
        assert!(moves.contains(&json!({ "from": from, "to": to, "times": 1 })), "{answer}");
    }
    assert!(moves.contains(&json!({ "from": "e2e-way-2", "to": null, "times": 1 })), "{answer}");
    let last = answer["channels"].as_array().unwrap();
    assert!(last.iter().all(|channel| channel["visits"] == 1 && channel["present"] == 0), "{answer}");

    let of_channel = rest.get("/monitoring/websocket/journeys?channel=e2e-way-1&limit=1").await.ok();
    assert_eq!((&of_channel["events"], &of_channel["truncated"]), (&json!(1), &json!(true)), "{of_channel}");
    let refused = rest.get("/monitoring/websocket/journeys?since=yesterday").await;
    assert_eq!(refused.status.as_u16(), 400);
}

#[tokio::test]
async fn a_gateway_node_is_named_and_can_be_told_to_drain_or_not() {
    let house = shared().await;
    let rest = house.rest(Role::Operator);
    let node = rest.get("/realtime/endpoint").await.ok()["node"].as_str().unwrap().to_owned();
    let answer = rest.post(&format!("/realtime/nodes/{node}/drain"), &json!({ "cancel": true })).await.ok();
    assert_eq!((&answer["node"], &answer["seconds"]), (&json!(node), &json!(null)), "{answer}");
    let answer = rest.post("/realtime/nodes/nobody/drain", &json!({ "connectionsPerSecond": 1 })).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (404, &json!("NODE_UNKNOWN")));
}

#[tokio::test]
async fn the_crowd_is_told_with_its_rates_its_peak_and_its_kinds() {
    let house = shared().await;
    let rest = house.rest(Role::Operator);
    let answer = eventually("rates above zero", || async {
        // What is told are rates: somebody has to come and go.
        let mut erin = house.websocket("erin").await;
        erin.subscribe("e2e-crowd").await;
        rest.post("/realtime/publish", &json!({ "channel": "e2e-crowd", "data": 1 })).await.ok();
        assert_eq!(erin.next_publication("e2e-crowd").await, json!(1));
        let answer = rest.get("/monitoring/websocket/analytics").await;
        let is_full = answer.header("x-mainstay-completeness") == "full";
        let body = answer.ok();
        let rates = &body["perSecond"];
        let flows = ["publications", "messagesSent", "bytesSent", "connects", "joins", "disconnects"];
        let all_flow = flows.iter().all(|flow| rates[flow].as_f64() > Some(0.0));
        let has_peak = body["peak"]["connections"].as_f64() >= Some(1.0);
        if is_full && all_flow && has_peak { Ok(body) } else { Err(body.to_string()) }
    })
    .await;
    assert!(answer["now"]["connections"].as_u64() >= Some(1), "{answer}");
    assert!(answer["now"]["nodes"][0]["id"].is_string(), "{answer}");
    let clients = &answer["clients"];
    assert!(clients["users"].as_u64() >= Some(1) && clients["lookedAt"] == clients["total"], "{answer}");
    assert!(clients["kinds"][0]["connections"].as_u64() >= Some(1), "{answer}");
}

#[tokio::test]
async fn a_feed_is_put_read_published_and_removed() {
    let house = shared().await;
    let source = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = house.websocket("erin").await;
    client.subscribe("e2e-feed").await;
    let rest = house.rest(Role::Admin).with_header("content-type", "application/json");
    let feed = json!({
        "channel": "e2e-feed",
        "endpoints": [format!("ws://{}/stream?key=s3cret", source.local_addr().unwrap())],
        "authorization": "Bearer s3cret",
        "sequence": "/n",
        "silentFor": "2m",
    });
    let answer =
        rest.put("/realtime/feeds/e2e", json!({ "channel": "e2e-feed", "hold": 70_000 }).to_string()).await;
    let problem = answer.json();
    assert_eq!((answer.status.as_u16(), &problem["code"]), (400, &json!("FEED_INVALID")), "{problem}");
    assert_eq!(problem["errors"].as_array().map(Vec::len), Some(2), "{problem}");
    let made = rest.put("/realtime/feeds/e2e", feed.to_string()).await.ok();
    assert!(made["version"].as_u64() > Some(0) && made["putBy"].is_string(), "{made}");

    let (socket, _) = timeout(Duration::from_mins(2), source.accept()).await.unwrap().unwrap();
    let mut socket = accept_async(socket).await.unwrap();
    socket.send(Message::text(r#"{"n":1}"#)).await.unwrap();
    assert_eq!(client.next_publication("e2e-feed").await, json!({ "n": 1 }));
    let viewer = house.rest(Role::Viewer);
    let told = eventually("the figures", async || {
        let told = viewer.get("/realtime/feeds/e2e").await.ok();
        if told["figures"]["published"] == 1 { Ok(told) } else { Err(told.to_string()) }
    })
    .await;
    assert_eq!((&told["state"], &told["settings"]["authorization"]), (&json!("live"), &json!("[redacted]")));
    let list = viewer.get("/realtime/feeds").await.ok();
    assert!(!format!("{list} {told} {made}").contains("s3cret"), "{list}");
    assert_eq!(rest.delete("/realtime/feeds/e2e").await.ok(), json!({ "removed": true }));
    assert_eq!(viewer.get("/realtime/feeds/e2e").await.status.as_u16(), 404);
}
