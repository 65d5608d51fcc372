use mainstay_proto::realtime::v1::PublishRequest;
use serde_json::{Value, json};
use ws_gateway::{ChannelsConfig, GatewayConfig, NamespaceConfig, Recovery};

use crate::client::Client;
use crate::node::{Node, config, token, user};

async fn node() -> Node {
    let doc = NamespaceConfig {
        delta: true,
        history_size: 5,
        recovery: Recovery::Stream,
        ..NamespaceConfig::default()
    };
    let namespaces = [
        ("doc".to_owned(), doc.clone()),
        (
            "last".to_owned(),
            NamespaceConfig { recovery: Recovery::Cache, force_recovery: true, ..doc.clone() },
        ),
        ("plain".to_owned(), NamespaceConfig { delta: false, ..doc }),
    ];
    let channels = ChannelsConfig { namespaces: namespaces.into(), ..ChannelsConfig::default() };
    Node::start(GatewayConfig { channels, ..config() }).await
}

fn document(n: u32) -> Value {
    json!({"n": n, "text": "a text that stays the same from one publication to the next, \"quoted\" \u{e4}\u{f6}"})
}

async fn subscribe(node: &Node, body: Value) -> (Client, Value) {
    let mut client = Client::connected(node, &token(&user("42"))).await;
    let begun = client.call("subscribe", body).await["subscribe"].clone();
    (client, begun)
}

/// Returns the next publication: whether it is a patch, and its data.
async fn next(client: &mut Client) -> (Value, String) {
    let publication = client.line().await["push"]["pub"].clone();
    let data = publication["data"].as_str().unwrap_or_else(|| panic!("{publication}")).to_owned();
    (publication["delta"].clone(), data)
}

#[tokio::test]
async fn after_the_first_publication_only_changes_are_sent() {
    let node = node().await;
    let (mut client, begun) = subscribe(&node, json!({"channel": "doc:a", "delta": "fossil"})).await;
    assert_eq!(begun["delta"], json!(true), "{begun}");
    let (mut other, _) = subscribe(&node, json!({"channel": "doc:a"})).await;
    for n in 1..=3 {
        node.publish("doc:a", &document(n).to_string()).await.unwrap();
    }
    let whole = document(1).to_string();
    assert_eq!(next(&mut client).await, (json!(false), whole.clone()));
    for _ in 2..=3 {
        let (delta, patch) = next(&mut client).await;
        assert_eq!(delta, json!(true));
        assert!(patch.len() < whole.len() / 2 && patch.ends_with(';'), "{patch}");
    }
    for n in 1..=3 {
        assert_eq!(other.publication().await, document(n));
    }
    let text = node.metrics();
    assert!(text.contains("mainstay_ws_delta_patches_total 2"), "{text}");
    assert!(text.contains("mainstay_ws_delta_wholes_total 1"), "{text}");
}

#[tokio::test]
async fn whoever_did_not_get_the_last_publication_gets_the_next_one_whole() {
    let node = node().await;
    let (mut client, _) = subscribe(&node, json!({"channel": "doc:a", "delta": "fossil"})).await;
    let (mut late, _) = subscribe(&node, json!({"channel": "doc:b", "delta": "fossil"})).await;
    let publish = async |n: u32, exclude_user: &str| {
        let request = PublishRequest {
            channel: "doc:a".to_owned(),
            data: document(n).to_string().into(),
            exclude_user: exclude_user.to_owned(),
            ..PublishRequest::default()
        };
        node.grpc("Publish", request, async |mut api, request| api.publish(request).await).await.unwrap();
    };
    publish(1, "").await;
    late.call("subscribe", json!({"channel": "doc:a", "delta": "fossil"})).await;
    publish(2, "").await;
    assert_eq!(next(&mut client).await.0, json!(false));
    assert_eq!(next(&mut client).await.0, json!(true));
    assert_eq!(next(&mut late).await, (json!(false), document(2).to_string()));
    publish(3, "42").await;
    publish(4, "").await;
    publish(5, "").await;
    for client in [&mut client, &mut late] {
        assert_eq!(next(client).await, (json!(false), document(4).to_string()));
        assert_eq!(next(client).await.0, json!(true));
    }
}

#[tokio::test]
async fn what_is_recovered_comes_whole_and_changes_follow() {
    let node = node().await;
    for n in 1..=3 {
        node.publish("doc:a", &document(n).to_string()).await.unwrap();
        node.publish("last:a", &document(n).to_string()).await.unwrap();
    }
    let body = json!({"channel": "doc:a", "delta": "fossil", "recover": true, "offset": 1, "epoch": ""});
    let (mut client, begun) = subscribe(&node, body).await;
    let text = |n| json!({"data": document(n).to_string(), "delta": false, "offset": n});
    assert_eq!((&begun["recovered"], &begun["publications"]), (&json!(true), &json!([text(2), text(3)])));
    let (_, begun) = subscribe(&node, json!({"channel": "last:a", "delta": "fossil"})).await;
    assert_eq!(begun["publications"], json!([text(3)]));
    for n in 4..=5 {
        node.publish("doc:a", &document(n).to_string()).await.unwrap();
    }
    assert_eq!(next(&mut client).await.0, json!(false));
    assert_eq!(next(&mut client).await.0, json!(true));
}

#[tokio::test]
async fn deltas_are_not_offered_where_they_are_off_or_make_no_sense() {
    let node = node().await;
    let filter = json!({"key": "a", "cmp": "ex"});
    for body in [
        json!({"channel": "plain:a", "delta": "fossil"}),
        json!({"channel": "doc:a", "delta": "another kind"}),
        json!({"channel": "doc:a", "delta": "fossil", "tf": filter}),
    ] {
        let (_, begun) = subscribe(&node, body).await;
        assert!(begun.is_object() && begun["delta"].is_null(), "{begun}");
    }
}
