//! What became of a change is told exactly, and an idempotency key settles what is unknown.

use std::time::Duration;

use bytes::Bytes;
use cache_service::{CacheConfig, NamespaceOverrides, OriginConfig, RedisConfig, Strategy};
use mainstay_devstack::{ChaosProxy, Direction, wait_until};
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::WriteOutcome;
use mainstay_proto::cache::v1::cache_admin_client::CacheAdminClient;
use mainstay_proto::cache::v1::operation::Action;
use mainstay_proto::cache::v1::outcome::Result as Ended;
use mainstay_rpc::{ErrorCode, Failure, UpstreamConfig};

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, redis, single};

fn set(key: &str, value: &'static str, idempotency_key: &str) -> pb::SetRequest {
    pb::SetRequest {
        namespace: "test".to_owned(),
        key: key.to_owned(),
        value: Bytes::from_static(value.as_bytes()),
        idempotency_key: idempotency_key.to_owned(),
        ..pb::SetRequest::default()
    }
}

fn delete(key: &str, idempotency_key: &str) -> pb::DeleteRequest {
    pb::DeleteRequest {
        namespace: "test".to_owned(),
        key: key.to_owned(),
        idempotency_key: idempotency_key.to_owned(),
        ..pb::DeleteRequest::default()
    }
}

impl CacheNode {
    async fn ask_set(&self, request: pb::SetRequest) -> Result<pb::SetResponse, Failure> {
        self.client.clone().set(request).await.map(|reply| reply.into_inner()).map_err(Failure::from)
    }

    async fn ask_delete(&self, request: pb::DeleteRequest) -> Result<pb::DeleteResponse, Failure> {
        self.client.clone().delete(request).await.map(|reply| reply.into_inner()).map_err(Failure::from)
    }
}

fn told(failure: &Failure) -> (&str, Option<&str>) {
    (failure.reason(), failure.details().get("outcome").map(String::as_str))
}

/// Asks `b` again for what `a` did; they are one where there is no Redis.
async fn is_made_once(a: &CacheNode, b: &CacheNode) {
    let first = a.ask_set(set("k", "mine", "id-1")).await.unwrap();
    assert_eq!((first.outcome(), first.replayed), (WriteOutcome::Applied, false));
    let other = b.ask_set(set("k", "theirs", "id-2")).await.unwrap();
    assert!(other.version > first.version);
    let again = b.ask_set(set("k", "mine", "id-1")).await.unwrap();
    assert_eq!(
        (again.version, again.outcome(), again.replayed),
        (first.version, WriteOutcome::Applied, true)
    );
    assert_eq!(b.value("k").await.as_deref(), Some(&b"theirs"[..]), "nothing was written again");

    for reused in [
        a.ask_set(set("k", "different", "id-1")).await.unwrap_err(),
        a.ask_delete(delete("k", "id-1")).await.unwrap_err(),
    ] {
        assert_eq!((reused.code(), reused.reason()), (ErrorCode::Conflict, "IDEMPOTENCY_KEY_REUSED"));
    }
    // It is a key for one entry.
    assert!(!a.ask_set(set("k2", "mine", "id-1")).await.unwrap().replayed);

    let gone = a.ask_delete(delete("k", "id-3")).await.unwrap();
    assert!(gone.existed && !gone.replayed);
    a.ask_set(set("k", "back", "")).await.unwrap();
    let again = b.ask_delete(delete("k", "id-3")).await.unwrap();
    assert!(again.existed && again.replayed);
    wait_until("the value that was not deleted again", LOOK_EVERY, WITHIN, || async {
        let value = b.value("k").await;
        if value.as_deref() == Some(b"back") { Ok(()) } else { Err(format!("{value:?}")) }
    })
    .await
    .unwrap();

    // A condition that held the first time is not asked about again; a refusal is not remembered.
    let absent = pb::SetRequest { if_version: Some(0), ..set("new", "v", "id-4") };
    let first = a.ask_set(absent.clone()).await.unwrap();
    assert_eq!(b.ask_set(absent).await.unwrap().version, first.version);
    let wrong = pb::SetRequest { if_version: Some(1), ..set("new", "v", "id-5") };
    assert_eq!(a.ask_set(wrong.clone()).await.unwrap_err().reason(), "VERSION_MISMATCH");
    let right = pb::SetRequest { if_version: Some(first.version), ..wrong };
    assert!(!a.ask_set(right).await.unwrap().replayed);

    for bad in ["x".repeat(129), "a\nb".to_owned()] {
        let refused = a.ask_set(set("k", "v", &bad)).await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.reason()),
            (ErrorCode::InvalidArgument, "IDEMPOTENCY_KEY_INVALID")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_asked_for_again_on_another_node_gets_the_first_outcome_and_writes_nothing() {
    let stack = redis().await;
    let (a, b) = (CacheNode::start(single(&stack)).await, CacheNode::start(single(&stack)).await);
    a.wait_ready(true).await;
    b.wait_ready(true).await;
    is_made_once(&a, &b).await;

    let operation = |action| pb::Operation { key: "batched".to_owned(), action: Some(action) };
    let batch =
        |action| pb::BatchRequest { namespace: "test".to_owned(), operations: vec![operation(action)] };
    let write = pb::SetAction { value: "v".into(), idempotency_key: "id".to_owned(), ..Default::default() };
    let mut seen = Vec::new();
    for node in [&a, &b] {
        let answer = node.client.clone().batch(batch(Action::Set(write.clone()))).await.unwrap().into_inner();
        let Some(Ended::Set(stored)) = answer.outcomes[0].result.clone() else { panic!("{answer:?}") };
        seen.push((stored.version, stored.replayed));
    }
    assert_eq!(seen, [(seen[0].0, false), (seen[0].0, true)]);
    let removal = pb::DeleteAction { idempotency_key: "id-d".to_owned(), ..Default::default() };
    for replayed in [false, true] {
        let answer =
            a.client.clone().batch(batch(Action::Delete(removal.clone()))).await.unwrap().into_inner();
        let Some(Ended::Delete(deleted)) = answer.outcomes[0].result.clone() else { panic!("{answer:?}") };
        assert_eq!((deleted.existed, deleted.replayed), (true, replayed));
    }
    a.cx.shut_down().await;
    b.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_the_process_remembers_what_it_made() {
    let node = CacheNode::start_with(CacheConfig::default()).await;
    is_made_once(&node, &node).await;
    node.cx.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_refused_where_the_origin_is_told_first() {
    let mut config = CacheConfig::default();
    let grpc = UpstreamConfig::of(["http://127.0.0.1:9"]);
    config.origins.insert("table".to_owned(), OriginConfig { grpc, ..OriginConfig::default() });
    let policy = NamespaceOverrides {
        strategy: Some(Strategy::WriteThrough),
        origin: Some("table".to_owned()),
        ..NamespaceOverrides::default()
    };
    config.namespaces.insert("test".to_owned(), policy);
    let node = CacheNode::start_with(config).await;
    let refused = node.ask_set(set("k", "v", "id")).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.reason()),
        (ErrorCode::FailedPrecondition, "IDEMPOTENCY_NOT_POSSIBLE")
    );
    assert_eq!(node.ask_delete(delete("k", "id")).await.unwrap_err().reason(), "IDEMPOTENCY_NOT_POSSIBLE");
    // Nobody listens there: whether an origin that could not be asked has taken a change is not known.
    let failed = node.ask_set(set("k", "v", "")).await.unwrap_err();
    assert_eq!(told(&failed), ("ORIGIN_UNAVAILABLE", Some("unknown")));
    node.cx.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_answer_is_lost_is_unknown_until_its_key_settles_it() {
    let stack = redis().await;
    let proxy = ChaosProxy::start(single(&stack).address.parse().unwrap()).unwrap();
    let command_within = Duration::from_secs(3);
    let config = RedisConfig { address: proxy.address().to_string(), command_within, ..single(&stack) };
    let node = CacheNode::start(config).await;
    node.wait_ready(true).await;
    node.ask_set(set("old", "value", "")).await.unwrap();
    node.ask_delete(delete("warm", "w")).await.unwrap();

    // Commands reach Redis, and their answers do not come.
    proxy.stall(Direction::Downstream);
    let mut admin = CacheAdminClient::new(node.channel.clone());
    let invalidate = pb::InvalidateRequest {
        namespace: "test".to_owned(),
        keys: vec!["other".to_owned()],
        ..pb::InvalidateRequest::default()
    };
    let (plain, keyed, deleted, invalidated) = tokio::join!(
        node.ask_set(set("plain", "value", "")),
        node.ask_set(set("keyed", "value", "id")),
        node.ask_delete(delete("old", "id-d")),
        admin.invalidate(invalidate.clone()),
    );
    let plain = plain.unwrap();
    assert_eq!((plain.degraded, plain.outcome()), (true, WriteOutcome::Unknown));
    assert_eq!(told(&keyed.unwrap_err()), ("OUTCOME_UNKNOWN", Some("unknown")));
    assert_eq!(told(&deleted.unwrap_err()), ("OUTCOME_UNKNOWN", Some("unknown")));
    assert_eq!(told(&Failure::from(invalidated.unwrap_err())), ("OUTCOME_UNKNOWN", Some("unknown")));

    proxy.unstall(Direction::Downstream);
    let settled = wait_until("the write to be settled", LOOK_EVERY, WITHIN, || async {
        node.ask_set(set("keyed", "value", "id")).await.map_err(|failure| failure.to_string())
    })
    .await
    .unwrap();
    assert!(settled.replayed, "it had reached Redis: {settled:?}");
    // The connection that said nothing may be replaced at any moment from here on.
    wait_until("the version that was told", LOOK_EVERY, WITHIN, || async {
        let version = node.get("keyed").await.entry.map(|entry| entry.version);
        if version == Some(settled.version) { Ok(()) } else { Err(format!("{version:?}")) }
    })
    .await
    .unwrap();
    let settled = wait_until("the delete to be settled", LOOK_EVERY, WITHIN, || async {
        node.ask_delete(delete("old", "id-d")).await.map_err(|failure| failure.to_string())
    })
    .await
    .unwrap();
    assert!(settled.replayed && settled.existed);

    // Nobody to ask: surely not made.
    stack.redis().unwrap().first_primary().kill().await.unwrap();
    node.wait_ready(false).await;
    wait_until("a write that is surely not made", LOOK_EVERY, WITHIN, || async {
        let stored = node.ask_set(set("plain", "value", "")).await.unwrap();
        assert!(stored.degraded);
        if stored.outcome() == WriteOutcome::NotApplied { Ok(()) } else { Err(format!("{stored:?}")) }
    })
    .await
    .unwrap();
    let not_made = [
        node.ask_set(set("keyed", "value", "id-2")).await.map(drop).unwrap_err(),
        node.ask_delete(delete("old", "")).await.map(drop).unwrap_err(),
        Failure::from(admin.invalidate(invalidate).await.map(drop).unwrap_err()),
    ];
    for failure in &not_made {
        assert_eq!(told(failure), ("REDIS_UNAVAILABLE", Some("not_applied")));
        assert!(failure.retry_delay().is_some_and(|delay| delay < Duration::from_secs(5)));
    }
    assert_eq!(node.value("keyed").await.as_deref().filter(|value| *value != b"value"), None);
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}
