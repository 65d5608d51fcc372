use std::sync::Weak;
use std::time::UNIX_EPOCH;

use mainstay_runtime::{Clock, ClockHandle, Context};
use prometheus_client::registry::Registry;

use super::*;
use crate::config::{CacheConfig, NamespaceOverrides, RedisConfig, RedisMode};
use crate::fence::Fences;
use crate::invalidation::InvalidationMetrics;
use crate::once::MadeHere;
use crate::origin::Origins;
use crate::redis::Redis;

const LEFT: Duration = Duration::from_secs(5);

fn engine(config: &CacheConfig) -> (Engine, ClockHandle) {
    let (clock, handle) = Clock::fixed(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    let metrics = Arc::new(CacheMetrics::register(&mut Registry::default()));
    let redis = (config.redis.mode != RedisMode::None).then(|| {
        // Nobody connects it: the Redis of these tests is one that is away.
        let redis = Arc::new(Redis::new(&config.redis, config.invalidation.log_length));
        Arc::new(RedisLayer::new(redis, &config.redis, Arc::clone(&metrics)))
    });
    let time = Time::by_clock_alone(clock);
    let engine = Engine {
        insight: Insight::new(),
        memory: Arc::new(Memory::new(
            config.memory.capacity.as_u64(),
            config.largest_value(),
            config.namespace_defaults.eviction,
        )),
        redis,
        disk: None,
        namespaces: Namespaces::new(config),
        metrics,
        time: time.clone(),
        versions: Versions::default(),
        invalidation: Invalidation::new(
            config.invalidation.current_for,
            1,
            InvalidationMetrics::register(&mut Registry::default()),
        ),
        policies: RunTimePolicies::default(),
        made_here: MadeHere::new(time.clone()),
        fences: Fences::new(1_000, time),
        queued: Notify::new(),
        max_queued: config.write_behind.max_queued,
        loads: Loads::new(Context::for_test("cache-service"), Origins::default(), Weak::new()),
        turns: Turns::default(),
        reads: Reads::default(),
        hot: HotKeys::default(),
    };
    (engine, handle)
}

fn memory_only() -> (Engine, ClockHandle) {
    engine(&CacheConfig::default())
}

fn redis_away() -> (Engine, ClockHandle) {
    let redis = RedisConfig { mode: RedisMode::Single, ..RedisConfig::default() };
    engine(&CacheConfig { redis, ..CacheConfig::default() })
}

fn key(name: &str) -> Key {
    Key::try_new("test", name).unwrap()
}

fn set(name: &str, value: &'static [u8], ttl_s: u64) -> Set {
    let ttl = (ttl_s > 0).then(|| Ttl::try_new(Duration::from_secs(ttl_s)).unwrap());
    let content_type = ContentType::try_new("text/plain").unwrap();
    Set {
        key: key(name),
        value: Bytes::from_static(value),
        ttl,
        content_type,
        condition: Condition::Always,
        tags: Tags::default(),
        lease: None,
        fence: None,
        once: None,
    }
}

#[tokio::test]
async fn what_is_set_comes_back_from_memory_until_its_ttl_is_over() {
    let (engine, clock) = memory_only();
    let stored = engine.set(set("a", b"value", 60), LEFT).await.unwrap();
    assert_eq!(stored, Stored::applied(1_700_000_000_000_000));
    clock.advance(Duration::from_secs(20));
    let found = engine.get(&key("a"), LEFT).await.unwrap();
    let entry = FoundEntry {
        value: Bytes::from_static(b"value"),
        content_type: ContentType::try_new("text/plain").unwrap(),
        version: stored.version,
        ttl_left: Duration::from_secs(40),
        age: Duration::from_secs(20),
    };
    assert_eq!(found, Found { entry: Some(entry), layer: LastLayer::L1, stale: false, degraded: false });
    clock.advance(Duration::from_secs(40));
    assert_eq!(engine.get(&key("a"), LEFT).await.unwrap(), Found::nothing());
    assert_eq!(engine.memory.figures().entries, 0, "an expired entry takes room");
}

#[tokio::test]
async fn without_a_ttl_the_one_of_the_namespace_counts() {
    let (engine, clock) = memory_only();
    engine.set(set("a", b"value", 0), LEFT).await.unwrap();
    clock.advance(Duration::from_millis(299_999));
    assert!(engine.get(&key("a"), LEFT).await.unwrap().entry.is_some());
    clock.advance(Duration::from_millis(1));
    assert!(engine.get(&key("a"), LEFT).await.unwrap().entry.is_none());
}

#[tokio::test]
async fn versions_of_a_key_grow_over_a_deletion() {
    let (engine, _clock) = memory_only();
    let first = engine.set(set("a", b"1", 60), LEFT).await.unwrap().version;
    assert!(engine.delete(&key("a"), Removal::default(), LEFT).await.unwrap().existed);
    assert!(!engine.delete(&key("a"), Removal::default(), LEFT).await.unwrap().existed);
    assert!(engine.set(set("a", b"2", 60), LEFT).await.unwrap().version > first);
}

#[tokio::test]
async fn a_value_over_the_limit_is_refused_and_nothing_is_stored() {
    let mut config = CacheConfig::default();
    let small = NamespaceOverrides {
        max_value_size: Some(bytesize::ByteSize::b(4)),
        ..NamespaceOverrides::default()
    };
    config.namespaces.insert("test".to_owned(), small);
    let (engine, _clock) = engine(&config);
    let refused = engine.set(set("a", b"12345", 60), LEFT).await;
    assert!(matches!(refused, Err(CacheError::ValueTooLarge { bytes: 5, max_bytes: 4 })), "{refused:?}");
    assert!(engine.set(set("b", b"1234", 60), LEFT).await.is_ok());
    assert_eq!((engine.memory.figures().entries, engine.metrics.set.errors.get()), (1, 1));
}

#[tokio::test]
async fn an_unknown_namespace_is_refused_when_namespaces_are_closed() {
    let (engine, _clock) = engine(&CacheConfig { open_namespaces: false, ..CacheConfig::default() });
    let refused = engine.get(&key("a"), LEFT).await;
    assert!(
        matches!(&refused, Err(CacheError::UnknownNamespace { namespace }) if namespace == "test"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_write_while_redis_is_away_is_kept_here_and_marked() {
    let (engine, clock) = redis_away();
    assert!(engine.set(set("a", b"value", 60), LEFT).await.unwrap().is_degraded());

    let fresh = engine.get(&key("a"), LEFT).await.unwrap();
    assert_eq!((fresh.layer, fresh.stale, fresh.degraded), (LastLayer::L1, false, false));

    clock.advance(Duration::from_secs(5));
    let unchecked = engine.get(&key("a"), LEFT).await.unwrap();
    assert_eq!((unchecked.layer, unchecked.stale, unchecked.degraded), (LastLayer::L1, true, true));
    assert_eq!(unchecked.entry.unwrap().ttl_left, Duration::from_secs(55));

    clock.advance(Duration::from_mins(60));
    let within_grace = engine.get(&key("a"), LEFT).await.unwrap();
    assert_eq!((within_grace.stale, within_grace.entry.unwrap().ttl_left), (true, Duration::ZERO));

    clock.advance(Duration::from_secs(55));
    let over = engine.get(&key("a"), LEFT).await.unwrap();
    assert_eq!(over, Found { degraded: true, ..Found::nothing() });
}

#[tokio::test]
async fn a_delete_that_does_not_reach_redis_is_an_error_and_leaves_nothing_here() {
    let (engine, _clock) = redis_away();
    engine.set(set("a", b"value", 60), LEFT).await.unwrap();
    let failed = engine.delete(&key("a"), Removal::default(), LEFT).await;
    assert!(matches!(failed, Err(CacheError::NotDeleted(_))), "{failed:?}");
    assert!(engine.get(&key("a"), LEFT).await.unwrap().entry.is_none());
}

#[tokio::test]
async fn a_namespace_without_memory_does_not_accept_what_redis_does_not_take() {
    let redis = RedisConfig { mode: RedisMode::Single, ..RedisConfig::default() };
    let mut config = CacheConfig { redis, ..CacheConfig::default() };
    config.namespace_defaults.memory = false;
    let (engine, _clock) = engine(&config);
    let failed = engine.set(set("a", b"value", 60), LEFT).await;
    assert!(matches!(failed, Err(CacheError::NotStored(_))), "{failed:?}");
    assert_eq!(engine.memory.figures().entries, 0);
}

#[tokio::test]
async fn a_namespace_without_redis_does_not_care_that_it_is_away() {
    let redis = RedisConfig { mode: RedisMode::Single, ..RedisConfig::default() };
    let mut config = CacheConfig { redis, ..CacheConfig::default() };
    config.namespace_defaults.redis = false;
    let (engine, _clock) = engine(&config);
    assert!(!engine.set(set("a", b"value", 60), LEFT).await.unwrap().is_degraded());
    assert!(engine.delete(&key("a"), Removal::default(), LEFT).await.unwrap().existed);
}

#[tokio::test]
async fn the_breaker_opens_after_a_row_of_failures() {
    let (engine, _clock) = redis_away();
    for _ in 0..5 {
        engine.get(&key("a"), LEFT).await.unwrap();
    }
    let redis = engine.redis.as_ref().unwrap();
    assert_eq!(redis.breaker_state().as_str(), "open");
    let failed = engine.delete(&key("a"), Removal::default(), LEFT).await.unwrap_err();
    assert!(
        matches!(failed, CacheError::NotDeleted(crate::layer::redis::LayerError::BreakerOpen { .. })),
        "{failed:?}"
    );
}

#[tokio::test]
async fn a_value_is_copied_out_of_the_buffer_it_came_in() {
    let (engine, _clock) = memory_only();
    let buffer = Bytes::from(vec![7; 1 << 20]);
    let value = buffer.slice(10..20);
    let set = Set { value: value.clone(), ..set("a", b"", 0) };
    engine.set(set, LEFT).await.unwrap();
    let found = engine.get(&key("a"), LEFT).await.unwrap().entry.unwrap().value;
    assert_eq!(found, value);
    assert_ne!(found.as_ptr(), value.as_ptr());
}
