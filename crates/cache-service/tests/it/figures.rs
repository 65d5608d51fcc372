//! What Stats and the metrics say of what was done.

use std::time::Duration;

use cache_service::{CacheConfig, HttpOriginConfig, NamespaceOverrides, OriginConfig, RedisConfig, Strategy};
use mainstay_devstack::{ChaosProxy, wait_until};
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::ResetWindowRequest;
use mainstay_proto::cache::v1::cache_admin_client::CacheAdminClient;
use mainstay_proto::cache::v1::figures_service_client::FiguresServiceClient;
use mainstay_rpc::UpstreamConfig;

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, patient, redis, single};

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
    // The whole page that its one entry lies on is counted of memory, and to the namespace what the entry takes of it.
    let memory = stats.memory.unwrap();
    assert!(test.l1_bytes > 0 && test.l1_bytes <= memory.bytes, "{test:?} of {memory:?}");
    assert!(memory.bytes - test.l1_bytes < 16 << 10, "{test:?} of {memory:?}");
    assert_eq!((test.l1_misses, test.l2_misses, test.l3_misses), (1, 0, 1), "{test:?}");
    assert!(stats.disk.unwrap().available);

    let metrics = node.cx.openmetrics();
    for line in [
        "mainstay_cache_namespace_hits_total{namespace=\"test\",layer=\"l1\"} 3",
        "mainstay_cache_namespace_l1_entries{namespace=\"test\"} 1",
        "mainstay_cache_namespace_misses_total{namespace=\"test\",layer=\"l3\"} 1",
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_operations_are_told_with_redis_too() {
    let stack = redis().await;
    let node = CacheNode::start(patient(&stack)).await;
    node.wait_ready(true).await;
    node.wait_for_confirmed_set("a", "1").await;
    for key in ["a", "a", "a", "b"] {
        node.get(key).await;
    }
    let operations = node.stats().await.operations.unwrap();
    let window = operations.get_window.unwrap();
    assert_eq!((window.operations, window.hit_ratio), (4, Some(0.75)), "{window:?}");
    let mut figures = FiguresServiceClient::new(node.channel.clone());
    figures.reset_window(ResetWindowRequest {}).await.unwrap();
    let after = node.stats().await.operations.unwrap();
    assert_eq!((after.gets, after.get_window.unwrap().operations), (4, 0), "totals go on");
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn breakers_of_all_origins_are_told_by_stats_and_metrics() {
    // Nobody listens there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = CacheConfig::default();
    let url = format!("http://{nobody}/secret/{{namespace}}/{{key}}");
    let http = HttpOriginConfig { url, ..HttpOriginConfig::default() };
    let grpc = UpstreamConfig::of([format!("http://{nobody}")]);
    config.origins.insert("shop".to_owned(), OriginConfig { http, ..OriginConfig::default() });
    config.origins.insert("table".to_owned(), OriginConfig { grpc, ..OriginConfig::default() });
    for (namespace, origin) in [("over-http", "shop"), ("over-grpc", "table")] {
        let policy = NamespaceOverrides {
            strategy: Some(Strategy::ReadThrough),
            origin: Some(origin.to_owned()),
            ..NamespaceOverrides::default()
        };
        config.namespaces.insert(namespace.to_owned(), policy);
    }
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    let stats = node.stats().await;
    let told: Vec<_> =
        stats.origins.iter().map(|origin| (&*origin.name, &*origin.kind, &*origin.breaker)).collect();
    assert_eq!(told, [("shop", "http", "closed"), ("table", "grpc", "closed")]);
    for origin in &stats.origins {
        assert_eq!(
            (origin.endpoints.len(), origin.endpoints[0].endpoint.contains("secret")),
            (1, false),
            "{origin:?}"
        );
        assert!(origin.endpoints[0].endpoint.contains(&nobody.to_string()), "{origin:?}");
    }
    for (namespace, origin) in [("over-http", "shop"), ("over-grpc", "table")] {
        wait_until("the breaker to be seen open", LOOK_EVERY, WITHIN, || async {
            let get = pb::GetRequest { namespace: namespace.to_owned(), key: "k".to_owned(), lease: false };
            assert!(node.client.clone().get(get).await.is_err());
            let told = node.stats().await.origins.into_iter().find(|stats| stats.name == origin).unwrap();
            let metrics = node.cx.openmetrics();
            let of_origin = format!("mainstay_cache_origin_breaker_state{{origin=\"{origin}\"}} 2");
            let of_endpoint = format!("mainstay_cache_origin_endpoint_breaker_state{{origin=\"{origin}\",");
            assert!(metrics.contains(&of_endpoint), "{metrics}");
            if told.breaker == "open" && metrics.contains(&of_origin) {
                Ok(())
            } else {
                Err(format!("{told:?}"))
            }
        })
        .await
        .unwrap();
    }
    node.cx.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_layer_tells_what_it_holds_of_a_namespace_and_how_often_it_was_asked_in_vain() {
    let stack = redis().await;
    let directory = tempfile::tempdir().unwrap();
    let mut config = CacheConfig { redis: single(&stack), ..CacheConfig::default() };
    config.disk.path = directory.path().to_owned();
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    let set = |namespace: &str, key: &str| pb::SetRequest {
        namespace: namespace.to_owned(),
        key: key.to_owned(),
        value: vec![b'v'; 100].into(),
        ..pb::SetRequest::default()
    };
    for request in [set("one", "a"), set("one", "b"), set("two", "a"), set("two", "gone")] {
        node.client.clone().set(request).await.unwrap();
    }
    let delete =
        pb::DeleteRequest { namespace: "two".to_owned(), key: "gone".to_owned(), ..Default::default() };
    node.client.clone().delete(delete).await.unwrap();
    for key in ["a", "absent", "absent"] {
        let get = pb::GetRequest { namespace: "one".to_owned(), key: key.to_owned(), lease: false };
        node.client.clone().get(get).await.unwrap();
    }
    let of = |stats: &pb::StatsResponse, name: &str| {
        stats.namespaces.iter().find(|stats| stats.namespace == name).unwrap().clone()
    };
    let stats = wait_until("both to be on disk", LOOK_EVERY, WITHIN, || async {
        let stats = node.stats().await;
        let (one, two) = (of(&stats, "one"), of(&stats, "two"));
        if (one.l3_entries, two.l3_entries) == (2, 1) { Ok(stats) } else { Err(format!("{one:?} {two:?}")) }
    })
    .await
    .unwrap();
    let (one, two) = (of(&stats, "one"), of(&stats, "two"));
    // The one that is there comes from memory, or from Redis while memory cannot prove that nothing was changed.
    assert_eq!((one.l1_hits + one.l2_hits, one.l1_misses - one.l2_hits), (1, 2), "{one:?}");
    assert_eq!((one.l2_misses, one.l3_misses), (2, 0), "{one:?}");
    assert!(one.l3_bytes > 200 && two.l3_bytes > 100 && two.l3_bytes < one.l3_bytes, "{one:?} {two:?}");
    let counted = wait_until("the keys in redis to be counted", LOOK_EVERY, WITHIN, || async {
        let stats = node.stats().await;
        let (one, two) = (of(&stats, "one"), of(&stats, "two"));
        if (one.l2_entries, two.l2_entries) == (2, 1) { Ok(stats) } else { Err(format!("{one:?} {two:?}")) }
    })
    .await
    .unwrap();
    let (one, two) = (of(&counted, "one"), of(&counted, "two"));
    assert!(one.l2_bytes > 200 && two.l2_bytes > 100 && two.l2_bytes < one.l2_bytes, "{one:?} {two:?}");
    let redis = counted.redis.unwrap();
    // Beside the entries there are the log, its number and a barrier for each namespace.
    assert!(redis.keys >= 7 && redis.keys_sampled == redis.keys, "{redis:?}");
    let command = |name: &str| redis.commands.iter().find(|stats| stats.command == name).unwrap();
    assert_eq!((command("set").commands, command("delete").commands), (4, 1), "{:?}", redis.commands);
    assert!(command("set").mean_seconds > 0.0 && command("get").commands >= 2, "{:?}", redis.commands);
    let metrics = node.cx.openmetrics();
    for line in [
        "mainstay_cache_l2_command_seconds_count{command=\"set\"} 4",
        "mainstay_cache_namespace_l2_entries{namespace=\"one\"} 2",
        "mainstay_cache_namespace_misses_total{namespace=\"one\",layer=\"l2\"} 2",
        "mainstay_cache_namespace_l3_entries{namespace=\"one\"} 2",
        "mainstay_cache_namespace_l3_evicted_total{namespace=\"two\"} 0",
        "mainstay_cache_l2_server_evicted_total 0",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_answers_are_told_by_layer_and_invalidations_with_their_times() {
    let stack = redis().await;
    let proxy = ChaosProxy::start(single(&stack).address.parse().unwrap()).unwrap();
    let redis = RedisConfig { address: proxy.address().to_string(), ..single(&stack) };
    let mut config = CacheConfig { redis, ..CacheConfig::default() };
    config.namespace_defaults.grace = Duration::from_secs(600);
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    // What was there before the log was read is not counted.
    node.wait_current(true).await;
    node.set("kept", "1").await;
    node.set("gone", "1").await;
    let request = pb::InvalidateRequest {
        namespace: "test".to_owned(),
        keys: vec!["gone".to_owned()],
        ..pb::InvalidateRequest::default()
    };
    let mut admin = CacheAdminClient::new(node.channel.clone());
    admin.invalidate(request.clone()).await.unwrap();
    let invalidations = wait_until("it to be read from the log", LOOK_EVERY, WITHIN, || async {
        let mut admin = CacheAdminClient::new(node.channel.clone());
        let stats = admin.invalidation_stats(pb::InvalidationStatsRequest {}).await.unwrap().into_inner();
        if stats.keys >= 3 { Ok(stats) } else { Err(format!("{stats:?}")) }
    })
    .await
    .unwrap();
    assert_eq!((invalidations.requests, invalidations.failures), (1, 0), "{invalidations:?}");
    assert!(invalidations.request_seconds_mean > 0.0 && invalidations.request_seconds_p99 > 0.0);
    let lags = [
        invalidations.lag_seconds_p50,
        invalidations.lag_seconds_p95,
        invalidations.lag_seconds_p99,
        invalidations.lag_seconds_max,
    ];
    assert!(lags.is_sorted(), "{invalidations:?}");

    proxy.cut().await.unwrap();
    assert!(admin.invalidate(request).await.is_err());
    wait_until("a stale answer", LOOK_EVERY, WITHIN, || async {
        let answer = node.get("kept").await;
        if answer.stale { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await
    .unwrap();
    let test = node.stats().await.namespaces.into_iter().find(|stats| stats.namespace == "test").unwrap();
    assert!(test.stale > 0 && test.l1_stale == test.stale && test.l2_stale + test.l3_stale == 0, "{test:?}");
    let metrics = node.cx.openmetrics();
    for line in [
        "mainstay_cache_op_seconds_count{op=\"invalidate\",layer=\"l2\"} 1",
        "mainstay_cache_errors_total{op=\"invalidate\"} 1",
        "mainstay_cache_stale_total{layer=\"l3\"} 0",
        "mainstay_cache_namespace_stale_total{namespace=\"test\",layer=\"l2\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    let by_layer = metrics.lines().find(|line| line.starts_with("mainstay_cache_stale_total{layer=\"l1\"}"));
    assert!(by_layer.is_some_and(|line| !line.ends_with(" 0")), "{metrics}");
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}
