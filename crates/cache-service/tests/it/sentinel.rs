use std::time::Duration;

use bytes::Bytes;
use mainstay_devstack::wait_until;
use tokio::time::Instant;

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, redis, sentinel};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_follow_the_primary_through_a_planned_failover() {
    let stack = redis().await;
    let servers = stack.redis().unwrap();
    let node = CacheNode::start(sentinel(&stack)).await;
    node.wait_ready(true).await;
    let before = node.set("k", "before").await;
    assert!(!before.degraded);

    let replica = servers.first_replica();
    servers.promote(replica).await.unwrap();
    let promoted_at = Instant::now();
    wait_until("the service to be connected to the new primary", LOOK_EVERY, WITHIN, || async {
        let primary = node.stats().await.redis.unwrap().primary;
        if primary == replica.public_address().to_string() { Ok(()) } else { Err(primary) }
    })
    .await
    .unwrap();
    let took = promoted_at.elapsed();
    assert!(took < Duration::from_secs(3), "took {took:?}");
    let after = node.wait_for_confirmed_set("k", "after").await;
    assert!(after.version > before.version);

    let stats = node.stats().await.redis.unwrap().sentinel.unwrap();
    assert_eq!((stats.master_name.as_str(), stats.sentinels_configured), ("mainstay", 3));
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_after_the_primary_was_killed() {
    let stack = redis().await;
    let servers = stack.redis().unwrap();
    let node = CacheNode::start(sentinel(&stack)).await;
    node.wait_ready(true).await;
    node.set("k", "before").await;
    servers.first_primary().kill().await.unwrap();
    node.wait_for_confirmed_set("k", "after").await;
    assert_eq!(node.value("k").await, Some(Bytes::from_static(b"after")));
    node.wait_ready(true).await;
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connection_is_kept_while_no_sentinel_answers() {
    let stack = redis().await;
    let servers = stack.redis().unwrap();
    let node = CacheNode::start(sentinel(&stack)).await;
    node.wait_ready(true).await;
    for sentinel in servers.sentinels() {
        sentinel.kill().await.unwrap();
    }
    wait_until("the loss of the Sentinels to be seen", LOOK_EVERY, WITHIN, || async {
        let reachable = node.stats().await.redis.unwrap().sentinel.unwrap().sentinels_reachable;
        if reachable == 0 { Ok(()) } else { Err(format!("{reachable} reachable")) }
    })
    .await
    .unwrap();
    assert!(node.cx.is_ready(), "{:?}", node.cx.not_ready_because());
    assert!(!node.set("k", "value").await.degraded);
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}
