//! Nodes over a Redis Cluster: three primaries with a replica each, over which the channels are spread.

use std::sync::Arc;
use std::time::Duration;

use mainstay_devstack::{Devstack, RedisCluster, RedisNode, RedisReply, wait_until};
use mainstay_proto::realtime::v1::Reach;
use mainstay_runtime::Secret;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Killed,
    /// It holds its connections and says nothing.
    Frozen,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_whose_primary_is_killed_comes_back_and_the_others_go_on() {
    Box::pin(a_primary_is_lost(Loss::Killed)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_whose_primary_freezes_comes_back_and_the_others_go_on() {
    Box::pin(a_primary_is_lost(Loss::Frozen)).await;
}

/// The channels of other shards do not notice.
async fn a_primary_is_lost(loss: Loss) {
    let stack = stack().await;
    let cluster = stack.redis_cluster().unwrap();
    let nodes = pair(&sharded(&stack, "lost:")).await;
    let channels = spread(cluster, &nodes[0]).await;
    let (lost_channel, lost, slot) = &channels[0];
    let kept = channels.iter().find(|(_, holder, _)| holder.address() != lost.address());
    let (kept_channel, ..) = kept.unwrap();
    let [hit, spared] = [Crowd::start(&nodes, lost_channel, 1), Crowd::start(&nodes, kept_channel, 2)];
    tokio::join!(hit.returns(1), spared.returns(1));

    match loss {
        Loss::Killed => lost.kill().await.unwrap(),
        Loss::Frozen => lost.pause().await.unwrap(),
    }
    let lost_at = Instant::now();
    let metric = |line: &str| nodes[0].metrics().lines().any(|found| found == line);
    wait_until("the loss to be seen", LOOK_EVERY, PATIENCE, || async {
        if metric("mainstay_ws_broker_connected 0") { Ok(()) } else { Err("all is heard".to_owned()) }
    })
    .await
    .unwrap();
    assert!(!metric("mainstay_ws_broker_deaf_partitions 8"), "the others are heard");
    let others: Vec<&RedisNode> =
        cluster.nodes().iter().filter(|node| node.address() != lost.address()).collect();
    wait_until("a replica to be promoted", LOOK_EVERY, PATIENCE, || async {
        match owner(&others, *slot).await {
            Some(_) => Ok(()),
            None => Err("nobody has the slot".to_owned()),
        }
    })
    .await
    .unwrap();
    println!("{loss:?}: a replica was promoted after {:?}", lost_at.elapsed());
    for node in nodes.iter() {
        node.wait_until_heard(true).await;
    }
    println!("{loss:?}: everything is heard again after {:?}", lost_at.elapsed());
    tokio::join!(hit.returns(6), spared.returns(6));
    match loss {
        Loss::Killed => lost.start().await.unwrap(),
        Loss::Frozen => lost.resume().await.unwrap(),
    }
    cluster.wait_settled().await.unwrap();
    let (hit, spared) = (hit.settle().await, spared.settle().await);
    println!("{loss:?}: the shard: {hit:?}");
    println!("{loss:?}: elsewhere: {spared:?}");
    // A numbering ends with its server, and who counts positions is told so.
    assert!(hit.n_lost > 0);
    assert_eq!(spared.n_lost, 0);
    assert!(spared.gap < hit.gap, "{spared:?} {hit:?}");
    end(stack, &nodes).await;
}

/// Asks for the primary of a slot those that can answer.
async fn owner<'n>(nodes: &[&'n RedisNode], slot: u16) -> Option<&'n RedisNode> {
    for node in nodes {
        let RedisReply::List(ranges) = node.command(&["CLUSTER", "SLOTS"]).await.unwrap() else { continue };
        for range in ranges {
            let RedisReply::List(range) = range else { continue };
            let [RedisReply::Integer(first), RedisReply::Integer(last), RedisReply::List(primary), ..] =
                &range[..]
            else {
                continue;
            };
            let RedisReply::Integer(port) = primary[1] else { continue };
            if (*first..=*last).contains(&i64::from(slot)) && i64::from(node.address().port()) == port {
                return Some(node);
            }
        }
    }
    None
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
    // All keys are at the new place, where nobody listens yet.
    let mut waits = Box::pin(nodes[0].publish_with_key(moved_channel, "\"waits\"", "waits"));
    let early = timeout(Duration::from_millis(200), &mut waits).await;
    assert!(early.is_err(), "{early:?}");
    cluster.end_move(*slot, from, to).await.unwrap();
    assert_eq!(waits.await.unwrap().reach(), Reach::EveryNode);
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

/// All subscriptions in a slot end when it leaves a server, without a word that fred passes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_goes_and_comes_back_at_once_is_listened_to_again() {
    let stack = stack().await;
    let cluster = stack.redis_cluster().unwrap();
    let config = with_redis(sharded(&stack, "back:"));
    // Nobody else is to find what is missing.
    let broker = BrokerConfig { check_positions_every: Duration::from_hours(1), ..config.broker.clone() };
    let node = Node::joined(GatewayConfig { broker, ..config }).await;
    let mut client = Client::connected(&node, &token(&user("a"))).await;
    subscribe(&mut client, json!({"channel": "m:x", "recoverable": true})).await;
    node.publish_with_key("m:x", "1", "").await.unwrap();
    while !is_published_in(&client.line().await, "m:x") {}
    let (from, slot) = holder(cluster, "m:x").await;
    let to = cluster.nodes()[..3].iter().find(|node| node.address() != from.address()).unwrap();
    for (from, to) in [(from, to), (to, from)] {
        cluster.begin_move(slot, from, to).await.unwrap();
        while cluster.move_keys(slot, from, to, 100).await.unwrap() > 0 {}
        cluster.end_move(slot, from, to).await.unwrap();
    }
    let published = node.publish_with_key("m:x", "2", "").await.unwrap();
    assert_eq!(published.reach(), Reach::EveryNode);
    loop {
        let line = client.line().await;
        if is_published_in(&line, "m:x") {
            assert_eq!(line["push"]["pub"]["data"], json!(2));
            break;
        }
        // A node that looked in between has begun a new numbering.
        if line["push"]["unsubscribe"]["code"] == json!(2500) {
            subscribe(&mut client, json!({"channel": "m:x", "recoverable": true})).await;
            node.publish_with_key("m:x", "2", "").await.unwrap();
        }
    }
    assert!(node.metrics().contains("mainstay_ws_canary_silences_total 0\n"), "{}", node.metrics());
    drop(client);
    end(stack, &[node]).await;
}

/// Finds the one primary that says a slot is its own: for a moment after a failover there may be two.
async fn sole_owner(cluster: &RedisCluster, slot: u16) -> &RedisNode {
    wait_until("one owner of the slot", LOOK_EVERY, PATIENCE, || async {
        let mut owners = Vec::new();
        for node in cluster.nodes() {
            owners.extend(owner(&[node], slot).await);
        }
        match owners[..] {
            [owner] => Ok(owner),
            _ => Err(format!("{} say it is theirs", owners.len())),
        }
    })
    .await
    .unwrap()
}

/// Finds a replica of a primary.
async fn replica_of<'c>(cluster: &'c RedisCluster, primary: &RedisNode) -> &'c RedisNode {
    for node in cluster.nodes() {
        let RedisReply::List(role) = node.command(&["ROLE"]).await.unwrap() else { panic!("no role") };
        let RedisReply::Integer(port) = role.get(2).unwrap_or(&RedisReply::Integer(0)) else { continue };
        if role[0].text() == Some("slave") && *port == i64::from(primary.address().port()) {
            return node;
        }
    }
    panic!("{} has no replica", primary.name())
}

/// Does one bad thing to the shard of a slot, and makes it good again where that does not happen by itself.
async fn harm(cluster: &RedisCluster, slot: u16, random: &mut StdRng) {
    let holder = sole_owner(cluster, slot).await;
    match random.random_range(0..4) {
        0 => {
            for node in cluster.nodes() {
                node.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.unwrap();
            }
        }
        // For longer than the cluster waits, or not.
        1 => {
            holder.pause().await.unwrap();
            sleep(Duration::from_millis(random.random_range(100..2_500))).await;
            holder.resume().await.unwrap();
        }
        2 => {
            let replica = replica_of(cluster, holder).await;
            replica.command(&["CLUSTER", "FAILOVER"]).await.unwrap();
        }
        _ => {
            let other = (slot + 8_192) % 16_384;
            let to = sole_owner(cluster, other).await;
            if to.address() != holder.address() {
                cluster.begin_move(slot, holder, to).await.unwrap();
                while cluster.move_keys(slot, holder, to, 100).await.unwrap() > 0 {}
                cluster.end_move(slot, holder, to).await.unwrap();
            }
        }
    }
    sleep(Duration::from_millis(random.random_range(200..1_000))).await;
    cluster.wait_settled().await.unwrap();
}

async fn upheaval(seed: u64, n_harms: usize) {
    let stack = stack().await;
    let cluster = stack.redis_cluster().unwrap();
    let nodes = pair(&sharded(&stack, "upheaval:")).await;
    let channels = spread(cluster, &nodes[0]).await;
    let (channel, _, slot) = &channels[0];
    let crowd = Crowd::start(&nodes, channel, seed);
    crowd.returns(1).await;
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..n_harms {
        harm(cluster, *slot, &mut random).await;
    }
    for node in nodes.iter() {
        node.wait_until_heard(true).await;
    }
    crowd.returns(6).await;
    println!("seed {seed}: {:?}", crowd.settle().await);
    end(stack, &nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_misses_anything_without_being_told_while_a_cluster_is_shaken() {
    Box::pin(upheaval(3, 4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn nobody_misses_anything_without_being_told_while_a_cluster_is_shaken_for_long() {
    for seed in 20..25 {
        Box::pin(upheaval(seed, 12)).await;
    }
}
