use std::time::Duration;

use cache_service::{CacheConfig, RedisConfig};
use futures_util::future::join_all;
use mainstay_devstack::wait_until;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::insight_service_client::InsightServiceClient;

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, patient, redis};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_read_most_and_the_patterns_of_keys_are_told() {
    let stack = redis().await;
    for redis in [RedisConfig::default(), patient(&stack)] {
        let mut config = CacheConfig { redis, ..CacheConfig::default() };
        config.key_patterns.count_every = Duration::from_secs(5);
        are_told(CacheNode::start_with(config).await).await;
    }
    stack.stop().await.unwrap();
}

async fn are_told(node: CacheNode) {
    node.wait_ready(true).await;
    let cache = CacheServiceClient::new(node.channel.clone());
    let sets = (0..20).map(|number| {
        let mut cache = cache.clone();
        let request = pb::SetRequest {
            namespace: "test".to_owned(),
            key: format!("user:{number:02}"),
            value: "12345".into(),
            ..Default::default()
        };
        async move { cache.set(request).await.unwrap() }
    });
    join_all(sets).await;
    // Half of the reads ask for one key.
    for round in 0..20 {
        let reads = (0..100).map(|number| {
            let mut cache = cache.clone();
            let key = if number % 2 == 0 { 7 } else { (round + number) % 20 };
            let key = format!("user:{key:02}");
            let request = pb::GetRequest { namespace: "test".to_owned(), key, ..Default::default() };
            async move { cache.get(request).await.unwrap() }
        });
        join_all(reads).await;
    }

    let mut insight = InsightServiceClient::new(node.channel.clone());
    let hot = insight.hot_keys(pb::HotKeysRequest { limit: 3 }).await.unwrap().into_inner();
    assert_eq!(
        (hot.keys.len(), hot.keys[0].namespace.as_str(), hot.keys[0].key.as_str()),
        (3, "test", "user:07")
    );
    assert!(hot.keys[0].share > 0.25 && hot.reads > 500, "{hot:?}");

    // A count is as old as the metrics let it become.
    let pattern = wait_until("all reads to be counted", LOOK_EVERY, WITHIN, || {
        let (mut insight, namespace) = (insight.clone(), "test".to_owned());
        async move {
            let reply =
                insight.key_patterns(pb::KeyPatternsRequest { namespace }).await.unwrap().into_inner();
            match &reply.patterns[..] {
                [pattern] if pattern.keys == 20 && pattern.hits > 500 => Ok(pattern.clone()),
                _ => Err(format!("{reply:?}")),
            }
        }
    })
    .await
    .unwrap();
    assert_eq!((pattern.pattern.as_str(), pattern.keys), ("user:*", 20));
    assert_eq!(pattern.bytes, 20 * ("test:user:00".len() + 5) as u64);
    assert!(pattern.mean_ttl.unwrap().seconds > 200, "{pattern:?}");

    let line = "mainstay_cache_key_pattern_keys{namespace=\"test\",pattern=\"user:*\"} 20";
    wait_until("the patterns in the metrics", LOOK_EVERY, WITHIN, || async {
        let metrics = node.cx.openmetrics();
        if metrics.contains(line) { Ok(()) } else { Err(metrics) }
    })
    .await
    .unwrap();
    node.cx.shut_down().await;
}
