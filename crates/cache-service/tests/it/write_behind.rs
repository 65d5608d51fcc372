//! Writes that the origin learns of later, with real Redis. What kills processes and moves the primary is in `tests/faults`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cache_service::{
    CacheConfig, NamespaceOverrides, OriginConfig, RedisConfig, Strategy, WriteBehindConfig,
};
use mainstay_devstack::{Devstack, wait_until};
use mainstay_proto::cache::v1::cache_admin_client::CacheAdminClient;
use mainstay_proto::cache::v1::origin_server::{Origin, OriginServer};
use mainstay_proto::cache::v1::write_behind_service_client::WriteBehindServiceClient;
use mainstay_proto::cache::v1::{
    Change, DeleteRequest, DropDeadLettersRequest, Fence, GetRequest, InvalidateRequest,
    ListDeadLettersRequest, ListQueuesRequest, LoadManyRequest, LoadManyResponse, LoadRequest, LoadResponse,
    Loaded, ReplayDeadLettersRequest, SetRequest, StoreRequest, StoreResponse,
};
use mainstay_rpc::{Failure, Reply, Request, Response, Routes, Status, UpstreamConfig};
use mainstay_runtime::Context;
use parking_lot::Mutex;

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, redis, single};

/// A table that takes changes by version, and remembers every call.
#[derive(Clone, Default)]
pub(crate) struct Table {
    rows: Arc<Mutex<HashMap<String, Row>>>,
    /// Changes of each call, in the order in which they came.
    calls: Arc<Mutex<Vec<Vec<Change>>>>,
    mood: Arc<Mutex<Mood>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Row {
    value: Option<Bytes>,
    version: u64,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Mood {
    #[default]
    Willing,
    Away,
    /// Refuses the key `bad`.
    Picky,
}

#[tonic::async_trait]
impl Origin for Table {
    async fn load(&self, request: Request<LoadRequest>) -> Reply<LoadResponse> {
        let row = self.rows.lock().get(&request.into_inner().key).cloned();
        let value = row.and_then(|row| row.value).map(|value| Loaded { value, ..Loaded::default() });
        Ok(Response::new(LoadResponse { value }))
    }

    async fn load_many(&self, _: Request<LoadManyRequest>) -> Reply<LoadManyResponse> {
        Err(Status::unimplemented("one by one"))
    }

    async fn store(&self, request: Request<StoreRequest>) -> Reply<StoreResponse> {
        let changes = request.into_inner().changes;
        match *self.mood.lock() {
            Mood::Away => return Err(Status::unavailable("away")),
            Mood::Picky if changes.iter().any(|change| change.key == "bad") => {
                return Err(Status::invalid_argument("no such column"));
            }
            Mood::Willing | Mood::Picky => {}
        }
        let mut rows = self.rows.lock();
        for Change { key, value, version } in changes.iter().cloned() {
            let row = rows.entry(key).or_insert(Row { value: None, version: 0 });
            if version > row.version {
                *row = Row { value: value.map(|value| value.value), version };
            }
        }
        self.calls.lock().push(changes);
        Ok(Response::new(StoreResponse {}))
    }
}

impl Table {
    pub(crate) async fn serve(&self) -> (Context, String) {
        let cx = Context::for_test("table");
        cx.serve(Routes::new(OriginServer::new(self.clone()))).await.unwrap();
        let address = cx.listening().first().unwrap().address;
        (cx, format!("http://{address}"))
    }

    fn value(&self, key: &str) -> Option<Bytes> {
        self.rows.lock().get(key).and_then(|row| row.value.clone())
    }

    fn n_changes(&self) -> usize {
        self.calls.lock().iter().map(Vec::len).sum()
    }

    pub(crate) async fn wait_for(&self, key: &str, value: Option<&'static str>) {
        wait_until("the origin to have the change", LOOK_EVERY, WITHIN, || async {
            let there = self.value(key);
            let is_it = there.as_deref() == value.map(str::as_bytes);
            if is_it { Ok(()) } else { Err(format!("{key} is {there:?}")) }
        })
        .await
        .unwrap();
    }
}

async fn node(redis: RedisConfig, origin: &str, write_behind: WriteBehindConfig) -> CacheNode {
    let mut config = CacheConfig { redis, write_behind, ..CacheConfig::default() };
    let grpc = UpstreamConfig::of([origin]);
    config.origins.insert("table".to_owned(), OriginConfig { grpc, ..OriginConfig::default() });
    let policy = NamespaceOverrides {
        strategy: Some(Strategy::WriteBehind),
        origin: Some("table".to_owned()),
        ..NamespaceOverrides::default()
    };
    config.namespaces.insert("test".to_owned(), policy);
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    node
}

fn quick() -> WriteBehindConfig {
    WriteBehindConfig {
        retry_base: Duration::from_millis(20),
        retry_cap: Duration::from_millis(100),
        attempts: 3,
        lease: Duration::from_secs(1),
        ..WriteBehindConfig::default()
    }
}

async fn wait_for_empty_queues(node: &CacheNode) {
    wait_until("the queues to be empty", LOOK_EVERY, WITHIN, || async {
        let mut queues = WriteBehindServiceClient::new(node.channel.clone());
        let left = queues.list_queues(ListQueuesRequest {}).await.unwrap().into_inner().queues;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await
    .unwrap();
}

async fn end(nodes: impl IntoIterator<Item = Context>, stack: Devstack) {
    for cx in nodes {
        cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_answered_before_the_origin_has_it_and_reaches_it_when_it_is_back() {
    let table = Table::default();
    *table.mood.lock() = Mood::Away;
    let (table_cx, origin) = table.serve().await;
    let stack = redis().await;
    let node = node(single(&stack), &origin, quick()).await;
    node.set("kept", "1").await;
    table.rows.lock().insert("gone".to_owned(), Row { value: Some("old".into()), version: 1 });
    assert_eq!(node.value("gone").await.as_deref(), Some(&b"old"[..]));
    assert!(node.delete("gone").await.unwrap());
    assert!(!node.delete("never").await.unwrap());
    for value in ["2", "3", "4"] {
        node.set("kept", value).await;
    }
    // The cache says what was written, not what the origin still has.
    assert_eq!(node.value("kept").await.as_deref(), Some(&b"4"[..]));
    assert_eq!(node.value("gone").await, None);
    assert_eq!((table.value("kept"), table.n_changes()), (None, 0));
    let mut queues = WriteBehindServiceClient::new(node.channel.clone());
    let listed = queues.list_queues(ListQueuesRequest {}).await.unwrap().into_inner().queues;
    assert_eq!((listed[0].namespace.as_str(), listed[0].queued), ("test", 6));
    let shown = || async {
        let text = node.cx.openmetrics();
        let line = "mainstay_cache_write_behind_queued{namespace=\"test\"} 6";
        if text.contains(line) { Ok(()) } else { Err("not shown".to_owned()) }
    };
    wait_until("the length in the metrics", LOOK_EVERY, WITHIN, shown).await.unwrap();

    *table.mood.lock() = Mood::Willing;
    table.wait_for("kept", Some("4")).await;
    table.wait_for("gone", None).await;
    // Four changes of one key were one.
    assert_eq!(table.n_changes(), 3);
    wait_for_empty_queues(&node).await;
    end([node.cx, table_cx], stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_refused_becomes_a_dead_letter_that_can_be_replayed() {
    let table = Table::default();
    *table.mood.lock() = Mood::Picky;
    let (table_cx, origin) = table.serve().await;
    let stack = redis().await;
    let node = node(single(&stack), &origin, quick()).await;
    node.set("good", "1").await;
    node.set("bad", "1").await;
    node.set("fine", "1").await;
    table.wait_for("fine", Some("1")).await;
    table.wait_for("good", Some("1")).await;
    let mut queues = WriteBehindServiceClient::new(node.channel.clone());
    let list = ListDeadLettersRequest { namespace: "test".to_owned(), ..ListDeadLettersRequest::default() };
    let dead = || async {
        let mut queues = WriteBehindServiceClient::new(node.channel.clone());
        let letters = queues.list_dead_letters(list.clone()).await.unwrap().into_inner().dead_letters;
        letters.first().cloned().ok_or_else(|| "none".to_owned())
    };
    let letter = wait_until("a dead letter", LOOK_EVERY, WITHIN, dead).await.unwrap();
    assert_eq!((letter.key.as_str(), letter.attempts, letter.delete), ("bad", 3, false));
    assert!(letter.reason.contains("no such column"), "{letter:?}");
    assert_eq!(table.value("bad"), None);

    *table.mood.lock() = Mood::Willing;
    let replay = ReplayDeadLettersRequest { namespace: "test".to_owned(), ids: vec![letter.id.clone()] };
    assert_eq!(queues.replay_dead_letters(replay.clone()).await.unwrap().into_inner().replayed, 1);
    table.wait_for("bad", Some("1")).await;
    assert_eq!(queues.replay_dead_letters(replay).await.unwrap().into_inner().replayed, 0);

    *table.mood.lock() = Mood::Picky;
    node.set("bad", "2").await;
    let letter = wait_until("a dead letter", LOOK_EVERY, WITHIN, dead).await.unwrap();
    let drop = DropDeadLettersRequest { namespace: "test".to_owned(), ids: vec![letter.id] };
    assert_eq!(queues.drop_dead_letters(drop).await.unwrap().into_inner().dropped, 1);
    let left = queues.list_dead_letters(list.clone()).await.unwrap().into_inner().dead_letters;
    assert_eq!((left.len(), table.value("bad")), (0, Some("1".into())));

    let bad = DropDeadLettersRequest { namespace: "test".to_owned(), ids: vec!["x".to_owned()] };
    let refused = Failure::from(queues.drop_dead_letters(bad).await.unwrap_err());
    assert_eq!(refused.reason(), "INVALID_FIELD");
    end([node.cx, table_cx], stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_and_an_absent_redis_refuse_writes() {
    let table = Table::default();
    *table.mood.lock() = Mood::Away;
    let (table_cx, origin) = table.serve().await;
    let stack = redis().await;
    let node = node(single(&stack), &origin, WriteBehindConfig { max_queued: 2, ..quick() }).await;
    node.set("k1", "1").await;
    node.set("k2", "1").await;
    let set = |key: &str| SetRequest {
        namespace: "test".to_owned(),
        key: key.to_owned(),
        value: Bytes::from_static(b"refused"),
        ..SetRequest::default()
    };
    let full = Failure::from(node.client.clone().set(set("k1")).await.unwrap_err());
    assert_eq!(full.reason(), "WRITE_BEHIND_FULL");
    assert_eq!(node.value("k1").await.as_deref(), Some(&b"1"[..]));

    let servers = stack.redis().unwrap();
    for server in servers.nodes() {
        server.kill().await.unwrap();
    }
    let away = Failure::from(node.client.clone().set(set("k3")).await.unwrap_err());
    assert!(["REDIS_UNAVAILABLE", "OUTCOME_UNKNOWN"].contains(&away.reason()), "{away:?}");
    assert!(away.details().contains_key("outcome"), "{away:?}");
    let read = GetRequest { namespace: "test".to_owned(), key: "k3".to_owned(), ..GetRequest::default() };
    let read = node.client.clone().get(read).await;
    assert!(read.is_ok_and(|read| read.into_inner().entry.is_none()), "nothing was kept");
    end([node.cx, table_cx], stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_read_although_its_entry_has_left_the_cache() {
    let table = Table::default();
    *table.mood.lock() = Mood::Away;
    table.rows.lock().insert("k".to_owned(), Row { value: Some("old".into()), version: 1 });
    let (table_cx, origin) = table.serve().await;
    let stack = redis().await;
    let node = node(single(&stack), &origin, quick()).await;
    node.set("k", "new").await;
    let mut admin = CacheAdminClient::new(node.channel.clone());
    let everything = InvalidateRequest { namespace: "test".to_owned(), all: true, ..Default::default() };
    admin.invalidate(everything.clone()).await.unwrap();
    // The origin, which can be read, still has the old one: nobody is to see it, or to keep it.
    for _ in 0..2 {
        assert_eq!(node.value("k").await.as_deref(), Some(&b"new"[..]));
    }
    assert!(node.delete("k").await.is_ok());
    admin.invalidate(everything.clone()).await.unwrap();
    assert_eq!(node.value("k").await, None);
    node.set("k", "newer").await;
    *table.mood.lock() = Mood::Willing;
    table.wait_for("k", Some("newer")).await;
    wait_for_empty_queues(&node).await;
    admin.invalidate(everything).await.unwrap();
    table.rows.lock().insert("k".to_owned(), Row { value: Some("of its own".into()), version: u64::MAX });
    assert_eq!(node.value("k").await.as_deref(), Some(&b"of its own"[..]), "nothing waits any longer");
    end([node.cx, table_cx], stack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_is_refused_where_the_origin_learns_later() {
    let table = Table::default();
    let (table_cx, origin) = table.serve().await;
    let stack = redis().await;
    let node = node(single(&stack), &origin, quick()).await;
    let fence = Some(Fence { lock: "l".to_owned(), token: 1 });
    let set = SetRequest {
        namespace: "test".to_owned(),
        key: "k".to_owned(),
        fence: fence.clone(),
        ..SetRequest::default()
    };
    let refused = Failure::from(node.client.clone().set(set).await.unwrap_err());
    assert_eq!(refused.reason(), "FENCE_NOT_POSSIBLE");
    let delete = DeleteRequest {
        namespace: "test".to_owned(),
        key: "k".to_owned(),
        fence,
        ..DeleteRequest::default()
    };
    let refused = Failure::from(node.client.clone().delete(delete).await.unwrap_err());
    assert_eq!(refused.reason(), "FENCE_NOT_POSSIBLE");
    end([node.cx, table_cx], stack).await;
}
