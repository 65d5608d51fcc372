use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use mainstay_auth::Role;
use mainstay_tests::{Rest, shared};
use serde_json::Value;

/// One watcher of the event stream.
struct Watcher {
    body: Incoming,
    rest: String,
}

/// Name and value of each field of one event.
type Event = BTreeMap<String, String>;

impl Watcher {
    async fn of(rest: &Rest) -> Self {
        let answer = rest.begin(Method::GET, "/monitoring/live", Bytes::new()).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { body: answer.into_body(), rest: String::new() }
    }

    async fn next(&mut self) -> Event {
        let next = async {
            loop {
                if let Some((event, rest)) = self.rest.split_once("\n\n") {
                    let fields = event.lines().filter_map(|line| line.split_once(": "));
                    let event = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                    self.rest = rest.to_owned();
                    return event;
                }
                let frame =
                    self.body.frame().await.expect("the stream goes on").expect("the stream is whole");
                self.rest.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
            }
        };
        tokio::time::timeout(Duration::from_secs(10), next).await.expect("an event each second")
    }

    async fn figures(&mut self) -> Event {
        loop {
            let event = self.next().await;
            if event["event"] == "figures" {
                return event;
            }
        }
    }
}

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
