//! How the service is put together.

use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context as _;
use mainstay_proto::cache::v1::cache_admin_server::CacheAdminServer;
use mainstay_proto::cache::v1::cache_service_server::CacheServiceServer;
use mainstay_proto::cache::v1::figures_service_server::FiguresServiceServer;
use mainstay_proto::cache::v1::policy_service_server::PolicyServiceServer;
use mainstay_rpc::Routes;
use mainstay_runtime::{ComponentKind, Context, Schedule};

use crate::config::{CacheConfig, RedisMode};
use crate::engine::{Engine, Loads, Namespaces, RunTimePolicies};
use crate::fence::Fences;
use crate::grpc::admin::AdminGrpc;
use crate::grpc::cache::CacheGrpc;
use crate::grpc::figures::FiguresGrpc;
use crate::grpc::policy::PolicyGrpc;
use crate::insight::Insight;
use crate::invalidation::{Invalidation, InvalidationMetrics, Reader};
use crate::layer::disk::{Disk, Raised, Writer};
use crate::layer::memory::Memory;
use crate::layer::redis::RedisLayer;
use crate::metrics::{
    CacheMetrics, DiskCollector, EvictionCollector, LayerCollector, NamespaceCollector, OriginMetrics,
};
use crate::origin::Origins;
use crate::redis::{Redis, Watch};
use crate::time::Time;
use crate::version::Versions;

mod shared;

const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// A batch may always have so many.
const BATCH_BYTES: usize = 4 << 20;
/// Key, content type and framing of a request beside its value.
const REQUEST_EXTRA_BYTES: u64 = 64 << 10;

/// Starts the cache: everything is spawned and the port served when it returns.
pub async fn start(cx: Context, config: CacheConfig) -> anyhow::Result<()> {
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
    sweep(&cx, &memory, &time);

    // 3. L2: the connection is made, and kept, in the background.
    let redis = (config.redis.mode != RedisMode::None).then(|| connect(&cx, &config, &metrics));
    cx.metrics(|registry| EvictionCollector::register(Arc::clone(&memory), registry));
    cx.metrics(|registry| LayerCollector::register(Arc::clone(&memory), redis.as_ref(), registry));

    // 4. L3: the directory is read in the background; not ready until then.
    let (disk, writer) = connect_disk(&cx, &config, &time);

    // 5. The engine over all.
    let origins = Origins::try_new(&config, cx.metrics(OriginMetrics::register))?;
    let invalidation =
        Invalidation::new(config.invalidation.current_for, cx.metrics(InvalidationMetrics::register));
    let fences = Fences::new(config.locks.max_local as usize, time.clone());
    let engine = Arc::new_cyclic(|engine| Engine {
        insight: Insight::new(),
        memory,
        redis,
        disk,
        namespaces: Namespaces::new(&config),
        metrics,
        time,
        versions: Versions::default(),
        policies: RunTimePolicies::default(),
        fences,
        invalidation,
        loads: Loads::new(cx.clone(), origins, Weak::clone(engine)),
    });
    cx.metrics(|registry| NamespaceCollector::register(&engine, registry));
    follow_changes(&cx, &config, &engine);
    if let Some(writer) = writer {
        write_disk(&cx, writer, &engine);
    }

    // 6. The door.
    let grpc = CacheGrpc::new(Arc::clone(&engine), &config, cx.stopping());
    let largest_request = usize::try_from(largest_value + REQUEST_EXTRA_BYTES).context("max_value_size")?;
    let largest_request = largest_request.max(BATCH_BYTES);
    let server = CacheServiceServer::new(grpc)
        .max_decoding_message_size(largest_request)
        // What is sent is bounded where it is made.
        .max_encoding_message_size(usize::MAX);
    let admin = CacheAdminServer::new(AdminGrpc::new(Arc::clone(&engine)));
    let routes = Routes::new(server)
        .add_service(admin)
        .add_service(PolicyServiceServer::new(PolicyGrpc::new(Arc::clone(&engine))))
        .add_service(FiguresServiceServer::new(FiguresGrpc::new(Arc::clone(&engine))));
    cx.serve(shared::add_doors(routes, &cx, &config, &engine)).await
}

fn connect(cx: &Context, config: &CacheConfig, metrics: &Arc<CacheMetrics>) -> Arc<RedisLayer> {
    let redis = Arc::new(Redis::new(&config.redis, config.invalidation.log_length));
    if let Some(watch) = Watch::new(Arc::clone(&*redis), &config.redis, cx, true) {
        redis.watched_by(cx.background("redis.watch", Schedule::EveryOrTrigger(Watch::EVERY), watch));
    }
    Arc::new(RedisLayer::new(redis, &config.redis, Arc::clone(metrics)))
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

/// Reads the changes that other nodes made, for as long as the service runs.
fn follow_changes(cx: &Context, config: &CacheConfig, engine: &Arc<Engine>) {
    let Some(layer) = &engine.redis else { return };
    let reader = Reader::new(Arc::clone(engine), layer.shared(), &config.redis, cx);
    cx.spawn("invalidation.log", reader.run(cx.stopping()));
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
