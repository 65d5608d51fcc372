//! Conditional writes that the origin takes first: it is never told of a write that is then refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use cache_service::{CacheConfig, NamespaceOverrides, OriginConfig, RedisConfig, Strategy};
use mainstay_devstack::{ChaosProxy, wait_until};
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_admin_client::CacheAdminClient;
use mainstay_proto::cache::v1::origin_server::{Origin, OriginServer};
use mainstay_rpc::{Failure, Reply, Request, Response, Routes, Status, UpstreamConfig};
use mainstay_runtime::Context;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, redis, single};

/// Keeps what it was told, with every value that it ever took; taking one needs a permit of the gate.
#[derive(Clone)]
struct Table {
    rows: Arc<Mutex<HashMap<String, Bytes>>>,
    taken: Arc<Mutex<Vec<Bytes>>>,
    versions: Arc<Mutex<Vec<u64>>>,
    n_asked: Arc<AtomicU64>,
    gate: Arc<Semaphore>,
    refuses: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl Origin for Table {
    async fn load(&self, request: Request<pb::LoadRequest>) -> Reply<pb::LoadResponse> {
        let value = self.rows.lock().get(&request.into_inner().key).cloned();
        let value = value.map(|value| pb::Loaded { value, ..pb::Loaded::default() });
        Ok(Response::new(pb::LoadResponse { value }))
    }

    async fn load_many(&self, _: Request<pb::LoadManyRequest>) -> Reply<pb::LoadManyResponse> {
        Err(Status::unimplemented("one by one"))
    }

    async fn store(&self, request: Request<pb::StoreRequest>) -> Reply<pb::StoreResponse> {
        self.n_asked.fetch_add(1, Ordering::Relaxed);
        self.gate.acquire().await.unwrap().forget();
        if self.refuses.load(Ordering::Relaxed) {
            return Err(Status::failed_precondition("told to refuse"));
        }
        for change in request.into_inner().changes {
            self.versions.lock().push(change.version);
            match change.value {
                Some(loaded) => {
                    self.taken.lock().push(loaded.value.clone());
                    self.rows.lock().insert(change.key, loaded.value);
                }
                None => drop(self.rows.lock().remove(&change.key)),
            }
        }
        Ok(Response::new(pb::StoreResponse {}))
    }
}

impl Table {
    async fn serve() -> (Self, Context, String) {
        let table = Self {
            rows: Arc::default(),
            taken: Arc::default(),
            versions: Arc::default(),
            n_asked: Arc::default(),
            gate: Arc::new(Semaphore::new(1_000_000)),
            refuses: Arc::default(),
        };
        let cx = Context::for_test("origin");
        cx.serve(Routes::new(OriginServer::new(table.clone()))).await.unwrap();
        let address = cx.listening().first().unwrap().address;
        (table, cx, format!("http://{address}"))
    }

    fn n_taken(&self) -> usize {
        self.taken.lock().len()
    }

    fn close_gate(&self) {
        self.gate.forget_permits(self.gate.available_permits());
    }

    async fn wait_until_asked(&self, n_times: u64) {
        wait_until("the origin to be told", LOOK_EVERY, WITHIN, || async {
            let n_asked = self.n_asked.load(Ordering::Relaxed);
            if n_asked >= n_times { Ok(()) } else { Err(format!("told {n_asked} times")) }
        })
        .await
        .unwrap();
    }
}

async fn node(redis: RedisConfig, origin: &str) -> CacheNode {
    let mut config = CacheConfig { redis, ..CacheConfig::default() };
    let grpc = UpstreamConfig::of([origin]);
    config.origins.insert("table".to_owned(), OriginConfig { grpc, ..OriginConfig::default() });
    let policy = NamespaceOverrides {
        strategy: Some(Strategy::WriteThrough),
        origin: Some("table".to_owned()),
        hard_deadline: Some(WITHIN / 2),
        ..NamespaceOverrides::default()
    };
    config.namespaces.insert("test".to_owned(), policy);
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    node
}

fn set_if(key: &str, value: impl Into<Bytes>, if_version: Option<u64>) -> pb::SetRequest {
    pb::SetRequest {
        namespace: "test".to_owned(),
        key: key.to_owned(),
        value: value.into(),
        if_version,
        ..pb::SetRequest::default()
    }
}

async fn ask(node: &CacheNode, request: pb::SetRequest) -> Result<pb::SetResponse, Failure> {
    node.client.clone().set(request).await.map(|reply| reply.into_inner()).map_err(Failure::from)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_is_not_told_of_a_write_whose_condition_does_not_hold() {
    let (table, cx, origin) = Table::serve().await;
    let stack = redis().await;
    for is_shared in [true, false] {
        let redis = if is_shared { single(&stack) } else { RedisConfig::default() };
        let n_before = table.n_taken();
        table.rows.lock().clear();
        let node = node(redis, &origin).await;
        let version = ask(&node, set_if("k", "1", Some(0))).await.unwrap().version;
        for wrong in [0, version - 1, version + 1] {
            let refused = ask(&node, set_if("k", "wrong", Some(wrong))).await.unwrap_err();
            assert_eq!(refused.reason(), "VERSION_MISMATCH", "{wrong}");
            assert_eq!(refused.details()["version"], version.to_string());
        }
        let absent = ask(&node, set_if("absent", "wrong", Some(7))).await.unwrap_err();
        assert_eq!((absent.reason(), absent.details()["version"].as_str()), ("VERSION_MISMATCH", "0"));
        assert_eq!(table.n_taken(), n_before + 1, "the origin was told of a write that was refused");
        let foreign = pb::SetRequest { lease: 12_345, ..set_if("k", "wrong", None) };
        assert_eq!(ask(&node, foreign).await.unwrap_err().reason(), "LEASE_LOST");
        assert_eq!(table.n_taken(), n_before + 1, "the origin was told of a write without its lease");
        let next = ask(&node, set_if("k", "2", Some(version))).await.unwrap();
        assert!(next.version > version && !next.degraded);
        assert_eq!((table.n_taken(), node.value("k").await), (n_before + 2, Some("2".into())));

        // What the origin refuses leaves nothing behind: the next one does not wait.
        table.refuses.store(true, Ordering::Relaxed);
        let refused = ask(&node, set_if("k", "3", Some(next.version))).await.unwrap_err();
        assert_eq!(
            (refused.reason(), refused.details()["outcome"].as_str()),
            ("ORIGIN_UNAVAILABLE", "not_applied")
        );
        table.refuses.store(false, Ordering::Relaxed);
        ask(&node, set_if("k", "3", Some(next.version))).await.unwrap();
        // A remembered absence is no entry.
        if !is_shared {
            assert!(node.get("never").await.entry.is_none());
            ask(&node, set_if("never", "now", Some(0))).await.unwrap();
        }
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
    cx.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_conditional_writers_each_win_is_one_change_of_the_origin_and_nobody_is_left_in_doubt() {
    const WRITERS: usize = 6;
    const WINS_OF_EACH: usize = 5;
    let (table, cx, origin) = Table::serve().await;
    let stack = redis().await;
    let (a, b) = (node(single(&stack), &origin).await, node(single(&stack), &origin).await);
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let mut client = if writer % 2 == 0 { a.client.clone() } else { b.client.clone() };
        writers.spawn(async move {
            let (mut version, mut n_won) = (0, 0);
            while n_won < WINS_OF_EACH {
                let value = format!("{writer}-{n_won}");
                match client.set(set_if("k", value, Some(version))).await.map_err(Failure::from) {
                    Ok(stored) => {
                        version = stored.into_inner().version;
                        n_won += 1;
                    }
                    Err(failure) if failure.reason() == "VERSION_MISMATCH" => {
                        version = failure.details()["version"].parse().unwrap();
                    }
                    Err(failure) if failure.reason() == "KEY_BUSY" => {}
                    Err(failure) => panic!("left in doubt: {failure:?}"),
                }
            }
        });
    }
    writers.join_all().await;
    assert_eq!(table.n_taken(), WRITERS * WINS_OF_EACH);
    // An origin that drops what is older than what it has drops none of them.
    assert!(table.versions.lock().is_sorted(), "{:?}", table.versions.lock());
    let last = table.rows.lock()["k"].clone();
    for node in [&a, &b] {
        wait_until("the cache to have what the origin has", LOOK_EVERY, WITHIN, || async {
            let value = node.value("k").await;
            if value == Some(last.clone()) { Ok(()) } else { Err(format!("{value:?} and not {last:?}")) }
        })
        .await
        .unwrap();
    }
    a.cx.shut_down().await;
    b.cx.shut_down().await;
    stack.stop().await.unwrap();
    cx.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_the_origin_took_and_the_cache_did_not_is_told_as_unknown() {
    let (table, cx, origin) = Table::serve().await;
    let stack = redis().await;
    let proxy = ChaosProxy::start(single(&stack).address.parse().unwrap()).unwrap();
    let behind = RedisConfig { address: proxy.address().to_string(), ..single(&stack) };
    let (a, b) = (node(behind, &origin).await, node(single(&stack), &origin).await);
    let version = ask(&a, set_if("k", "1", Some(0))).await.unwrap().version;

    // Somebody invalidates the key on another node while the origin takes the write.
    table.close_gate();
    let write = ask(&a, set_if("k", "2", Some(version)));
    let meanwhile = async {
        table.wait_until_asked(2).await;
        let request = pb::InvalidateRequest {
            namespace: "test".to_owned(),
            keys: vec!["k".to_owned()],
            ..pb::InvalidateRequest::default()
        };
        CacheAdminClient::new(b.channel.clone()).invalidate(request).await.unwrap();
        table.gate.add_permits(1);
    };
    let (overtaken, ()) = tokio::join!(write, meanwhile);
    let overtaken = overtaken.unwrap_err();
    assert_eq!((overtaken.reason(), overtaken.details()["outcome"].as_str()), ("ORIGIN_AHEAD", "unknown"));
    for node in [&a, &b] {
        assert_eq!(node.value("k").await, Some("2".into()), "a read shows what the origin has");
    }

    // Redis goes away while the origin takes the write.
    let version = b.get("k").await.entry.unwrap().version;
    let write = ask(&a, set_if("k", "3", Some(version)));
    let meanwhile = async {
        table.wait_until_asked(3).await;
        proxy.cut().await.unwrap();
        table.gate.add_permits(1);
    };
    let (ahead, ()) = tokio::join!(write, meanwhile);
    let ahead = ahead.unwrap_err();
    assert_eq!((ahead.reason(), ahead.details()["outcome"].as_str()), ("ORIGIN_AHEAD", "unknown"));
    // Without Redis a condition cannot be checked: nobody is told.
    let refused = ask(&a, set_if("k", "4", Some(version))).await.unwrap_err();
    assert_eq!(
        (refused.reason(), refused.details()["outcome"].as_str()),
        ("REDIS_UNAVAILABLE", "not_applied")
    );
    assert_eq!((table.n_taken(), table.rows.lock()["k"].as_ref()), (3, b"3".as_slice()));
    proxy.restore().await.unwrap();
    a.cx.shut_down().await;
    b.cx.shut_down().await;
    stack.stop().await.unwrap();
    cx.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unconditional_writes_of_one_key_end_at_the_origin_as_in_the_cache() {
    const ROUNDS: usize = 5;
    const WRITERS: usize = 20;
    let (table, cx, origin) = Table::serve().await;
    let stack = redis().await;
    for is_shared in [true, false] {
        let redis = if is_shared { single(&stack) } else { RedisConfig::default() };
        let node = node(redis, &origin).await;
        for round in 0..ROUNDS {
            table.versions.lock().clear();
            let mut writers = JoinSet::new();
            for writer in 0..WRITERS {
                let mut client = node.client.clone();
                let key = format!("k{round}");
                writers.spawn(async move {
                    if writer % 5 == 4 {
                        let delete =
                            pb::DeleteRequest { namespace: "test".to_owned(), key, ..Default::default() };
                        client.delete(delete).await.unwrap();
                    } else {
                        client.set(set_if(&key, format!("{writer}"), None)).await.unwrap();
                    }
                });
            }
            writers.join_all().await;
            let versions = table.versions.lock().clone();
            assert!(versions.len() == WRITERS && versions.is_sorted(), "{versions:?}");
            let key = format!("k{round}");
            let held = node.value(&key).await;
            let at_origin = table.rows.lock().get(&key).cloned();
            assert_eq!(held, at_origin, "round {round}, with redis: {is_shared}");
        }
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
    cx.shut_down().await;
}
