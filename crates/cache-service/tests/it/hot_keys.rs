//! Hot keys: kept through a scan, brought into the memory of other nodes, and asked for once.

use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use cache_service::{CacheConfig, RedisConfig};
use futures_util::future::join_all;
use mainstay_devstack::{ChaosProxy, Direction, wait_until};
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::Layer;
use mainstay_proto::cache::v1::insight_service_client::InsightServiceClient;
use mainstay_proto::cache::v1::operation::Action;

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, redis, single};

const CAPACITY: usize = 1 << 20;

async fn start(redis: RedisConfig) -> CacheNode {
    let mut config = CacheConfig { redis, ..CacheConfig::default() };
    config.memory.capacity = ByteSize::b(CAPACITY as u64);
    config.namespace_defaults.max_value_size = ByteSize::kib(64);
    // A busy machine must not lose the proof for memory.
    config.invalidation.current_for = Duration::from_secs(10);
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    node
}

impl CacheNode {
    async fn batch(&self, actions: impl Iterator<Item = (String, Action)>) {
        let operations = actions.map(|(key, action)| pb::Operation { key, action: Some(action) }).collect();
        let request = pb::BatchRequest { namespace: "test".to_owned(), operations };
        self.client.clone().batch(request).await.unwrap();
    }

    async fn hot_key(&self, key: &str) -> Option<pb::HotKey> {
        let mut insight = InsightServiceClient::new(self.channel.clone());
        let hot = insight.hot_keys(pb::HotKeysRequest { limit: 1_000 }).await.unwrap().into_inner();
        hot.keys.into_iter().find(|hot| hot.key == key)
    }

    async fn wait_pinned(&self, key: &str) -> pb::HotKey {
        wait_until(format!("{key} to be pinned"), LOOK_EVERY, WITHIN, || async {
            let found = self.hot_key(key).await;
            found.clone().filter(|hot| hot.hot && hot.pinned).ok_or_else(|| format!("{found:?}"))
        })
        .await
        .unwrap()
    }

    fn refills(&self) -> u64 {
        let metrics = self.cx.openmetrics();
        let line =
            metrics.lines().find_map(|line| line.strip_prefix("mainstay_cache_hot_keys_refills_total "));
        line.unwrap().parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_key_is_in_the_memory_of_every_node_through_changes_and_scans() {
    let stack = redis().await;
    let [busy, idle] = [start(single(&stack)).await, start(single(&stack)).await];
    busy.set("hot", "first").await;
    for _ in 0..4 {
        busy.batch((0..1_000).map(|_| ("hot".to_owned(), Action::Get(pb::GetAction {})))).await;
    }
    let here = busy.wait_pinned("hot").await;
    assert!(here.reads > 1_000 && here.share > 0.5, "{here:?}");

    // The other node has never been asked for it.
    let there = idle.wait_pinned("hot").await;
    assert_eq!((there.reads, there.namespace.as_str()), (0, "test"));
    let found = idle.get("hot").await;
    assert_eq!((found.layer(), found.entry.unwrap().value), (Layer::L1, "first".into()));

    // A change is brought, not missed.
    let refills = idle.refills();
    busy.set("hot", "second").await;
    wait_until("the change to be brought", LOOK_EVERY, WITHIN, || async {
        let now = idle.refills();
        if now > refills { Ok(()) } else { Err(format!("{now} refills")) }
    })
    .await
    .unwrap();
    let found = idle.get("hot").await;
    assert_eq!((found.layer(), found.entry.unwrap().value), (Layer::L1, "second".into()));

    // Ten times what memory holds.
    let value = Bytes::from(vec![0; 16 << 10]);
    for from in (0..10 * CAPACITY / value.len()).step_by(64) {
        let sets = (from..from + 64).map(|number| {
            let set = pb::SetAction { value: value.clone(), ..pb::SetAction::default() };
            (format!("scan{number}"), Action::Set(set))
        });
        busy.batch(sets).await;
    }
    assert!(busy.stats().await.memory.unwrap().evictions > 500);
    let found = busy.get("hot").await;
    assert_eq!((found.layer(), found.entry.unwrap().value), (Layer::L1, "second".into()));
    let operations = idle.stats().await.operations.unwrap();
    assert_eq!((operations.l1_hits, operations.l2_hits, operations.misses), (2, 0, 0));
    busy.cx.shut_down().await;
    idle.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misses_of_one_key_at_once_are_one_question_to_redis() {
    let stack = redis().await;
    let proxy = ChaosProxy::start(single(&stack).address.parse().unwrap()).unwrap();
    let slow = RedisConfig {
        address: proxy.address().to_string(),
        command_within: Duration::from_secs(5),
        ..single(&stack)
    };
    let [near, far] = [start(single(&stack)).await, start(slow).await];
    let version = near.set("cold", "value").await.version;
    wait_until("the change to be heard of", LOOK_EVERY, WITHIN, || async {
        let position = far.stats().await.log_position;
        if position >= version { Ok(()) } else { Err(format!("{position}")) }
    })
    .await
    .unwrap();
    proxy.delay(Direction::Downstream, Duration::from_millis(300));
    let found = join_all((0..100).map(|_| far.value("cold"))).await;
    assert!(found.iter().all(|value| value.as_deref() == Some(b"value")), "{found:?}");
    let operations = far.stats().await.operations.unwrap();
    assert_eq!(operations.l1_hits + operations.l2_hits, 100);
    let metrics = far.cx.openmetrics();
    let coalesced = metrics.lines().find_map(|line| line.strip_prefix("mainstay_cache_l2_coalesced_total "));
    let coalesced: u64 = coalesced.unwrap().parse().unwrap();
    // Who comes between the answer and its way into memory asks anew.
    let questions = operations.l2_hits - coalesced;
    assert!((1..=3).contains(&questions) && coalesced >= 50, "{questions} questions, {coalesced} shared");
    near.cx.shut_down().await;
    far.cx.shut_down().await;
    stack.stop().await.unwrap();
}
