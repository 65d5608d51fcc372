//! Redis with Sentinel under control.

use std::{net::TcpStream, time::Duration};

use mainstay_devstack::{Component, Devstack, MinReplicas, RedisNode, RedisReply, redis_command, wait_until};
use tokio::time::Instant;

const EVERY: Duration = Duration::from_millis(20);
/// A returned old primary is demoted up to 10 s later, then it copies the data; on a busy machine that adds up.
const FAILOVER_WITHIN: Duration = Duration::from_mins(2);
/// Default of the stack: 1 s.
const SILENCE: Duration = Duration::from_secs(3);

async fn start(min_replicas: MinReplicas) -> Devstack {
    let builder = Devstack::builder().redis(true).min_replicas(min_replicas).down_after(SILENCE);
    builder.start().await.unwrap()
}

/// Waits until the Sentinels name another primary than `old`.
async fn wait_moved(stack: &Devstack, old: &str) {
    let redis = stack.redis().unwrap();
    wait_until("a new primary", EVERY, FAILOVER_WITHIN, || async {
        match redis.primary().await {
            Ok(primary) if primary.name() != old => Ok(()),
            Ok(primary) => Err(format!("still {}", primary.name())),
            Err(error) => Err(error.to_string()),
        }
    })
    .await
    .unwrap();
}

/// Waits until a node has the value that another one was given.
async fn wait_value(node: &RedisNode) {
    wait_until(format!("the value on {}", node.name()), EVERY, FAILOVER_WITHIN, || async {
        match node.command(&["GET", "k"]).await {
            Ok(RedisReply::Text(value)) if value == "v" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
}

// Sentinel may take a machine that stands still for a while for a dead primary. So these tests ask who is what instead of
// assuming it, and let it wait for longer than a busy machine stands still.

#[tokio::test]
async fn planned_failover_makes_the_replica_primary_with_its_data() {
    let stack = start(MinReplicas::Everywhere).await;
    let redis = stack.redis().unwrap();
    let before = redis.primary().await.unwrap();
    let other = redis.nodes().iter().find(|node| node.name() != before.name()).unwrap();
    before.command(&["SET", "k", "v"]).await.unwrap();
    wait_value(other).await;
    redis.promote(other).await.unwrap();
    assert_eq!(other.command(&["GET", "k"]).await.unwrap(), RedisReply::Text("v".to_owned()));
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn killed_primary_is_replaced_and_comes_back_with_what_it_missed() {
    let stack = start(MinReplicas::FirstPrimary).await;
    let redis = stack.redis().unwrap();
    redis.promote(redis.first_primary()).await.unwrap();
    redis.first_primary().kill().await.unwrap();
    assert!(!redis.first_primary().is_running());
    wait_moved(&stack, "redis-primary").await;
    wait_until("the survivor to take writes alone", EVERY, FAILOVER_WITHIN, || async {
        match redis.first_replica().command(&["SET", "k", "v"]).await {
            Ok(RedisReply::Text(ok)) if ok == "OK" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    redis.first_primary().restart().await.unwrap();
    wait_value(redis.first_primary()).await;
    redis.wait_settled().await.unwrap();
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn paused_server_keeps_its_port_open_answers_nothing_and_goes_on_when_resumed() {
    let stack = start(MinReplicas::Off).await;
    let replica = stack.redis().unwrap().first_replica();
    replica.pause().await.unwrap();
    TcpStream::connect(replica.address()).unwrap();
    let asked = replica.command(&["PING"]).await.unwrap_err().to_string();
    assert!(asked.contains("no answer within"), "{asked}");
    replica.resume().await.unwrap();
    replica.wait_ready().await.unwrap();
}

#[tokio::test]
async fn cut_proxy_takes_the_primary_off_the_net_and_sentinel_replaces_it() {
    let stack = Devstack::builder()
        .redis(true)
        .min_replicas(MinReplicas::FirstPrimary)
        .proxied(Component::RedisPrimary)
        .start()
        .await
        .unwrap();
    let redis = stack.redis().unwrap();
    let proxy = stack.proxy(Component::RedisPrimary).unwrap();
    assert_eq!(redis.first_primary().public_address(), proxy.address());
    assert_ne!(redis.first_primary().address(), proxy.address());
    proxy.cut().await.unwrap();
    wait_moved(&stack, "redis-primary").await;
    assert!(redis.first_primary().is_running(), "it is cut off, not dead");
    proxy.restore().await.unwrap();
    let public = redis.first_primary().public_address();
    redis_command(public, Some(redis.password()), &["PING"], FAILOVER_WITHIN).await.unwrap();
}

#[tokio::test]
async fn dropping_a_stack_ends_it_before_drop_returns() {
    let stack = start(MinReplicas::Off).await;
    let dir = stack.dir().to_path_buf();
    let addresses: Vec<_> = stack.redis().unwrap().nodes().iter().map(|node| node.address()).collect();
    let began = Instant::now();
    drop(stack);
    assert!(!dir.exists());
    for address in addresses {
        TcpStream::connect(address).unwrap_err();
    }
    assert!(began.elapsed() < Duration::from_secs(5));
}
