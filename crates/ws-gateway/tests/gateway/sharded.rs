//! Nodes over a Redis Cluster: three primaries with a replica each, over which the channels are spread.

use std::sync::Arc;
use std::time::Duration;

use mainstay_devstack::{Devstack, RedisCluster, RedisNode, RedisReply, wait_until};
use mainstay_proto::realtime::v1::Reach;
use mainstay_runtime::Secret;
use serde_json::{Value, json};
use tokio::time::Instant;
use ws_gateway::{BrokerConfig, GatewayConfig, RedisConfig, RedisMode};

use crate::client::Client;
use crate::cluster::{subscribe, with_redis};
use crate::node::{Node, PATIENCE, token, user};
use crate::upheaval::Crowd;
use crate::{feeds, nodes, peers, put_feeds};

const PARTITIONS: u16 = 8;
/// Enough for every primary to have some.
const N_CHANNELS: usize = 12;
const LOOK_EVERY: Duration = Duration::from_millis(10);

async fn stack() -> Devstack {
    Devstack::builder().redis_cluster(true).start().await.unwrap()
}

/// Names two of the nodes, as an operator would. Each test with the same cluster has a prefix of its own.
fn sharded(stack: &Devstack, prefix: &str) -> RedisConfig {
    let cluster = stack.redis_cluster().unwrap();
    RedisConfig {
        mode: RedisMode::Cluster,
        nodes: cluster.nodes()[1..3].iter().map(|node| node.address().to_string()).collect(),
        partitions: PARTITIONS,
        password: Secret::from(cluster.password()),
        prefix: prefix.to_owned(),
        ..RedisConfig::default()
    }
}

/// Two nodes.
async fn pair(redis: &RedisConfig) -> Arc<Vec<Node>> {
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let config = with_redis(redis.clone());
        let broker = BrokerConfig { silent_for: Duration::from_millis(700), ..config.broker.clone() };
        nodes.push(Node::joined(GatewayConfig { broker, ..config }).await);
    }
    Arc::new(nodes)
}

/// Finds the primary that keeps the history of a channel, and the slot of it.
async fn holder<'c>(cluster: &'c RedisCluster, channel: &str) -> (&'c RedisNode, u16) {
    let wanted = format!("ws:{{{channel}}}m");
    for node in cluster.nodes() {
        let RedisReply::List(role) = node.command(&["ROLE"]).await.unwrap() else { panic!("no role") };
        let RedisReply::List(keys) = node.command(&["KEYS", "*"]).await.unwrap() else { continue };
        let found = keys.iter().filter_map(RedisReply::text).find(|key| key.ends_with(&wanted));
        if let Some(key) = found.filter(|_| role[0].text() == Some("master")) {
            let RedisReply::Integer(slot) = node.command(&["CLUSTER", "KEYSLOT", key]).await.unwrap() else {
                panic!("no slot")
            };
            return (node, u16::try_from(slot).unwrap());
        }
    }
    panic!("nobody has {channel}")
}

/// Publishes into some channels and finds, for each, who has it.
async fn spread<'c>(cluster: &'c RedisCluster, node: &Node) -> Vec<(String, &'c RedisNode, u16)> {
    let mut channels = Vec::new();
    for n in 0..N_CHANNELS {
        let channel = format!("m:{n}");
        let published = node.publish_with_key(&channel, "0", "").await.unwrap();
        assert_eq!(published.reach(), Reach::EveryNode);
        let (holder, slot) = holder(cluster, &channel).await;
        channels.push((channel, holder, slot));
    }
    channels
}

fn is_published_in(line: &Value, channel: &str) -> bool {
    line["push"]["channel"] == json!(channel) && line["push"]["pub"].is_object()
}

async fn end(stack: Devstack, nodes: &[Node]) {
    for node in nodes {
        node.wait_until_empty().await;
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_are_spread_and_each_is_as_on_one_server() {
    let stack = stack().await;
    let cluster = stack.redis_cluster().unwrap();
    let nodes = pair(&sharded(&stack, "spread:")).await;
    let channels = spread(cluster, &nodes[0]).await;
    for primary in &cluster.nodes()[..3] {
        assert!(channels.iter().any(|(_, holder, _)| holder.address() == primary.address()));
    }
    let mut client = Client::connected(&nodes[1], &token(&user("a"))).await;
    for (channel, ..) in &channels {
        subscribe(&mut client, json!({"channel": channel, "recover": true, "offset": 1})).await;
        let published = nodes[0].publish_with_key(channel, "1", "").await.unwrap();
        assert_eq!((published.offset, published.nodes), (2, 1), "{channel}");
        assert_eq!(client.publication().await, json!(1));
    }
    nodes[1].wait_for_metric(&format!("mainstay_ws_broker_channels {N_CHANNELS}")).await;
    drop(client);
    nodes[1].wait_for_metric("mainstay_ws_broker_channels 0").await;
    for node in nodes.iter() {
        node.wait_until_empty().await;
        node.cx.shut_down().await;
    }
    nodes::publications_reach_every_node(sharded(&stack, "nodes:")).await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_know_each_other_over_a_cluster() {
    let stack = stack().await;
    peers::nodes_speak_for_all(sharded(&stack, "peers:")).await;
    peers::members_of_the_dead_leave_once(sharded(&stack, "wills:")).await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feeds_are_run_by_one_node_over_a_cluster() {
    let stack = stack().await;
    feeds::a_feed_is_handed_over(sharded(&stack, "lease:")).await;
    feeds::a_feed_of_the_dead_is_taken_over(sharded(&stack, "dead:")).await;
    let primaries: Vec<&RedisNode> = stack.redis_cluster().unwrap().nodes()[..3].iter().collect();
    Box::pin(put_feeds::feeds_are_the_same_on_all_nodes(sharded(&stack, "put:"), &primaries)).await;
    stack.stop().await.unwrap();
}

/// The primary of one shard is killed; the channels of the others do not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_loses_its_primary_comes_back_and_the_others_go_on() {
    let stack = stack().await;
    let cluster = stack.redis_cluster().unwrap();
    let nodes = pair(&sharded(&stack, "killed:")).await;
    let channels = spread(cluster, &nodes[0]).await;
    let (lost_channel, lost, slot) = &channels[0];
    let kept = channels.iter().find(|(_, holder, _)| holder.address() != lost.address());
    let (kept_channel, ..) = kept.unwrap();
    let [hit, spared] = [Crowd::start(&nodes, lost_channel, 1), Crowd::start(&nodes, kept_channel, 2)];
    tokio::join!(hit.returns(1), spared.returns(1));

    lost.kill().await.unwrap();
    let lost_at = Instant::now();
    let metric = |line: &str| nodes[0].metrics().lines().any(|found| found == line);
    wait_until("the loss to be seen", LOOK_EVERY, PATIENCE, || async {
        if metric("mainstay_ws_broker_connected 0") { Ok(()) } else { Err("all is heard".to_owned()) }
    })
    .await
    .unwrap();
    assert!(!metric("mainstay_ws_broker_deaf_partitions 8"), "the others are heard");
    wait_until("a replica to be promoted", LOOK_EVERY, PATIENCE, || async {
        cluster.owner(*slot).await.map(drop).map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    println!("kill -9: a replica was promoted after {:?}", lost_at.elapsed());
    for node in nodes.iter() {
        node.wait_until_heard(true).await;
    }
    println!("kill -9: everything is heard again after {:?}", lost_at.elapsed());
    tokio::join!(hit.returns(6), spared.returns(6));
    lost.start().await.unwrap();
    cluster.wait_settled().await.unwrap();
    let (hit, spared) = (hit.settle().await, spared.settle().await);
    println!("kill -9: the shard: {hit:?}");
    println!("kill -9: elsewhere: {spared:?}");
    // A numbering ends with its server, and who counts positions is told so.
    assert!(hit.n_lost > 0);
    assert_eq!(spared.n_lost, 0);
    assert!(spared.gap < hit.gap, "{spared:?} {hit:?}");
    end(stack, &nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_is_moved_while_it_is_published_into() {
    let stack = stack().await;
    let cluster = stack.redis_cluster().unwrap();
    // Moving takes this machine a moment, and what waits for it is to be taken.
    let command_within = Duration::from_secs(5);
    let nodes = pair(&RedisConfig { command_within, ..sharded(&stack, "moved:") }).await;
    let channels = spread(cluster, &nodes[0]).await;
    let (moved_channel, from, slot) = &channels[0];
    let (kept_channel, ..) = channels.iter().find(|(_, _, other)| other != slot).unwrap();
    let to = cluster.nodes()[..3].iter().find(|node| node.address() != from.address()).unwrap();
    let [moved, kept] = [Crowd::start(&nodes, moved_channel, 1), Crowd::start(&nodes, kept_channel, 2)];
    tokio::join!(moved.returns(1), kept.returns(1));

    let began = Instant::now();
    cluster.begin_move(*slot, from, to).await.unwrap();
    while cluster.move_keys(*slot, from, to, 100).await.unwrap() > 0 {}
    cluster.end_move(*slot, from, to).await.unwrap();
    println!("moved: {:?}", began.elapsed());
    let mut late = Client::connected(&nodes[1], &token(&user("l"))).await;
    subscribe(&mut late, json!({"channel": moved_channel, "recoverable": true})).await;
    while !is_published_in(&late.line().await, moved_channel) {}
    println!("moved: publications arrive from the new place after {:?}", began.elapsed());
    drop(late);
    tokio::join!(moved.returns(6), kept.returns(6));
    let (moved, kept) = (moved.settle().await, kept.settle().await);
    println!("moved: the slot: {moved:?}");
    println!("moved: elsewhere: {kept:?}");
    assert_eq!(kept.n_lost, 0);
    assert_eq!(cluster.owner(*slot).await.unwrap().address(), to.address());
    end(stack, &nodes).await;
}
