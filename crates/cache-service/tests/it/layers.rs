//! What a namespace keeps where, and for how long: each layer off by itself, ttls that vary, and a link that is cut for long.

use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use cache_service::{
    CacheConfig, DiskConfig, HttpOriginConfig, NamespaceOverrides, OriginConfig, RedisConfig, Strategy,
};
use mainstay_devstack::{ChaosProxy, RedisReply, wait_until};
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::Layer;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, patient, redis, single};

impl CacheNode {
    async fn set_in(&self, namespace: &str, key: &str) -> pb::SetResponse {
        self.set_value_in(namespace, key, Bytes::from_static(b"value")).await
    }

    async fn set_value_in(&self, namespace: &str, key: &str, value: Bytes) -> pb::SetResponse {
        let (namespace, key) = (namespace.to_owned(), key.to_owned());
        let set = pb::SetRequest { namespace, key, value, ..pb::SetRequest::default() };
        self.client.clone().set(set).await.unwrap().into_inner()
    }

    pub(crate) async fn layer_in(&self, namespace: &str, key: &str) -> Option<Layer> {
        let get = pb::GetRequest { namespace: namespace.to_owned(), key: key.to_owned(), lease: false };
        let found = self.client.clone().get(get).await.unwrap().into_inner();
        found.entry.is_some().then(|| found.layer())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_layer_can_be_off_for_one_namespace_and_is_then_not_used() {
    let stack = redis().await;
    let directory = TempDir::new().unwrap();
    let mut config = CacheConfig { redis: single(&stack), ..CacheConfig::default() };
    config.disk = DiskConfig { path: directory.path().to_owned(), capacity: ByteSize::mib(16) };
    let off = |memory: bool, redis: bool, disk: bool| NamespaceOverrides {
        memory: Some(memory),
        redis: Some(redis),
        disk: Some(disk),
        ..NamespaceOverrides::default()
    };
    for (name, policy) in [
        ("all", off(true, true, true)),
        ("no-memory", off(false, true, true)),
        ("no-redis", off(true, false, true)),
        ("no-disk", off(true, true, false)),
        ("memory", off(true, false, false)),
        ("redis", off(false, true, false)),
    ] {
        config.namespaces.insert(name.to_owned(), policy);
    }
    let server = stack.redis().unwrap().first_primary();
    let node = CacheNode::start_with(config.clone()).await;
    node.wait_ready(true).await;
    for (namespace, in_memory, in_redis) in [
        ("all", true, true),
        ("no-memory", false, true),
        ("no-redis", true, false),
        ("no-disk", true, true),
        ("memory", true, false),
        ("redis", false, true),
    ] {
        assert!(!node.set_in(namespace, "k").await.degraded, "{namespace}");
        let wanted = if in_memory { Layer::L1 } else { Layer::L2 };
        wait_until(format!("{namespace} to answer from {wanted:?}"), LOOK_EVERY, WITHIN, || async {
            let layer = node.layer_in(namespace, "k").await;
            if layer == Some(wanted) { Ok(()) } else { Err(format!("{layer:?}")) }
        })
        .await
        .unwrap();
        let there = server.command(&["EXISTS", &format!("mainstay:{namespace}:k")]).await.unwrap();
        assert_eq!(there, RedisReply::Integer(in_redis.into()), "{namespace} in redis");
        let stats = node.stats().await;
        let held = stats.namespaces.iter().find(|stats| stats.namespace == namespace).unwrap().l1_entries;
        assert_eq!(held, u64::from(in_memory), "{namespace} in memory");
    }
    // Three of the six are on disk too.
    wait_until("the disk to have what it may", LOOK_EVERY, WITHIN, || async {
        let n_entries = node.stats().await.disk.unwrap().entries;
        if n_entries == 3 { Ok(()) } else { Err(format!("{n_entries}")) }
    })
    .await
    .unwrap();
    node.cx.shut_down().await;

    // A new process has an empty memory, and of "no-redis" only the disk.
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    for (namespace, layer) in [("no-redis", Some(Layer::L3)), ("memory", None), ("no-disk", Some(Layer::L2))]
    {
        assert_eq!(node.layer_in(namespace, "k").await, layer, "{namespace}");
    }
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_are_loaded_together_do_not_end_together() {
    let app = axum::Router::new().route("/{namespace}/{key}", axum::routing::get(async || "value"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = JoinSet::new();
    server.spawn(async move { axum::serve(listener, app).await.unwrap() });
    let mut config = CacheConfig::default();
    let url = format!("http://{address}/{{namespace}}/{{key}}");
    let http = HttpOriginConfig { url, ..HttpOriginConfig::default() };
    config.origins.insert("shop".to_owned(), OriginConfig { http, ..OriginConfig::default() });
    let policy = |percent| NamespaceOverrides {
        strategy: Some(Strategy::ReadThrough),
        origin: Some("shop".to_owned()),
        ttl: Some(Duration::from_secs(1_000)),
        ttl_jitter_percent: Some(percent),
        ..NamespaceOverrides::default()
    };
    config.namespaces.insert("test".to_owned(), policy(20));
    config.namespaces.insert("exact".to_owned(), policy(0));
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    let ttls = async |namespace: &str| {
        let mut ttls = Vec::new();
        for number in 0..100 {
            let get = || pb::GetRequest {
                namespace: namespace.to_owned(),
                key: format!("k{number}"),
                ..pb::GetRequest::default()
            };
            node.client.clone().get(get()).await.unwrap();
            let found = node.client.clone().get(get()).await.unwrap().into_inner();
            assert_eq!(found.layer(), Layer::L1);
            ttls.push(found.entry.unwrap().ttl.unwrap().seconds);
        }
        (ttls.iter().copied().min().unwrap(), ttls.iter().copied().max().unwrap())
    };
    // The time between the load and the look at it is within the ten seconds.
    let (least, most) = ttls("test").await;
    assert!((790..=1_000).contains(&least) && (790..=1_000).contains(&most), "{least} to {most}");
    assert!(most - least > 80, "{least} to {most}");
    let (least, most) = ttls("exact").await;
    assert!(least >= 990 && most <= 1_000, "{least} to {most}");
    node.cx.shut_down().await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_seconds_of_a_cut_link_leave_nothing_stale_that_is_called_fresh() {
    const KEYS: usize = 20;
    let stack = redis().await;
    let proxy = ChaosProxy::start(single(&stack).address.parse().unwrap()).unwrap();
    let a = CacheNode::start(single(&stack)).await;
    let b = RedisConfig { address: proxy.address().to_string(), ..single(&stack) };
    let b = CacheNode::start_with(CacheConfig { redis: b, ..CacheConfig::default() }).await;
    a.wait_ready(true).await;
    b.wait_ready(true).await;
    let key = |number: usize| format!("k{number}");
    let mut versions = [0; KEYS];
    for (number, version) in versions.iter_mut().enumerate() {
        *version = a.set(&key(number), "before").await.version;
        wait_until("b to have it in memory", LOOK_EVERY, WITHIN, || async {
            let read = b.get(&key(number)).await;
            if read.layer() == Layer::L1 { Ok(()) } else { Err(format!("{read:?}")) }
        })
        .await
        .unwrap();
    }

    proxy.cut().await.unwrap();
    let cut_at = Instant::now();
    let mut every = interval(Duration::from_millis(50));
    let mut number = 0;
    while cut_at.elapsed() < Duration::from_secs(10) {
        every.tick().await;
        number = (number + 1) % KEYS;
        versions[number] = a.set(&key(number), "after").await.version;
        let asked = cut_at.elapsed();
        let read = b.get(&key(number)).await;
        // For `current_for` it may not know; then it says that it does not.
        let may_be_fresh = asked < Duration::from_millis(2_500);
        assert!(may_be_fresh || read.stale, "{read:?} after {asked:?}");
    }

    proxy.restore().await.unwrap();
    let check = async || {
        let mut n_marked = 0;
        for (number, version) in versions.iter().enumerate() {
            let read = b.get(&key(number)).await;
            if read.stale || read.degraded {
                n_marked += 1;
            } else {
                assert_eq!(read.entry.unwrap().version, *version, "an old value was called fresh");
            }
        }
        n_marked
    };
    wait_until("all to be fresh again", LOOK_EVERY, WITHIN, || async {
        let n_marked = check().await;
        if n_marked == 0 { Ok(()) } else { Err(format!("{n_marked} are stale or degraded")) }
    })
    .await
    .unwrap();
    assert_eq!(check().await, 0);
    a.cx.shut_down().await;
    b.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_above_the_threshold_lie_compressed_in_redis_and_are_read_by_all() {
    let stack = redis().await;
    let server = stack.redis().unwrap().first_primary();
    let mut config = CacheConfig { redis: patient(&stack), ..CacheConfig::default() };
    let policy = |above| NamespaceOverrides { compress_above: Some(above), ..NamespaceOverrides::default() };
    config.namespaces.insert("packed".to_owned(), policy(ByteSize::kib(4)));
    config.namespaces.insert("plain".to_owned(), policy(ByteSize::mib(16)));
    let a = CacheNode::start_with(config.clone()).await;
    // It has to read what the other one wrote.
    config.namespace_defaults.memory = false;
    let b = CacheNode::start_with(config).await;
    a.wait_ready(true).await;
    b.wait_ready(true).await;
    let in_redis = async |namespace: &str, key: &str| {
        let length = server.command(&["STRLEN", &format!("mainstay:{namespace}:{key}")]).await.unwrap();
        let RedisReply::Integer(length) = length else { panic!("{length:?}") };
        length
    };
    let mut state = 1_u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    let (even, noise): (Bytes, Bytes) = (vec![b'v'; 20_000].into(), noise.take(20_000).collect());
    let small = even.slice(..4_000);
    for (namespace, key, value, lengths) in [
        ("packed", "even", &even, 1..2_000),
        // What does not become smaller stays as it is, and so does what is not above.
        ("packed", "noise", &noise, 20_000..21_000),
        ("packed", "small", &small, 4_000..4_500),
        ("plain", "even", &even, 20_000..21_000),
    ] {
        assert!(!a.set_value_in(namespace, key, value.clone()).await.degraded);
        let length = in_redis(namespace, key).await;
        assert!(lengths.contains(&length), "{namespace}:{key} takes {length} bytes in Redis");
        let get = pb::GetRequest { namespace: namespace.to_owned(), key: key.to_owned(), lease: false };
        let found = b.client.clone().get(get).await.unwrap().into_inner();
        assert!(found.layer() == Layer::L2 && found.entry.unwrap().value == *value, "{namespace}:{key}");
    }

    // The threshold may be put at run time; what is there stays readable.
    let put = pb::PutNamespaceRequest {
        namespace: "packed".to_owned(),
        policy: Some(pb::NamespacePolicy { compress_above_bytes: Some(1_000), ..Default::default() }),
        if_version: 0,
    };
    a.admin().put_namespace(put).await.unwrap();
    wait_until("the threshold to hold", LOOK_EVERY, WITHIN, || async {
        a.set_value_in("packed", "small", small.clone()).await;
        let length = in_redis("packed", "small").await;
        if length < 1_000 { Ok(()) } else { Err(format!("{length} bytes")) }
    })
    .await
    .unwrap();
    assert_eq!(b.layer_in("packed", "small").await, Some(Layer::L2));
    assert_eq!(b.layer_in("packed", "even").await, Some(Layer::L2));
    for node in [a, b] {
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}
