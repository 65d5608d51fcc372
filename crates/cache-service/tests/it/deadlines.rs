//! Times of a namespace in front of an origin, with real Redis: what is loaded early, forgotten, given up and passed on.

use std::time::Duration;

use bytes::Bytes;
use cache_service::{CacheConfig, NamespaceOverrides, Strategy};
use mainstay_devstack::wait_until;
use mainstay_proto::cache::v1::{GetRequest, Layer};
use mainstay_rpc::Failure;

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, patient, redis};
use crate::origin::{Source, end, node, node_of, read_through};

impl CacheNode {
    /// Value of a counter without labels.
    fn counted(&self, name: &str) -> u64 {
        let metrics = self.cx.openmetrics();
        let prefix = format!("mainstay_cache_{name}_total ");
        metrics.lines().find_map(|line| line.strip_prefix(prefix.as_str())).unwrap().parse().unwrap()
    }

    async fn wait_for_value(&self, key: &str, value: &'static str) {
        wait_until(format!("{key} to be {value}"), LOOK_EVERY, WITHIN, || async {
            let request =
                GetRequest { namespace: "test".to_owned(), key: key.to_owned(), ..Default::default() };
            match self.client.clone().get(request).await {
                Ok(found) if found.get_ref().entry.as_ref().is_some_and(|entry| entry.value == value) => {
                    Ok(())
                }
                other => Err(format!("{other:?}")),
            }
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_is_loaded_again_before_it_ends_and_the_other_node_has_it_too() {
    let source = Source::default();
    source.set("plain", "1");
    source.set("k", "1");
    source.take(Duration::from_millis(300));
    let (origin_cx, origin) = source.serve().await;
    let stack = redis().await;
    let policy = |strategy| NamespaceOverrides {
        strategy: Some(strategy),
        ttl: Some(Duration::from_millis(1_500)),
        ttl_jitter_percent: Some(0),
        ..read_through()
    };
    let mut config = CacheConfig { redis: patient(&stack), ..CacheConfig::default() };
    let plain = NamespaceOverrides { origin: Some("source".to_owned()), ..policy(Strategy::ReadThrough) };
    config.namespaces.insert("plain".to_owned(), plain);
    // What it brings ahead would be seen as loads.
    config.hot_keys.most = 0;
    let a = node_of(config.clone(), &origin, policy(Strategy::RefreshAhead)).await;
    let b = node_of(config, &origin, policy(Strategy::RefreshAhead)).await;

    // Without the strategy an entry is loaded when it has ended, however often it is read.
    wait_until("a second load", LOOK_EVERY, WITHIN, || async {
        a.layer_in("plain", "plain").await;
        let n_loads = source.n_loads();
        if n_loads >= 2 { Ok(()) } else { Err(format!("{n_loads} loads")) }
    })
    .await
    .unwrap();
    assert_eq!(a.counted("refreshes"), 0);

    assert_eq!(a.get("k").await.layer(), Layer::Origin);
    source.set("k", "2");
    wait_until("an early load", LOOK_EVERY, WITHIN, || async {
        a.get("k").await;
        if a.counted("refreshes") > 0 { Ok(()) } else { Err("none yet".to_owned()) }
    })
    .await
    .unwrap();
    for node in [&a, &b] {
        node.wait_for_value("k", "2").await;
    }
    assert_eq!(a.counted("load_failures"), 0);
    end([a.cx, b.cx, origin_cx], Some(stack)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absence_is_forgotten_after_its_own_ttl() {
    let source = Source::default();
    let (origin_cx, origin) = source.serve().await;
    let stack = redis().await;
    let policy = NamespaceOverrides { negative_ttl: Some(Duration::from_millis(700)), ..read_through() };
    let a = node(patient(&stack), &origin, policy.clone()).await;
    let b = node(patient(&stack), &origin, policy).await;
    for node in [&a, &b] {
        wait_until("an answer by what is known to be absent", LOOK_EVERY, WITHIN, || async {
            assert_eq!(node.value("k").await, None);
            if node.counted("negatives") > 0 { Ok(()) } else { Err("loaded".to_owned()) }
        })
        .await
        .unwrap();
    }
    // Nobody tells the cache of it.
    source.set("k", "created");
    for node in [&a, &b] {
        node.wait_for_value("k", "created").await;
    }
    end([a.cx, b.cx, origin_cx], Some(stack)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_is_given_up_at_the_hard_deadline_and_leaves_no_lease_behind() {
    let source = Source::default();
    source.set("k", "value");
    source.close_gate();
    let (origin_cx, origin) = source.serve().await;
    let stack = redis().await;
    let policy = NamespaceOverrides { hard_deadline: Some(Duration::from_millis(300)), ..read_through() };
    let a = node(patient(&stack), &origin, policy.clone()).await;
    let b = node(patient(&stack), &origin, policy).await;
    let request = GetRequest { namespace: "test".to_owned(), key: "k".to_owned(), ..Default::default() };
    let refused = Failure::from(a.client.clone().get(request).await.unwrap_err());
    assert_eq!(refused.reason(), "ORIGIN_UNAVAILABLE");
    wait_until("the load to be counted as failed", LOOK_EVERY, WITHIN, || async {
        if a.counted("load_failures") > 0 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await
    .unwrap();
    source.gate.add_permits(1_000_000);
    b.wait_for_value("k", "value").await;
    end([a.cx, b.cx, origin_cx], Some(stack)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_never_used_passes_on_to_another_node() {
    let stack = redis().await;
    let mut config = CacheConfig { redis: patient(&stack), ..CacheConfig::default() };
    config.namespace_defaults.hard_deadline = Duration::from_millis(500);
    let (a, b) = (CacheNode::start_with(config.clone()).await, CacheNode::start_with(config).await);
    a.wait_ready(true).await;
    b.wait_ready(true).await;
    let request = GetRequest { namespace: "test".to_owned(), key: "k".to_owned(), lease: true };
    // Whoever has it is never heard of again.
    let first = a.client.clone().get(request.clone()).await.unwrap().into_inner().lease;
    assert_ne!(first, 0);
    let next = wait_until("the next lease", LOOK_EVERY, WITHIN, || async {
        let lease = b.client.clone().get(request.clone()).await.unwrap().into_inner().lease;
        if lease == 0 { Err("still held".to_owned()) } else { Ok(lease) }
    })
    .await
    .unwrap();
    assert_ne!(next, first);
    let set = |lease| mainstay_proto::cache::v1::SetRequest {
        namespace: "test".to_owned(),
        key: "k".to_owned(),
        value: Bytes::from_static(b"filled"),
        lease,
        ..Default::default()
    };
    // What the first one brings now is too late.
    let late = Failure::from(a.client.clone().set(set(first)).await.unwrap_err());
    assert_eq!(late.reason(), "LEASE_LOST");
    end([a.cx, b.cx], Some(stack)).await;
}
