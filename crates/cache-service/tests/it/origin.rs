//! A cache in front of an origin that counts how often it is asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cache_service::{CacheConfig, DiskConfig, NamespaceOverrides, OriginConfig, RedisConfig, Strategy};
use mainstay_devstack::{ChaosProxy, Devstack, Direction, wait_until};
use mainstay_proto::cache::v1::cache_admin_client::CacheAdminClient;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::operation::Action;
use mainstay_proto::cache::v1::origin_server::{Origin, OriginServer};
use mainstay_proto::cache::v1::{
    BatchRequest, GetAction, GetRequest, InvalidateRequest, Layer, LoadManyRequest, LoadManyResponse,
    LoadRequest, LoadResponse, Loaded, Operation, Outcome, SetRequest, StoreRequest, StoreResponse, outcome,
};
use mainstay_rpc::{Failure, Reply, Request, Response, Routes, Status, UpstreamConfig};
use mainstay_runtime::Context;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Endpoint;

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, patient, redis, single};

/// For 10,000 callers in the process that also answers them.
const PATIENCE: Duration = Duration::from_mins(5);

/// Holds values; a load takes a permit of the gate.
#[derive(Clone)]
pub(crate) struct Source {
    values: Arc<Mutex<HashMap<String, &'static str>>>,
    n_loads: Arc<AtomicU64>,
    pub(crate) gate: Arc<Semaphore>,
    takes_ms: Arc<AtomicU64>,
    fails: Arc<AtomicBool>,
    knows_many: Arc<AtomicBool>,
    /// Keys of each call for many.
    batches: Arc<Mutex<Vec<usize>>>,
}

impl Default for Source {
    fn default() -> Self {
        Self {
            values: Arc::default(),
            n_loads: Arc::default(),
            gate: Arc::new(Semaphore::new(1_000_000)),
            takes_ms: Arc::default(),
            fails: Arc::default(),
            knows_many: Arc::default(),
            batches: Arc::default(),
        }
    }
}

#[tonic::async_trait]
impl Origin for Source {
    async fn load(&self, request: Request<LoadRequest>) -> Reply<LoadResponse> {
        self.n_loads.fetch_add(1, Ordering::Relaxed);
        if self.fails.load(Ordering::Relaxed) {
            return Err(Status::unavailable("told to fail"));
        }
        let value = self.values.lock().get(&request.into_inner().key).copied();
        tokio::time::sleep(Duration::from_millis(self.takes_ms.load(Ordering::Relaxed))).await;
        self.gate.acquire().await.unwrap().forget();
        let value = value.map(|value| Loaded {
            value: Bytes::from_static(value.as_bytes()),
            tags: vec!["loaded".to_owned()],
            ..Loaded::default()
        });
        Ok(Response::new(LoadResponse { value }))
    }

    async fn load_many(&self, request: Request<LoadManyRequest>) -> Reply<LoadManyResponse> {
        if !self.knows_many.load(Ordering::Relaxed) {
            return Err(Status::unimplemented("one by one"));
        }
        let keys = request.into_inner().keys;
        self.batches.lock().push(keys.len());
        if self.fails.load(Ordering::Relaxed) {
            return Err(Status::unavailable("told to fail"));
        }
        let values = self.values.lock();
        let results = keys.iter().map(|key| {
            let value = values.get(key).map(|value| Loaded { value: (*value).into(), ..Loaded::default() });
            LoadResponse { value }
        });
        Ok(Response::new(LoadManyResponse { results: results.collect() }))
    }

    async fn store(&self, request: Request<StoreRequest>) -> Reply<StoreResponse> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(Status::unavailable("told to fail"));
        }
        for change in request.into_inner().changes {
            match change.value {
                Some(_) => self.values.lock().insert(change.key, "stored"),
                None => self.values.lock().remove(&change.key),
            };
        }
        Ok(Response::new(StoreResponse {}))
    }
}

impl Source {
    pub(crate) async fn serve(&self) -> (Context, String) {
        let cx = Context::for_test("origin");
        cx.serve(Routes::new(OriginServer::new(self.clone()))).await.unwrap();
        let address = cx.listening().first().unwrap().address;
        (cx, format!("http://{address}"))
    }

    pub(crate) fn set(&self, key: &str, value: &'static str) {
        self.values.lock().insert(key.to_owned(), value);
    }

    /// Lets each load take so long.
    pub(crate) fn take(&self, time: Duration) {
        self.takes_ms.store(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub(crate) fn n_loads(&self) -> u64 {
        self.n_loads.load(Ordering::Relaxed)
    }

    pub(crate) fn close_gate(&self) {
        let open = self.gate.available_permits();
        self.gate.forget_permits(open);
    }
}

pub(crate) async fn node(redis: RedisConfig, origin: &str, policy: NamespaceOverrides) -> CacheNode {
    node_of(CacheConfig { redis, ..CacheConfig::default() }, origin, policy).await
}

pub(crate) async fn node_of(mut config: CacheConfig, origin: &str, policy: NamespaceOverrides) -> CacheNode {
    config.server.max_in_flight = 20_000;
    config.origins.insert(
        "source".to_owned(),
        OriginConfig { grpc: UpstreamConfig::of([origin]), ..OriginConfig::default() },
    );
    let policy = NamespaceOverrides { origin: Some("source".to_owned()), ..policy };
    config.namespaces.insert("test".to_owned(), policy);
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    node
}

pub(crate) fn read_through() -> NamespaceOverrides {
    NamespaceOverrides {
        strategy: Some(Strategy::ReadThrough),
        hard_deadline: Some(Duration::from_secs(10)),
        ..NamespaceOverrides::default()
    }
}

pub(crate) async fn end(nodes: impl IntoIterator<Item = Context>, stack: Option<Devstack>) {
    for cx in nodes {
        cx.shut_down().await;
    }
    if let Some(stack) = stack {
        stack.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_clients_of_one_cold_key_ask_the_origin_once() {
    let source = Source::default();
    source.set("cold", "value");
    source.close_gate();
    let (origin_cx, origin) = source.serve().await;
    let stack = redis().await;
    // Redis has its usual half a second for a command. The callers have all the time that a busy machine needs for them.
    let policy = || NamespaceOverrides { hard_deadline: Some(PATIENCE / 2), ..read_through() };
    let (a, b) =
        (node(single(&stack), &origin, policy()).await, node(single(&stack), &origin, policy()).await);
    let mut clients = JoinSet::new();
    let patient = |node: &CacheNode| {
        let endpoint = format!("http://{}", node.cx.listening().first().unwrap().address);
        let channel = Endpoint::from_shared(endpoint).unwrap().timeout(PATIENCE).connect_lazy();
        CacheServiceClient::new(channel)
    };
    let (to_a, to_b) = (patient(&a), patient(&b));
    for number in 0..10_000 {
        let mut client = if number % 2 == 0 { to_a.clone() } else { to_b.clone() };
        clients.spawn(async move {
            let get =
                GetRequest { namespace: "test".to_owned(), key: "cold".to_owned(), ..GetRequest::default() };
            let mut request = Request::new(get);
            request.set_timeout(PATIENCE);
            client.get(request).await.unwrap().into_inner().entry.unwrap().value
        });
    }
    let asked = || async { if source.n_loads() > 0 { Ok(()) } else { Err("not asked yet".to_owned()) } };
    wait_until("the origin to be asked", LOOK_EVERY, PATIENCE, asked).await.unwrap();
    source.gate.add_permits(100);
    while let Some(value) = clients.join_next().await {
        assert_eq!(value.unwrap(), "value");
    }
    assert_eq!(source.n_loads(), 1);
    end([a.cx, b.cx, origin_cx], Some(stack)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_redis_is_not_waited_for_before_a_load() {
    let source = Source::default();
    source.set("cold", "value");
    let (origin_cx, origin) = source.serve().await;
    let stack = redis().await;
    let proxy = ChaosProxy::start(single(&stack).address.parse().unwrap()).unwrap();
    let redis = RedisConfig { address: proxy.address().to_string(), ..single(&stack) };
    let node = node(redis, &origin, read_through()).await;
    proxy.delay(Direction::Downstream, Duration::from_secs(20));
    let asked_at = Instant::now();
    assert_eq!(node.value("cold").await, Some(Bytes::from_static(b"value")));
    assert!(asked_at.elapsed() < Duration::from_secs(5), "waited for {:?}", asked_at.elapsed());
    assert_eq!(source.n_loads(), 1);
    proxy.restore().await.unwrap();
    end([node.cx, origin_cx], Some(stack)).await;
}

/// Waits until the origin was asked more often than before.
async fn wait_asked(source: &Source, n_before: u64) {
    let asked = || async { if source.n_loads() > n_before { Ok(()) } else { Err("not yet".to_owned()) } };
    wait_until("the origin to be asked", LOOK_EVERY, WITHIN, asked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_leaves_does_not_end_the_load_of_the_others() {
    let source = Source::default();
    let (origin_cx, origin) = source.serve().await;
    let stack = redis().await;
    for redis in [RedisConfig::default(), patient(&stack)] {
        source.set("k", "value");
        source.close_gate();
        let n_before = source.n_loads();
        let node = node(redis, &origin, read_through()).await;
        let mut client = node.client.clone();
        let mut first = JoinSet::new();
        first.spawn(async move {
            let request =
                GetRequest { namespace: "test".to_owned(), key: "k".to_owned(), ..GetRequest::default() };
            client.get(request).await
        });
        wait_asked(&source, n_before).await;
        first.shutdown().await;
        let (value, ()) = tokio::join!(node.value("k"), async { source.gate.add_permits(10) });
        assert_eq!(value, Some(Bytes::from_static(b"value")));
        assert_eq!(source.n_loads(), n_before + 1);
        node.cx.shut_down().await;
    }
    end([origin_cx], Some(stack)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_during_a_load_wins() {
    let source = Source::default();
    let (origin_cx, origin) = source.serve().await;
    let stack = redis().await;
    let node = node(patient(&stack), &origin, read_through()).await;
    let request = || InvalidateRequest { namespace: "test".to_owned(), ..InvalidateRequest::default() };
    for (key, request) in [
        ("by-key", InvalidateRequest { keys: vec!["by-key".to_owned()], ..request() }),
        ("by-tag", InvalidateRequest { tags: vec!["loaded".to_owned()], ..request() }),
        ("by-namespace", InvalidateRequest { all: true, ..request() }),
    ] {
        source.set(key, "old");
        source.close_gate();
        let n_before = source.n_loads();
        let change = async {
            wait_asked(&source, n_before).await;
            source.set(key, "new");
            CacheAdminClient::new(node.channel.clone()).invalidate(request).await.unwrap();
            source.gate.add_permits(10);
        };
        let (value, ()) = tokio::join!(node.value(key), change);
        assert_eq!(value, Some(Bytes::from_static(b"new")), "{key}");
        assert_eq!(node.value(key).await, Some(Bytes::from_static(b"new")), "{key}");
        assert_eq!(source.n_loads(), n_before + 2, "{key}");
    }
    end([node.cx, origin_cx], Some(stack)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absence_is_remembered_and_purged_by_a_write() {
    let source = Source::default();
    let (origin_cx, origin) = source.serve().await;
    let stack = redis().await;
    let policy = NamespaceOverrides { strategy: Some(Strategy::WriteThrough), ..read_through() };
    let (a, b) =
        (node(single(&stack), &origin, policy.clone()).await, node(single(&stack), &origin, policy).await);
    for node in [&a, &b, &a] {
        let read = node.get("k").await;
        assert!(read.entry.is_none() && !read.degraded, "{read:?}");
    }
    assert_eq!(source.n_loads(), 1);
    a.set("k", "written").await;
    assert_eq!(source.values.lock().get("k"), Some(&"stored"), "the origin has it first");
    let seen = || async {
        match b.value("k").await {
            Some(value) if value == "written" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    wait_until("the write to be seen", LOOK_EVERY, WITHIN, seen).await.unwrap();

    source.fails.store(true, Ordering::Relaxed);
    let request = SetRequest { namespace: "test".to_owned(), key: "k".to_owned(), ..SetRequest::default() };
    let refused = Failure::from(a.client.clone().set(request).await.unwrap_err());
    assert_eq!(refused.reason(), "ORIGIN_UNAVAILABLE");
    assert_eq!(a.value("k").await, Some(Bytes::from_static(b"written")));
    end([a.cx, b.cx, origin_cx], Some(stack)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_value_is_given_while_the_origin_is_slow_or_fails() {
    let stack = redis().await;
    for redis in [RedisConfig::default(), patient(&stack)] {
        let source = Source::default();
        source.set("k", "1");
        let (origin_cx, origin) = source.serve().await;
        let policy = NamespaceOverrides {
            ttl: Some(Duration::from_millis(200)),
            soft_deadline: Some(Duration::from_millis(20)),
            ttl_jitter_percent: Some(0),
            ..read_through()
        };
        let node = node(redis, &origin, policy).await;
        assert_eq!(node.get("k").await.layer(), Layer::Origin);

        source.close_gate();
        source.set("k", "2");
        let slow = || async {
            let read = node.get("k").await;
            if read.stale { Ok(read) } else { Err("still fresh".to_owned()) }
        };
        let read = wait_until("a stale answer", LOOK_EVERY, WITHIN, slow).await.unwrap();
        assert_eq!(read.entry.unwrap().value, "1");
        source.gate.add_permits(1_000);
        let loaded = || async {
            match node.value("k").await {
                Some(value) if value == "2" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        };
        wait_until("the load that went on", LOOK_EVERY, WITHIN, loaded).await.unwrap();

        source.fails.store(true, Ordering::Relaxed);
        let read = wait_until("a stale answer", LOOK_EVERY, WITHIN, slow).await.unwrap();
        assert_eq!(read.entry.unwrap().value, "2");
        let request =
            GetRequest { namespace: "test".to_owned(), key: "cold".to_owned(), ..GetRequest::default() };
        let failed = Failure::from(node.client.clone().get(request).await.unwrap_err());
        assert_eq!(failed.reason(), "ORIGIN_UNAVAILABLE");
        end([node.cx, origin_cx], None).await;
    }
    stack.stop().await.unwrap();
}

async fn read_many(node: &CacheNode, keys: impl Iterator<Item = String>) -> Vec<Option<Bytes>> {
    let get = |key| Operation { key, action: Some(Action::Get(GetAction {})) };
    let request = BatchRequest { namespace: "test".to_owned(), operations: keys.map(get).collect() };
    let outcomes = node.client.clone().batch(request).await.unwrap().into_inner().outcomes;
    let value = |outcome: Outcome| match outcome.result {
        Some(outcome::Result::Get(get)) => get.entry.map(|entry| entry.value),
        other => panic!("{other:?}"),
    };
    outcomes.into_iter().map(value).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_loads_what_is_missing_in_few_calls_and_each_key_once() {
    let source = Source::default();
    source.knows_many.store(true, Ordering::Relaxed);
    for number in 0..60 {
        source.set(&format!("k{number}"), "value");
    }
    let (origin_cx, origin) = source.serve().await;
    let stack = redis().await;
    let node = node(single(&stack), &origin, read_through()).await;
    let found = read_many(&node, (0..80).map(|number| format!("k{number}"))).await;
    assert!(found[..60].iter().all(|value| value.as_deref() == Some(b"value")), "{found:?}");
    assert!(found[60..].iter().all(Option::is_none));
    assert_eq!(*source.batches.lock(), [80]);
    // All of it is known now, also what is absent.
    read_many(&node, (0..80).map(|number| format!("k{number}"))).await;
    assert_eq!(*source.batches.lock(), [80]);

    // More than fit into one call, without what is there.
    read_many(&node, (0..330).map(|number| format!("k{number}"))).await;
    let mut batches = std::mem::take(&mut *source.batches.lock());
    batches.sort_unstable();
    assert_eq!(batches, [50, 80, 100, 100]);
    assert_eq!(source.n_loads(), 0, "none alone");

    source.fails.store(true, Ordering::Relaxed);
    let get = |key: &str| Operation { key: key.to_owned(), action: Some(Action::Get(GetAction {})) };
    let request =
        BatchRequest { namespace: "test".to_owned(), operations: vec![get("x"), get("k1"), get("y")] };
    let outcomes = node.client.clone().batch(request).await.unwrap().into_inner().outcomes;
    let reasons = outcomes.into_iter().map(|outcome| match outcome.result.unwrap() {
        outcome::Result::Error(error) => error.reason,
        outcome::Result::Get(get) => get.entry.map(|_| "found".to_owned()).unwrap_or_default(),
        other => panic!("{other:?}"),
    });
    assert_eq!(reasons.collect::<Vec<_>>(), ["ORIGIN_UNAVAILABLE", "found", "ORIGIN_UNAVAILABLE"]);
    end([node.cx, origin_cx], Some(stack)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_knows_no_batches_is_asked_key_by_key() {
    let source = Source::default();
    source.set("k1", "value");
    let (origin_cx, origin) = source.serve().await;
    let node = node(RedisConfig::default(), &origin, read_through()).await;
    let found = read_many(&node, (0..20).map(|number| format!("k{number}"))).await;
    assert_eq!(found.iter().flatten().count(), 1);
    assert_eq!((source.n_loads(), source.batches.lock().len()), (20, 0));
    end([node.cx, origin_cx], None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_caller_gets_the_lease_and_the_others_what_it_stores() {
    let stack = redis().await;
    let node = CacheNode::start(single(&stack)).await;
    node.wait_ready(true).await;
    let request = GetRequest { namespace: "test".to_owned(), key: "k".to_owned(), lease: true };
    let lease = node.client.clone().get(request.clone()).await.unwrap().into_inner().lease;
    assert_ne!(lease, 0);
    let mut client = node.client.clone();
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { client.get(request).await.unwrap().into_inner() });
    let set = |lease| SetRequest {
        namespace: "test".to_owned(),
        key: "k".to_owned(),
        value: Bytes::from_static(b"filled"),
        lease,
        ..SetRequest::default()
    };
    let foreign = Failure::from(node.client.clone().set(set(lease + 2)).await.unwrap_err());
    assert_eq!(foreign.reason(), "LEASE_LOST");
    node.client.clone().set(set(lease)).await.unwrap();
    let waited = waiting.join_next().await.unwrap().unwrap();
    assert_eq!((waited.entry.unwrap().value, waited.lease), (Bytes::from_static(b"filled"), 0));
    // Used once, it is over.
    assert!(node.client.clone().set(set(lease)).await.is_err());
    end([node.cx], Some(stack)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_loaded_is_read_from_disk_after_a_restart_and_when_nothing_else_answers() {
    let source = Source::default();
    source.set("k", "value");
    let (origin_cx, origin) = source.serve().await;
    let stack = redis().await;
    for is_shared in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let disk = DiskConfig { path: directory.path().to_owned(), ..DiskConfig::default() };
        let redis = if is_shared { single(&stack) } else { RedisConfig::default() };
        let config = CacheConfig { redis, disk, ..CacheConfig::default() };
        let policy = NamespaceOverrides { hard_deadline: Some(Duration::from_secs(2)), ..read_through() };
        let n_before = source.n_loads();
        let before = node_of(config.clone(), &origin, policy.clone()).await;
        assert_eq!(before.value("k").await, Some("value".into()));
        wait_until("the value to be on disk", LOOK_EVERY, WITHIN, || async {
            let n_entries = before.stats().await.disk.unwrap().entries;
            if n_entries == 1 { Ok(()) } else { Err(format!("{n_entries} entries")) }
        })
        .await
        .unwrap();
        before.cx.shut_down().await;

        let after = node_of(config, &origin, policy).await;
        if is_shared {
            stack.redis().unwrap().first_primary().kill().await.unwrap();
            source.fails.store(true, Ordering::Relaxed);
        }
        let found = after.get("k").await;
        assert_eq!(
            (found.layer(), found.stale, found.degraded),
            (Layer::L3, is_shared, is_shared),
            "{found:?}"
        );
        assert_eq!(found.entry.unwrap().value, "value");
        if !is_shared {
            assert_eq!(source.n_loads(), n_before + 1, "the origin was asked although the disk has it");
        }
        after.cx.shut_down().await;
    }
    end([origin_cx], Some(stack)).await;
}
