//! What the application decides for clients, over gRPC and HTTP, and what holds while it is away.

use std::time::Duration;

use mainstay_proto::realtime::v1;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use ws_gateway::{
    Away, BackendConfig, ChannelHook, ConnectionHook, GatewayConfig, HookConfig, HooksConfig,
    NamespaceConfig, Who,
};

use crate::application::Served;
use crate::client::Client;
use crate::node::{Node, PATIENCE, config, token, user};

fn asking(served: &Served) -> GatewayConfig {
    // Long enough for the slowest machine to answer what it answers, and waited for only where it does not.
    let hook = HookConfig { within: Duration::from_secs(3), when_away: Away::Deny };
    let hooks = HooksConfig {
        ask: vec![ConnectionHook::Connect, ConnectionHook::Refresh],
        headers: vec!["cookie".to_owned()],
        connect: hook,
        refresh: hook,
        subscribe: hook,
        sub_refresh: hook,
        publish: hook,
    };
    let mut config = config();
    config.channels.default = NamespaceConfig {
        publish: Who::Users,
        presence: true,
        ask: vec![ChannelHook::Subscribe, ChannelHook::SubRefresh, ChannelHook::Publish],
        ..NamespaceConfig::default()
    };
    let (grpc, http) = (served.grpc.clone(), served.http.clone());
    config.backend = BackendConfig { grpc, http, hooks, ..BackendConfig::default() };
    config
}

async fn opened(node: &Node) -> Client {
    Client::try_open(node, "", &[("cookie", "session=7")]).await.unwrap()
}

async fn connect(client: &mut Client, wish: &str) -> Value {
    client.call("connect", json!({"data": {"as": wish}, "name": "js", "version": "5"})).await
}

fn code(answer: &Value) -> (u64, bool) {
    (answer["error"]["code"].as_u64().unwrap_or_default(), answer["error"]["temporary"] == true)
}

/// Waits until the node has counted so much or more.
async fn counted(node: &Node, hook: &str, outcome: &str, times: u64) {
    let counter = format!("mainstay_ws_hooks_total{{hook=\"{hook}\",outcome=\"{outcome}\"}} ");
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        let metrics = node.metrics();
        let count = metrics.lines().find_map(|line| line.strip_prefix(&counter)?.parse::<u64>().ok());
        if count >= Some(times) {
            return;
        }
        let hooks: Vec<_> = metrics.lines().filter(|line| line.contains("ws_hooks_total")).collect();
        assert!(Instant::now() < deadline, "{counter}{times} is not reached: {hooks:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn is_asked_who_comes(node: &Node) -> Client {
    for (wish, expected) in [("no", (403, false)), ("garbage", (100, true)), ("never", (100, true))] {
        let answer = connect(&mut opened(node).await, wish).await;
        assert_eq!(code(&answer), expected, "{wish}: {answer}");
    }
    let mut client = opened(node).await;
    let answer = connect(&mut client, "42").await;
    assert_eq!(answer["connect"]["data"], json!({"hello": "42"}), "{answer}");
    assert!(answer["connect"]["subs"]["granted"].is_object(), "{answer}");
    assert!(answer["connect"]["expires"].is_null(), "{answer}");
    let presence = client.call("presence", json!({"channel": "granted"})).await;
    let listed = presence["presence"]["presence"].as_object().unwrap().values().next().unwrap().clone();
    assert_eq!(listed["conn_info"], json!({"cookie": "session=7"}), "{presence}");
    let listed = node.connections("42", "").await.connections.remove(0);
    assert_eq!(serde_json::from_slice::<Value>(&listed.meta).unwrap(), json!({"sdk": "js"}));
    client
}

async fn is_asked_who_may_subscribe(client: &mut Client) {
    for (channel, expected) in [("no", (403, false)), ("garbage", (100, true)), ("never", (100, true))] {
        let answer = client.call("subscribe", json!({"channel": channel})).await;
        assert_eq!(code(&answer), expected, "{channel}: {answer}");
    }
    let answer = client.call("subscribe", json!({"channel": "news", "data": {"from": 7}})).await;
    assert_eq!(answer["subscribe"]["data"], json!({"from": 7}), "{answer}");
    let presence = client.call("presence", json!({"channel": "news"})).await;
    let listed = presence["presence"]["presence"].as_object().unwrap().values().next().unwrap().clone();
    assert_eq!(listed["chan_info"], json!(["42", {"sdk": "js"}]), "{presence}");
}

async fn is_asked_what_may_be_published(client: &mut Client) {
    for (how, expected) in [("no", (403, false)), ("garbage", (100, true)), ("never", (100, true))] {
        let answer = client.call("publish", json!({"channel": "news", "data": {"how": how}})).await;
        assert_eq!(code(&answer), expected, "{how}: {answer}");
    }
    for (how, expected) in
        [("as it is", json!({"how": "as it is"})), ("changed", json!({"by": "42", "into": "news"}))]
    {
        let answer = client.call("publish", json!({"channel": "news", "data": {"how": how}})).await;
        assert!(answer["publish"].is_object(), "{answer}");
        assert_eq!(client.publication().await, expected);
    }
}

/// Connects and subscribes for some seconds; on a machine that stood still meanwhile they may be over, so it comes again.
async fn mayfly(node: &Node) -> Client {
    let deadline = Instant::now() + 3 * PATIENCE;
    loop {
        let mut mayfly = opened(node).await;
        let connected = connect(&mut mayfly, "mayfly").await;
        if connected["connect"].is_object() {
            let subscribed = mayfly.call("subscribe", json!({"channel": "short"})).await;
            assert!(subscribed["subscribe"]["expires"].is_null(), "{subscribed}");
            if subscribed["subscribe"].is_object() {
                return mayfly;
            }
        }
        assert!(Instant::now() < deadline, "{connected}");
    }
}

async fn decides(served: Served) {
    let node = Node::start(asking(&served)).await;
    let mut client = is_asked_who_comes(&node).await;
    is_asked_who_may_subscribe(&mut client).await;
    is_asked_what_may_be_published(&mut client).await;

    // What ends is prolonged without the client's doing.
    let mut mayfly = mayfly(&node).await;
    counted(&node, "refresh", "ok", 1).await;
    counted(&node, "sub_refresh", "ok", 1).await;
    assert!(mayfly.call("presence", json!({"channel": "short"})).await["presence"].is_object());

    // Gone for good: nobody new gets in, who is there stays, and a token needs nobody's word.
    served.cx.shut_down().await;
    assert_eq!(code(&connect(&mut opened(&node).await, "42").await), (100, true));
    assert_eq!(code(&client.call("subscribe", json!({"channel": "other"})).await), (100, true));
    let holder = Client::connected(&node, &token(&user("43"))).await;
    counted(&node, "connect", "denied", 1).await;
    counted(&node, "connect", "ok", 2).await;
    counted(&node, "connect", "failed", 3).await;
    drop((client, mayfly, holder));
    node.wait_until_empty().await;
}

#[tokio::test]
async fn the_application_decides_over_grpc() {
    decides(Served::over_grpc().await).await;
}

#[tokio::test]
async fn the_application_decides_over_http() {
    decides(Served::over_http().await).await;
}

#[tokio::test]
async fn while_the_application_is_away_the_rest_of_the_configuration_may_hold() {
    let served = Served::over_http().await;
    let mut config = asking(&served);
    served.cx.shut_down().await;
    config.auth.allow_anonymous = true;
    config.channels.default.publish = Who::Everyone;
    let hooks = &mut config.backend.hooks;
    for hook in [&mut hooks.connect, &mut hooks.subscribe, &mut hooks.publish] {
        hook.when_away = Away::Allow;
    }
    let node = Node::start(config).await;
    let mut client = opened(&node).await;
    assert!(connect(&mut client, "42").await["connect"].is_object());
    assert_eq!(node.connections("", "").await.connections[0].user, "");
    assert!(client.call("subscribe", json!({"channel": "news"})).await["subscribe"].is_object());
    let answer = client.call("publish", json!({"channel": "news", "data": 7})).await;
    assert!(answer["publish"].is_object(), "{answer}");
    assert_eq!(client.publication().await, json!(7));
    drop(client);
    node.wait_until_empty().await;
}

#[tokio::test]
async fn servers_end_and_prolong_what_expires() {
    let mut config = config();
    config.websocket.refresh_within = Duration::ZERO;
    let node = Node::start(config).await;
    let mut client = Client::subscribed(&node, &token(&user("42")), "news").await;
    let request = |channel: &str, expire_at, expired| v1::RefreshRequest {
        user: "42".to_owned(),
        channel: channel.to_owned(),
        expire_at,
        expired,
        ..v1::RefreshRequest::default()
    };
    let refresh = async |request| {
        node.grpc("Refresh", request, async |mut api, request| api.refresh(request).await).await
    };
    let refused = refresh(request("", 1, false)).await.unwrap_err();
    assert_eq!(refused.reason(), "EXPIRE_AT_PAST");
    assert_eq!(refresh(request("other", 0, true)).await.unwrap().refreshed, 0);
    assert_eq!(refresh(request("news", 0, true)).await.unwrap().refreshed, 1);
    let line = client.line().await;
    assert_eq!(line["push"]["unsubscribe"]["code"], json!(2501), "{line}");
    assert_eq!(refresh(request("", crate::node::now_unix_s() + 4, false)).await.unwrap().refreshed, 1);
    assert_eq!(client.end().await.0, 3005);
    node.wait_until_empty().await;
}
