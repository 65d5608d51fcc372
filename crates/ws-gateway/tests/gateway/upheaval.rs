//! Nodes, connections and Redis come and go at random under sequenced publishing. Whatever happens, a client sees every
//! publication of its channel once and in order, except where it is told that it missed something.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mainstay_devstack::{ChaosProxy, Devstack};
use mainstay_proto::realtime::v1::Reach;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use ws_gateway::BrokerConfig;

use crate::client::Client;
use crate::cluster::{proxied, redis, sentinel, single, with_redis};
use crate::node::{Node, token, user};

const CHANNEL: &str = "m:x";
const N_CLIENTS: u64 = 6;
/// Longer than any outage here takes to be noticed and made good.
const SETTLED_WITHIN: Duration = Duration::from_mins(2);

/// What one client knows of the channel.
#[derive(Default)]
struct Memory {
    epoch: String,
    offset: u64,
    /// By epoch and offset.
    seen: BTreeMap<(String, u64), Value>,
    n_recovered: usize,
    n_lost: usize,
}

/// What was confirmed to the publisher, by epoch and offset.
type Truth = HashMap<(String, u64), Value>;

impl Memory {
    fn see(&mut self, publication: &Value) {
        let Some(offset) = publication["offset"].as_u64() else { return };
        assert_eq!(offset, self.offset + 1, "a gap or a double after {}: {publication}", self.epoch);
        self.offset = offset;
        let place = (self.epoch.clone(), offset);
        assert!(self.seen.insert(place, publication["data"].clone()).is_none());
    }

    fn begin(&mut self, begun: &Value, is_first: bool) {
        let epoch = begun["epoch"].as_str().unwrap();
        if begun["recovered"] == json!(true) {
            assert_eq!((epoch, begun["offset"].as_u64().unwrap_or(0)), (&*self.epoch, self.offset));
            self.n_recovered += 1;
            for publication in begun["publications"].as_array().into_iter().flatten() {
                self.see(publication);
            }
        } else {
            assert!(begun["publications"].is_null(), "a part of what was missed: {begun}");
            self.n_lost += usize::from(!is_first);
            self.offset = begun["offset"].as_u64().unwrap_or(0);
            epoch.clone_into(&mut self.epoch);
        }
    }
}

/// One client: stays subscribed as well as it can until the end, then says what it saw.
async fn live(nodes: Arc<Vec<Node>>, seed: u64, done: Arc<AtomicBool>, last: Arc<AtomicUsize>) -> Memory {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut memory, token) = (Memory::default(), token(&user(&seed.to_string())));
    let mut is_first = true;
    'connections: loop {
        let node = &nodes[random.random_range(0..nodes.len())];
        let mut client = Client::connected(node, &token).await;
        let leaves_at = Instant::now() + Duration::from_millis(random.random_range(200..2_500));
        'subscriptions: loop {
            let mut wanted = json!({"channel": CHANNEL, "recoverable": true});
            if !is_first {
                wanted = json!({"channel": CHANNEL, "recover": true, "epoch": memory.epoch, "offset": memory.offset});
            }
            let answer = client.call("subscribe", wanted).await;
            if answer["error"]["temporary"] == json!(true) {
                sleep(Duration::from_millis(50)).await;
                continue 'subscriptions;
            }
            memory.begin(&answer["subscribe"], is_first);
            is_first = false;
            loop {
                let is_over = done.load(Ordering::Relaxed);
                let line = match timeout(Duration::from_millis(50), client.line()).await {
                    Ok(line) => line,
                    Err(_) if is_over && memory.offset >= last.load(Ordering::Relaxed) as u64 => {
                        return memory;
                    }
                    Err(_) if is_over || Instant::now() < leaves_at => continue,
                    Err(_) => continue 'connections,
                };
                if line == json!({}) {
                    client.text("{}").await;
                } else if line["push"]["unsubscribe"]["code"] == json!(2500) {
                    continue 'subscriptions;
                } else {
                    memory.see(&line["push"]["pub"]);
                }
                if !is_over && Instant::now() > leaves_at {
                    // What was read already still counts.
                    while let Some(line) = client.waiting() {
                        if line["push"]["pub"].is_object() {
                            memory.see(&line["push"]["pub"]);
                        }
                    }
                    continue 'connections;
                }
            }
        }
    }
}

async fn publish(nodes: Arc<Vec<Node>>, publisher: usize, done: Arc<AtomicBool>) -> Truth {
    let mut truth = Truth::new();
    for n in 0_usize.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let data = format!("\"{publisher}-{n}\"");
        let node = &nodes[n % nodes.len()];
        match node.publish_with_key(CHANNEL, &data, "").await {
            Ok(published) if published.reach() == Reach::EveryNode => {
                let place = (published.epoch, published.offset);
                let before = truth.insert(place, serde_json::from_str(&data).unwrap());
                assert!(before.is_none(), "a place was given twice");
            }
            // To this node alone, or not known.
            Ok(_) | Err(_) => {}
        }
        sleep(Duration::from_millis(5)).await;
    }
    truth
}

/// Does one bad thing, and makes it good again where that does not happen by itself.
async fn harm(stack: &Devstack, proxy: &ChaosProxy, random: &mut StdRng, may_fail_over: bool) {
    let servers = stack.redis().unwrap();
    match random.random_range(0..if may_fail_over { 4 } else { 3 }) {
        0 => {
            for server in servers.nodes() {
                server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.unwrap();
            }
        }
        1 => {
            proxy.cut().await.unwrap();
            sleep(Duration::from_millis(random.random_range(100..900))).await;
            proxy.restore().await.unwrap();
        }
        2 => {
            proxy.stall(mainstay_devstack::Direction::Downstream);
            sleep(Duration::from_millis(random.random_range(100..1_500))).await;
            proxy.unstall(mainstay_devstack::Direction::Downstream);
        }
        _ => {
            let primary = servers.primary().await.unwrap().public_address();
            let other = servers.nodes().iter().find(|node| node.public_address() != primary).unwrap();
            servers.promote(other).await.unwrap();
        }
    }
    sleep(Duration::from_millis(random.random_range(200..1_000))).await;
}

async fn upheaval(seed: u64, n_harms: usize, may_fail_over: bool) {
    let stack = redis().await;
    let (proxy, behind_proxy) = proxied(&stack);
    // With failovers no node may be tied to one server.
    let redis = |through_proxy: bool| match (may_fail_over, through_proxy) {
        (true, _) => sentinel(&stack),
        (false, true) => behind_proxy.clone(),
        (false, false) => single(&stack),
    };
    let mut nodes = Vec::new();
    for through_proxy in [true, false] {
        let config = with_redis(redis(through_proxy));
        let broker = BrokerConfig { silent_for: Duration::from_millis(700), ..config.broker.clone() };
        nodes.push(Node::joined(ws_gateway::GatewayConfig { broker, ..config }).await);
    }
    let nodes = Arc::new(nodes);
    let (publishing, living) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let last = Arc::new(AtomicUsize::new(usize::MAX));
    let (mut publishers, mut clients) = (JoinSet::new(), JoinSet::new());
    for publisher in 0..2 {
        publishers.spawn(publish(Arc::clone(&nodes), publisher, Arc::clone(&publishing)));
    }
    for client in 0..N_CLIENTS {
        clients.spawn(live(Arc::clone(&nodes), seed * 100 + client, Arc::clone(&living), Arc::clone(&last)));
    }
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..n_harms {
        harm(&stack, &proxy, &mut random, may_fail_over).await;
    }
    publishing.store(true, Ordering::Relaxed);
    let mut truth = Truth::new();
    for confirmed in publishers.join_all().await {
        for (place, data) in confirmed {
            assert!(truth.insert(place, data).is_none(), "a place was given twice");
        }
    }
    // One more, which everybody gets and after which nothing comes.
    for node in nodes.iter() {
        node.wait_until_heard(true).await;
    }
    let end = nodes[0].publish_with_key(CHANNEL, "\"end\"", "end").await.unwrap();
    assert_eq!(end.reach(), Reach::EveryNode);
    last.store(end.offset as usize, Ordering::Relaxed);
    living.store(true, Ordering::Relaxed);
    let memories = timeout(SETTLED_WITHIN, clients.join_all()).await.expect("a client never saw the end");

    for memory in &memories {
        assert_eq!((&memory.epoch, memory.offset), (&end.epoch, end.offset));
        for (place, data) in &memory.seen {
            if let Some(confirmed) = truth.get(place) {
                assert_eq!(confirmed, data, "{place:?}");
            }
        }
    }
    let count = |of: fn(&Memory) -> usize| memories.iter().map(of).sum::<usize>();
    assert!(count(|memory| memory.seen.len()) > 0 && count(|memory| memory.n_recovered) > 0);
    println!(
        "seed {seed}: {} confirmed, {} seen, {} recovered, {} told of a loss",
        truth.len(),
        count(|memory| memory.seen.len()),
        count(|memory| memory.n_recovered),
        count(|memory| memory.n_lost),
    );
    for node in nodes.iter() {
        node.wait_until_empty().await;
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_misses_anything_without_being_told_while_links_break() {
    Box::pin(upheaval(1, 4, false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_misses_anything_without_being_told_while_primaries_change() {
    Box::pin(upheaval(2, 2, true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn nobody_misses_anything_without_being_told_for_long() {
    for seed in 10..20 {
        Box::pin(upheaval(seed, 12, seed % 2 == 0)).await;
    }
}
