//! Redis Cluster below: three primaries with a replica each, over which namespaces are spread.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use cache_service::{
    CacheConfig, Durability, NamespaceOverrides, OriginConfig, RedisConfig, RedisMode, Strategy,
};
use mainstay_devstack::{Devstack, RedisCluster, RedisNode, RedisReply, wait_until};
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::lock_service_client::LockServiceClient;
use mainstay_rpc::{ErrorCode, Failure, UpstreamConfig};
use mainstay_runtime::Secret;

use crate::node::{CacheNode, LOOK_EVERY, WITHIN};
use crate::policies::evicting;
use crate::pubsub::{ANY, told};
use crate::session::{self, Client};
use crate::shared::{self, Node, duration};
use crate::write_behind::Table;

mod faults;
mod tls;

const PARTITIONS: u16 = 8;
/// Enough for every primary to have some.
const N_NAMESPACES: usize = 12;

async fn stack() -> Devstack {
    Devstack::builder().redis_cluster(true).start().await.unwrap()
}

/// Names two of the nodes, as an operator would.
fn cluster(stack: &Devstack) -> RedisConfig {
    let cluster = stack.redis_cluster().unwrap();
    RedisConfig {
        mode: RedisMode::Cluster,
        nodes: cluster.nodes()[1..3].iter().map(|node| node.address().to_string()).collect(),
        partitions: PARTITIONS,
        password: Secret::from(cluster.password()),
        ..RedisConfig::default()
    }
}

fn config(stack: &Devstack) -> CacheConfig {
    let mut config = CacheConfig { redis: cluster(stack), ..CacheConfig::default() };
    // If memory heard of nothing, it would go on answering.
    config.namespace_defaults.memory_ttl = Duration::from_hours(1);
    let durability = Some(Durability::ReplicaAck);
    let durable = NamespaceOverrides { durability, ..NamespaceOverrides::default() };
    config.namespaces.insert("durable".to_owned(), durable);
    config
}

async fn started(config: CacheConfig) -> CacheNode {
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    node.wait_current(true).await;
    node
}

fn namespaces() -> impl Iterator<Item = String> {
    (0..N_NAMESPACES).map(|number| format!("ns{number}"))
}

fn set_of(namespace: &str, key: &str, value: impl Into<Bytes>) -> pb::SetRequest {
    pb::SetRequest {
        namespace: namespace.to_owned(),
        key: key.to_owned(),
        value: value.into(),
        ..pb::SetRequest::default()
    }
}

impl CacheNode {
    async fn try_set(&self, request: pb::SetRequest) -> Result<pb::SetResponse, Failure> {
        self.client.clone().set(request).await.map(tonic::Response::into_inner).map_err(Failure::from)
    }

    /// Sets, and is answered that Redis has it.
    async fn store(&self, namespace: &str, key: &str, value: &str, tag: &str) -> u64 {
        let tags = Some(tag).filter(|tag| !tag.is_empty()).map(str::to_owned).into_iter().collect();
        let value = Bytes::copy_from_slice(value.as_bytes());
        let set = self.try_set(pb::SetRequest { tags, ..set_of(namespace, key, value) }).await.unwrap();
        assert!(!set.degraded, "{namespace}:{key}");
        set.version
    }

    async fn read(&self, namespace: &str, key: &str) -> (Option<Bytes>, bool) {
        let (namespace, key) = (namespace.to_owned(), key.to_owned());
        let request = pb::GetRequest { namespace, key, ..pb::GetRequest::default() };
        let reply = self.client.clone().get(request).await.unwrap().into_inner();
        (reply.entry.map(|entry| entry.value), reply.stale || reply.degraded)
    }

    async fn wait_value(&self, namespace: &str, key: &str, value: Option<&str>) {
        let what = format!("{namespace}:{key} to be {value:?}");
        wait_until(what, LOOK_EVERY, WITHIN, || async {
            let (there, _) = self.read(namespace, key).await;
            if there.as_deref() == value.map(str::as_bytes) { Ok(()) } else { Err(format!("{there:?}")) }
        })
        .await
        .unwrap();
    }

    async fn clear(&self, namespace: &str, tag: Option<&str>) {
        let request = pb::InvalidateRequest {
            namespace: namespace.to_owned(),
            keys: Vec::new(),
            tags: tag.map(str::to_owned).into_iter().collect(),
            all: tag.is_none(),
        };
        self.admin().invalidate(request).await.unwrap();
    }

    async fn cluster(&self) -> pb::RedisClusterStats {
        self.stats().await.redis.unwrap().cluster.unwrap()
    }

    async fn wait_served(&self, partitions: u32) {
        wait_until("partitions to be served", LOOK_EVERY, WITHIN * 2, || async {
            let seen = self.cluster().await;
            if seen.partitions_served == partitions { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await
        .unwrap();
    }
}

/// Finds the primary that has an entry, and the slot of it.
async fn holder<'c>(cluster: &'c RedisCluster, entry: &str) -> (&'c RedisNode, u16) {
    for node in cluster.nodes() {
        let role = node.command(&["ROLE"]).await.unwrap();
        let RedisReply::List(role) = role else { panic!("{role:?}") };
        let RedisReply::List(keys) = node.command(&["KEYS", "*"]).await.unwrap() else { continue };
        let name = keys.iter().filter_map(RedisReply::text).find(|name| name.ends_with(entry));
        if let Some(name) = name.filter(|_| role[0].text() == Some("master")) {
            let RedisReply::Integer(slot) = node.command(&["CLUSTER", "KEYSLOT", name]).await.unwrap() else {
                panic!("no slot")
            };
            return (node, u16::try_from(slot).unwrap());
        }
    }
    panic!("nobody has {entry}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_are_spread_and_each_is_as_on_one_server() {
    let stack = stack().await;
    let table = Table::default();
    let (table_cx, origin) = table.serve().await;
    let mut config = config(&stack);
    let origin = OriginConfig { grpc: UpstreamConfig::of([origin]), ..OriginConfig::default() };
    config.origins.insert("table".to_owned(), origin);
    let queued = NamespaceOverrides {
        strategy: Some(Strategy::WriteBehind),
        origin: Some("table".to_owned()),
        ..NamespaceOverrides::default()
    };
    config.namespaces.insert("queued".to_owned(), queued);
    let (a, b) = (started(config.clone()).await, started(config).await);

    for namespace in namespaces() {
        a.store(&namespace, "k", "1", "tag").await;
        a.store(&namespace, "untagged", "1", "").await;
        b.wait_value(&namespace, "k", Some("1")).await;
        b.wait_value(&namespace, "untagged", Some("1")).await;
        a.store(&namespace, "k", "2", "tag").await;
        b.wait_value(&namespace, "k", Some("2")).await;
        a.clear(&namespace, Some("tag")).await;
        b.wait_value(&namespace, "k", None).await;
        assert_eq!(b.read(&namespace, "untagged").await, (Some("1".into()), false));
        b.clear(&namespace, None).await;
        a.wait_value(&namespace, "untagged", None).await;
        let version = a.store(&namespace, "k", "3", "").await;
        let other = pb::SetRequest { if_version: Some(version + 1), ..set_of(&namespace, "k", "4") };
        assert_eq!(b.try_set(other).await.unwrap_err().reason(), "VERSION_MISMATCH");
        let once = pb::SetRequest { idempotency_key: "once".to_owned(), ..set_of(&namespace, "k", "5") };
        let made = b.try_set(once.clone()).await.unwrap();
        let again = a.try_set(once).await.unwrap();
        assert!(again.replayed && again.version == made.version, "{again:?}");
    }
    let seen = a.cluster().await;
    assert_eq!((seen.nodes, seen.partitions, seen.partitions_served), (6, PARTITIONS.into(), 8), "{seen:?}");
    assert_eq!(seen.shards.len(), 3);
    for shard in &seen.shards {
        assert!(shard.answers && shard.partitions >= 2 && shard.replicas == 1, "{shard:?}");
    }
    for node in &stack.redis_cluster().unwrap().nodes()[..3] {
        assert_ne!(node.command(&["DBSIZE"]).await.unwrap(), RedisReply::Integer(0), "{}", node.name());
    }
    let metrics = a.cx.openmetrics();
    assert!(metrics.contains("mainstay_cache_cluster_partitions_served 8"), "{metrics}");

    a_lease_goes_to_one(&a, &b).await;
    a_fence_holds_where_lock_and_namespace_lie_together(&a).await;
    assert!(!a.try_set(set_of("durable", "k", "1")).await.unwrap().degraded);
    a.put("ns0", evicting("fifo"), 0).await.unwrap();
    wait_until("the policy to be on the other node", LOOK_EVERY, WITHIN, || async {
        let eviction = b.eviction("ns0").await;
        if eviction.as_deref() == Some("fifo") { Ok(()) } else { Err(format!("{eviction:?}")) }
    })
    .await
    .unwrap();
    let (mut exact, mut pattern) = (a.listen(&["news"], &[], ANY).await, b.listen(&[], &["n*"], ANY).await);
    b.publish("news", "hello").await.unwrap();
    assert_eq!(
        (told(&mut exact).await, told(&mut pattern).await),
        ("news hello".into(), "news hello".into())
    );
    a.store("queued", "k", "told later", "").await;
    table.wait_for("k", Some("told later")).await;

    for cx in [&a.cx, &b.cx, &table_cx] {
        cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

async fn a_lease_goes_to_one(a: &CacheNode, b: &CacheNode) {
    let ask = pb::GetRequest { namespace: "ns1".to_owned(), key: "cold".to_owned(), lease: true };
    let lease = a.client.clone().get(ask.clone()).await.unwrap().into_inner().lease;
    assert_ne!(lease, 0);
    let mut waiting = b.client.clone();
    let filled = pb::SetRequest { lease, ..set_of("ns1", "cold", "filled") };
    let (waited, filled) = tokio::join!(waiting.get(ask), a.try_set(filled));
    filled.unwrap();
    assert_eq!(waited.unwrap().into_inner().entry.unwrap().value, "filled");
}

async fn a_fence_holds_where_lock_and_namespace_lie_together(node: &CacheNode) {
    let fence = async |lock: &str| {
        let request = pb::AcquireLockRequest {
            name: lock.to_owned(),
            owner: "me".to_owned(),
            ttl: duration(WITHIN),
            wait_within: None,
        };
        let acquired = LockServiceClient::new(node.channel.clone()).acquire(request).await.unwrap();
        Some(pb::Fence { lock: lock.to_owned(), token: acquired.into_inner().token })
    };
    let fenced = pb::SetRequest { fence: fence("ns2:row").await, ..set_of("ns2", "row", "1") };
    node.try_set(fenced.clone()).await.unwrap();
    let outdated = fenced.fence.map(|fence| pb::Fence { token: fence.token - 1, ..fence });
    let late = pb::SetRequest { fence: outdated, ..set_of("ns2", "row", "0") };
    assert_eq!(node.try_set(late).await.unwrap_err().reason(), "FENCE_OUTDATED");
    let elsewhere = pb::SetRequest { fence: fence("row").await, ..set_of("ns2", "row", "1") };
    assert_eq!(node.try_set(elsewhere).await.unwrap_err().reason(), "FENCE_NOT_POSSIBLE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_locks_counters_and_limits_are_shared_by_the_nodes() {
    let stack = stack().await;
    let nodes = [Node::start(cluster(&stack)).await, Node::start(cluster(&stack)).await];
    let clients = [Client::of(&nodes[0]), Client::of(&nodes[1])];
    session::a_session_lives_as_it_should(&clients[0], &clients[1]).await;
    session::sessions_of_a_user_are_bounded_listed_and_revoked(&clients[0], &clients[1]).await;
    shared::sixty_four_callers_never_hold_a_lock_together(&nodes).await;
    shared::a_late_holder_is_kept_out(&nodes).await;
    shared::increments_add_up_and_are_made_once(&nodes).await;
    let mut n_allowed = 0;
    for number in 0..20 {
        let check = nodes[number % 2].check("limited", 10).await;
        assert_eq!(check.source(), pb::Source::Redis);
        n_allowed += u32::from(check.allowed);
    }
    assert_eq!(n_allowed, 10);
    for node in nodes {
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cuts_the_keys_otherwise_is_kept_out() {
    let stack = stack().await;
    let node = started(config(&stack)).await;
    let mut other = config(&stack);
    other.redis.partitions = PARTITIONS + 1;
    let other = CacheNode::start_with(other).await;
    wait_until("the reason to be told", LOOK_EVERY, WITHIN, || async {
        let why = format!("{:?}", other.cx.not_ready_because());
        if why.contains("redis.partitions is 9 here and 8 in the cluster") { Ok(()) } else { Err(why) }
    })
    .await
    .unwrap();
    let (namespace, key) = ("ns0".to_owned(), "k".to_owned());
    let delete = pb::DeleteRequest { namespace, key, ..pb::DeleteRequest::default() };
    let refused = Failure::from(other.client.clone().delete(delete).await.unwrap_err());
    assert_eq!(refused.code(), ErrorCode::Unavailable);
    for cx in [&node.cx, &other.cx] {
        cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_no_cluster_is_told() {
    let stack = Devstack::builder().redis(true).start().await.unwrap();
    let single = stack.redis().unwrap();
    let address: SocketAddr = single.first_primary().address();
    let redis = RedisConfig {
        mode: RedisMode::Cluster,
        nodes: vec![address.to_string()],
        password: Secret::from(single.password()),
        ..RedisConfig::default()
    };
    let node = CacheNode::start(redis).await;
    wait_until("the reason to be told", LOOK_EVERY, WITHIN, || async {
        let why = format!("{:?}", node.cx.not_ready_because());
        if why.contains("cluster support disabled") { Ok(()) } else { Err(why) }
    })
    .await
    .unwrap();
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}
