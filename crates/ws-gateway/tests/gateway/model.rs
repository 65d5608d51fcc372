//! Clients that come and go at random while others publish. Whatever happens, a client sees every publication of its
//! channel once and in order, except where it is told that it missed something.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mainstay_proto::realtime::v1::PublishRequest;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use ws_gateway::{ChannelsConfig, GatewayConfig, NamespaceConfig, Recovery};

use crate::client::Client;
use crate::node::{Node, config, token, user};

const CHANNELS: [&str; 2] = ["m:a", "m:b"];
const N_CLIENTS: u64 = 12;
const N_ROUNDS: usize = 15;

/// What one client knows of its channel.
#[derive(Default)]
struct Memory {
    epoch: String,
    offset: u64,
    seen: BTreeMap<u64, Value>,
    n_recovered: usize,
    n_lost: usize,
}

impl Memory {
    fn see(&mut self, publication: &Value) {
        let offset = publication["offset"].as_u64().unwrap();
        assert_eq!(offset, self.offset + 1, "a gap or a double: {publication}");
        self.offset = offset;
        assert!(self.seen.insert(offset, publication["data"].clone()).is_none());
    }

    fn begin(&mut self, begun: &Value, is_first: bool) {
        if begun["recovered"] == json!(true) {
            assert_eq!(begun["offset"].as_u64().unwrap_or(0), self.offset);
            self.n_recovered += 1;
            for publication in begun["publications"].as_array().into_iter().flatten() {
                self.see(publication);
            }
        } else {
            assert!(begun["publications"].is_null(), "a part of what was missed: {begun}");
            let top = begun["offset"].as_u64().unwrap_or(0);
            assert!(
                is_first || top > self.offset,
                "nothing was missed and yet it was not recovered: {begun}"
            );
            self.n_lost += usize::from(!is_first);
            self.offset = top;
        }
        self.epoch = begun["epoch"].as_str().unwrap().to_owned();
    }
}

async fn live(node: Arc<Node>, channel: &'static str, seed: u64) -> Memory {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut memory, token) = (Memory::default(), token(&user(&seed.to_string())));
    let mut client = Client::connected(&node, &token).await;
    for round in 0..N_ROUNDS {
        let mut wanted = json!({"channel": channel, "recoverable": true});
        if round > 0 {
            wanted = json!({
                "channel": channel, "recover": true, "epoch": memory.epoch, "offset": memory.offset,
            });
        }
        let begun = client.call("subscribe", wanted).await["subscribe"].clone();
        memory.begin(&begun, round == 0);
        for _ in 0..random.random_range(0..12) {
            let line = client.line().await;
            memory.see(&line["push"]["pub"]);
        }
        if random.random_bool(0.3) {
            let answer = client.call("unsubscribe", json!({"channel": channel})).await;
            assert!(answer["unsubscribe"].is_object());
            // What came before the answer still counts.
            while let Some(line) = client.waiting() {
                memory.see(&line["push"]["pub"]);
            }
        } else {
            client = Client::connected(&node, &token).await;
        }
        // Sometimes long enough for the history to be too short.
        for _ in 0..random.random_range(0..60) {
            tokio::task::yield_now().await;
        }
    }
    memory
}

async fn publish(
    node: Arc<Node>,
    channel: &'static str,
    publisher: usize,
    done: Arc<AtomicBool>,
) -> Vec<(u64, Value)> {
    let mut published = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let data = format!("\"{publisher}-{}\"", published.len());
        let request = PublishRequest {
            channel: channel.to_owned(),
            data: data.clone().into(),
            ..PublishRequest::default()
        };
        let answer =
            node.grpc("Publish", request, async |mut api, request| api.publish(request).await).await.unwrap();
        published.push((answer.offset, serde_json::from_str(&data).unwrap()));
    }
    published
}

#[tokio::test]
async fn nobody_misses_anything_without_being_told() {
    let m = NamespaceConfig { history_size: 12, recovery: Recovery::Stream, ..NamespaceConfig::default() };
    let channels = ChannelsConfig { namespaces: [("m".to_owned(), m)].into(), ..ChannelsConfig::default() };
    let node = Arc::new(Node::start(GatewayConfig { channels, ..config() }).await);
    let done = Arc::new(AtomicBool::new(false));
    let (mut publishers, mut clients) = (JoinSet::new(), JoinSet::new());
    for (index, channel) in CHANNELS.into_iter().enumerate() {
        for publisher in 0..2 {
            let published = publish(Arc::clone(&node), channel, publisher, Arc::clone(&done));
            publishers.spawn(async move { (index, published.await) });
        }
    }
    for seed in 0..N_CLIENTS {
        let index = seed as usize % CHANNELS.len();
        let life = live(Arc::clone(&node), CHANNELS[index], seed);
        clients.spawn(async move { (index, life.await) });
    }
    let memories = clients.join_all().await;
    done.store(true, Ordering::Relaxed);
    let mut truth = CHANNELS.map(|_| BTreeMap::new());
    for (index, published) in publishers.join_all().await {
        for (offset, data) in published {
            assert!(truth[index].insert(offset, data).is_none(), "offset {offset} was given twice");
        }
    }
    for published in &truth {
        assert!(published.keys().copied().eq(1..=published.len() as u64), "offsets have gaps");
    }
    for (index, memory) in &memories {
        for (offset, data) in &memory.seen {
            assert_eq!(truth[*index].get(offset), Some(data), "offset {offset}");
        }
    }
    let count = |of: fn(&Memory) -> usize| memories.iter().map(|(_, memory)| of(memory)).sum::<usize>();
    assert!(count(|memory| memory.n_recovered) > 0 && count(|memory| memory.seen.len()) > 0);
    assert!(count(|memory| memory.n_lost) > 0, "the history was never too short");
    node.wait_until_empty().await;
}
