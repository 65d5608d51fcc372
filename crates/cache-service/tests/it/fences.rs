//! A holder whose lock expired cannot write any more once another has got it.

use std::time::Duration;

use bytes::Bytes;
use cache_service::RedisConfig;
use mainstay_devstack::wait_until;
use mainstay_proto::cache::v1::lock_service_client::LockServiceClient;
use mainstay_proto::cache::v1::{AcquireLockRequest, DeleteRequest, Fence, SetRequest};
use mainstay_rpc::{Failure, Status};

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, redis, single};

const LOCK: &str = "billing";

impl CacheNode {
    async fn lock(&self, owner: &str, ttl: Duration) -> Option<u64> {
        let request = AcquireLockRequest {
            name: LOCK.to_owned(),
            owner: owner.to_owned(),
            ttl: ttl.try_into().ok(),
            wait_within: None,
        };
        let mut client = LockServiceClient::new(self.channel.clone());
        let answer = client.acquire(request).await.unwrap().into_inner();
        answer.acquired.then_some(answer.token)
    }

    async fn set_fenced(&self, value: &'static str, token: u64) -> Result<u64, Status> {
        let request = SetRequest {
            namespace: "test".to_owned(),
            key: "k".to_owned(),
            value: Bytes::from_static(value.as_bytes()),
            fence: Some(Fence { lock: LOCK.to_owned(), token }),
            ..SetRequest::default()
        };
        self.client.clone().set(request).await.map(|reply| reply.into_inner().version)
    }

    async fn delete_fenced(&self, token: u64) -> Result<bool, Status> {
        let request = DeleteRequest {
            namespace: "test".to_owned(),
            key: "k".to_owned(),
            fence: Some(Fence { lock: LOCK.to_owned(), token }),
            ..DeleteRequest::default()
        };
        self.client.clone().delete(request).await.map(|reply| reply.into_inner().existed)
    }
}

/// `one` and `other` are nodes that share a Redis, or twice the same node.
async fn a_late_holder_is_kept_out(one: &CacheNode, other: &CacheNode) {
    let first = one.lock("first", Duration::from_millis(150)).await.unwrap();
    one.set_fenced("first", first).await.unwrap();
    let second = wait_until("the lock to expire", LOOK_EVERY, WITHIN, || async {
        other.lock("second", Duration::from_secs(60)).await.ok_or_else(|| "held".to_owned())
    });
    let second = second.await.unwrap();
    assert!(second > first);
    // The second holder has not written yet: that it got the lock is enough.
    let late = Failure::from(one.set_fenced("late", first).await.unwrap_err());
    assert_eq!(late.reason(), "FENCE_OUTDATED");
    assert_eq!(late.details().get("token"), Some(&second.to_string()), "{late:?}");
    assert_eq!(one.value("k").await, Some(Bytes::from_static(b"first")));
    assert_eq!(Failure::from(one.delete_fenced(first).await.unwrap_err()).reason(), "FENCE_OUTDATED");

    other.set_fenced("second", second).await.unwrap();
    let late = Failure::from(one.set_fenced("late", first).await.unwrap_err());
    assert_eq!(late.reason(), "FENCE_OUTDATED");
    assert_eq!(other.value("k").await, Some(Bytes::from_static(b"second")));
    assert!(other.delete_fenced(second).await.unwrap());
    assert_eq!(other.value("k").await, None);
    let wrong = Failure::from(other.set_fenced("x", 0).await.unwrap_err());
    assert_eq!((wrong.reason(), wrong.fields()[0].field.as_str()), ("FENCE_INVALID", "fence.token"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_whose_lock_expired_cannot_write_or_delete() {
    let stack = redis().await;
    let (one, other) = (CacheNode::start(single(&stack)).await, CacheNode::start(single(&stack)).await);
    one.wait_ready(true).await;
    other.wait_ready(true).await;
    a_late_holder_is_kept_out(&one, &other).await;
    for node in [one, other] {
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_the_process_keeps_it_out() {
    let node = CacheNode::start(RedisConfig::default()).await;
    node.wait_ready(true).await;
    a_late_holder_is_kept_out(&node, &node).await;
    node.cx.shut_down().await;
}
