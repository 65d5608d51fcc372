//! Writes that are confirmed when a replica has them too, with a real primary and replica.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cache_service::{CacheConfig, Durability, NamespaceOverrides, RedisConfig};
use mainstay_devstack::{Devstack, MinReplicas, wait_until};
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_admin_client::CacheAdminClient;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_rpc::{ErrorCode, Failure};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, redis, sentinel, single};

async fn durable_node(redis: RedisConfig) -> CacheNode {
    // A busy machine is slower than a replica.
    let redis = RedisConfig { command_within: Duration::from_secs(2), ..redis };
    let mut config = CacheConfig { redis, ..CacheConfig::default() };
    let policy = NamespaceOverrides { durability: Some(Durability::ReplicaAck), ..Default::default() };
    config.namespaces.insert("durable".to_owned(), policy);
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    node
}

fn set_in(namespace: &str, key: &str, idempotency_key: &str) -> pb::SetRequest {
    pb::SetRequest {
        namespace: namespace.to_owned(),
        key: key.to_owned(),
        value: Bytes::copy_from_slice(key.as_bytes()),
        idempotency_key: idempotency_key.to_owned(),
        ..pb::SetRequest::default()
    }
}

async fn ask(node: &CacheNode, request: pb::SetRequest) -> Result<pb::SetResponse, Failure> {
    node.client.clone().set(request).await.map(|reply| reply.into_inner()).map_err(Failure::from)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_no_replica_confirms_is_told_so_and_settled_by_its_key() {
    let stack = redis().await;
    let replica = stack.redis().unwrap().first_replica();
    let node = durable_node(single(&stack)).await;
    wait_until("a durable write", LOOK_EVERY, WITHIN, || async {
        ask(&node, set_in("durable", "k", "")).await.map_err(|failure| failure.to_string())
    })
    .await
    .unwrap();

    // Those that come together wait together.
    let started = Instant::now();
    let mut writes = JoinSet::new();
    for number in 0..300 {
        let (mut client, request) = (node.client.clone(), set_in("durable", &format!("k{number}"), ""));
        writes.spawn(async move { client.set(request).await.map(|reply| reply.into_inner().degraded) });
    }
    for degraded in writes.join_all().await {
        assert!(!degraded.unwrap());
    }
    assert!(started.elapsed() < WITHIN, "{:?}", started.elapsed());

    replica.pause().await.unwrap();
    let failure = ask(&node, set_in("durable", "late", "id")).await.unwrap_err();
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::Unavailable, "NOT_DURABLE"));
    assert_eq!(failure.details().get("outcome").map(String::as_str), Some("unknown"));
    let version: u64 = failure.details()["version"].parse().unwrap();
    let delete =
        pb::DeleteRequest { namespace: "durable".to_owned(), key: "k".to_owned(), ..Default::default() };
    let failure = Failure::from(node.client.clone().delete(delete.clone()).await.unwrap_err());
    assert_eq!(failure.reason(), "NOT_DURABLE");
    // However many wait in vain, and longer than a command may take: it is not Redis that is slow.
    let mut writes = JoinSet::new();
    for number in 0..40 {
        let (mut client, request) = (node.client.clone(), set_in("durable", &format!("late{number}"), ""));
        writes.spawn(async move { client.set(request).await });
    }
    for answer in writes.join_all().await {
        assert_eq!(Failure::from(answer.unwrap_err()).reason(), "NOT_DURABLE");
    }
    // Others do not wait for it, and its server is not thought bad.
    assert!(!ask(&node, set_in("test", "k", "")).await.unwrap().degraded);
    let redis = node.stats().await.redis.unwrap();
    assert_eq!((redis.available, redis.breaker.as_str()), (true, "closed"));

    replica.resume().await.unwrap();
    let settled = wait_until("the write to be durable", LOOK_EVERY, WITHIN, || async {
        ask(&node, set_in("durable", "late", "id")).await.map_err(|failure| failure.to_string())
    })
    .await
    .unwrap();
    assert_eq!((settled.version, settled.replayed), (version, true));
    assert!(!node.client.clone().delete(delete).await.unwrap().into_inner().existed, "it was deleted before");
    let metrics = node.cx.openmetrics();
    let unacked = metrics.lines().find(|line| line.starts_with("mainstay_cache_replica_unacked_total"));
    let n_unacked: u64 = unacked.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(n_unacked >= 2, "{n_unacked}");
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durability_is_changed_at_run_time_and_refused_without_redis() {
    let stack = redis().await;
    let replica = stack.redis().unwrap().first_replica();
    let node = CacheNode::start(single(&stack)).await;
    node.wait_ready(true).await;
    let policy = |durability: &str| pb::PutNamespaceRequest {
        namespace: "changed".to_owned(),
        policy: Some(pb::NamespacePolicy { durability: Some(durability.to_owned()), ..Default::default() }),
        if_version: 0,
    };
    let mut admin = CacheAdminClient::new(node.channel.clone());
    let failure = Failure::from(admin.put_namespace(policy("always")).await.unwrap_err());
    assert_eq!(
        (failure.reason(), failure.fields()[0].field.as_str()),
        ("POLICY_INVALID", "policy.durability")
    );
    let view = admin.put_namespace(policy("replica_ack")).await.unwrap().into_inner();
    assert_eq!(view.effective.unwrap().durability.as_deref(), Some("replica_ack"));
    replica.pause().await.unwrap();
    assert_eq!(ask(&node, set_in("changed", "k", "")).await.unwrap_err().reason(), "NOT_DURABLE");
    replica.resume().await.unwrap();

    let alone = CacheNode::start_with(CacheConfig::default()).await;
    let failure = CacheAdminClient::new(alone.channel.clone()).put_namespace(policy("replica_ack")).await;
    let failure = Failure::from(failure.unwrap_err());
    assert_eq!(
        (failure.reason(), failure.fields()[0].field.as_str()),
        ("POLICY_INVALID", "policy.durability")
    );
    alone.cx.shut_down().await;
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

/// So many are confirmed when the primary dies.
const CONFIRMED_BEFORE: usize = 300;

/// Writes until it is over, and deletes every fourth key again; returns for each key whose last change was confirmed
/// whether it must be there.
async fn write_durably(
    mut client: CacheServiceClient<Channel>,
    writer: usize,
    n_confirmed: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
) -> Vec<(String, bool)> {
    let (mut confirmed, mut number) = (Vec::new(), 0);
    while !is_over.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("w{writer}-{number}");
        let is_kept = number % 4 > 0;
        let mut is_confirmed = client.set(set_in("durable", &key, "")).await.is_ok();
        if !is_kept {
            let (namespace, key) = ("durable".to_owned(), key.clone());
            let delete = pb::DeleteRequest { namespace, key, ..pb::DeleteRequest::default() };
            is_confirmed = client.delete(delete).await.is_ok();
        }
        if is_confirmed {
            n_confirmed.fetch_add(1, Ordering::Relaxed);
            confirmed.push((key, is_kept));
        }
    }
    confirmed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_confirmed_outlives_the_death_of_the_primary_at_once() {
    // Without `min-replicas-to-write`: nothing but the acknowledgement keeps these writes.
    let stack =
        Devstack::builder().redis(true).min_replicas(MinReplicas::Off).down_after(Duration::from_millis(400));
    let stack = stack.start().await.unwrap();
    let servers = stack.redis().unwrap();
    let node = durable_node(sentinel(&stack)).await;
    let (n_confirmed, is_over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let (n_confirmed, is_over) = (Arc::clone(&n_confirmed), Arc::clone(&is_over));
        writers.spawn(write_durably(node.client.clone(), writer, n_confirmed, is_over));
    }
    // Not after a time: on a busy machine nothing might have been confirmed by then.
    wait_until("enough writes to be confirmed", Duration::from_millis(2), WITHIN, || async {
        let n_confirmed = n_confirmed.load(Ordering::Relaxed);
        if n_confirmed >= CONFIRMED_BEFORE { Ok(()) } else { Err(format!("{n_confirmed} are")) }
    })
    .await
    .unwrap();
    servers.first_primary().kill().await.unwrap();
    is_over.store(true, Ordering::Relaxed);
    let confirmed: Vec<(String, bool)> = writers.join_all().await.into_iter().flatten().collect();
    assert!(confirmed.len() >= CONFIRMED_BEFORE, "{} changes", confirmed.len());

    wait_until("the replica to be promoted", LOOK_EVERY, WITHIN, || async {
        let named = servers.primary().await.map_err(|error| error.to_string())?.public_address();
        if named == servers.first_replica().public_address() { Ok(()) } else { Err(named.to_string()) }
    })
    .await
    .unwrap();
    // A node that has nothing in memory sees what the new primary has.
    let fresh = durable_node(sentinel(&stack)).await;
    let mut n_deleted = 0;
    for (key, is_there) in &confirmed {
        let get = pb::GetRequest { namespace: "durable".to_owned(), key: key.clone(), lease: false };
        let found = fresh.client.clone().get(get).await.unwrap().into_inner();
        assert!(!found.degraded, "{key}: {found:?}");
        let value = found.entry.map(|entry| entry.value);
        assert_eq!(
            value.as_deref(),
            is_there.then_some(key.as_bytes()),
            "{key}, of {} confirmed",
            confirmed.len()
        );
        n_deleted += usize::from(!is_there);
    }
    assert!(n_deleted > 0);
    fresh.cx.shut_down().await;
    // The new primary has no replica: it cannot promise anything yet.
    wait_until("the new primary to be written to", LOOK_EVERY, WITHIN, || async {
        match ask(&node, set_in("durable", "after", "")).await {
            Err(failure) if failure.reason() == "NOT_DURABLE" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}
