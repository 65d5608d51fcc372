//! How the service is put together.

use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context as _;
use mainstay_proto::cache::v1::cache_admin_server::CacheAdminServer;
use mainstay_proto::cache::v1::figures_service_server::FiguresServiceServer;
use mainstay_proto::cache::v1::policy_service_server::PolicyServiceServer;
use mainstay_proto::cache::v1::warming_service_server::WarmingServiceServer;
use mainstay_proto::cache::v1::write_behind_service_server::WriteBehindServiceServer;
use mainstay_rpc::Routes;
use mainstay_runtime::{ComponentKind, Context, Schedule};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::{CacheConfig, KeyPatternsConfig, RedisMode};
use crate::engine::{Engine, HotKeeper, HotKeys, Loads, Namespaces, Reads, RunTimePolicies, Turns};
use crate::fence::Fences;
use crate::grpc::admin::AdminGrpc;
use crate::grpc::cache::CacheGrpc;
use crate::grpc::door::CacheDoor;
use crate::grpc::figures::FiguresGrpc;
use crate::grpc::policy::PolicyGrpc;
use crate::grpc::warming::WarmingGrpc;
use crate::grpc::write_behind::WriteBehindGrpc;
use crate::insight::Insight;
use crate::invalidation::{Invalidation, InvalidationMetrics, Reader};
use crate::layer::disk::{Disk, Raised, Writer};
use crate::layer::memory::Memory;
use crate::layer::redis::{Census, RedisLayer};
use crate::metrics::{
    CacheMetrics, DiskCollector, EvictionCollector, LayerCollector, NamespaceCollector, OriginCollector,
    OriginMetrics, PatternCollector, WarmingMetrics,
};
use crate::once::MadeHere;
use crate::origin::Origins;
use crate::redis::{Redis, Watch};
use crate::time::Time;
use crate::version::Versions;
use crate::warming::Warming;
use crate::write_behind::{Queues, WriteBehind, WriteBehindMetrics};

mod shared;

const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// A batch may always have so many.
const BATCH_BYTES: usize = 4 << 20;
/// Key, content type and framing of a request beside its value.
const REQUEST_EXTRA_BYTES: u64 = 64 << 10;

/// Starts the cache: everything is spawned and the port served when it returns.
pub async fn start(cx: Context, config: CacheConfig) -> anyhow::Result<()> {
    // 1. to 5. All behind the door.
    let engine = assemble(&cx, &config)?;

    // 6. The door.
    let grpc = CacheGrpc::new(Arc::clone(&engine), &config, cx.stopping());
    let largest_request =
        usize::try_from(config.largest_value() + REQUEST_EXTRA_BYTES).context("max_value_size")?;
    let largest_request = largest_request.max(BATCH_BYTES);
    let quick = grpc.quick();
    let admin = CacheAdminServer::new(AdminGrpc::new(Arc::clone(&engine)));
    let queues = write_behind(&cx, &config, &engine);
    let queues = WriteBehindServiceServer::new(WriteBehindGrpc::new(queues));
    let warming = Warming::new(Arc::clone(&engine), &config, cx.metrics(WarmingMetrics::register));
    warming.spawn(&cx);
    let routes = Routes::new(CacheDoor::new(grpc, largest_request))
        .add_service(admin)
        .add_service(queues)
        .add_service(PolicyServiceServer::new(PolicyGrpc::new(Arc::clone(&engine))))
        .add_service(FiguresServiceServer::new(FiguresGrpc::new(Arc::clone(&engine))))
        .add_service(WarmingServiceServer::new(WarmingGrpc::new(warming)));
    cx.serve_quick(shared::add_doors(routes, &cx, &config, &engine), quick).await
}

/// Puts the engine and its layers together, and starts what keeps them going.
pub(crate) fn assemble(cx: &Context, config: &CacheConfig) -> anyhow::Result<Arc<Engine>> {
    // 1. Figures.
    let metrics = Arc::new(cx.metrics(CacheMetrics::register));
    let time = Time::new(cx.clock().clone());

    // 2. L1.
    let largest_value = config.largest_value();
    let eviction = config.namespace_defaults.eviction;
    let memory = Arc::new(Memory::new(config.memory.capacity.as_u64(), largest_value, eviction));
    for (name, overrides) in &config.namespaces {
        memory.set_eviction(name, overrides.over(&config.namespace_defaults).eviction);
    }
    sweep(cx, &memory, &time);

    // 3. L2: the connection is made, and kept, in the background.
    let redis = (config.redis.mode != RedisMode::None).then(|| connect(cx, config, &metrics));
    cx.metrics(|registry| EvictionCollector::register(Arc::clone(&memory), registry));
    cx.metrics(|registry| LayerCollector::register(Arc::clone(&memory), redis.as_ref(), registry));

    // 4. L3: the directory is read in the background; not ready until then.
    let (disk, writer) = connect_disk(cx, config, &time);

    // 5. The engine over all.
    let origins = Origins::try_new(config, cx.metrics(OriginMetrics::register))?;
    let n_partitions = redis.as_ref().map_or(1, |redis| redis.partitions().count());
    let metrics_of_log = cx.metrics(InvalidationMetrics::register);
    let invalidation = Invalidation::new(config.invalidation.current_for, n_partitions, metrics_of_log);
    let fences = Fences::new(config.locks.max_local as usize, time.clone());
    let made_here = MadeHere::new(time.clone());
    let engine = Arc::new_cyclic(|engine| Engine {
        insight: insight(config),
        memory,
        redis,
        disk,
        namespaces: Namespaces::new(config),
        metrics,
        time,
        versions: Versions::default(),
        policies: RunTimePolicies::default(),
        fences,
        made_here,
        invalidation,
        queued: Notify::new(),
        max_queued: config.write_behind.max_queued,
        loads: Loads::new(cx.clone(), origins, Weak::clone(engine)),
        turns: Turns::default(),
        reads: Reads::default(),
        hot: HotKeys::default(),
    });
    cx.metrics(|registry| {
        NamespaceCollector::register(&engine, registry);
        OriginCollector::register(&engine, registry);
    });
    keep_hot(cx, config, &engine);
    count_patterns(cx, config, &engine);
    adapt(cx, config.adaptive.every, &engine);
    follow_changes(cx, config, &engine);
    if let Some(writer) = writer {
        write_disk(cx, writer, &engine);
    }
    Ok(engine)
}

fn insight(config: &CacheConfig) -> Insight {
    let insight = Insight::new();
    match config.warming.log_directory(config) {
        Some(_) => insight.recording(config.warming.log_keys as usize),
        None => insight,
    }
}

fn connect(cx: &Context, config: &CacheConfig, metrics: &Arc<CacheMetrics>) -> Arc<RedisLayer> {
    let redis = Arc::new(Redis::new(&config.redis, config.invalidation.log_length));
    if let Some(watch) = Watch::new(Arc::clone(&*redis), &config.redis, cx, true) {
        redis.watched_by(cx.background("redis.watch", Schedule::EveryOrTrigger(Watch::EVERY), watch));
    }
    for partition in redis.partitions() {
        let redis = Arc::clone(&redis);
        cx.spawn("redis.durable", redis.make_durable_changes(partition, config.redis.clone(), cx.clone()));
    }
    let layer = Arc::new(RedisLayer::new(redis, &config.redis, Arc::clone(metrics)));
    count_keys(cx, &layer);
    layer
}

/// Looks from time to time at what of each namespace lies in Redis.
fn count_keys(cx: &Context, layer: &Arc<RedisLayer>) {
    let layer = Arc::downgrade(layer);
    let count = move || {
        let layer = layer.upgrade();
        async move {
            if let Some(layer) = layer {
                layer.count_keys().await;
            }
            Ok(())
        }
    };
    cx.background("redis.census", Schedule::Every(Census::EVERY), count);
}

fn connect_disk(cx: &Context, config: &CacheConfig, time: &Time) -> (Option<Arc<Disk>>, Option<Writer>) {
    if config.disk.path.as_os_str().is_empty() {
        return (None, None);
    }
    let component = cx.component("disk", ComponentKind::System, false);
    let (disk, writer) = Disk::new(&config.disk, time.clone(), component);
    cx.metrics(|registry| DiskCollector::register(&disk, registry));
    (Some(disk), Some(writer))
}

fn write_disk(cx: &Context, writer: Writer, engine: &Arc<Engine>) {
    let told = Arc::downgrade(engine);
    let writer = writer.on_raised(move |Raised { namespace, tag, number }| {
        let Some(engine) = told.upgrade() else { return };
        match tag {
            Some(tag) => engine.invalidation.raise_tag(&namespace, &tag, number),
            None => engine.invalidation.raise_namespace(&namespace, number),
        }
    });
    cx.spawn("disk.writer", writer.run(cx.stopping(), cx.latch("disk")));
}

/// Lets origins have the changes that wait, for as long as the service runs.
fn write_behind(cx: &Context, config: &CacheConfig, engine: &Arc<Engine>) -> Option<Arc<Queues>> {
    let redis = engine.redis.as_ref()?;
    let worker = WriteBehind::new(
        Arc::clone(engine),
        Queues::new(Arc::clone(redis), &cx.identity().instance, config.write_behind.lease),
        &config.write_behind,
        cx.metrics(WriteBehindMetrics::register),
        cx.component("write_behind", ComponentKind::Internal, false),
        cx.stopping(),
    );
    let queues = worker.queues();
    cx.spawn("write_behind", worker.run());
    Some(queues)
}

fn adapt(cx: &Context, every: Duration, engine: &Arc<Engine>) {
    let engine = Arc::clone(engine);
    let mut looked_at = Instant::now();
    let look = move || {
        engine.adapt(std::mem::replace(&mut looked_at, Instant::now()).elapsed());
        async { Ok(()) }
    };
    cx.background("adaptive", Schedule::Every(every), look);
}

/// Keeps hot keys in memory, unless that is turned off.
fn keep_hot(cx: &Context, config: &CacheConfig, engine: &Arc<Engine>) {
    if config.hot_keys.most == 0 {
        return;
    }
    engine.memory.pin_up_to(config.hot_keys.memory_percent);
    let keeper = HotKeeper::new(engine, &config.hot_keys);
    engine.hot.kept_by(cx.background("hot_keys", Schedule::EveryOrTrigger(HotKeys::EVERY), keeper));
}

/// Counts what keys look like for the metrics, unless that is turned off.
fn count_patterns(cx: &Context, config: &CacheConfig, engine: &Arc<Engine>) {
    let KeyPatternsConfig { most, count_every } = config.key_patterns;
    if most == 0 {
        return;
    }
    cx.metrics(|registry| PatternCollector::register(engine, most, registry));
    let engine = Arc::clone(engine);
    let count = move || {
        let engine = Arc::clone(&engine);
        // It visits every entry.
        let count = move || drop(engine.insight.patterns(&engine.memory, &engine.time));
        async { tokio::task::spawn_blocking(count).await.context("count the patterns of keys") }
    };
    cx.background("key_patterns", Schedule::Every(count_every), count);
}

/// Reads the changes that other nodes made, for as long as the service runs.
fn follow_changes(cx: &Context, config: &CacheConfig, engine: &Arc<Engine>) {
    let Some(layer) = &engine.redis else { return };
    for reader in Reader::all(engine, &layer.shared(), &config.redis, cx) {
        cx.spawn("invalidation.log", reader.run(cx.stopping()));
    }
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
