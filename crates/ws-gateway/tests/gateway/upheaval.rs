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

/// What was confirmed to a publisher.
#[derive(Default)]
struct Truth {
    /// By epoch and offset.
    confirmed: HashMap<(String, u64), Value>,
    /// The longest time without.
    gap: Duration,
}

/// Publishers and clients of one channel, on all nodes, between which the clients go to and fro.
pub(crate) struct Crowd {
    course: Arc<Course>,
    publishers: JoinSet<Truth>,
    clients: JoinSet<Memory>,
}

/// What a crowd has in common.
struct Course {
    channel: String,
    nodes: Arc<Vec<Node>>,
    /// No more is published.
    is_published: AtomicBool,
    /// Clients end when they have the last publication.
    is_over: AtomicBool,
    last: AtomicUsize,
    n_returns: AtomicUsize,
}

/// What became of it. It is certain that nobody missed anything without being told.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) n_confirmed: usize,
    pub(crate) n_seen: usize,
    pub(crate) n_recovered: usize,
    /// How often a client was told that it missed something.
    pub(crate) n_lost: usize,
    /// The longest time in which a publisher was not confirmed anything.
    pub(crate) gap: Duration,
}

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
async fn live(course: Arc<Course>, seed: u64) -> Memory {
    let Course { channel, nodes, is_over, last, n_returns, .. } = &*course;
    let mut random = StdRng::seed_from_u64(seed);
    let (mut memory, token) = (Memory::default(), token(&user(&seed.to_string())));
    let mut is_first = true;
    'connections: loop {
        let node = &nodes[random.random_range(0..nodes.len())];
        let mut client = Client::connected(node, &token).await;
        let leaves_at = Instant::now() + Duration::from_millis(random.random_range(200..2_500));
        'subscriptions: loop {
            let mut wanted = json!({"channel": channel, "recoverable": true});
            if !is_first {
                wanted = json!({"channel": channel, "recover": true, "epoch": memory.epoch, "offset": memory.offset});
            }
            let answer = client.call("subscribe", wanted).await;
            if answer["error"]["temporary"] == json!(true) {
                sleep(Duration::from_millis(50)).await;
                continue 'subscriptions;
            }
            memory.begin(&answer["subscribe"], is_first);
            n_returns.fetch_add(usize::from(!is_first), Ordering::Relaxed);
            is_first = false;
            loop {
                let is_over = is_over.load(Ordering::Relaxed);
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

async fn publish(course: Arc<Course>, publisher: usize) -> Truth {
    let Course { channel, nodes, is_published, .. } = &*course;
    let (mut truth, mut confirmed_at) = (Truth::default(), Instant::now());
    for n in 0_usize.. {
        if is_published.load(Ordering::Relaxed) {
            break;
        }
        let data = format!("\"{publisher}-{n}\"");
        let node = &nodes[n % nodes.len()];
        match node.publish_with_key(channel, &data, "").await {
            Ok(published) if published.reach() == Reach::EveryNode => {
                let place = (published.epoch, published.offset);
                let before = truth.confirmed.insert(place, serde_json::from_str(&data).unwrap());
                assert!(before.is_none(), "a place was given twice");
                truth.gap = truth.gap.max(confirmed_at.elapsed());
                confirmed_at = Instant::now();
            }
            // To this node alone, or not known.
            Ok(_) | Err(_) => {}
        }
        sleep(Duration::from_millis(5)).await;
    }
    truth
}

impl Crowd {
    pub(crate) fn start(nodes: &Arc<Vec<Node>>, channel: &str, seed: u64) -> Self {
        let course = Arc::new(Course {
            channel: channel.to_owned(),
            nodes: Arc::clone(nodes),
            is_published: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            last: AtomicUsize::new(usize::MAX),
            n_returns: AtomicUsize::new(0),
        });
        let (mut publishers, mut clients) = (JoinSet::new(), JoinSet::new());
        for publisher in 0..2 {
            publishers.spawn(publish(Arc::clone(&course), publisher));
        }
        for client in 0..N_CLIENTS {
            clients.spawn(live(Arc::clone(&course), seed * 100 + client));
        }
        Self { course, publishers, clients }
    }

    /// Waits until clients have come back so many times more.
    pub(crate) async fn returns(&self, n_times: usize) {
        let (n_returns, deadline) = (&self.course.n_returns, Instant::now() + SETTLED_WITHIN);
        let until = n_returns.load(Ordering::Relaxed) + n_times;
        while n_returns.load(Ordering::Relaxed) < until {
            assert!(Instant::now() < deadline, "nobody comes back to {}", self.course.channel);
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends it with one more publication, which everybody gets, and compares what everybody saw with what was confirmed.
    pub(crate) async fn settle(self) -> Outcome {
        let Self { course, publishers, clients } = self;
        let Course { channel, nodes, is_published, is_over, last, .. } = &*course;
        is_published.store(true, Ordering::Relaxed);
        let mut truth = Truth::default();
        for one in publishers.join_all().await {
            truth.gap = truth.gap.max(one.gap);
            for (place, data) in one.confirmed {
                assert!(truth.confirmed.insert(place, data).is_none(), "a place was given twice");
            }
        }
        for node in nodes.iter() {
            node.wait_until_heard(true).await;
        }
        let end = nodes[0].publish_with_key(channel, "\"end\"", "end").await.unwrap();
        assert_eq!(end.reach(), Reach::EveryNode);
        last.store(end.offset as usize, Ordering::Relaxed);
        is_over.store(true, Ordering::Relaxed);
        let memories = timeout(SETTLED_WITHIN, clients.join_all()).await.expect("a client never saw the end");
        for memory in &memories {
            assert_eq!((&memory.epoch, memory.offset), (&end.epoch, end.offset));
            for (place, data) in &memory.seen {
                if let Some(confirmed) = truth.confirmed.get(place) {
                    assert_eq!(confirmed, data, "{place:?}");
                }
            }
        }
        let count = |of: fn(&Memory) -> usize| memories.iter().map(of).sum::<usize>();
        let outcome = Outcome {
            n_confirmed: truth.confirmed.len(),
            n_seen: count(|memory| memory.seen.len()),
            n_recovered: count(|memory| memory.n_recovered),
            n_lost: count(|memory| memory.n_lost),
            gap: truth.gap,
        };
        assert!(outcome.n_confirmed > 0 && outcome.n_seen > 0 && outcome.n_recovered > 0, "{outcome:?}");
        outcome
    }
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
    let crowd = Crowd::start(&nodes, "m:x", seed);
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..n_harms {
        harm(&stack, &proxy, &mut random, may_fail_over).await;
    }
    let outcome = crowd.settle().await;
    println!("seed {seed}: {outcome:?}");
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
