//! A gateway whose clock is not that of who signs its tokens, and one whose clock is set while it runs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mainstay_auth::jwt::Claims;
use mainstay_runtime::{Clock, Context};
use serde_json::{Value, json};

use crate::client::Client;
use crate::node::{Node, config, now_unix_s, token, user};

fn at(unix_s: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(unix_s)
}

/// A token that is good from now on for a minute, by the clock of who signs it.
fn fresh(now: u64) -> Claims {
    Claims { nbf: Some(now), iat: Some(now), exp: Some(now + 60), ..user("42") }
}

async fn asking(node: &Node, claims: &Claims) -> Client {
    let mut client = Client::open(node).await;
    client.text(&json!({"id": 1, "connect": {"token": token(claims)}}).to_string()).await;
    client
}

async fn connect(node: &Node, claims: &Claims) -> Value {
    asking(node, claims).await.line().await
}

#[tokio::test]
async fn clocks_may_be_a_few_seconds_apart() {
    let issued = now_unix_s();
    let (clock, hand) = Clock::fixed(at(issued));
    let node = Node::start_in(Context::for_test_as("ws-gateway", "skewed", clock), config()).await;
    for (behind, ttl) in [(0, 60), (1, 61), (5, 65)] {
        hand.set(at(issued - behind));
        let answer = connect(&node, &fresh(issued)).await;
        assert_eq!(answer["connect"]["ttl"], ttl, "{behind} s behind: {answer}");
    }
    for behind in [6, 3_600] {
        hand.set(at(issued - behind));
        assert_eq!(asking(&node, &fresh(issued)).await.end().await.0, 3500, "{behind} s behind");
    }
    for (ahead, left) in [(1, 59), (59, 1)] {
        hand.set(at(issued + ahead));
        let answer = connect(&node, &fresh(issued)).await;
        assert_eq!(answer["connect"]["ttl"], left, "{ahead} s ahead: {answer}");
    }
    // Its SDK fetches another, and would be told the same of that one: never is somebody let in whose time is over.
    for ahead in [60, 64, 65, 3_600] {
        hand.set(at(issued + ahead));
        let answer = connect(&node, &fresh(issued)).await;
        assert_eq!(answer["error"]["code"], 109, "{ahead} s ahead: {answer}");
    }
    node.wait_until_empty().await;
}

#[tokio::test]
async fn a_clock_that_is_set_ends_nobody_who_is_connected() {
    let issued = now_unix_s();
    let (clock, hand) = Clock::fixed(at(issued));
    let node = Node::start_in(Context::for_test_as("ws-gateway", "set", clock), config()).await;
    let mut client =
        Client::connected(&node, &token(&Claims { exp: Some(issued + 600), ..user("42") })).await;
    for (name, now) in [("ahead", issued + 86_400), ("back", issued - 86_400), ("to 1970", 0)] {
        hand.set(at(now));
        // What ends is counted by a clock that nobody sets.
        let answer = client.call("subscribe", json!({"channel": name.replace(' ', "-")})).await;
        assert!(answer["subscribe"].is_object(), "{name}: {answer}");
    }
    hand.set(at(issued + 86_400));
    // A new token counts by the time of day.
    let late = Claims { channel: Some("late".to_owned()), exp: Some(issued + 600), ..user("42") };
    let answer = client.call("subscribe", json!({"channel": "late", "token": token(&late)})).await;
    assert_eq!(answer["error"]["code"], 109, "{answer}");
    assert_eq!(node.publish("ahead", "1").await.unwrap(), 1);
    assert_eq!(client.publication().await, json!(1));
    drop(client);
    node.wait_until_empty().await;
}
