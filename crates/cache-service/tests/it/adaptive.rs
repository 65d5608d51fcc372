//! The strategy `adaptive` in front of an origin, while what is asked of it changes.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use cache_service::{CacheConfig, NamespaceOverrides, OriginConfig, RedisConfig, Strategy};
use mainstay_devstack::wait_until;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_admin_client::CacheAdminClient;
use mainstay_proto::cache::v1::operation::Action;
use mainstay_proto::cache::v1::origin_server::{Origin, OriginServer};
use mainstay_proto::cache::v1::{Layer, Loaded};
use mainstay_rpc::{Reply, Request, Response, Routes, Status, UpstreamConfig};
use mainstay_runtime::Context;
use parking_lot::Mutex;

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, patient, redis};

/// Has every key, after a while, and notes what is stored.
#[derive(Clone, Default)]
struct Source {
    delay_ms: Arc<AtomicU64>,
    stored: Arc<Mutex<HashSet<String>>>,
}

#[tonic::async_trait]
impl Origin for Source {
    async fn load(&self, _: Request<pb::LoadRequest>) -> Reply<pb::LoadResponse> {
        tokio::time::sleep(Duration::from_millis(self.delay_ms.load(Ordering::Relaxed))).await;
        let value = Some(Loaded { value: Bytes::from_static(b"loaded"), ..Loaded::default() });
        Ok(Response::new(pb::LoadResponse { value }))
    }

    async fn load_many(&self, _: Request<pb::LoadManyRequest>) -> Reply<pb::LoadManyResponse> {
        Err(Status::unimplemented("one by one"))
    }

    async fn store(&self, request: Request<pb::StoreRequest>) -> Reply<pb::StoreResponse> {
        let keys = request.into_inner().changes.into_iter().map(|change| change.key);
        self.stored.lock().extend(keys);
        Ok(Response::new(pb::StoreResponse {}))
    }
}

async fn start(redis: RedisConfig, origin: &str) -> CacheNode {
    let mut config = CacheConfig { redis, ..CacheConfig::default() };
    config.memory.capacity = ByteSize::mib(1);
    config.namespace_defaults.max_value_size = ByteSize::kib(64);
    config.adaptive.every = Duration::from_millis(100);
    // What it brings ahead would be seen as loads.
    config.hot_keys.most = 0;
    let grpc = UpstreamConfig::of([origin]);
    config.origins.insert("source".to_owned(), OriginConfig { grpc, ..OriginConfig::default() });
    let policy = NamespaceOverrides {
        origin: Some("source".to_owned()),
        strategy: Some(Strategy::Adaptive),
        ttl: Some(Duration::from_secs(1)),
        hard_deadline: Some(Duration::from_secs(10)),
        ..NamespaceOverrides::default()
    };
    config.namespaces.insert("test".to_owned(), policy);
    CacheNode::start_with(config).await
}

impl CacheNode {
    async fn all_of(&self, operations: impl IntoIterator<Item = (String, Action)>) {
        let operations = operations.into_iter();
        let operations = operations.map(|(key, action)| pb::Operation { key, action: Some(action) });
        let request = pb::BatchRequest { namespace: "test".to_owned(), operations: operations.collect() };
        self.client.clone().batch(request).await.unwrap();
    }

    /// Goes on with this until the strategy is chosen.
    async fn work_until(&self, chosen: &str, mut work: impl AsyncFnMut()) -> pb::AdaptiveView {
        let until = tokio::time::Instant::now() + WITHIN;
        loop {
            work().await;
            let request = pb::GetNamespaceRequest { namespace: "test".to_owned() };
            let view = CacheAdminClient::new(self.channel.clone()).get_namespace(request).await.unwrap();
            let adaptive = view.into_inner().adaptive;
            match adaptive {
                Some(adaptive) if adaptive.chosen == chosen => return adaptive,
                other => assert!(tokio::time::Instant::now() < until, "{chosen} is not chosen: {other:?}"),
            }
        }
    }
}

fn get(key: String) -> (String, Action) {
    (key, Action::Get(pb::GetAction {}))
}

fn set(key: String, n_bytes: usize) -> (String, Action) {
    (key, Action::Set(pb::SetAction { value: vec![0; n_bytes].into(), ..pb::SetAction::default() }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_choice_follows_the_mix_and_writes_reach_the_origin_under_each() {
    let source = Source::default();
    let origin = Context::for_test("origin");
    origin.serve(Routes::new(OriginServer::new(source.clone()))).await.unwrap();
    let address = format!("http://{}", origin.listening().first().unwrap().address);
    let node = start(RedisConfig::default(), &address).await;
    node.wait_ready(true).await;

    // What is written is read again: it begins with the right thing, and stays with it.
    let mut number = 0;
    let adaptive = node
        .work_until("write_through", async || {
            number += 1;
            let keys = || (0..50).map(|nth| format!("again{}", nth + 50 * (number % 10)));
            node.all_of(keys().map(|key| set(key, 10))).await;
            node.all_of(keys().map(get)).await;
        })
        .await;
    assert_eq!((adaptive.switches, adaptive.since, adaptive.estimates.len()), (0, None, 3));

    // What is written is not read again, and fills memory that others need.
    let hot = || (0..200).map(|nth| get(format!("hot{}", nth % 20)));
    let mut number = 0;
    let adaptive = node
        .work_until("read_through", async || {
            number += 1;
            node.all_of((0..100).map(|nth| set(format!("log{}", nth + 100 * number), 8 << 10))).await;
            node.all_of(hot()).await;
        })
        .await;
    assert!(adaptive.reason.contains("read_through would cost"), "{adaptive:?}");
    assert!(adaptive.since.is_some() && adaptive.switches == 1, "{adaptive:?}");
    node.set("around", "written").await;
    assert!(source.stored.lock().contains("around"));
    let found = node.get("around").await;
    assert_eq!((found.layer(), found.entry.unwrap().value), (Layer::Origin, "loaded".into()));

    // Read all the time, ends often, slow to load.
    source.delay_ms.store(200, Ordering::Relaxed);
    let adaptive = node.work_until("refresh_ahead", async || node.all_of(hot()).await).await;
    assert_eq!(adaptive.switches, 2, "{adaptive:?}");
    wait_until("an early load", LOOK_EVERY, WITHIN, || async {
        node.all_of(hot()).await;
        let metrics = node.cx.openmetrics();
        let none = metrics.contains("mainstay_cache_refreshes_total 0");
        if none { Err("none yet".to_owned()) } else { Ok(()) }
    })
    .await
    .unwrap();
    node.set("kept", "written").await;
    assert!(source.stored.lock().contains("kept"));
    let found = node.get("kept").await;
    assert_eq!((found.layer(), found.entry.unwrap().value), (Layer::L1, "written".into()));
    let metrics = node.cx.openmetrics();
    for line in [
        "mainstay_cache_adaptive_choice{namespace=\"test\",strategy=\"refresh_ahead\"} 1",
        "mainstay_cache_adaptive_choice{namespace=\"test\",strategy=\"read_through\"} 0",
        "mainstay_cache_adaptive_switches_total{namespace=\"test\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    node.cx.shut_down().await;
    origin.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_chooses_for_itself_and_shows_what_the_others_would_have_cost() {
    let source = Source::default();
    source.delay_ms.store(200, Ordering::Relaxed);
    let origin = Context::for_test("origin");
    origin.serve(Routes::new(OriginServer::new(source.clone()))).await.unwrap();
    let address = format!("http://{}", origin.listening().first().unwrap().address);
    let stack = redis().await;
    let (busy, idle) = (start(patient(&stack), &address).await, start(patient(&stack), &address).await);
    busy.wait_ready(true).await;
    idle.wait_ready(true).await;
    // Read all the time, ends often, slow to load.
    let hot = || (0..200).map(|nth| get(format!("hot{}", nth % 20)));
    let adaptive = busy.work_until("refresh_ahead", async || busy.all_of(hot()).await).await;
    assert_eq!(adaptive.estimates.len(), 3, "{adaptive:?}");
    assert!(adaptive.reason.contains("refresh_ahead would cost"), "{adaptive:?}");
    let observed = adaptive.observed.unwrap();
    assert!(observed.load_seconds > 0.1, "{observed:?}");
    let metrics = busy.cx.openmetrics();
    for strategy in ["read_through", "write_through", "refresh_ahead"] {
        let cost =
            format!("mainstay_cache_adaptive_estimated_cost{{namespace=\"test\",strategy=\"{strategy}\"}} ");
        let cost = metrics.lines().find_map(|line| line.strip_prefix(&cost)).unwrap();
        assert!(cost.parse::<f64>().is_ok_and(|cost| cost >= 0.0), "{strategy}: {cost}");
    }
    // Nobody asked the other one, so it stays with what it began with.
    let request = pb::GetNamespaceRequest { namespace: "test".to_owned() };
    let other = idle.admin().get_namespace(request).await.unwrap().into_inner().adaptive;
    assert!(other.is_none_or(|other| other.chosen == "write_through" && other.switches == 0));
    // A write is one for both, and for the origin.
    let version = busy.set("k", "written").await.version;
    assert!(source.stored.lock().contains("k"));
    wait_until("the other node to have the write", LOOK_EVERY, WITHIN, || async {
        let found = idle.get("k").await.entry.unwrap();
        if found.version >= version { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await
    .unwrap();
    for cx in [busy.cx, idle.cx, origin] {
        cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}
