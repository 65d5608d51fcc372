use mainstay_auth::jwt::Claims;
use mainstay_proto::realtime::v1::{
    BroadcastRequest, HistoryRemoveRequest, HistoryRequest, PresenceRequest, PresenceStatsRequest,
    PublishRequest, PublishResponse, StreamPosition, SubscribeRequest, UnsubscribeRequest,
};
use mainstay_rpc::{ErrorCode, Failure};
use serde_json::{Value, json};
use ws_gateway::{ChannelsConfig, GatewayConfig, NamespaceConfig, Recovery, Who};

use crate::client::Client;
use crate::node::{Node, config, token, user};

/// A node with the namespace `room`, in which everything is on, and `last`, which remembers one publication.
async fn node() -> Node {
    let room = NamespaceConfig {
        publish: Who::Subscribers,
        presence: true,
        join_leave: true,
        history_size: 5,
        recovery: Recovery::Stream,
        ..NamespaceConfig::default()
    };
    let last = NamespaceConfig {
        history_size: 1,
        recovery: Recovery::Cache,
        force_recovery: true,
        ..NamespaceConfig::default()
    };
    let namespaces = [("room".to_owned(), room), ("last".to_owned(), last)].into();
    let channels = ChannelsConfig { namespaces, ..ChannelsConfig::default() };
    Node::start(GatewayConfig { channels, ..config() }).await
}

fn plain(channel: &str, data: &str) -> PublishRequest {
    PublishRequest { channel: channel.to_owned(), data: data.to_owned().into(), ..PublishRequest::default() }
}

async fn publish(node: &Node, request: PublishRequest) -> Result<PublishResponse, Failure> {
    node.grpc("Publish", request, async |mut api, request| api.publish(request).await).await
}

#[tokio::test]
async fn a_client_that_comes_back_gets_what_it_missed() {
    let node = node().await;
    let token = token(&user("42"));
    let mut client = Client::connected(&node, &token).await;
    let body = json!({"channel": "room:a", "recoverable": true, "positioned": true});
    let begun = client.call("subscribe", body).await["subscribe"].clone();
    assert_eq!((&begun["recoverable"], &begun["positioned"]), (&json!(true), &json!(true)), "{begun}");
    let epoch = begun["epoch"].as_str().unwrap().to_owned();
    let first = publish(&node, plain("room:a", "1")).await.unwrap();
    assert_eq!((first.receivers, first.offset, first.epoch.as_str()), (1, 1, epoch.as_str()));
    assert_eq!(
        client.line().await["push"],
        json!({"channel": "room:a", "pub": {"data": 1, "offset": 1, "epoch": epoch}})
    );
    drop(client);
    node.wait_until_empty().await;
    for n in 2..=4 {
        publish(&node, plain("room:a", &n.to_string())).await.unwrap();
    }

    let back = |offset: u64| json!({"channel": "room:a", "recover": true, "epoch": epoch, "offset": offset});
    let mut client = Client::connected(&node, &token).await;
    let begun = client.call("subscribe", back(1)).await["subscribe"].clone();
    assert_eq!((&begun["recovered"], &begun["was_recovering"]), (&json!(true), &json!(true)), "{begun}");
    assert_eq!(
        begun["publications"],
        json!([{"data": 2, "offset": 2}, {"data": 3, "offset": 3}, {"data": 4, "offset": 4}])
    );
    for n in 5..=8 {
        publish(&node, plain("room:a", &n.to_string())).await.unwrap();
        assert_eq!(client.publication().await, json!(n));
    }
    let mut late = Client::connected(&node, &token).await;
    let begun = late.call("subscribe", back(2)).await["subscribe"].clone();
    assert!(begun["recovered"].is_null() && begun["publications"].is_null(), "{begun}");
    assert_eq!((&begun["was_recovering"], &begun["offset"]), (&json!(true), &json!(8)));
    let mut strict = back(2);
    strict["flag"] = json!(2);
    let mut strict_client = Client::connected(&node, &token).await;
    assert_eq!(strict_client.call("subscribe", strict).await["error"]["code"], json!(112));
    let text = node.metrics();
    assert!(text.contains("mainstay_ws_recoveries_total{recovered=\"yes\"} 1"), "{text}");
}

#[tokio::test]
async fn a_channel_of_the_latest_value_gives_it_at_once() {
    let node = node().await;
    publish(&node, plain("last:price", "1")).await.unwrap();
    publish(&node, plain("last:price", "2")).await.unwrap();
    let mut client = Client::connected(&node, &token(&user("42"))).await;
    let begun = client.call("subscribe", json!({"channel": "last:price"})).await["subscribe"].clone();
    assert_eq!((&begun["recovered"], &begun["offset"]), (&json!(true), &json!(2)), "{begun}");
    assert_eq!(begun["publications"], json!([{"data": 2, "offset": 2}]));
}

#[tokio::test]
async fn channels_of_the_token_are_recovered_with_the_connection() {
    let node = node().await;
    let claims = Claims { channels: vec!["room:mine".into(), "plain".into()], ..user("42") };
    let token = token(&claims);
    for n in 1..=3 {
        publish(&node, plain("room:mine", &n.to_string())).await.unwrap();
    }
    let mut client = Client::open(&node).await;
    let subs = json!({"room:mine": {"recover": true, "offset": 1, "epoch": ""}});
    let answer = client.call("connect", json!({"token": token, "subs": subs})).await;
    let subs = &answer["connect"]["subs"];
    assert_eq!(subs["plain"], json!({}));
    assert_eq!(
        (&subs["room:mine"]["recovered"], &subs["room:mine"]["recoverable"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(subs["room:mine"]["publications"][1], json!({"data": 3, "offset": 3}));
    let id = answer["connect"]["client"].clone();
    // Told of its own coming, and only after the reply.
    assert_eq!(client.line().await["push"]["join"]["info"], json!({"user": "42", "client": id}));
    let again = client.call("subscribe", json!({"channel": "room:mine"})).await;
    assert_eq!(again["error"]["code"], json!(105));
}

#[tokio::test]
async fn everybody_sees_the_same_presence() {
    let node = node().await;
    let info = Some(json!({"name": "Ann"}));
    let ann = token(&Claims { info, ..user("ann") });
    let mut first = Client::connected(&node, &ann).await;
    let begun = first.call("subscribe", json!({"channel": "room:a", "join_leave": true})).await;
    assert!(begun["subscribe"].is_object(), "{begun}");
    let own = first.line().await["push"]["join"]["info"].clone();
    assert_eq!((&own["user"], &own["conn_info"]), (&json!("ann"), &json!({"name": "Ann"})));
    let mut second = Client::subscribed(&node, &token(&user("bob")), "room:a").await;
    let bob = first.line().await["push"]["join"]["info"].clone();
    assert_eq!(bob["user"], json!("bob"));

    let seen = second.call("presence", json!({"channel": "room:a"})).await["presence"]["presence"].clone();
    let key = |info: &Value| info["client"].as_str().unwrap().to_owned();
    assert_eq!(seen, json!({key(&own): own, key(&bob): bob}));
    let stats = first.call("presence_stats", json!({"channel": "room:a"})).await;
    assert_eq!(stats["presence_stats"], json!({"num_clients": 2, "num_users": 2}));
    let outsider = &mut Client::connected(&node, &ann).await;
    let denied = outsider.call("presence", json!({"channel": "room:a"})).await;
    assert_eq!(denied["error"]["code"], json!(103));

    let request = PresenceRequest { channel: "room:a".to_owned() };
    let listed =
        node.grpc("Read", request, async |mut api, request| api.presence(request).await).await.unwrap();
    let users: Vec<_> = listed.clients.iter().map(|client| client.user.as_str()).collect();
    assert_eq!((listed.total, users), (2, vec!["ann", "bob"]));
    assert_eq!(listed.clients[0].conn_info, "{\"name\":\"Ann\"}".as_bytes());

    drop(second);
    assert_eq!(first.line().await["push"]["leave"]["info"], bob);
    let stats = PresenceStatsRequest { channel: "room:a".to_owned() };
    let stats =
        node.grpc("Read", stats, async |mut api, request| api.presence_stats(request).await).await.unwrap();
    assert_eq!((stats.clients, stats.users), (1, 1));
    let request = PresenceRequest { channel: "plain".to_owned() };
    let off = node.grpc("Read", request, async |mut api, request| api.presence(request).await).await;
    let off = off.unwrap_err();
    assert_eq!((off.code(), off.reason()), (ErrorCode::FailedPrecondition, "PRESENCE_OFF"));
}

#[tokio::test]
async fn the_history_can_be_read_from_both_sides_and_removed() {
    let node = node().await;
    let mut client = Client::subscribed(&node, &token(&user("42")), "room:a").await;
    for n in 1..=7 {
        publish(&node, plain("room:a", &n.to_string())).await.unwrap();
    }
    let answer = client.call("history", json!({"channel": "room:a", "limit": 2, "reverse": true})).await;
    assert_eq!(
        answer["history"]["publications"],
        json!([{"data": 7, "offset": 7}, {"data": 6, "offset": 6}])
    );
    assert_eq!(answer["history"]["offset"], json!(7));
    let epoch = answer["history"]["epoch"].as_str().unwrap().to_owned();
    let answer = client.call("history", json!({"channel": "room:a"})).await;
    assert_eq!(answer["history"], json!({"epoch": epoch, "offset": 7}));
    let since = json!({"offset": 5, "epoch": "other"});
    let answer = client.call("history", json!({"channel": "room:a", "limit": 9, "since": since})).await;
    assert_eq!(answer["error"]["code"], json!(112));

    let request = HistoryRequest {
        channel: "room:a".to_owned(),
        limit: 100,
        since: Some(StreamPosition { offset: 4, epoch: epoch.clone() }),
        reverse: false,
    };
    let read = async |request| node.grpc("Read", request, async |mut api, r| api.history(r).await).await;
    let page = read(request.clone()).await.unwrap();
    let offsets: Vec<_> = page.publications.iter().map(|publication| publication.offset).collect();
    assert_eq!((offsets, page.position.unwrap().offset), (vec![5, 6, 7], 7));
    assert_eq!(page.publications[0].data, "5".as_bytes());
    let request =
        HistoryRequest { since: Some(StreamPosition { offset: 4, epoch: "other".into() }), ..request };
    assert_eq!(read(request).await.unwrap_err().reason(), "EPOCH_CHANGED");
    let off = HistoryRequest { channel: "plain".to_owned(), ..HistoryRequest::default() };
    assert_eq!(read(off).await.unwrap_err().reason(), "HISTORY_OFF");

    let remove = HistoryRemoveRequest { channel: "room:a".to_owned() };
    node.grpc("Publish", remove, async |mut api, r| api.history_remove(r).await).await.unwrap();
    let answer = client.call("history", json!({"channel": "room:a", "limit": -1})).await;
    assert_eq!(answer["history"], json!({"epoch": epoch, "offset": 7}));
    assert_eq!(publish(&node, plain("room:a", "8")).await.unwrap().offset, 8);
}

#[tokio::test]
async fn filters_let_through_what_the_subscriber_asked_for() {
    let node = node().await;
    let token = token(&user("42"));
    let tf = json!({"op": "and", "nodes": [
        {"key": "ticker", "cmp": "in", "vals": ["ACME", "INIT"]}, {"key": "price", "cmp": "gte", "val": "10"},
    ]});
    let mut client = Client::connected(&node, &token).await;
    let body = json!({"channel": "room:a", "tf": tf, "recoverable": true});
    assert!(client.call("subscribe", body).await["subscribe"].is_object());
    let tagged = |ticker: &str, price: &str| {
        let tags = [("ticker", ticker), ("price", price)];
        let tags = tags.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        PublishRequest { tags, ..plain("room:a", &format!("\"{ticker} {price}\"")) }
    };
    let mut receivers = Vec::new();
    for (ticker, price) in [("ACME", "9"), ("ACME", "10"), ("OTHER", "10"), ("INIT", "100.5")] {
        receivers.push(publish(&node, tagged(ticker, price)).await.unwrap().receivers);
    }
    assert_eq!(receivers, [0, 1, 0, 1]);
    assert_eq!(client.publication().await, json!("ACME 10"));
    assert_eq!(client.publication().await, json!("INIT 100.5"));
    drop(client);
    let mut client = Client::connected(&node, &token).await;
    let back = json!({"channel": "room:a", "tf": tf, "recover": true, "offset": 0, "epoch": ""});
    let begun = client.call("subscribe", back).await["subscribe"].clone();
    let offsets: Vec<_> =
        begun["publications"].as_array().unwrap().iter().map(|one| one["offset"].clone()).collect();
    assert_eq!((offsets, &begun["recovered"]), (vec![json!(2), json!(4)], &json!(true)));
}

#[tokio::test]
async fn servers_publish_once_and_may_leave_somebody_out() {
    let node = node().await;
    let mut ann = Client::subscribed(&node, &token(&user("ann")), "a").await;
    let mut bob = Client::subscribed(&node, &token(&user("bob")), "a").await;
    let request = PublishRequest { exclude_user: "ann".to_owned(), ..plain("a", "1") };
    assert_eq!(publish(&node, request).await.unwrap().receivers, 1);
    let id = node.connections("bob", "").await.connections[0].client.clone();
    let request = PublishRequest { exclude_client: id, ..plain("a", "2") };
    assert_eq!(publish(&node, request).await.unwrap().receivers, 1);
    let keyed = PublishRequest { idempotency_key: "k".to_owned(), ..plain("a", "3") };
    assert!(!publish(&node, keyed.clone()).await.unwrap().duplicate);
    let again = publish(&node, keyed).await.unwrap();
    assert_eq!((again.duplicate, again.receivers), (true, 2));
    let broadcast = BroadcastRequest {
        channels: vec!["a".to_owned(), "unknown:a".to_owned()],
        data: "4".into(),
        idempotency_key: "k".to_owned(),
        ..BroadcastRequest::default()
    };
    let answer = node.grpc("Publish", broadcast, async |mut api, r| api.broadcast(r).await).await.unwrap();
    assert!(answer.results[0].duplicate);
    assert_eq!(answer.results[1].error_code, "NAMESPACE_UNKNOWN");
    publish(&node, plain("a", "5")).await.unwrap();
    for (client, expected) in [(&mut ann, [2, 3, 5]), (&mut bob, [1, 3, 5])] {
        for n in expected {
            assert_eq!(client.publication().await, json!(n));
        }
    }
    let request = PublishRequest { exclude_client: "bob".to_owned(), ..plain("a", "6") };
    assert_eq!(publish(&node, request).await.unwrap_err().reason(), "CLIENT_INVALID");
    let unknown = publish(&node, plain("unknown:a", "7")).await.unwrap_err();
    assert_eq!((unknown.code(), unknown.reason()), (ErrorCode::NotFound, "NAMESPACE_UNKNOWN"));
}

#[tokio::test]
async fn servers_subscribe_users_and_end_it_again() {
    let node = node().await;
    let mut client = Client::connected(&node, &token(&user("42"))).await;
    let request = SubscribeRequest {
        user: "42".to_owned(),
        channel: "room:private#7".to_owned(),
        ..SubscribeRequest::default()
    };
    let subscribe =
        async |request| node.grpc("Publish", request, async |mut api, r| api.subscribe(r).await).await;
    assert_eq!(subscribe(request.clone()).await.unwrap().subscribed, 1);
    assert_eq!(subscribe(request.clone()).await.unwrap().subscribed, 0);
    let push = client.line().await["push"].clone();
    assert_eq!(push["channel"], json!("room:private#7"));
    assert_eq!(
        (&push["subscribe"]["recoverable"], &push["subscribe"]["positioned"]),
        (&json!(true), &json!(true))
    );
    assert!(client.line().await["push"]["join"].is_object());
    assert_eq!(publish(&node, plain("room:private#7", "1")).await.unwrap().receivers, 1);
    assert_eq!(client.publication().await, json!(1));

    let request =
        UnsubscribeRequest { user: "42".to_owned(), channel: request.channel, client: String::new() };
    let answer = node.grpc("Publish", request, async |mut api, r| api.unsubscribe(r).await).await.unwrap();
    assert_eq!(answer.unsubscribed, 1);
    assert_eq!(
        client.line().await["push"]["unsubscribe"],
        json!({"code": 2000, "reason": "server unsubscribe"})
    );
    assert_eq!(publish(&node, plain("room:private#7", "2")).await.unwrap().receivers, 0);
    let request = SubscribeRequest { channel: "a".to_owned(), ..SubscribeRequest::default() };
    assert_eq!(subscribe(request).await.unwrap_err().reason(), "USER_INVALID");
}

#[tokio::test]
async fn private_channels_take_a_subscription_token() {
    let node = node().await;
    let mut client = Client::connected(&node, &token(&user("42"))).await;
    let denied = client.call("subscribe", json!({"channel": "$vip"})).await;
    assert_eq!(denied["error"]["code"], json!(103));
    let permit = token(&Claims { channel: Some("$vip".into()), ..user("42") });
    let begun = client.call("subscribe", json!({"channel": "$vip", "token": permit})).await;
    assert_eq!(begun["subscribe"]["expires"], json!(true), "{begun}");
    let refreshed = client.call("sub_refresh", json!({"channel": "$vip", "token": permit})).await;
    assert_eq!(refreshed["sub_refresh"]["expires"], json!(true), "{refreshed}");
    assert_eq!(publish(&node, plain("$vip", "1")).await.unwrap().receivers, 1);
    assert_eq!(client.publication().await, json!(1));
    let published = client.call("publish", json!({"channel": "room:a", "data": 1})).await;
    assert_eq!(published["error"]["code"], json!(103), "only subscribers publish there");
}
