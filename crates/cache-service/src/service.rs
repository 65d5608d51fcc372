//! How the service is put together.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mainstay_proto::cache::v1::cache_service_server::CacheServiceServer;
use mainstay_rpc::Routes;
use mainstay_runtime::{Context, Schedule};

use crate::config::{CacheConfig, RedisMode};
use crate::engine::{Engine, Namespaces};
use crate::grpc::cache::CacheGrpc;
use crate::layer::memory::Memory;
use crate::layer::redis::RedisLayer;
use crate::metrics::{CacheMetrics, LayerCollector};
use crate::redis::{Redis, Watch};
use crate::time::Time;
use crate::version::Versions;

const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Key, content type and framing of a request beside its value.
const REQUEST_EXTRA_BYTES: u64 = 64 << 10;

/// Starts the cache: everything is spawned and the port served when it returns.
pub async fn start(cx: Context, config: CacheConfig) -> anyhow::Result<()> {
    // 1. Figures.
    let metrics = Arc::new(cx.metrics(CacheMetrics::register));
    let time = Time::new(cx.clock().clone());

    // 2. L1.
    let largest_value = config.largest_value();
    let memory = Arc::new(Memory::new(config.memory.capacity.as_u64(), largest_value));
    sweep(&cx, &memory, &time);

    // 3. L2: the connection is made, and kept, in the background.
    let redis = (config.redis.mode != RedisMode::None).then(|| connect(&cx, &config, &metrics));
    cx.metrics(|registry| LayerCollector::register(Arc::clone(&memory), redis.as_ref(), registry));

    // 4. The engine over both.
    let engine = Engine {
        memory,
        redis,
        namespaces: Namespaces::new(&config),
        metrics,
        time,
        versions: Versions::default(),
    };

    // 5. The door.
    let grpc = CacheGrpc::new(Arc::new(engine), config.redis.mode.as_str());
    let largest_request = usize::try_from(largest_value + REQUEST_EXTRA_BYTES).context("max_value_size")?;
    let server = CacheServiceServer::new(grpc)
        .max_decoding_message_size(largest_request)
        .max_encoding_message_size(largest_request);
    cx.serve(Routes::new(server)).await
}

fn connect(cx: &Context, config: &CacheConfig, metrics: &Arc<CacheMetrics>) -> Arc<RedisLayer> {
    let redis = Arc::new(Redis::new(&config.redis));
    if let Some(watch) = Watch::new(Arc::clone(&redis), &config.redis, cx) {
        redis.watched_by(cx.background("redis.watch", Schedule::EveryOrTrigger(Watch::EVERY), watch));
    }
    Arc::new(RedisLayer::new(redis, &config.redis, Arc::clone(metrics)))
}

fn sweep(cx: &Context, memory: &Arc<Memory>, time: &Time) {
    let (memory, time) = (Arc::clone(memory), time.clone());
    let sweep = move || {
        let (memory, now) = (Arc::clone(&memory), time.now());
        // It visits every entry.
        async move { tokio::task::spawn_blocking(move || memory.sweep(now)).await.context("sweep") }
    };
    cx.background("memory.sweep", Schedule::Every(SWEEP_EVERY), sweep);
}
