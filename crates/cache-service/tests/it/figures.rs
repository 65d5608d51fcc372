//! What Stats and the metrics say of what was done.

use std::time::Duration;

use cache_service::{CacheConfig, RedisConfig};
use mainstay_proto::cache::v1::ResetWindowRequest;
use mainstay_proto::cache::v1::figures_service_client::FiguresServiceClient;

use crate::node::CacheNode;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_tell_each_namespace_and_the_last_operations_until_they_are_reset() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = CacheConfig { redis: RedisConfig::default(), ..CacheConfig::default() };
    config.disk.path = directory.path().to_owned();
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    node.set("a", "1").await;
    for key in ["a", "a", "a", "b"] {
        node.get(key).await;
    }
    let stats = node.stats().await;
    let operations = stats.operations.unwrap();
    let window = operations.get_window.unwrap();
    assert_eq!((window.operations, window.hit_ratio), (4, Some(0.75)));
    assert!(window.p50_seconds > 0.0 && window.p50_seconds <= window.p95_seconds, "{window:?}");
    assert!(window.p95_seconds <= window.p99_seconds, "{window:?}");
    let test = stats.namespaces.iter().find(|stats| stats.namespace == "test").unwrap();
    assert_eq!((test.gets, test.hits, test.misses, test.l1_hits, test.stale), (4, 3, 1, 3, 0));
    assert_eq!((test.l1_entries, test.l1_evictions, test.eviction.as_str()), (1, 0, "lfu"));
    assert_eq!(test.l1_bytes, stats.memory.unwrap().bytes);
    assert!(stats.disk.unwrap().available);

    let metrics = node.cx.openmetrics();
    for line in [
        "mainstay_cache_namespace_hits_total{namespace=\"test\",layer=\"l1\"} 3",
        "mainstay_cache_namespace_l1_entries{namespace=\"test\"} 1",
        "mainstay_cache_l1_eviction_entries{eviction=\"lfu\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }

    let mut figures = FiguresServiceClient::new(node.channel.clone());
    let reset = figures.reset_window(ResetWindowRequest {}).await.unwrap().into_inner();
    assert_eq!(reset.operations, 5);
    let after = node.stats().await.operations.unwrap();
    assert_eq!((after.gets, after.get_window.unwrap().operations), (4, 0), "totals go on");
    tokio::time::timeout(Duration::from_secs(10), node.cx.shut_down()).await.unwrap();
}
