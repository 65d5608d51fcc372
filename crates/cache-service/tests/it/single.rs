use std::time::Duration;

use bytes::Bytes;
use mainstay_devstack::{RedisNode, wait_until};
use mainstay_proto::cache::v1::Layer;
use mainstay_rpc::Failure;
use tokio::time::Instant;

use crate::node::{CacheNode, LOOK_EVERY, MEMORY_TTL, WITHIN, redis, single};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_see_each_others_writes_within_memory_ttl() {
    let stack = redis().await;
    let (a, b) = (CacheNode::start(single(&stack)).await, CacheNode::start(single(&stack)).await);
    a.wait_ready(true).await;
    b.wait_ready(true).await;

    let first = a.set("k", "one").await;
    assert!(!first.degraded && first.version > 0);
    a.warm("k", "one").await;
    let read = b.get("k").await;
    assert_eq!(read.layer(), Layer::L2);
    let entry = read.entry.unwrap();
    assert_eq!(
        (&entry.value[..], entry.version, entry.content_type.as_str()),
        (&b"one"[..], first.version, "text/plain")
    );
    let ttl = Duration::try_from(entry.ttl.unwrap()).unwrap();
    assert!(ttl > Duration::from_secs(290) && ttl <= Duration::from_secs(300), "{ttl:?}");
    b.warm("k", "one").await;

    let second = b.set("k", "two").await;
    assert!(second.version > first.version, "{second:?} is not above {first:?}");
    let written_at = Instant::now();
    let seen = || async {
        let value = a.value("k").await;
        if value == Some(Bytes::from_static(b"two")) { Ok(()) } else { Err(format!("{value:?}")) }
    };
    wait_until("the other node's write to be seen", LOOK_EVERY, WITHIN, seen).await.unwrap();
    let took = written_at.elapsed();
    assert!(took < MEMORY_TTL + Duration::from_secs(1), "took {took:?}");

    assert!(a.delete("k").await.unwrap());
    assert!(!a.delete("k").await.unwrap());
    let gone = || async { b.value("k").await.map_or(Ok(()), |value| Err(format!("{value:?}"))) };
    wait_until("the other node's delete to be seen", LOOK_EVERY, WITHIN, gone).await.unwrap();

    let stats = a.stats().await;
    let redis = stats.redis.unwrap();
    assert_eq!((redis.kind.as_str(), redis.available, redis.breaker.as_str()), ("single", true, "closed"));
    assert_eq!(redis.info["role"], "master");
    let operations = stats.operations.unwrap();
    assert_eq!((operations.sets, operations.deletes), (1, 2));
    assert!(operations.get_seconds_mean > 0.0 && operations.set_seconds_mean > 0.0);
    a.cx.shut_down().await;
    b.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_outlives_redis_and_recovers_by_itself() {
    let stack = redis().await;
    let server = stack.redis().unwrap().first_primary();
    server.kill().await.unwrap();
    let node = CacheNode::start(single(&stack)).await;

    // At start: alive, not ready, says why, works from memory.
    node.wait_ready(false).await;
    let reasons = node.cx.not_ready_because();
    assert!(reasons.iter().any(|reason| reason.starts_with("redis")), "{reasons:?}");
    assert!(node.set("k", "while away").await.degraded);
    let absent = node.get("other").await;
    assert!(absent.entry.is_none() && absent.degraded);
    let failure = Failure::from(node.delete("k2").await.unwrap_err());
    assert_eq!(failure.reason(), "REDIS_UNAVAILABLE");

    server.start().await.unwrap();
    node.wait_ready(true).await;

    // What was never confirmed is not lost to the empty Redis, and a new write is confirmed.
    assert_eq!(node.value("k").await, Some(Bytes::from_static(b"while away")));
    let confirmed = node.wait_for_confirmed_set("k", "after").await;
    assert!(confirmed.version > 0);

    // Away again: what was there is served, stale once memory may no longer answer alone.
    server.kill().await.unwrap();
    let stale = wait_until("a stale answer", LOOK_EVERY, WITHIN, || async {
        let read = node.get("k").await;
        if read.stale { Ok(read) } else { Err(format!("{read:?}")) }
    });
    let stale = stale.await.unwrap();
    assert!(stale.degraded);
    assert_eq!(stale.entry.unwrap().value, Bytes::from_static(b"after"));
    node.wait_ready(false).await;
    server.start().await.unwrap();
    node.wait_ready(true).await;
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_redis_costs_no_caller_more_than_the_command_deadline() {
    let stack = redis().await;
    let server = stack.redis().unwrap().first_primary();
    let node = CacheNode::start(single(&stack)).await;
    node.wait_ready(true).await;
    node.set("k", "value").await;

    server.pause().await.unwrap();
    let mut slowest = Duration::ZERO;
    wait_until("the breaker to open", Duration::ZERO, WITHIN, || async {
        node.get("cold").await;
        let breaker = node.stats().await.redis.unwrap().breaker;
        if breaker == "open" { Ok(()) } else { Err(breaker) }
    })
    .await
    .unwrap();
    for _ in 0..50 {
        let asked_at = Instant::now();
        let read = node.get("cold").await;
        slowest = slowest.max(asked_at.elapsed());
        assert!(read.entry.is_none() && read.degraded, "{read:?}");
    }
    assert!(slowest < Duration::from_secs(1), "one read took {slowest:?}");
    node.wait_ready(false).await;

    server.resume().await.unwrap();
    node.wait_ready(true).await;
    node.wait_for_confirmed_set("k", "after").await;
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_degrades_writes_and_leaves_reads_alone() {
    let stack = redis().await;
    let server = stack.redis().unwrap().first_primary();
    let node = CacheNode::start(single(&stack)).await;
    node.wait_ready(true).await;
    node.set("there", "value").await;
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await.unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", "1mb"]).await.unwrap();
    for _ in 0..20 {
        assert!(node.set("new", "value").await.degraded);
    }
    let redis = node.stats().await.redis.unwrap();
    assert_eq!((redis.breaker.as_str(), redis.available), ("closed", true));
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await.unwrap();
    node.wait_for_confirmed_set("new", "value").await;
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_not_ours_is_never_given_as_a_value() {
    let stack = redis().await;
    let server = stack.redis().unwrap().first_primary();
    let node = CacheNode::start(single(&stack)).await;
    node.wait_ready(true).await;
    server.command(&["SET", "mainstay:test:text", "not an envelope"]).await.unwrap();
    server.command(&["RPUSH", "mainstay:test:list", "a"]).await.unwrap();
    // The second is of another kind and not even read.
    for (key, degraded) in [("text", true), ("list", false)] {
        let read = node.get(key).await;
        assert!(read.entry.is_none() && read.degraded == degraded, "{key}: {read:?}");
    }
    assert!(!node.set("text", "ours").await.degraded);
    assert_eq!(node.value("text").await, Some(Bytes::from_static(b"ours")));
    assert!(node.set("list", "ours").await.degraded);
    // After SCRIPT FLUSH the server no longer knows the script.
    server.command(&["SCRIPT", "FLUSH"]).await.unwrap();
    assert!(!node.set("text", "again").await.degraded);
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_became_a_replica_serves_reads_and_takes_no_writes() {
    let stack = redis().await;
    let servers = stack.redis().unwrap();
    let node = CacheNode::start(single(&stack)).await;
    node.wait_ready(true).await;
    assert!(!node.set("k", "value").await.degraded);
    // Replication is asynchronous: the one to be promoted must have the value, or it is gone with the demotion.
    let replicated = || async {
        let size =
            async |server: &RedisNode| server.command(&["DBSIZE"]).await.map_err(|error| error.to_string());
        let (primary, replica) = (size(servers.first_primary()).await?, size(servers.first_replica()).await?);
        if primary == replica { Ok(()) } else { Err(format!("{primary:?} and {replica:?} keys")) }
    };
    wait_until("the replica to have it all", LOOK_EVERY, WITHIN, replicated).await.unwrap();
    servers.promote(servers.first_replica()).await.unwrap();
    // The demoted server drops its clients once; from then on it answers as what it is.
    let answers_as_replica = || async {
        let redis = node.stats().await.redis.unwrap();
        let role = redis.info.get("role").map(String::as_str);
        if redis.available && role == Some("slave") { Ok(()) } else { Err(format!("{redis:?}")) }
    };
    wait_until("the server to answer as a replica", LOOK_EVERY, WITHIN, answers_as_replica).await.unwrap();
    for _ in 0..20 {
        assert!(node.set("new", "value").await.degraded);
    }
    let redis = node.stats().await.redis.unwrap();
    assert_eq!(redis.breaker, "closed");
    let read = || async {
        let read = node.get("k").await;
        if read.layer() == Layer::L2 { Ok(()) } else { Err(format!("{read:?}")) }
    };
    wait_until("a read from the replica", LOOK_EVERY, WITHIN, read).await.unwrap();
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lost_its_primary_and_serves_nothing_is_left_until_it_serves_again() {
    let stack = redis().await;
    let server = stack.redis().unwrap().first_primary();
    let node = CacheNode::start(single(&stack)).await;
    node.wait_ready(true).await;
    node.wait_for_confirmed_set("kept", "value").await;
    // From now on it answers MASTERDOWN: it follows somebody whom nobody can reach, and gives nothing out of date.
    server.command(&["CONFIG", "SET", "replica-serve-stale-data", "no"]).await.unwrap();
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).await.unwrap();
    let refused = || async {
        let read = node.get("elsewhere").await;
        let counted =
            node.cx.openmetrics().lines().any(|line| {
                line.starts_with("mainstay_cache_l2_errors_total") && line.contains("cannot_serve")
            });
        if read.degraded && counted { Ok(()) } else { Err(format!("counted: {counted}; {read:?}")) }
    };
    wait_until("a read that the server cannot serve", LOOK_EVERY, WITHIN, refused).await.unwrap();
    assert_eq!(node.value("kept").await.as_deref(), Some(&b"value"[..]));
    assert!(node.set("new", "value").await.degraded);

    server.command(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    node.wait_for_confirmed_set("new", "again").await;
    let read = || async {
        let read = node.get("elsewhere").await;
        if read.degraded { Err(format!("{read:?}")) } else { Ok(()) }
    };
    wait_until("a read that is not degraded", LOOK_EVERY, WITHIN, read).await.unwrap();
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}
