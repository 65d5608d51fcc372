//! What nodes know of each other, and what is left of one that is gone.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mainstay_proto::realtime::v1::{
    ChannelsRequest, DisconnectRequest, NodesRequest, PresenceStatsRequest, SubscribeRequest,
    UnsubscribeRequest,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use ws_gateway::{BrokerConfig, GatewayConfig, RedisConfig};

use crate::client::Client;
use crate::cluster::{proxied, redis, single, subscribe, with_redis};
use crate::node::{Node, PATIENCE, SECRET, token, user};

const LEASE: Duration = Duration::from_millis(1_500);

pub(crate) fn short_leased(redis: RedisConfig) -> GatewayConfig {
    let config = with_redis(redis);
    let ask_within = Duration::from_secs(2);
    let broker = BrokerConfig { lease: LEASE, ask_within, ..config.broker };
    GatewayConfig { broker, ..config }
}

impl Node {
    /// Waits until so many nodes are known.
    pub(crate) async fn knows(&self, n_nodes: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer =
                self.grpc("Nodes", NodesRequest {}, async |mut api, request| api.nodes(request).await).await;
            let answer = answer.unwrap();
            if answer.nodes.len() == n_nodes && !answer.stale {
                return;
            }
            assert!(Instant::now() < deadline, "{answer:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stats(&self, channel: &str) -> (u64, u64, Vec<String>) {
        let request = PresenceStatsRequest { channel: channel.to_owned() };
        let stats = self
            .grpc("PresenceStats", request, async |mut api, request| api.presence_stats(request).await)
            .await
            .unwrap();
        (stats.clients, stats.users, stats.missing_nodes)
    }

    fn n_buried(&self) -> u64 {
        let metrics = self.metrics();
        let line = metrics.lines().find_map(|line| line.strip_prefix("mainstay_ws_nodes_buried_total "));
        line.unwrap().parse().unwrap()
    }
}

/// Returns whom a push tells to have come (`join`) or gone (`leave`).
fn told(line: &Value, kind: &str) -> String {
    line["push"][kind]["info"]["user"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned()
}

#[tokio::test]
async fn every_node_speaks_for_all() {
    let stack = redis().await;
    nodes_speak_for_all(single(&stack)).await;
    stack.stop().await.unwrap();
}

pub(crate) async fn nodes_speak_for_all(redis: RedisConfig) {
    let [one, two] =
        [Node::joined(short_leased(redis.clone())).await, Node::joined(short_leased(redis)).await];
    one.knows(2).await;
    two.knows(2).await;
    let mut a = Client::connected(&one, &token(&user("a"))).await;
    let mut b = Client::connected(&two, &token(&user("b"))).await;
    let mut again = Client::connected(&two, &token(&user("a"))).await;
    subscribe(&mut a, json!({"channel": "m:x", "join_leave": true})).await;
    assert_eq!(told(&a.line().await, "join"), "a");
    for (client, name) in [(&mut b, "b"), (&mut again, "a")] {
        subscribe(client, json!({"channel": "m:x"})).await;
        assert_eq!(told(&a.line().await, "join"), name);
    }
    for node in [&one, &two] {
        assert_eq!(node.stats("m:x").await, (3, 2, Vec::new()));
        let request = ChannelsRequest { prefix: "m:".to_owned(), limit: 0 };
        let channels = node
            .grpc("Channels", request, async |mut api, request| api.channels(request).await)
            .await
            .unwrap();
        assert_eq!((channels.channels.len(), channels.channels[0].subscribers), (1, 3));
        let connections = node.connections("a", "").await;
        assert_eq!(connections.total, 2);
        assert_ne!(connections.connections[0].node, connections.connections[1].node);
    }
    let presence = a.call("presence", json!({"channel": "m:x"})).await;
    assert_eq!(presence["presence"]["presence"].as_object().unwrap().len(), 3, "{presence}");
    let stats = b.call("presence_stats", json!({"channel": "m:x"})).await;
    assert_eq!(stats["presence_stats"], json!({"num_clients": 3, "num_users": 2}));

    let (user, channel) = ("b".to_owned(), "plain".to_owned());
    let request = SubscribeRequest { user, channel, ..SubscribeRequest::default() };
    let answer = one.grpc("Subscribe", request, async |mut api, request| api.subscribe(request).await).await;
    assert_eq!(answer.unwrap().subscribed, 1);
    assert_eq!(b.line().await["push"]["channel"], json!("plain"));
    let (user, channel) = ("b".to_owned(), "plain".to_owned());
    let request = UnsubscribeRequest { user, channel, ..UnsubscribeRequest::default() };
    let answer =
        one.grpc("Unsubscribe", request, async |mut api, request| api.unsubscribe(request).await).await;
    assert_eq!(answer.unwrap().unsubscribed, 1);
    assert_eq!(b.line().await["push"]["unsubscribe"]["code"], json!(2000));
    let request = DisconnectRequest { user: "b".to_owned() };
    let answer =
        one.grpc("Disconnect", request, async |mut api, request| api.disconnect(request).await).await;
    assert_eq!(answer.unwrap().disconnected, 1);
    assert_eq!(b.end().await.0, 3503);
    assert_eq!(told(&a.line().await, "leave"), "b");

    drop((a, b, again));
    for node in [&one, &two] {
        node.wait_until_empty().await;
    }
    // One that ends in order says so.
    two.cx.shut_down().await;
    one.knows(1).await;
    assert_eq!(one.n_buried(), 0);
    one.cx.shut_down().await;
}

#[tokio::test]
async fn members_of_a_node_that_is_cut_off_leave_together_and_come_back_with_it() {
    let stack = redis().await;
    let (proxy, behind_proxy) = proxied(&stack);
    let gone = Node::joined(short_leased(behind_proxy)).await;
    let stays = Node::joined(short_leased(single(&stack))).await;
    for node in [&gone, &stays] {
        node.knows(2).await;
    }
    let mut watcher = Client::connected(&stays, &token(&user("w"))).await;
    subscribe(&mut watcher, json!({"channel": "m:x", "join_leave": true})).await;
    assert_eq!(told(&watcher.line().await, "join"), "w");
    let mut members = Vec::new();
    for name in ["a", "b"] {
        let mut client = Client::connected(&gone, &token(&user(name))).await;
        subscribe(&mut client, json!({"channel": "m:x"})).await;
        assert_eq!(told(&watcher.line().await, "join"), name);
        members.push(client);
    }
    assert_eq!(stays.stats("m:x").await, (3, 3, Vec::new()));

    proxy.cut().await.unwrap();
    let mut left = [told(&watcher.line().await, "leave"), told(&watcher.line().await, "leave")];
    left.sort_unstable();
    assert_eq!(left, ["a", "b"]);
    stays.knows(1).await;
    assert_eq!(stays.stats("m:x").await, (1, 1, Vec::new()));
    // The one that was cut off knows that it does not know.
    let (_, _, missing) = gone.stats("m:x").await;
    assert_eq!(missing.len(), 1);

    // It was alive after all.
    proxy.restore().await.unwrap();
    let mut back = [told(&watcher.line().await, "join"), told(&watcher.line().await, "join")];
    back.sort_unstable();
    assert_eq!(back, ["a", "b"]);
    stays.knows(2).await;
    gone.wait_until_heard(true).await;
    assert_eq!(stays.stats("m:x").await, (3, 3, Vec::new()));
    drop((watcher, members));
    for node in [&gone, &stays] {
        node.wait_until_empty().await;
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

/// A gateway in a process of its own.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) websocket: SocketAddr,
    internal: SocketAddr,
}

impl Process {
    /// Starts it with a configuration of its own and `more` of it.
    pub(crate) async fn start(dir: &Path, redis: &RedisConfig, more: &str) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (websocket, internal) = (free(), free());
        let config = format!(
            "[server]\nlisten = \"{internal}\"\n[websocket]\nlisten = \"{websocket}\"\n\
             [auth]\njwt_secret = \"{SECRET}\"\n\
             [redis]\nmode = \"{}\"\naddress = \"{}\"\nnodes = {:?}\npartitions = {}\nprefix = \"{}\"\npassword = \"{}\"\n\
             [broker]\nlease = \"{}ms\"\n\
             [channels.namespaces.m]\nhistory_size = 200\nrecovery = \"stream\"\npresence = true\njoin_leave = true\n{more}",
            redis.mode.as_str(),
            redis.address,
            redis.nodes,
            redis.partitions,
            redis.prefix,
            redis.password.expose(),
            LEASE.as_millis(),
        );
        let path = dir.join("gateway.toml");
        std::fs::write(&path, config).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ws-gateway"))
            .arg("--config")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let process = Self { child, websocket, internal };
        let deadline = Instant::now() + PATIENCE;
        while Client::open_at(websocket, "", &[]).await.is_err() {
            assert!(Instant::now() < deadline, "the process at {} never listened", process.internal);
            sleep(Duration::from_millis(20)).await;
        }
        process
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = (self.child.kill(), self.child.wait());
    }
}

#[tokio::test]
async fn members_of_a_killed_node_leave_exactly_once() {
    let stack = redis().await;
    members_of_the_dead_leave_once(single(&stack)).await;
    stack.stop().await.unwrap();
}

pub(crate) async fn members_of_the_dead_leave_once(redis: RedisConfig) {
    let survivors =
        [Node::joined(short_leased(redis.clone())).await, Node::joined(short_leased(redis.clone())).await];
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), &redis, "").await;
    for node in &survivors {
        node.knows(3).await;
    }
    let mut watchers = Vec::new();
    for node in &survivors {
        let mut watcher = Client::connected(node, &token(&user("w"))).await;
        subscribe(&mut watcher, json!({"channel": "m:x", "join_leave": true})).await;
        watchers.push(watcher);
    }
    let mut members = Vec::new();
    for n in 0..5 {
        let client = Client::open_at(process.websocket, "", &[]).await.unwrap();
        let mut client = client.connect(&token(&user(&format!("u{n}")))).await;
        subscribe(&mut client, json!({"channel": "m:x"})).await;
        members.push(client);
    }
    for node in &survivors {
        assert_eq!(node.stats("m:x").await, (7, 6, Vec::new()));
    }

    process.child.kill().unwrap();
    process.child.wait().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while survivors.iter().map(Node::n_buried).sum::<u64>() < 1 {
        assert!(Instant::now() < deadline, "nobody told that the node is gone");
        sleep(Duration::from_millis(10)).await;
    }
    for node in &survivors {
        node.knows(2).await;
        assert_eq!(node.stats("m:x").await, (2, 1, Vec::new()));
    }
    for watcher in &mut watchers {
        let mut left = leaves(watcher, |left, _| left.len() == 5).await;
        left.sort_unstable();
        assert_eq!(left, ["u0", "u1", "u2", "u3", "u4"]);
    }
    // Longer than it would take another one to do it again.
    sleep(LEASE * 2).await;
    assert_eq!(survivors.iter().map(Node::n_buried).sum::<u64>(), 1);
    survivors[0].publish("m:x", "\"end\"").await.unwrap();
    for watcher in &mut watchers {
        let again = leaves(watcher, |_, line| line["push"]["pub"].is_object()).await;
        assert!(again.is_empty(), "{again:?}");
    }
    drop((watchers, members));
    for node in &survivors {
        node.wait_until_empty().await;
        node.cx.shut_down().await;
    }
}

/// Reads until that is enough, and returns who has left meanwhile.
async fn leaves(watcher: &mut Client, is_enough: impl Fn(&[String], &Value) -> bool) -> Vec<String> {
    let mut left = Vec::new();
    loop {
        let line = watcher.line().await;
        if line["push"]["leave"].is_object() {
            left.push(told(&line, "leave"));
        }
        if is_enough(&left, &line) {
            return left;
        }
    }
}
