use mainstay_proto::realtime::v1::realtime_service_client::RealtimeServiceClient;
use mainstay_proto::realtime::v1::{BroadcastRequest, ChannelsRequest, PublishBatchRequest, PublishRequest};
use mainstay_rpc::{ErrorCode, Lane};
use serde_json::json;
use ws_gateway::{ChannelsConfig, GatewayConfig, NamespaceConfig, Who};

use crate::client::Client;
use crate::node::{Node, config, token, user};

type Api = RealtimeServiceClient<Lane>;

#[tokio::test]
async fn subscribers_receive_what_servers_publish_in_order() {
    let node = Node::start(config()).await;
    let token = token(&user("42"));
    let mut clients = Vec::new();
    for channel in ["a", "a", "b"] {
        clients.push(Client::subscribed(&node, &token, channel).await);
    }
    for n in 0..50 {
        assert_eq!(node.publish("a", &n.to_string()).await.unwrap(), 2);
    }
    assert_eq!(node.publish("b", "{\"only\":\n\"b\"}").await.unwrap(), 1);
    assert_eq!(node.publish("nobody", "null").await.unwrap(), 0);
    for client in &mut clients[..2] {
        for n in 0..50 {
            assert_eq!(client.publication().await, json!(n));
        }
    }
    assert_eq!(clients[2].line().await, json!({"push": {"channel": "b", "pub": {"data": {"only": "b"}}}}));

    let answer = clients[0].call("unsubscribe", json!({"channel": "a"})).await;
    assert_eq!(answer, json!({"id": 3, "unsubscribe": {}}));
    assert_eq!(node.publish("a", "50").await.unwrap(), 1);
    let state = node.state().await;
    assert_eq!((state.connections, state.users, state.channels, state.subscriptions), (3, 1, 2, 2));
    drop(clients);
    node.wait_until_empty().await;
}

#[tokio::test]
async fn tags_travel_with_the_publication() {
    let node = Node::start(config()).await;
    let mut client = Client::subscribed(&node, &token(&user("42")), "a").await;
    let tags = [("ticker".to_owned(), "ACME".to_owned())].into();
    let request =
        PublishRequest { channel: "a".to_owned(), data: "{}".into(), tags, ..PublishRequest::default() };
    node.grpc("Publish", request, async |mut api, request| api.publish(request).await).await.unwrap();
    assert_eq!(client.line().await["push"]["pub"], json!({"data": {}, "tags": {"ticker": "ACME"}}));
}

#[tokio::test]
async fn a_burst_is_written_in_joined_frames() {
    let node = Node::start(config()).await;
    let mut client = Client::subscribed(&node, &token(&user("42")), "a").await;
    let channels = vec!["a".to_owned(); 100];
    let request = BroadcastRequest { channels, data: "1".into(), ..BroadcastRequest::default() };
    let answer =
        node.grpc("Publish", request, async |mut api, request| api.broadcast(request).await).await.unwrap();
    assert!(answer.results.len() == 100 && answer.results.iter().all(|result| result.receivers == 1));
    for _ in 0..100 {
        client.publication().await;
    }
    let largest = client.frames.iter().max().unwrap();
    assert!((2..=16).contains(largest), "{:?}", client.frames);
}

#[tokio::test]
async fn a_broadcast_answers_for_each_channel() {
    let node = Node::start(config()).await;
    let mut client = Client::subscribed(&node, &token(&user("42")), "a").await;
    let channels = ["a", "", "b"].map(str::to_owned).to_vec();
    let request = BroadcastRequest { channels, data: "1".into(), ..BroadcastRequest::default() };
    let answer =
        node.grpc("Publish", request, async |mut api, request| api.broadcast(request).await).await.unwrap();
    let results: Vec<_> =
        answer.results.iter().map(|r| (r.channel.as_str(), r.receivers, r.error_code.as_str())).collect();
    assert_eq!(results, [("a", 1, ""), ("", 0, "CHANNEL_INVALID"), ("b", 0, "")]);
    assert_eq!(client.publication().await, json!(1));

    let channels = ChannelsRequest { prefix: String::new(), limit: 0 };
    let listed =
        node.grpc("Channels", channels, async |mut api, request| api.channels(request).await).await.unwrap();
    assert_eq!((listed.total, listed.channels[0].name.as_str(), listed.channels[0].subscribers), (1, "a", 1));
}

fn message(channel: &str, data: &str) -> PublishRequest {
    PublishRequest { channel: channel.to_owned(), data: data.to_owned().into(), ..PublishRequest::default() }
}

#[tokio::test]
async fn a_batch_answers_for_each_message_and_keeps_the_order_of_a_channel() {
    let node = Node::start(config()).await;
    let token = token(&user("42"));
    let (mut a, mut b) =
        (Client::subscribed(&node, &token, "a").await, Client::subscribed(&node, &token, "b").await);
    let numbered = (0..200).map(|n| message(if n % 2 == 0 { "a" } else { "b" }, &n.to_string()));
    let keyed = PublishRequest { idempotency_key: "k".to_owned(), ..message("c", "1") };
    let wrong = [message("", "1"), message("a", "{"), keyed.clone(), keyed];
    let messages: Vec<_> = numbered.chain(wrong).collect();
    let channels: Vec<_> = messages.iter().map(|message| message.channel.clone()).collect();
    let send = async |mut api: Api, request| api.publish_batch(request).await;
    let answer = node.grpc("Publish", PublishBatchRequest { messages }, send).await.unwrap();
    assert_eq!(answer.results.iter().map(|result| result.channel.clone()).collect::<Vec<_>>(), channels);
    assert!(answer.results[..200].iter().all(|result| result.receivers == 1 && result.error_code.is_empty()));
    let others: Vec<_> = answer.results[200..].iter().map(|r| (r.error_code.as_str(), r.duplicate)).collect();
    let expected = [("CHANNEL_INVALID", false), ("DATA_NOT_JSON", false), ("", false), ("", true)];
    assert_eq!(others, expected);
    for n in 0..100 {
        assert_eq!((a.publication().await, b.publication().await), (json!(2 * n), json!(2 * n + 1)));
    }
    for n_messages in [0, 1_001] {
        let messages = vec![message("a", "1"); n_messages];
        let outcome = node.grpc("Publish", PublishBatchRequest { messages }, send).await;
        assert_eq!(outcome.unwrap_err().reason(), "TOO_MANY_MESSAGES");
    }
}

#[tokio::test]
async fn what_servers_may_not_publish_is_refused_with_a_reason() {
    let node = Node::start(config()).await;
    let long = "x".repeat(256);
    let large = format!("\"{}\"", "x".repeat(64 << 10));
    for (channel, data, reason) in [
        ("", "1", "CHANNEL_INVALID"),
        ("a b", "1", "CHANNEL_INVALID"),
        (long.as_str(), "1", "CHANNEL_INVALID"),
        ("a", "", "DATA_NOT_JSON"),
        ("a", "{", "DATA_NOT_JSON"),
        ("a", large.as_str(), "DATA_TOO_LARGE"),
    ] {
        let failure = node.publish(channel, data).await.unwrap_err();
        assert_eq!((failure.code(), failure.reason()), (ErrorCode::InvalidArgument, reason), "{channel:?}");
    }
    let tags = (0..17).map(|n| (n.to_string(), String::new())).collect();
    let request =
        PublishRequest { channel: "a".to_owned(), data: "1".into(), tags, ..PublishRequest::default() };
    let failure =
        node.grpc("Publish", request, async |mut api, request| api.publish(request).await).await.unwrap_err();
    assert_eq!(failure.reason(), "TAGS_INVALID");
    for n_channels in [0, 1_001] {
        let channels = vec!["a".to_owned(); n_channels];
        let request = BroadcastRequest { channels, data: "1".into(), ..BroadcastRequest::default() };
        let outcome =
            node.grpc("Publish", request, async |mut api, request| api.broadcast(request).await).await;
        assert_eq!(outcome.unwrap_err().reason(), "TOO_MANY_CHANNELS");
    }
}

#[tokio::test]
async fn clients_publish_to_each_other_only_where_it_is_configured() {
    let node = Node::start(config()).await;
    let mut client = Client::connected(&node, &token(&user("42"))).await;
    let answer = client.call("publish", json!({"channel": "a", "data": 1})).await;
    assert_eq!(answer["error"]["code"], json!(103));

    let default = NamespaceConfig { publish: Who::Everyone, ..NamespaceConfig::default() };
    let channels = ChannelsConfig { default, ..ChannelsConfig::default() };
    let node = Node::start(GatewayConfig { channels, ..config() }).await;
    let mut listener = Client::subscribed(&node, &token(&user("7")), "a").await;
    let mut client = Client::connected(&node, &token(&user("42"))).await;
    assert_eq!(client.call("publish", json!({"channel": "a", "data": {"n": 1}})).await["publish"], json!({}));
    let push = listener.line().await;
    assert_eq!(push["push"]["pub"]["data"], json!({"n": 1}));
    assert_eq!(push["push"]["pub"]["info"]["user"], json!("42"));
}
