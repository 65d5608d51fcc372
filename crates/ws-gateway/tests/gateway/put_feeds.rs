//! Feeds that are put while the nodes run.

use std::time::Duration;

use mainstay_devstack::RedisNode;
use mainstay_proto::realtime::v1::realtime_feed_service_client::RealtimeFeedServiceClient;
use mainstay_proto::realtime::v1::{Feed, FeedSpec, FeedState, PutFeedRequest, RemoveFeedRequest};
use mainstay_rpc::{Call, ErrorCode, Failure};
use serde_json::json;
use tokio::time::{Instant, sleep};
use ws_gateway::{GatewayConfig, RedisConfig, RunTimeFeedsConfig};

use crate::client::Client;
use crate::cluster::{redis, single, with_redis};
use crate::feeds::{Listening, feed, hears, listener, message, state, wait_for, with_feed};
use crate::node::{Node, PATIENCE, config, token, user};

fn spec(source: &Listening, channel: &str) -> FeedSpec {
    FeedSpec {
        channel: channel.to_owned(),
        endpoints: vec![format!("{}?t=s3cret", source.url())],
        authorization: "Bearer s3cret".to_owned(),
        headers: [("x-key".to_owned(), "s3cret".to_owned())].into(),
        subscribe: vec!["s3cret {after}".to_owned()],
        id: "/id".to_owned(),
        sequence: "/n".to_owned(),
        data: "/data".to_owned(),
        silent_for: Duration::from_mins(2).try_into().ok(),
        lease: Duration::from_secs(10).try_into().ok(),
        ..FeedSpec::default()
    }
}

async fn put(node: &Node, name: &str, spec: FeedSpec, if_version: Option<u64>) -> Result<Feed, Failure> {
    let call = Call::write("mainstay.realtime.v1.RealtimeFeedService/PutFeed");
    let request = PutFeedRequest { name: name.to_owned(), spec: Some(spec), if_version };
    let answer = node.upstream.call(call, |lane| {
        let (mut api, request) = (RealtimeFeedServiceClient::new(lane), request.clone());
        async move { api.put_feed(request).await }
    });
    Ok(answer.await?.feed.unwrap())
}

async fn remove(node: &Node, name: &str) -> Result<(), Failure> {
    let call = Call::write("mainstay.realtime.v1.RealtimeFeedService/RemoveFeed");
    let request = RemoveFeedRequest { name: name.to_owned(), if_version: None };
    let answer = node.upstream.call(call, |lane| {
        let (mut api, request) = (RealtimeFeedServiceClient::new(lane), request.clone());
        async move { api.remove_feed(request).await }
    });
    answer.await.map(|_| ())
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, Failure>) -> (ErrorCode, String) {
    let failure = outcome.unwrap_err();
    (failure.code(), failure.reason().to_owned())
}

#[tokio::test]
async fn feeds_are_put_changed_and_removed_on_all_nodes() {
    let stack = redis().await;
    let servers = [stack.redis().unwrap().first_primary()];
    Box::pin(feeds_are_the_same_on_all_nodes(single(&stack), &servers)).await;
    stack.stop().await.unwrap();
}

pub(crate) async fn feeds_are_the_same_on_all_nodes(redis: RedisConfig, primaries: &[&RedisNode]) {
    let source = Listening::new().await;
    let config = || with_redis(redis.clone());
    let nodes = [Node::joined(config()).await, Node::joined(config()).await];
    let [one, other] = &nodes;
    let mut news = listener(other).await;
    let mut sport = Client::subscribed(one, &token(&user("7")), "sport").await;

    let made = put(one, "prices", spec(&source, "news"), Some(0)).await.unwrap();
    let (mut connected, wanted) = source.reader().await;
    assert_eq!(wanted, "s3cret 0");
    connected.say(&message(1)).await;
    hears(&mut news, [1]).await;
    let told = wait_for(other, "prices", "a message", |feed| feed.published == 1).await;
    assert_eq!((told.version, told.state()), (made.version, FeedState::Live));
    let shown = format!("{told:?} {made:?}");
    assert!(!shown.contains("s3cret") && shown.contains("[redacted]"), "{shown}");

    // Changed on the other node: where it goes from here on.
    let refusal = refused(put(other, "prices", spec(&source, "sport"), Some(made.version + 7)).await);
    assert_eq!(refusal, (ErrorCode::Conflict, "VERSION_MISMATCH".to_owned()));
    assert_eq!(refused(put(other, "prices", spec(&source, "sport"), Some(0)).await), refusal);
    let changed = put(other, "prices", spec(&source, "sport"), Some(made.version)).await.unwrap();
    assert!(changed.version > made.version);
    assert_eq!(connected.hear().await, None, "it is still read as it was");
    let (mut connected, wanted) = source.reader().await;
    assert_eq!(wanted, "s3cret 0");
    connected.say(&message(1)).await;
    hears(&mut sport, [1]).await;
    wait_for(one, "prices", "the change", |feed| feed.channel == "sport").await;

    // All nodes end, and others come: nobody has to put it again, and it goes on where it was.
    drop((news, sport));
    for node in &nodes {
        node.wait_until_empty().await;
        node.cx.shut_down().await;
    }
    let node = Node::joined(config()).await;
    let mut sport = Client::subscribed(&node, &token(&user("7")), "sport").await;
    let (mut connected, wanted) = source.reader().await;
    assert_eq!(wanted, "s3cret 1");
    connected.say(&message(2)).await;
    hears(&mut sport, [2]).await;
    assert_eq!(state(&node, "prices").await.unwrap().version, changed.version);

    // A Redis that has lost everything learns of it again.
    for primary in primaries {
        primary.command(&["FLUSHALL"]).await.unwrap();
    }
    let late = Node::joined(config()).await;
    wait_for(&late, "prices", "its return", |feed| feed.version == changed.version).await;

    remove(&late, "prices").await.unwrap();
    while connected.hear().await.is_some() {}
    let deadline = Instant::now() + PATIENCE;
    while state(&node, "prices").await.is_ok() || node.metrics().contains("feed=\"prices\"") {
        assert!(Instant::now() < deadline, "it is still there");
        sleep(Duration::from_millis(20)).await;
    }
    let refusal = refused(remove(&node, "prices").await);
    assert_eq!(refusal, (ErrorCode::NotFound, "FEED_UNKNOWN".to_owned()));
    drop(sport);
    for node in [&node, &late] {
        node.wait_until_empty().await;
        node.cx.shut_down().await;
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_feed_is_said() {
    let stack = redis().await;
    let source = Listening::new().await;
    let run_time_feeds = RunTimeFeedsConfig { max: 1, hosts: vec!["127.0.0.1".to_owned()] };
    let config = GatewayConfig {
        run_time_feeds,
        ..with_feed(with_redis(single(&stack)), feed(vec!["ws://127.0.0.1:9/".to_owned()]))
    };
    let node = Node::joined(config).await;
    let wrong = FeedSpec {
        endpoints: vec!["ws://169.254.169.254/".to_owned(), "file:///etc/passwd".to_owned()],
        hold: Some(1_000_000),
        max_message_bytes: Some(1),
        headers: [("host".to_owned(), "s3cret".to_owned())].into(),
        ..spec(&source, "nowhere:x")
    };
    let failure = put(&node, "x", wrong, None).await.unwrap_err();
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::InvalidArgument, "FEED_INVALID"));
    let mut fields: Vec<_> = failure.fields().iter().map(|violation| violation.field.as_str()).collect();
    fields.sort_unstable();
    let expected = ["channel", "endpoints[0]", "endpoints[1]", "headers.host", "hold", "max_message_bytes"];
    assert_eq!(fields, expected);
    assert!(!format!("{failure:?}").contains("s3cret"), "{failure:?}");
    for (name, reason) in [("a b", "FEED_INVALID"), ("wire", "FEED_CONFIGURED")] {
        let (_, found) = refused(put(&node, name, spec(&source, "news"), None).await);
        assert_eq!(found, reason, "{name}");
    }
    assert_eq!(refused(remove(&node, "wire").await).1, "FEED_CONFIGURED");
    put(&node, "first", spec(&source, "news"), None).await.unwrap();
    let refusal = refused(put(&node, "second", spec(&source, "news"), None).await);
    assert_eq!(refusal, (ErrorCode::ResourceExhausted, "TOO_MANY_FEEDS".to_owned()));
    put(&node, "first", spec(&source, "sport"), None).await.unwrap();
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn without_redis_nothing_keeps_a_feed() {
    let source = Listening::new().await;
    let node = Node::start(config()).await;
    let refusal = refused(put(&node, "x", spec(&source, "news"), None).await);
    assert_eq!(refusal, (ErrorCode::FailedPrecondition, "FEEDS_NEED_REDIS".to_owned()));
    assert_eq!(refused(state(&node, "x").await).1, "FEED_UNKNOWN");
    let mut client = listener(&node).await;
    assert_eq!(node.publish("news", "1").await.unwrap(), 1);
    assert_eq!(client.publication().await, json!(1));
    node.cx.shut_down().await;
}
