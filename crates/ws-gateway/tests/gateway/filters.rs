//! What clients may see of a channel, by tags, whoever says so and whatever they ask for.

use mainstay_auth::jwt::{Claims, SubscriptionClaims};
use mainstay_proto::realtime::v1::{PublishRequest, SubscribeRequest, SubscribeResponse};
use serde_json::{Value, json};
use ws_gateway::{
    BackendConfig, ChannelHook, ConnectionHook, GatewayConfig, HookConfig, HooksConfig, NamespaceConfig,
    Recovery, Who,
};

use crate::application::Served;
use crate::client::Client;
use crate::cluster::{redis, single, subscribe, with_redis};
use crate::node::{Node, PATIENCE, config, token, user};

const FREE: &str = r#"{"key": "tier", "cmp": "eq", "val": "free"}"#;

/// Shows nothing but what is free in the namespace `t`, and all in `o`; both keep a history.
fn filtered(mut config: GatewayConfig) -> GatewayConfig {
    let open = NamespaceConfig {
        history_size: 100,
        recovery: Recovery::Stream,
        see_history: Who::Everyone,
        ..NamespaceConfig::default()
    };
    let t = NamespaceConfig { filter: FREE.to_owned(), ..open.clone() };
    let o = NamespaceConfig { delta: true, ..open };
    config.channels.namespaces.extend([("t".to_owned(), t), ("o".to_owned(), o)]);
    config
}

async fn publish(node: &Node, channel: &str, n: u64, tags: &[(&str, &str)]) {
    let request = PublishRequest {
        channel: channel.to_owned(),
        data: n.to_string().into(),
        tags: tags.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
        ..PublishRequest::default()
    };
    node.grpc("Publish", request, async |mut api, request| api.publish(request).await).await.unwrap();
}

/// Publishes one after the other, all but the multiples of two free and all but those of three about tennis.
async fn publish_all(node: &Node, channel: &str, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        let tier = if n % 2 == 0 { "paid" } else { "free" };
        let sport = if n % 3 == 0 { "golf" } else { "tennis" };
        publish(node, channel, n, &[("tier", tier), ("sport", sport)]).await;
    }
}

/// Reads publications until the last; gives their numbers, which are their places too.
async fn seen(client: &mut Client, last: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        let line = client.line().await;
        let publication = &line["push"]["pub"];
        assert_eq!(publication["data"], publication["offset"], "{line}");
        seen.extend(publication["data"].as_u64());
    }
    seen
}

fn numbers(begun: &Value) -> Vec<u64> {
    let publications = begun["publications"].as_array();
    publications.into_iter().flatten().map(|publication| publication["data"].as_u64().unwrap()).collect()
}

fn not(filter: &str) -> Value {
    let filter: Value = serde_json::from_str(filter).unwrap();
    json!({"op": "not", "nodes": [filter]})
}

async fn history(client: &mut Client, request: Value) -> Vec<u64> {
    let answer = client.call("history", request).await;
    assert!(answer["history"].is_object(), "{answer}");
    numbers(&answer["history"])
}

async fn a_namespace_holds_back(near: &Node, far: &Node) {
    let token = token(&user("42"));
    let tennis = json!({"key": "sport", "cmp": "eq", "val": "tennis"});
    let mut plain = Client::connected(near, &token).await;
    let mut fan = Client::connected(far, &token).await;
    let mut thief = Client::connected(far, &token).await;
    let wish = |tf: Value| json!({"channel": "t:x", "recoverable": true, "delta": "fossil", "tf": tf});
    let begun = subscribe(&mut plain, json!({"channel": "t:x", "recoverable": true})).await;
    let delta = subscribe(&mut fan, wish(tennis.clone())).await;
    assert!(delta["delta"].is_null(), "{delta}");
    subscribe(&mut thief, wish(not(FREE))).await;
    publish_all(far, "t:x", 1..=13).await;
    assert_eq!(seen(&mut plain, 13).await, [1, 3, 5, 7, 9, 11, 13]);
    assert_eq!(seen(&mut fan, 13).await, [1, 5, 7, 11, 13]);

    // Who comes back gets what is for it, is told that this was all, and goes on.
    drop((plain, fan));
    publish_all(near, "t:x", 14..=20).await;
    let recover = |offset: u64, tf: Option<&Value>| json!({"channel": "t:x", "recover": true, "epoch": begun["epoch"], "offset": offset, "tf": tf});
    let mut plain = Client::connected(far, &token).await;
    let mut fan = Client::connected(near, &token).await;
    let again = subscribe(&mut plain, recover(13, None)).await;
    assert_eq!((&again["recovered"], numbers(&again)), (&json!(true), vec![15, 17, 19]), "{again}");
    let again = subscribe(&mut fan, recover(5, Some(&tennis))).await;
    assert_eq!((&again["recovered"], numbers(&again)), (&json!(true), vec![7, 11, 13, 17, 19]), "{again}");
    publish_all(near, "t:x", 21..=25).await;
    assert_eq!(seen(&mut plain, 25).await, [21, 23, 25]);
    assert_eq!(seen(&mut fan, 25).await, [23, 25]);

    // The history is no way round it, for subscribers and for others.
    let mut other = Client::connected(near, &token).await;
    for client in [&mut plain, &mut other, &mut thief] {
        let odd: Vec<u64> = (1..=25).filter(|n| n % 2 == 1).collect();
        assert_eq!(history(client, json!({"channel": "t:x", "limit": -1})).await, odd);
        let epoch = &begun["epoch"];
        let after = json!({"channel": "t:x", "limit": 1, "since": {"offset": 1, "epoch": epoch}});
        assert_eq!(history(client, after).await, [3], "the page after one of which nothing is seen");
        let before =
            json!({"channel": "t:x", "limit": 1, "reverse": true, "since": {"offset": 25, "epoch": epoch}});
        assert_eq!(history(client, before).await, [23]);
        let end = json!({"channel": "t:x", "limit": 1, "since": {"offset": 25, "epoch": epoch}});
        assert_eq!(history(client, end).await, [0; 0]);
    }
    // Nothing came to it meanwhile: the next line is the answer.
    assert!(thief.waiting().is_none());
    drop((plain, fan, other, thief));
    for node in [near, far] {
        node.wait_until_empty().await;
    }
}

#[tokio::test]
async fn what_a_namespace_holds_back_is_seen_by_no_way() {
    let node = Node::start(filtered(config())).await;
    a_namespace_holds_back(&node, &node).await;
}

#[tokio::test]
async fn what_a_namespace_holds_back_is_seen_on_no_node() {
    let stack = redis().await;
    let near = Node::joined(filtered(with_redis(single(&stack)))).await;
    let far = Node::joined(filtered(with_redis(single(&stack)))).await;
    a_namespace_holds_back(&near, &far).await;
    for node in [&near, &far] {
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

fn pass(channel: &str, tf: Value) -> String {
    token(&Claims { channel: Some(channel.to_owned()), tf: Some(tf), ..user("42") })
}

#[tokio::test]
async fn a_token_says_what_its_holder_sees() {
    let node = Node::start(filtered(config())).await;
    let plain = token(&user("42"));
    let sport = |name: &str| json!({"key": "sport", "cmp": "eq", "val": name});
    let mut client = Client::connected(&node, &plain).await;
    for broken in [json!("free"), json!([]), json!({"key": "sport", "cmp": "neq", "value": "golf"})] {
        let wish = json!({"channel": "o:x", "token": pass("o:x", broken.clone())});
        assert_eq!(client.call("subscribe", wish).await["error"]["code"], 103, "{broken}");
    }
    let wish = json!({"channel": "o:x", "token": pass("o:x", sport("tennis")), "recoverable": true,
        "delta": "fossil", "tf": not(FREE)});
    let begun = subscribe(&mut client, wish).await;
    assert!(begun["delta"].is_null(), "{begun}");
    publish_all(&node, "o:x", 1..=10).await;
    assert_eq!(seen(&mut client, 10).await, [2, 4, 8, 10]);

    // The same again changes nothing; another ends the subscription, which begins again by it.
    let refresh = |tf| json!({"channel": "o:x", "token": pass("o:x", tf)});
    assert!(client.call("sub_refresh", refresh(sport("tennis"))).await["sub_refresh"].is_object());
    assert!(client.call("sub_refresh", refresh(sport("golf"))).await["sub_refresh"].is_object());
    let line = client.line().await;
    assert_eq!(line["push"]["unsubscribe"]["code"], 2501, "{line}");
    publish_all(&node, "o:x", 11..=15).await;
    let wish = json!({"channel": "o:x", "token": pass("o:x", sport("golf")), "recover": true,
        "epoch": begun["epoch"], "offset": 10});
    let again = subscribe(&mut client, wish).await;
    assert_eq!((&again["recovered"], numbers(&again)), (&json!(true), vec![12, 15]), "{again}");
    assert_eq!(history(&mut client, json!({"channel": "o:x", "limit": -1})).await, [3, 6, 9, 12, 15]);

    // A namespace and a token both have to let it through.
    let mut both = Client::connected(&node, &plain).await;
    subscribe(&mut both, json!({"channel": "t:y", "token": pass("t:y", sport("golf"))})).await;
    publish_all(&node, "t:y", 1..=9).await;
    assert_eq!(seen(&mut both, 9).await, [3, 9]);
    drop((client, both));
    node.wait_until_empty().await;
}

#[tokio::test]
async fn a_connection_token_says_what_is_seen_of_its_channels() {
    let node = Node::start(filtered(config())).await;
    let subs = |tf: Value| {
        let claims = SubscriptionClaims { tf: Some(tf), ..SubscriptionClaims::default() };
        token(&Claims {
            subs: [("o:s".to_owned(), claims)].into(),
            channels: vec!["t:s".into()],
            ..user("42")
        })
    };
    let mut refused = Client::open(&node).await;
    refused.text(&json!({"id": 1, "connect": {"token": subs(json!({"op": "nand"}))}}).to_string()).await;
    assert_eq!(refused.end().await.0, 3500);

    let paid = subs(json!({"key": "tier", "cmp": "eq", "val": "paid"}));
    let mut client = Client::connected(&node, &paid).await;
    publish_all(&node, "o:s", 1..=4).await;
    assert_eq!(seen(&mut client, 4).await, [2, 4]);
    publish_all(&node, "t:s", 1..=5).await;
    assert_eq!(seen(&mut client, 5).await, [1, 3, 5]);
    let line = format!("mainstay_ws_publications_filtered_total {}", 2 + 2);
    node.wait_for_metric(&line).await;
}

#[tokio::test]
async fn the_application_says_what_a_client_sees() {
    for served in [Served::over_grpc().await, Served::over_http().await] {
        let hook = HookConfig { within: PATIENCE, ..HookConfig::default() };
        let mut config = filtered(config());
        for name in ["t", "o"] {
            config.channels.namespaces.get_mut(name).unwrap().ask = vec![ChannelHook::Subscribe];
        }
        let hooks = HooksConfig { subscribe: hook, ..HooksConfig::default() };
        let (grpc, http) = (served.grpc.clone(), served.http.clone());
        config.backend = BackendConfig { grpc, http, hooks, ..BackendConfig::default() };
        let node = Node::start(config).await;
        let mut client = Client::connected(&node, &token(&user("42"))).await;
        let nonsense = client.call("subscribe", json!({"channel": "o:nonsense"})).await;
        assert_eq!(nonsense["error"]["code"], 100, "{nonsense}");
        for (channel, expected) in [("o:golf", vec![3, 6, 9]), ("t:golf", vec![3, 9])] {
            subscribe(&mut client, json!({"channel": channel})).await;
            publish_all(&node, channel, 1..=9).await;
            assert_eq!(seen(&mut client, 9).await, expected, "{channel}");
        }
    }
}

#[tokio::test]
async fn the_application_says_what_is_seen_of_the_channels_it_gives() {
    for served in [Served::over_grpc().await, Served::over_http().await] {
        let hook = HookConfig { within: PATIENCE, ..HookConfig::default() };
        let hooks =
            HooksConfig { ask: vec![ConnectionHook::Connect], connect: hook, ..HooksConfig::default() };
        let (grpc, http) = (served.grpc.clone(), served.http.clone());
        let mut config = filtered(config());
        config.backend = BackendConfig { grpc, http, hooks, ..BackendConfig::default() };
        let node = Node::start(config).await;
        let connect = async |request: Value| {
            let mut client = Client::open(&node).await;
            let answer = client.call("connect", request).await;
            (client, answer)
        };
        for wish in ["nonsense", "elsewhere"] {
            let (_, answer) = connect(json!({"data": {"as": wish}})).await;
            assert_eq!(answer["error"]["code"], 100, "{wish}: {answer}");
        }
        let (mut fan, answer) = connect(json!({"data": {"as": "fan"}})).await;
        let epoch = answer["connect"]["subs"]["o:s"]["epoch"].clone();
        publish_all(&node, "o:s", 1..=9).await;
        assert_eq!(seen(&mut fan, 9).await, [3, 6, 9]);
        publish_all(&node, "t:s", 1..=5).await;
        assert_eq!(seen(&mut fan, 5).await, [1, 3, 5], "the namespace alone");
        assert_eq!(history(&mut fan, json!({"channel": "o:s", "limit": -1})).await, [3, 6, 9]);

        // Who comes back is given what is for it, is told that this was all, and goes on.
        drop(fan);
        publish_all(&node, "o:s", 10..=20).await;
        let was = json!({"o:s": {"recover": true, "offset": 9, "epoch": epoch}});
        let (mut fan, answer) = connect(json!({"data": {"as": "fan"}, "subs": was})).await;
        let again = &answer["connect"]["subs"]["o:s"];
        assert_eq!((&again["recovered"], numbers(again)), (&json!(true), vec![12, 15, 18]), "{answer}");
        publish_all(&node, "o:s", 21..=24).await;
        assert_eq!(seen(&mut fan, 24).await, [21, 24]);
        drop(fan);
        node.wait_until_empty().await;
    }
}

async fn a_server_says_what_is_seen(near: &Node, far: &Node) {
    let token = token(&user("42"));
    let subscribe = async |channel: &str, filter: Value| {
        let request = SubscribeRequest {
            user: "42".to_owned(),
            channel: channel.to_owned(),
            filter: filter.to_string().into(),
            ..SubscribeRequest::default()
        };
        near.grpc("Publish", request, async |mut api, request| api.subscribe(request).await).await
    };
    let n_new = |answer: SubscribeResponse| (answer.subscribed, answer.missing_nodes);
    let sport = |name: &str| json!({"key": "sport", "cmp": "eq", "val": name});
    let mut clients = [Client::connected(near, &token).await, Client::connected(far, &token).await];
    for broken in [json!("free"), json!([]), json!({"key": "sport", "cmp": "eq", "value": "golf"})] {
        assert_eq!(subscribe("o:x", broken).await.unwrap_err().reason(), "FILTER_INVALID");
    }
    assert_eq!(n_new(subscribe("o:x", sport("golf")).await.unwrap()), (2, Vec::new()));
    assert_eq!(n_new(subscribe("t:x", sport("golf")).await.unwrap()), (2, Vec::new()));
    assert_eq!(n_new(subscribe("o:x", sport("tennis")).await.unwrap()), (0, Vec::new()), "it has one");
    publish_all(far, "o:x", 1..=9).await;
    publish_all(far, "t:x", 1..=9).await;
    for client in &mut clients {
        assert_eq!(seen(client, 9).await, [3, 6, 9]);
        assert_eq!(seen(client, 9).await, [3, 9], "the namespace as well");
        assert_eq!(history(client, json!({"channel": "o:x", "limit": -1})).await, [3, 6, 9]);
    }
}

#[tokio::test]
async fn a_server_says_what_is_seen_by_whom_it_subscribes() {
    let node = Node::start(filtered(config())).await;
    a_server_says_what_is_seen(&node, &node).await;
    node.wait_until_empty().await;
}

#[tokio::test]
async fn a_server_says_what_is_seen_on_every_node() {
    let stack = redis().await;
    let near = Node::joined(filtered(with_redis(single(&stack)))).await;
    let far = Node::joined(filtered(with_redis(single(&stack)))).await;
    far.knows(2).await;
    a_server_says_what_is_seen(&near, &far).await;
    for node in [&near, &far] {
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}
