//! Faults and bad input, done for real: a Redis that is slow or takes no writes, a disk that is full, requests out of range.

use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use cache_service::{CacheConfig, DiskConfig, NamespaceOverrides, RedisConfig};
use futures_util::future::join_all;
use mainstay_devstack::{ChaosProxy, Direction, RedisReply, wait_until};
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::Layer;
use mainstay_proto::cache::v1::cache_admin_client::CacheAdminClient;
use mainstay_rpc::{ErrorCode, Failure, Reply};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, redis, single};

/// Far below what Redis takes; far above what a busy machine makes of an answer from memory or disk.
const INSIDE: Duration = Duration::from_millis(1_200);
const SLOW: Duration = Duration::from_secs(2);

impl CacheNode {
    async fn wait_breaker(&self, state: &str, key: &str) {
        wait_until(format!("the breaker to be {state}"), LOOK_EVERY, WITHIN, || async {
            self.get(key).await;
            let breaker = self.stats().await.redis.unwrap().breaker;
            if breaker == state { Ok(()) } else { Err(breaker) }
        })
        .await
        .unwrap();
    }

    async fn timed_get(&self, key: &str) -> (pb::GetResponse, Duration) {
        let asked_at = Instant::now();
        (self.get(key).await, asked_at.elapsed())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_redis_slow_by_two_seconds_memory_and_disk_answer_inside_the_deadline() {
    let stack = redis().await;
    let directory = TempDir::new().unwrap();
    let proxy = ChaosProxy::start(single(&stack).address.parse().unwrap()).unwrap();
    let redis = RedisConfig { address: proxy.address().to_string(), ..single(&stack) };
    let disk = DiskConfig { path: directory.path().to_owned(), capacity: ByteSize::mib(16) };
    let mut config = CacheConfig { redis, disk, ..CacheConfig::default() };
    config.invalidation.current_for = Duration::from_millis(200);
    // What is in "test" is in memory; "below" is on disk alone, next to Redis.
    let below = NamespaceOverrides { memory: Some(false), ..NamespaceOverrides::default() };
    config.namespaces.insert("below".to_owned(), below);
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    assert!(!node.set("k", "value").await.degraded);
    let set = pb::SetRequest {
        namespace: "below".to_owned(),
        key: "k".to_owned(),
        value: Bytes::from_static(b"deep"),
        ..pb::SetRequest::default()
    };
    assert!(!node.client.clone().set(set).await.unwrap().into_inner().degraded);

    proxy.delay(Direction::Downstream, SLOW);
    let stale = wait_until("memory to be unproven", LOOK_EVERY, WITHIN, || async {
        let (read, took) = node.timed_get("k").await;
        assert!(took < INSIDE, "answered after {took:?}");
        if read.stale { Ok(read) } else { Err(format!("{read:?}")) }
    })
    .await
    .unwrap();
    assert!(stale.degraded);
    assert_eq!(stale.entry.unwrap().value, "value");
    let get = pb::GetRequest { namespace: "below".to_owned(), key: "k".to_owned(), ..Default::default() };
    let asked_at = Instant::now();
    let deep = node.client.clone().get(get).await.unwrap().into_inner();
    assert!(asked_at.elapsed() < INSIDE, "answered after {:?}", asked_at.elapsed());
    assert_eq!((deep.layer(), deep.degraded, deep.entry.unwrap().value), (Layer::L3, true, "deep".into()));
    // From then on nobody waits for it.
    node.wait_breaker("open", "cold").await;

    proxy.restore().await.unwrap();
    node.wait_ready(true).await;
    wait_until("fresh answers", LOOK_EVERY, WITHIN, || async {
        let read = node.get("k").await;
        if read.stale || read.degraded { Err(format!("{read:?}")) } else { Ok(()) }
    })
    .await
    .unwrap();
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_answers_slowly_but_in_time_opens_the_breaker_too() {
    let stack = redis().await;
    let proxy = ChaosProxy::start(single(&stack).address.parse().unwrap()).unwrap();
    let config = RedisConfig {
        address: proxy.address().to_string(),
        command_within: Duration::from_secs(1),
        ..single(&stack)
    };
    let node = CacheNode::start(config).await;
    node.wait_ready(true).await;
    // Over half of `command_within`: no answer is late, each one is slow.
    proxy.delay(Direction::Downstream, Duration::from_millis(650));
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..40 {
        let mut client = node.client.clone();
        let key = format!("cold{number}");
        asking.spawn(async move {
            client.get(pb::GetRequest { namespace: "test".to_owned(), key, lease: false }).await.unwrap();
        });
    }
    while let Some(asked) = asking.join_next().await {
        asked.unwrap();
    }
    let breaker = node.stats().await.redis.unwrap().breaker;
    assert_ne!(breaker, "closed");
    proxy.restore().await.unwrap();
    node.wait_breaker("closed", "cold").await;
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_without_enough_replicas_degrades_writes_and_leaves_reads_alone() {
    let stack = redis().await;
    let server = stack.redis().unwrap().first_primary();
    let node = CacheNode::start(single(&stack)).await;
    node.wait_ready(true).await;
    node.set("there", "value").await;
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "5"]).await.unwrap();
    for _ in 0..20 {
        assert!(node.set("new", "value").await.degraded);
    }
    let failure = Failure::from(node.delete("there").await.unwrap_err());
    assert_eq!(failure.reason(), "REDIS_UNAVAILABLE");
    let stats = node.stats().await.redis.unwrap();
    assert_eq!((stats.breaker.as_str(), stats.available), ("closed", true));
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await.unwrap();
    node.wait_for_confirmed_set("new", "value").await;
    assert!(node.delete("there").await.unwrap());
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_commands_than_may_be_in_flight_are_refused_and_change_nothing() {
    let stack = redis().await;
    let server = stack.redis().unwrap().first_primary();
    let proxy = ChaosProxy::start(single(&stack).address.parse().unwrap()).unwrap();
    let config = RedisConfig {
        address: proxy.address().to_string(),
        max_in_flight: 4,
        command_within: Duration::from_secs(5),
        ..single(&stack)
    };
    let node = CacheNode::start(config).await;
    node.wait_ready(true).await;
    node.wait_for_confirmed_set("held", "value").await;
    node.wait_for_confirmed_set("kept", "value").await;

    // No answer comes back, so the four that are asked stay in flight.
    proxy.stall(Direction::Downstream);
    let sets = (0..100).map(|number| {
        let mut client = node.client.clone();
        let key = format!("new{number}");
        let set = pb::SetRequest {
            namespace: "test".to_owned(),
            key: key.clone(),
            value: Bytes::from_static(b"value"),
            ..pb::SetRequest::default()
        };
        async move { (key, client.set(set).await) }
    });
    let (answers, held) = tokio::join!(join_all(sets), node.get("held"));
    assert_eq!(held.entry.unwrap().value, "value", "what memory holds is given, stale at worst");
    let mut refused = Vec::new();
    for (key, answer) in answers {
        match answer.map_err(Failure::from) {
            Ok(stored) => assert!(stored.get_ref().degraded, "{key}: {stored:?}"),
            Err(failure) => {
                let told = (failure.code(), failure.reason());
                assert_eq!(told, (ErrorCode::ResourceExhausted, "OVERLOADED"), "{key}: {failure}");
                assert!(failure.retry_delay().is_some());
                refused.push(key);
            }
        }
    }
    assert!(!refused.is_empty(), "a hundred found room for four");
    proxy.unstall(Direction::Downstream);
    node.wait_for_confirmed_set("held", "again").await;
    for key in &refused {
        assert_eq!(node.value(key).await, None, "{key} was refused and is there");
        let there = server.command(&["EXISTS", &format!("mainstay:test:{key}")]).await.unwrap();
        assert_eq!(there, RedisReply::Integer(0), "{key} was refused and is in Redis");
    }
    assert_eq!(node.value("kept").await, Some(Bytes::from_static(b"value")));
    let metrics = node.cx.openmetrics();
    let line =
        metrics.lines().find(|line| line.starts_with("mainstay_cache_l2_errors_total{kind=\"overloaded\"}"));
    assert!(line.is_some_and(|line| !line.ends_with(" 0")), "{line:?}");
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_out_of_range_is_one_clear_error_and_stores_nothing() {
    let stack = redis().await;
    let mut config = CacheConfig { redis: single(&stack), open_namespaces: false, ..CacheConfig::default() };
    config.namespaces.insert("test".to_owned(), NamespaceOverrides::default());
    config.namespace_defaults.max_value_size = ByteSize::kib(1);
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    let legal = || pb::SetRequest {
        namespace: "test".to_owned(),
        key: "k".to_owned(),
        value: Bytes::from_static(b"value"),
        ..pb::SetRequest::default()
    };
    let ttl = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    let (invalid, conflict) = (ErrorCode::InvalidArgument, ErrorCode::Conflict);
    let long = "k".repeat(1_025);
    let cases = [
        (pb::SetRequest { key: String::new(), ..legal() }, invalid, "KEY_EMPTY"),
        (pb::SetRequest { key: long, ..legal() }, invalid, "KEY_TOO_LONG"),
        (pb::SetRequest { key: "a\nb".to_owned(), ..legal() }, invalid, "KEY_HAS_CONTROL_CHARACTERS"),
        (pb::SetRequest { value: vec![0; 1_025].into(), ..legal() }, invalid, "VALUE_TOO_LARGE"),
        (pb::SetRequest { ttl: ttl(0, 0), ..legal() }, invalid, "TTL_OUT_OF_RANGE"),
        (pb::SetRequest { ttl: ttl(-1, 0), ..legal() }, invalid, "TTL_OUT_OF_RANGE"),
        (pb::SetRequest { ttl: ttl(i64::MAX, 0), ..legal() }, invalid, "TTL_OUT_OF_RANGE"),
        (pb::SetRequest { ttl: ttl(366 * 86_400, 0), ..legal() }, invalid, "TTL_OUT_OF_RANGE"),
        (pb::SetRequest { ttl: ttl(0, -1), ..legal() }, invalid, "TTL_OUT_OF_RANGE"),
        (pb::SetRequest { ttl: ttl(1, -1), ..legal() }, invalid, "TTL_OUT_OF_RANGE"),
        (pb::SetRequest { ttl: ttl(1, 1_000_000_000), ..legal() }, invalid, "TTL_OUT_OF_RANGE"),
        (pb::SetRequest { namespace: "Upper".to_owned(), ..legal() }, invalid, "NAMESPACE_INVALID"),
        (
            pb::SetRequest { namespace: "unknown".to_owned(), ..legal() },
            ErrorCode::NotFound,
            "UNKNOWN_NAMESPACE",
        ),
        (pb::SetRequest { content_type: "a\nb".to_owned(), ..legal() }, invalid, "CONTENT_TYPE_INVALID"),
        (pb::SetRequest { tags: vec![String::new()], ..legal() }, invalid, "TAGS_INVALID"),
        (pb::SetRequest { tags: vec!["t".to_owned(); 17], ..legal() }, invalid, "TAGS_INVALID"),
        (pb::SetRequest { if_version: Some(7), ..legal() }, conflict, "VERSION_MISMATCH"),
    ];
    for (request, code, reason) in cases {
        let told = format!("{request:?}");
        let refused = node.client.clone().set(request).await;
        let failure = Failure::from(refused.expect_err(&told));
        assert_eq!((failure.code(), failure.reason()), (code, reason), "{told}");
        assert!(failure.message().len() > 10, "{told}: {}", failure.message());
    }
    let admin = CacheAdminClient::new(node.channel.clone());
    let policy = pb::NamespacePolicy::default;
    let policies = [
        (pb::NamespacePolicy { ttl: ttl(0, 0), ..policy() }, "policy.ttl"),
        (pb::NamespacePolicy { ttl: ttl(-5, 0), ..policy() }, "policy.ttl"),
        (pb::NamespacePolicy { ttl: ttl(5, -1), ..policy() }, "policy.ttl"),
        (pb::NamespacePolicy { max_value_bytes: Some(1 << 40), ..policy() }, "policy.max_value_size"),
        (pb::NamespacePolicy { memory_ttl: ttl(i64::MAX, 0), ..policy() }, "policy.memory_ttl"),
        (pb::NamespacePolicy { grace: ttl(i64::MAX, 999_999_999), ..policy() }, "policy.grace"),
        (pb::NamespacePolicy { ttl_jitter_percent: Some(u32::MAX), ..policy() }, "policy.ttl_jitter_percent"),
        (pb::NamespacePolicy { eviction: Some("random".to_owned()), ..policy() }, "policy.eviction"),
        (pb::NamespacePolicy { strategy: Some("guess".to_owned()), ..policy() }, "policy.strategy"),
    ];
    for (policy, field) in policies {
        let told = format!("{policy:?}");
        let policy = Some(policy);
        let request = pb::PutNamespaceRequest { namespace: "test".to_owned(), policy, if_version: 0 };
        let refused: Reply<_> = admin.clone().put_namespace(request).await;
        let failure = Failure::from(refused.map(drop).expect_err(&told));
        assert_eq!((failure.code(), failure.reason()), (invalid, "POLICY_INVALID"), "{told}");
        assert_eq!(failure.fields()[0].field, field, "{told}: {failure}");
    }
    for namespace in ["", "Upper", "a b"] {
        let request = pb::PutNamespaceRequest { namespace: namespace.to_owned(), ..Default::default() };
        let refused: Reply<_> = admin.clone().put_namespace(request).await;
        assert_eq!(Failure::from(refused.map(drop).unwrap_err()).reason(), "NAMESPACE_INVALID");
    }
    assert_eq!(node.stats().await.memory.unwrap().entries, 0);
    let server = stack.redis().unwrap().first_primary();
    assert_eq!(server.command(&["KEYS", "mainstay:test:*"]).await.unwrap(), RedisReply::List(Vec::new()));
    assert_eq!(server.command(&["EXISTS", "mainstay:!policies"]).await.unwrap(), RedisReply::Integer(0));
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}
