use std::time::Duration;

use mainstay_devstack::Direction;
use mainstay_proto::realtime::v1::{
    HistoryRequest, PublishBatchRequest, PublishBatchResponse, PublishRequest, Reach,
};
use mainstay_runtime::{Clock, Context};
use serde_json::{Value, json};
use tokio::time::Instant;
use ws_gateway::{BrokerConfig, RedisConfig};

use crate::client::Client;
use crate::cluster::{proxied, redis, sentinel, single, subscribe, with_redis};
use crate::node::{Node, PATIENCE, token, user};

fn publication(line: &Value) -> (u64, &Value) {
    let publication = &line["push"]["pub"];
    assert!(publication.is_object(), "{line}");
    (publication["offset"].as_u64().unwrap_or(0), &publication["data"])
}

#[tokio::test]
async fn a_publication_reaches_every_node_and_is_recovered_on_any() {
    let stack = redis().await;
    publications_reach_every_node(single(&stack)).await;
    stack.stop().await.unwrap();
}

pub(crate) async fn publications_reach_every_node(redis: RedisConfig) {
    let [one, two] = [Node::joined(with_redis(redis.clone())).await, Node::joined(with_redis(redis)).await];
    let mut a = Client::connected(&one, &token(&user("a"))).await;
    let mut b = Client::connected(&two, &token(&user("b"))).await;
    let begun = subscribe(&mut a, json!({"channel": "m:x", "recoverable": true})).await;
    let (epoch, offset) = (begun["epoch"].clone(), begun["offset"].as_u64().unwrap_or(0));
    assert_eq!(offset, 0);
    subscribe(&mut b, json!({"channel": "m:x", "recoverable": true})).await;
    subscribe(&mut b, json!({"channel": "plain"})).await;

    for n in 1..=3_u64 {
        let published = one.publish_with_key("m:x", &n.to_string(), "").await.unwrap();
        assert_eq!((published.offset, published.nodes), (n, 2));
        assert_eq!(published.reach(), Reach::EveryNode);
    }
    for client in [&mut a, &mut b] {
        for n in 1..=3_u64 {
            let line = client.line().await;
            assert_eq!(publication(&line), (n, &json!(n)));
        }
    }
    let plain = one.publish_with_key("plain", "true", "").await.unwrap();
    assert_eq!((plain.offset, plain.nodes), (0, 1));
    assert_eq!(publication(&b.line().await), (0, &json!(true)));

    // The same key on another node is the same publication.
    let first = one.publish_with_key("m:x", "4", "k").await.unwrap();
    let second = two.publish_with_key("m:x", "4", "k").await.unwrap();
    assert_eq!((first.offset, first.duplicate, second.offset, second.duplicate), (4, false, 4, true));

    drop(a);
    let recover = json!({"channel": "m:x", "recover": true, "epoch": epoch, "offset": 2});
    let mut a = Client::connected(&two, &token(&user("a"))).await;
    let begun = subscribe(&mut a, recover).await;
    assert_eq!((&begun["recovered"], begun["publications"].as_array().unwrap().len()), (&json!(true), 2));
    let mut late = Client::connected(&one, &token(&user("c"))).await;
    one.publish_with_key("c:x", "1", "").await.unwrap();
    two.publish_with_key("c:x", "2", "").await.unwrap();
    let begun = subscribe(&mut late, json!({"channel": "c:x", "recoverable": true})).await;
    assert_eq!(begun["publications"][0]["data"], json!(2));

    let request =
        HistoryRequest { channel: "m:x".to_owned(), limit: 2, reverse: true, ..HistoryRequest::default() };
    let history =
        two.grpc("History", request, async |mut api, request| api.history(request).await).await.unwrap();
    let offsets: Vec<u64> = history.publications.iter().map(|publication| publication.offset).collect();
    assert_eq!((offsets, history.position.unwrap().offset), (vec![4, 3], 4));

    drop((a, b, late));
    for node in [&one, &two] {
        node.wait_until_empty().await;
        node.wait_for_metric("mainstay_ws_broker_channels 0").await;
        node.cx.shut_down().await;
    }
}

#[tokio::test]
async fn what_was_published_while_nothing_could_be_heard_is_read_afterwards() {
    let stack = redis().await;
    let (proxy, behind_proxy) = proxied(&stack);
    let far = Node::joined(with_redis(behind_proxy)).await;
    let near = Node::joined(with_redis(single(&stack))).await;
    let mut client = Client::connected(&far, &token(&user("a"))).await;
    subscribe(&mut client, json!({"channel": "m:x", "recoverable": true})).await;
    subscribe(&mut client, json!({"channel": "plain"})).await;
    near.publish_with_key("m:x", "1", "").await.unwrap();
    assert_eq!(publication(&client.line().await), (1, &json!(1)));

    proxy.cut().await.unwrap();
    far.wait_until_heard(false).await;
    for n in 2..=5 {
        near.publish_with_key("m:x", &n.to_string(), "").await.unwrap();
    }
    // Without Redis a node serves those it has, and says so.
    let alone = far.publish_with_key("plain", "\"here\"", "").await.unwrap();
    assert_eq!((alone.reach(), alone.nodes, alone.receivers), (Reach::ThisNode, 0, 1));
    assert_eq!(publication(&client.line().await), (0, &json!("here")));

    proxy.restore().await.unwrap();
    for n in 2..=5_u64 {
        assert_eq!(publication(&client.line().await), (n, &json!(n)));
    }
    // Counted before the next one, which may be read too: comparing positions can be faster than listening again.
    far.wait_for_metric("mainstay_ws_broker_gaps_total{filled=\"yes\"} 1").await;
    near.publish_with_key("m:x", "6", "").await.unwrap();
    assert_eq!(publication(&client.line().await), (6, &json!(6)));
    drop(client);
    for node in [&far, &near] {
        node.wait_until_empty().await;
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_is_told_when_nothing_can_be_heard_for_long() {
    let stack = redis().await;
    let (proxy, behind_proxy) = proxied(&stack);
    let config = with_redis(behind_proxy);
    let broker = BrokerConfig { silent_for: Duration::from_millis(300), ..config.broker.clone() };
    let node = Node::joined(ws_gateway::GatewayConfig { broker, ..config }).await;
    let mut client = Client::connected(&node, &token(&user("a"))).await;
    let begun = subscribe(&mut client, json!({"channel": "m:x", "recoverable": true})).await;
    node.publish_with_key("m:x", "1", "").await.unwrap();
    assert_eq!(publication(&client.line().await), (1, &json!(1)));

    // It hangs rather than fails.
    proxy.stall(Direction::Downstream);
    let line = client.line().await;
    assert_eq!(line["push"]["unsubscribe"]["code"], json!(2500), "{line}");
    proxy.unstall(Direction::Downstream);
    let recover = json!({"channel": "m:x", "recover": true, "epoch": begun["epoch"], "offset": 1});
    let begun = subscribe(&mut client, recover).await;
    assert_eq!(begun["recovered"], json!(true));
    drop(client);
    node.wait_until_empty().await;
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_numbering_ends_with_the_server_that_gave_it() {
    let stack = redis().await;
    let node = Node::joined(with_redis(sentinel(&stack))).await;
    let mut client = Client::connected(&node, &token(&user("a"))).await;
    let begun = subscribe(&mut client, json!({"channel": "m:x", "recoverable": true})).await;
    node.publish_with_key("m:x", "1", "").await.unwrap();
    assert_eq!(publication(&client.line().await), (1, &json!(1)));

    let servers = stack.redis().unwrap();
    servers.promote(servers.first_replica()).await.unwrap();
    // The new server may lack what the old one had confirmed, so nobody is told that nothing was missed.
    let line = client.line().await;
    assert_eq!(line["push"]["unsubscribe"]["code"], json!(2500), "{line}");
    let recover = json!({"channel": "m:x", "recover": true, "epoch": begun["epoch"], "offset": 1});
    let again = subscribe(&mut client, recover).await;
    assert!(again["recovered"].is_null() && again["epoch"] != begun["epoch"], "{again}");
    node.publish_with_key("m:x", "2", "").await.unwrap();
    let line = client.line().await;
    assert_eq!(publication(&line), (again["offset"].as_u64().unwrap_or(0) + 1, &json!(2)));
    drop(client);
    node.wait_until_empty().await;
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn two_processes_of_one_name_are_told_of() {
    let stack = redis().await;
    let mut config = with_redis(single(&stack));
    config.broker.lease = Duration::from_secs(1);
    let named = |name| Context::for_test_as("ws-gateway", name, Clock::system());
    let one = Node::start_in(named("twin"), config.clone()).await;
    let other = Node::start_in(named("twin"), config.clone()).await;
    let third = Node::start_in(named("third"), config).await;
    for twin in [&one, &other] {
        twin.wait_for_metric("mainstay_ws_namesakes 1").await;
    }
    assert!(third.metrics().contains("mainstay_ws_namesakes 0\n"));
    other.cx.shut_down().await;
    one.wait_for_metric("mainstay_ws_namesakes 0").await;
}

async fn publish_batch(node: &Node, messages: &[PublishRequest]) -> PublishBatchResponse {
    let request = PublishBatchRequest { messages: messages.to_vec() };
    node.grpc("Publish", request, async |mut api, request| api.publish_batch(request).await).await.unwrap()
}

/// Publishes three messages while Redis hears and does not answer; returns them with what became of them.
async fn batch_into_silence(
    node: &Node,
    proxy: &mainstay_devstack::ChaosProxy,
    channel: &str,
) -> (Vec<PublishRequest>, PublishBatchResponse) {
    let message = |n: u32| PublishRequest {
        channel: channel.to_owned(),
        data: n.to_string().into(),
        idempotency_key: n.to_string(),
        ..PublishRequest::default()
    };
    let messages: Vec<_> = (1..=3).map(message).collect();
    proxy.stall(Direction::Downstream);
    let answer = publish_batch(node, &messages).await;
    proxy.unstall(Direction::Downstream);
    let deadline = Instant::now() + PATIENCE;
    while !node.publish_with_key("m:probe", "0", "").await.is_ok_and(|p| p.reach() == Reach::EveryNode) {
        assert!(Instant::now() < deadline, "redis does not come back");
    }
    (messages, answer)
}

#[tokio::test]
async fn a_batch_stops_where_it_is_not_known_what_was_published() {
    let stack = redis().await;
    let (proxy, behind_proxy) = proxied(&stack);
    let node = Node::joined(with_redis(behind_proxy)).await;
    let deadline = Instant::now() + PATIENCE;
    for attempt in 0.. {
        let channel = format!("m:{attempt}");
        let (messages, answer) = batch_into_silence(&node, &proxy, &channel).await;
        let codes: Vec<_> = answer.results.iter().map(|result| result.error_code.as_str()).collect();
        // A machine that stalls may have given the connection up before the first was sent.
        if codes[0] != "PUBLISH_UNKNOWN" {
            assert!(Instant::now() < deadline, "{codes:?}");
            continue;
        }
        assert_eq!(codes[1..], ["BATCH_STOPPED"; 2]);
        while publish_batch(&node, &messages).await.results.iter().any(|result| !result.error_code.is_empty())
        {
            assert!(Instant::now() < deadline, "the batch is not taken");
        }
        let request = HistoryRequest { channel, limit: 100, ..HistoryRequest::default() };
        let history =
            node.grpc("History", request, async |mut api, request| api.history(request).await).await.unwrap();
        let data: Vec<_> = history.publications.iter().map(|publication| &publication.data[..]).collect();
        assert_eq!(data, [b"1", b"2", b"3"], "all of it, once and in order");
        break;
    }
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}
