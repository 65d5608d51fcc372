use mainstay_proto::realtime::v1::realtime_watch_service_client::RealtimeWatchServiceClient;
use mainstay_proto::realtime::v1::{ConnectionHealthRequest, EventKind, WatchRequest, WatchResponse};
use mainstay_rpc::{Call, ErrorCode, Failure};
use serde_json::json;
use tokio::time::timeout;
use ws_gateway::{ChannelsConfig, GatewayConfig, NamespaceConfig, Recovery, Who};

use crate::client::Client;
use crate::node::{Node, PATIENCE, config, token, user};

async fn node() -> Node {
    let default = NamespaceConfig {
        publish: Who::Everyone,
        history_size: 5,
        recovery: Recovery::Stream,
        ..NamespaceConfig::default()
    };
    let channels = ChannelsConfig { default, ..ChannelsConfig::default() };
    Node::start(GatewayConfig { channels, ..config() }).await
}

struct Watch(tonic::Streaming<WatchResponse>);

impl Watch {
    async fn begin(node: &Node, request: WatchRequest) -> Result<Self, Failure> {
        let call = Call::read("mainstay.realtime.v1.RealtimeWatchService/Watch");
        let send = async |lane, request| RealtimeWatchServiceClient::new(lane).watch(request).await;
        node.upstream.call(call, |lane| send(lane, request.clone())).await.map(Self)
    }

    async fn next(&mut self) -> WatchResponse {
        timeout(PATIENCE, self.0.message()).await.expect("an event in time").unwrap().expect("one more event")
    }

    async fn kinds(&mut self, count: usize) -> Vec<EventKind> {
        let mut kinds = Vec::new();
        for _ in 0..count {
            kinds.push(self.next().await.kind());
        }
        kinds
    }
}

#[tokio::test]
async fn a_user_can_be_followed_from_the_first_command_to_the_end() {
    let node = node().await;
    let request = WatchRequest { user: "42".to_owned(), ..WatchRequest::default() };
    let mut watch = Watch::begin(&node, request).await.unwrap();
    let mut other = Client::subscribed(&node, &token(&user("7")), "news").await;
    let mut client = Client::subscribed(&node, &token(&user("42")), "news").await;
    let connected = watch.next().await;
    assert_eq!((connected.kind(), connected.user.as_str()), (EventKind::Connected, "42"));
    assert_eq!(
        (watch.next().await.command.as_str(), watch.next().await.command.as_str()),
        ("connect", "subscribe")
    );
    let subscribed = watch.next().await;
    assert_eq!((subscribed.kind(), subscribed.channel.as_str()), (EventKind::Subscribed, "news"));
    client.call("publish", json!({"channel": "news", "data": 1})).await;
    other.call("publish", json!({"channel": "news", "data": 1})).await;
    let published = watch.next().await;
    assert_eq!((published.kind(), published.receivers, published.offset), (EventKind::Published, 2, 1));
    assert_eq!(published.client, connected.client);
    client.call("presence", json!({"channel": "news"})).await;
    drop(client);
    let command = watch.next().await;
    assert_eq!((command.command.as_str(), command.code), ("publish", 0));
    let command = watch.next().await;
    assert_eq!((command.command.as_str(), command.code), ("presence", 108));
    assert_eq!(watch.kinds(2).await, [EventKind::Unsubscribed, EventKind::Disconnected]);
    assert!(node.metrics().contains("mainstay_ws_watchers 1"), "{}", node.metrics());
}

#[tokio::test]
async fn paths_through_channels_can_be_watched_and_sampled() {
    let node = node().await;
    let request = WatchRequest {
        kinds: vec![EventKind::Subscribed.into(), EventKind::Unsubscribed.into()],
        one_of: 2,
        ..WatchRequest::default()
    };
    let mut watch = Watch::begin(&node, request).await.unwrap();
    let mut client = Client::connected(&node, &token(&user("42"))).await;
    for channel in ["a", "b", "c"] {
        client.call("subscribe", json!({"channel": channel})).await;
        client.call("unsubscribe", json!({"channel": channel})).await;
    }
    for channel in ["a", "b", "c"] {
        let event = watch.next().await;
        assert_eq!((event.kind(), event.channel.as_str()), (EventKind::Subscribed, channel));
    }
    let bad = WatchRequest { kinds: vec![0], ..WatchRequest::default() };
    let refused = Watch::begin(&node, bad).await.err().unwrap();
    assert_eq!((refused.code(), refused.reason()), (ErrorCode::InvalidArgument, "KIND_INVALID"));
    let mut others = Vec::new();
    for _ in 1..16 {
        others.push(Watch::begin(&node, WatchRequest::default()).await.unwrap());
    }
    let refused = Watch::begin(&node, WatchRequest::default()).await.err().unwrap();
    assert_eq!((refused.code(), refused.reason()), (ErrorCode::ResourceExhausted, "TOO_MANY_WATCHERS"));
    node.cx.shut_down().await;
    drop(others);
}

#[tokio::test]
async fn the_health_of_one_connection_is_told() {
    let node = node().await;
    for n in 1..=8 {
        node.publish("news", &n.to_string()).await.unwrap();
    }
    let mut client = Client::connected(&node, &token(&user("42"))).await;
    for (channel, offset) in [("news", 7), ("news", 1)] {
        let body = json!({"channel": channel, "recover": true, "offset": offset, "epoch": ""});
        client.call("subscribe", body).await;
        client.call("unsubscribe", json!({"channel": channel})).await;
    }
    let id = node.connections("42", "").await.connections.remove(0).client;
    let ask = async |client: &str| {
        let call = Call::read("mainstay.realtime.v1.RealtimeWatchService/ConnectionHealth");
        let request = ConnectionHealthRequest { client: client.to_owned() };
        let send =
            async |lane, request| RealtimeWatchServiceClient::new(lane).connection_health(request).await;
        node.upstream.call(call, |lane| send(lane, request.clone())).await
    };
    let health = ask(&id).await.unwrap();
    assert_eq!((health.recovered, health.unrecovered, health.publications_dropped), (1, 1, 0));
    assert_eq!(health.last_command, "unsubscribe");
    assert_eq!(health.node, node.state().await.id);
    assert!(health.last_command_age.unwrap().seconds < 10 && health.age.is_some());
    assert_eq!(health.connection.unwrap().user, "42");
    let unknown = ask("00000000-0000-4000-8000-000000000000").await.unwrap_err();
    assert_eq!((unknown.code(), unknown.reason()), (ErrorCode::NotFound, "CONNECTION_UNKNOWN"));
    assert_eq!(ask("me").await.unwrap_err().reason(), "CLIENT_INVALID");
}
