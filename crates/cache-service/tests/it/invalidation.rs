//! Two nodes on one Redis; the second one's link can be cut.

use std::time::Duration;

use bytes::Bytes;
use cache_service::{CacheConfig, InvalidationConfig, RedisConfig};
use mainstay_devstack::{ChaosProxy, Devstack, wait_until};
use mainstay_proto::cache::v1::cache_admin_client::CacheAdminClient;
use mainstay_proto::cache::v1::operation::Action;
use mainstay_proto::cache::v1::outcome::Result as Ended;
use mainstay_proto::cache::v1::{
    BatchRequest, GetNamespaceRequest, InvalidateRequest, InvalidateResponse, InvalidationStatsRequest,
    InvalidationStatsResponse, Layer, NamespacePolicy, NamespaceView, Operation, PutNamespaceRequest,
    SetAction, SetRequest,
};
use mainstay_rpc::{Failure, Status};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, patient, redis, single};

/// The shortest log.
const LOG_LENGTH: u64 = 1_000;
/// So long would memory answer alone if it heard of nothing.
const MEMORY_TTL: Duration = Duration::from_hours(1);

async fn node(redis: RedisConfig) -> CacheNode {
    node_current_for(redis, InvalidationConfig::default().current_for).await
}

async fn node_current_for(redis: RedisConfig, current_for: Duration) -> CacheNode {
    let invalidation = InvalidationConfig { current_for, log_length: LOG_LENGTH };
    let mut config = CacheConfig { redis, invalidation, ..CacheConfig::default() };
    config.namespace_defaults.memory_ttl = MEMORY_TTL;
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    node.wait_current(true).await;
    node
}

async fn proxied(stack: &Devstack) -> (CacheNode, ChaosProxy) {
    let address = single(stack).address.parse().unwrap();
    let proxy = ChaosProxy::start(address).unwrap();
    let redis = RedisConfig { address: proxy.address().to_string(), ..single(stack) };
    (node_current_for(redis, Duration::from_millis(400)).await, proxy)
}

impl CacheNode {
    pub(crate) fn admin(&self) -> CacheAdminClient<Channel> {
        CacheAdminClient::new(self.channel.clone())
    }

    async fn invalidation(&self) -> InvalidationStatsResponse {
        self.admin().invalidation_stats(InvalidationStatsRequest {}).await.unwrap().into_inner()
    }

    pub(crate) async fn wait_current(&self, current: bool) {
        wait_until("the log to be followed or not", LOOK_EVERY, WITHIN, || async {
            let stats = self.invalidation().await;
            if stats.current == current { Ok(()) } else { Err(format!("{stats:?}")) }
        })
        .await
        .unwrap();
    }

    async fn wait_position(&self, position: u64) {
        wait_until("a position of the log", LOOK_EVERY, WITHIN, || async {
            let stats = self.invalidation().await;
            if stats.position >= position { Ok(()) } else { Err(format!("{} < {position}", stats.position)) }
        })
        .await
        .unwrap();
    }

    async fn set_tagged(&self, key: &str, value: &'static str, tag: &str) -> u64 {
        let request = SetRequest {
            namespace: "test".to_owned(),
            key: key.to_owned(),
            value: Bytes::from_static(value.as_bytes()),
            tags: vec![tag.to_owned()],
            ..SetRequest::default()
        };
        self.client.clone().set(request).await.unwrap().into_inner().version
    }

    async fn invalidate(&self, keys: &[&str], tags: &[&str], all: bool) -> InvalidateResponse {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let request =
            InvalidateRequest { namespace: "test".to_owned(), keys: words(keys), tags: words(tags), all };
        self.admin().invalidate(request).await.unwrap().into_inner()
    }

    async fn put_policy(&self, policy: NamespacePolicy, if_version: u64) -> Result<NamespaceView, Status> {
        let namespace = "test".to_owned();
        let request = PutNamespaceRequest { namespace, policy: Some(policy), if_version };
        self.admin().put_namespace(request).await.map(|reply| reply.into_inner())
    }

    /// Reads until the value is in memory and comes from there.
    pub(crate) async fn warm(&self, key: &str, value: &'static str) {
        wait_until("a hit in memory", LOOK_EVERY, WITHIN, || async {
            let read = self.get(key).await;
            let there = read.entry.as_ref().map(|entry| entry.value.clone());
            if read.layer() == Layer::L1 && there == Some(Bytes::from_static(value.as_bytes())) {
                Ok(())
            } else {
                Err(format!("{read:?}"))
            }
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_or_delete_on_one_node_is_seen_on_the_other_long_before_memory_ttl() {
    let stack = redis().await;
    let (a, b) = (node(single(&stack)).await, node(single(&stack)).await);
    a.set("k", "1").await;
    b.warm("k", "1").await;
    let position = a.set("k", "2").await.version;
    b.wait_position(position).await;
    assert_eq!(b.value("k").await, Some(Bytes::from_static(b"2")));
    // Its own write stays in its own memory.
    assert_eq!(a.get("k").await.layer(), Layer::L1);

    b.warm("k", "2").await;
    assert!(a.delete("k").await.unwrap());
    let gone = || async { if b.value("k").await.is_none() { Ok(()) } else { Err("still there".to_owned()) } };
    wait_until("the delete to be heard", LOOK_EVERY, WITHIN, gone).await.unwrap();
    let stats = b.invalidation().await;
    assert!(stats.keys >= 3 && stats.flushes == 0 && stats.entries_possibly_stale == 0, "{stats:?}");
    a.cx.shut_down().await;
    b.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_and_namespaces_are_invalidated_on_every_node_and_for_those_that_come_later() {
    let stack = redis().await;
    let (a, b) = (node(single(&stack)).await, node(single(&stack)).await);
    a.set_tagged("eu1", "1", "eu").await;
    a.set_tagged("us1", "1", "us").await;
    a.set("plain", "1").await;
    for key in ["eu1", "us1", "plain"] {
        b.warm(key, "1").await;
    }
    let done = a.invalidate(&["plain"], &["eu"], false).await;
    assert_eq!(done.keys_removed, 1);
    b.wait_position(done.position).await;
    for (key, there) in [("eu1", false), ("us1", true), ("plain", false)] {
        assert_eq!(a.value(key).await.is_some(), there, "{key} on a");
        assert_eq!(b.value(key).await.is_some(), there, "{key} on b");
    }
    // A value written after the invalidation is a new one.
    a.set_tagged("eu1", "2", "eu").await;
    assert_eq!(a.value("eu1").await, Some(Bytes::from_static(b"2")));

    let done = b.invalidate(&[], &[], true).await;
    a.wait_position(done.position).await;
    let late = node(single(&stack)).await;
    for key in ["eu1", "us1"] {
        assert_eq!(a.value(key).await, None, "{key} on a");
        assert_eq!(late.value(key).await, None, "{key} on a node that was not there");
    }
    for node in [a, b, late] {
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stale_is_served_as_fresh_after_a_cut_link() {
    let stack = redis().await;
    let a = node(single(&stack)).await;
    let (b, proxy) = proxied(&stack).await;
    a.set("k", "1").await;
    a.set_tagged("t", "1", "eu").await;
    b.warm("k", "1").await;
    b.warm("t", "1").await;
    let replays = b.invalidation().await.replays;

    proxy.cut().await.unwrap();
    a.set("k", "2").await;
    let position = a.invalidate(&[], &["eu"], false).await.position;
    b.wait_current(false).await;
    // It cannot know, and says so.
    let read = b.get("k").await;
    assert!(read.stale && read.degraded, "{read:?}");
    assert!(b.invalidation().await.entries_possibly_stale > 0);

    proxy.restore().await.unwrap();
    let restored = Instant::now();
    wait_until("the change to be seen", LOOK_EVERY, WITHIN, || async {
        let read = b.get("k").await;
        let value = read.entry.map(|entry| entry.value);
        // The log may be back before the connection for commands is: then nothing is known, and the answer says so.
        let marked = read.stale || read.degraded;
        let is_new = value.as_ref().is_some_and(|value| value == "2");
        assert!(marked || is_new, "{value:?} served as fresh after {:?}", restored.elapsed());
        if is_new && !marked { Ok(()) } else { Err(format!("{value:?}, marked: {marked}")) }
    })
    .await
    .unwrap();
    b.wait_position(position).await;
    assert_eq!(b.value("t").await, None);
    let stats = b.invalidation().await;
    assert!(stats.replays > replays && stats.flushes == 0, "{stats:?}");
    a.cx.shut_down().await;
    b.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_lost_meanwhile_makes_memory_unproven() {
    let stack = redis().await;
    let server = stack.redis().unwrap().first_primary();
    let a = node(single(&stack)).await;
    let (b, proxy) = proxied(&stack).await;
    a.set("k", "1").await;
    b.warm("k", "1").await;
    proxy.cut().await.unwrap();
    server.command(&["DEL", "mainstay:!log"]).await.unwrap();
    let position = a.set("k", "2").await.version;
    proxy.restore().await.unwrap();
    b.wait_position(position).await;
    assert_eq!(b.invalidation().await.flushes, 1);
    let seen = || async {
        match b.value("k").await {
            Some(value) if value == "2" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    wait_until("the new value", LOOK_EVERY, WITHIN, seen).await.unwrap();
    a.cx.shut_down().await;
    b.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_that_was_trimmed_from_the_log_is_a_flush() {
    let stack = redis().await;
    let a = node(patient(&stack)).await;
    let (b, proxy) = proxied(&stack).await;
    a.set("k", "1").await;
    a.set("same", "1").await;
    b.warm("k", "1").await;
    b.warm("same", "1").await;
    proxy.cut().await.unwrap();
    a.set("k", "2").await;
    // More than twice what the log keeps: Redis trims it by whole pieces.
    let mut position = 0;
    for round in 0..3 {
        let set = |number| Operation {
            key: format!("other{round}-{number}"),
            action: Some(Action::Set(SetAction::default())),
        };
        let request =
            BatchRequest { namespace: "test".to_owned(), operations: (0..LOG_LENGTH).map(set).collect() };
        for outcome in a.client.clone().batch(request).await.unwrap().into_inner().outcomes {
            let Some(Ended::Set(stored)) = outcome.result else { panic!("{outcome:?}") };
            assert!(!stored.degraded);
            position = stored.version.max(position);
        }
    }
    b.wait_current(false).await;
    proxy.restore().await.unwrap();
    wait_until("all of it to be fresh", LOOK_EVERY, WITHIN, || async {
        for (key, now) in [("k", "2"), ("same", "1")] {
            let read = b.get(key).await;
            if read.stale || read.degraded {
                return Err(format!("{read:?}"));
            }
            assert_eq!(read.entry.unwrap().value, now, "{key} is old and called fresh");
        }
        Ok(())
    })
    .await
    .unwrap();
    b.wait_position(position).await;
    let stats = b.invalidation().await;
    assert_eq!(stats.flushes, 1, "{stats:?}");
    a.cx.shut_down().await;
    b.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_put_on_one_node_holds_on_all_and_outlives_them() {
    let stack = redis().await;
    let (a, b) = (node(single(&stack)).await, node(single(&stack)).await);
    let small = NamespacePolicy { max_value_bytes: Some(3), ..NamespacePolicy::default() };
    let put = a.put_policy(small.clone(), 0).await.unwrap();
    assert_eq!(put.effective.unwrap().max_value_bytes, Some(3));
    let refuses = |node: CacheNode| async move {
        let request = SetRequest {
            namespace: "test".to_owned(),
            key: "k".to_owned(),
            value: Bytes::from_static(b"long"),
            ..SetRequest::default()
        };
        wait_until("the policy to hold", LOOK_EVERY, WITHIN, || async {
            match node.client.clone().set(request.clone()).await {
                Err(status) => Ok(Failure::from(status).reason().to_owned()),
                Ok(_) => Err("not yet".to_owned()),
            }
        })
        .await
        .map(|reason| (reason, node))
        .unwrap()
    };
    let (reason, b) = refuses(b).await;
    assert_eq!(reason, "VALUE_TOO_LARGE");
    let (_, late) = refuses(node(single(&stack)).await).await;
    let request = GetNamespaceRequest { namespace: "test".to_owned() };
    let view = late.admin().get_namespace(request).await.unwrap().into_inner();
    assert_eq!((view.version, view.run_time), (put.version, Some(small.clone())));

    let conflict = Failure::from(b.put_policy(small.clone(), 7).await.unwrap_err());
    assert_eq!(conflict.reason(), "VERSION_MISMATCH");
    let illegal = NamespacePolicy { max_value_bytes: Some(1 << 40), ..NamespacePolicy::default() };
    let refused = Failure::from(b.put_policy(illegal, put.version).await.unwrap_err());
    assert_eq!(refused.reason(), "POLICY_INVALID");
    for node in [a, b, late] {
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}
