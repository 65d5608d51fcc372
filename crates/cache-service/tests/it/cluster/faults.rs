//! A cluster that loses a primary, or in which keys are moved.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mainstay_devstack::{RedisCluster, RedisNode, wait_until};
use tokio::time::Instant;

use super::{PARTITIONS, config, holder, namespaces, set_of, stack, started};
use crate::node::{CacheNode, LOOK_EVERY, WITHIN};

/// What a writer was answered: value by key for what is in Redis, and the longest time without.
#[derive(Default)]
struct Written {
    confirmed: HashMap<String, String>,
    n_errors: usize,
    gap: Duration,
}

/// Writes new keys of a namespace one after the other, at most 200 a second.
async fn write_until(done: &AtomicBool, node: &CacheNode, namespace: &str) -> Written {
    let (mut written, mut confirmed_at) = (Written::default(), Instant::now());
    for number in 0.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let (key, value) = (format!("w{}", number % 500), number.to_string());
        match node.try_set(set_of(namespace, &key, value.clone())).await {
            Ok(set) if !set.degraded => {
                written.gap = written.gap.max(confirmed_at.elapsed());
                confirmed_at = Instant::now();
                written.confirmed.insert(key, value);
            }
            // It may be there or not: what was confirmed before is no longer promised.
            _ => {
                written.n_errors += 1;
                written.confirmed.remove(&key);
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    written
}

impl Written {
    /// Asks a node that has nothing in memory for everything that was confirmed, and counts what is not there.
    async fn n_lost(&self, late: &CacheNode, namespace: &str) -> usize {
        let mut n_lost = 0;
        for (key, value) in &self.confirmed {
            let (there, is_doubtful) = late.read(namespace, key).await;
            n_lost += usize::from(is_doubtful || there.as_deref() != Some(value.as_bytes()));
        }
        n_lost
    }

    async fn assert_kept(&self, late: &CacheNode, namespace: &str) {
        assert!(!self.confirmed.is_empty());
        assert_eq!(self.n_lost(late, namespace).await, 0, "{namespace}");
    }
}

/// Of the namespaces that have the entry `k`, one that lies with the namespace `durable` and one that does not.
async fn with_and_without(servers: &RedisCluster, lost: &RedisNode) -> (String, String) {
    let (mut with, mut without) = (None, None);
    for namespace in namespaces() {
        let (node, _) = holder(servers, &format!("}}{namespace}:k")).await;
        let place = if node.address() == lost.address() { &mut with } else { &mut without };
        *place = Some(namespace);
    }
    (with.unwrap(), without.unwrap())
}

/// The primary of one shard is killed; the others serve on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_loses_its_primary_comes_back_and_the_others_serve_on() {
    let stack = stack().await;
    let servers = stack.redis_cluster().unwrap();
    let node = started(config(&stack)).await;
    for namespace in namespaces().chain(["durable".to_owned()]) {
        node.store(&namespace, "k", "1", "").await;
    }
    let (lost, slot) = holder(servers, "}durable:k").await;
    let (same, other) = with_and_without(servers, lost).await;
    let done = AtomicBool::new(false);
    let write = |namespace| write_until(&done, &node, namespace);
    let fault = async {
        lost.kill().await.unwrap();
        let lost_at = Instant::now();
        wait_until("the loss to be seen", LOOK_EVERY, WITHIN, || async {
            let seen = node.cluster().await;
            if seen.partitions_served < seen.partitions { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await
        .unwrap();
        assert!(node.cx.is_ready(), "{:?}", node.cx.not_ready_because());
        wait_until("a replica to be promoted", LOOK_EVERY, WITHIN, || async {
            servers.owner(slot).await.map(drop).map_err(|error| error.to_string())
        })
        .await
        .unwrap();
        println!("kill -9: a replica was promoted after {:?}", lost_at.elapsed());
        node.wait_served(PARTITIONS.into()).await;
        // The new primary writes alone; what a replica must have waits for one.
        lost.start().await.unwrap();
        servers.wait_settled().await.unwrap();
        node.wait_current(true).await;
        wait_until("a durable write", LOOK_EVERY, WITHIN, || async {
            let set = node.try_set(set_of("durable", "after", "1")).await;
            set.map(drop).map_err(|error| error.to_string())
        })
        .await
        .unwrap();
        done.store(true, Ordering::Relaxed);
    };
    let (durable, same_shard, elsewhere, ()) =
        tokio::join!(write("durable"), write(&same), write(&other), fault);
    for (what, written) in [("durable", &durable), ("the shard", &same_shard), ("elsewhere", &elsewhere)] {
        println!("kill -9: {what}: gap {:?}, {} errors", written.gap, written.n_errors);
    }
    let late = started(config(&stack)).await;
    durable.assert_kept(&late, "durable").await;
    elsewhere.assert_kept(&late, &other).await;
    println!("kill -9: lost of the shard: {}", same_shard.n_lost(&late, &same).await);
    assert!(same_shard.n_errors > 0);
    assert!(elsewhere.gap < same_shard.gap, "{:?} {:?}", elsewhere.gap, same_shard.gap);
    for cx in [&node.cx, &late.cx] {
        cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_primary_of_a_shard_is_given_up() {
    let stack = stack().await;
    let servers = stack.redis_cluster().unwrap();
    let node = started(config(&stack)).await;
    node.store("ns0", "k", "1", "").await;
    let (frozen, _) = holder(servers, "}ns0:k").await;
    frozen.pause().await.unwrap();
    let frozen_at = Instant::now();
    wait_until("a confirmed write", LOOK_EVERY, WITHIN * 2, || async {
        let set = node.try_set(set_of("ns0", "k", "2")).await.map_err(|error| error.to_string())?;
        if set.degraded { Err("degraded".to_owned()) } else { Ok(()) }
    })
    .await
    .unwrap();
    println!("frozen: {:?}", frozen_at.elapsed());
    frozen.resume().await.unwrap();
    servers.wait_settled().await.unwrap();
    node.wait_served(PARTITIONS.into()).await;
    let late = started(config(&stack)).await;
    assert_eq!(late.read("ns0", "k").await, (Some("2".into()), false));
    for cx in [&node.cx, &late.cx] {
        cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_is_moved_while_it_is_used() {
    let stack = stack().await;
    let servers = stack.redis_cluster().unwrap();
    let mut config = config(&stack);
    // Moving takes this machine a moment, and what waits for it is to be answered.
    config.redis.command_within = Duration::from_secs(5);
    let (node, late) = (started(config.clone()).await, started(config).await);
    for number in 0..200 {
        node.store("ns0", &format!("k{number}"), "before", "tag").await;
    }
    let (from, slot) = holder(servers, "}ns0:k0").await;
    let to = servers.nodes()[..3].iter().find(|node| node.address() != from.address()).unwrap();
    let done = AtomicBool::new(false);
    let n_redirects = |node: &CacheNode| {
        let metrics = node.cx.openmetrics();
        let line =
            metrics.lines().find_map(|line| line.strip_prefix("mainstay_cache_cluster_redirects_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let moving = async {
        servers.begin_move(slot, from, to).await.unwrap();
        assert!(servers.move_keys(slot, from, to, 100).await.unwrap() > 0);
        // Some keys are here and some there; what the other node reads it has not seen before.
        for number in 0..200 {
            let key = format!("k{number}");
            assert_eq!(late.read("ns0", &key).await, (Some("before".into()), false), "{key}");
        }
        assert_eq!(late.read("ns0", "absent").await, (None, false));
        while servers.move_keys(slot, from, to, 100).await.unwrap() > 0 {}
        servers.end_move(slot, from, to).await.unwrap();
        node.store("ns0", "after", "1", "tag").await;
        assert!(n_redirects(&node) > 0 && n_redirects(&late) > 0);
        done.store(true, Ordering::Relaxed);
    };
    let (written, ()) = tokio::join!(write_until(&done, &node, "ns0"), moving);
    println!("moved: gap {:?}, {} errors", written.gap, written.n_errors);

    // The log has moved with its keys: an invalidation reaches the other node as before.
    late.wait_value("ns0", "after", Some("1")).await;
    node.clear("ns0", Some("tag")).await;
    late.wait_value("ns0", "after", None).await;
    late.wait_current(true).await;
    written.assert_kept(&late, "ns0").await;
    let owner = servers.owner(slot).await.unwrap().address();
    assert_eq!(owner, to.address());
    for cx in [&node.cx, &late.cx] {
        cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}
