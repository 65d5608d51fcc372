use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::Pending;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_service_server::CacheService;
use mainstay_redis::{ClusterView, ShardView};
use mainstay_rpc::{Deadline, ErrorCode, Failure, QuickMethod, Reply, Request, Response, Status};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::batch::batch;
use super::codec::{decode_removal, decode_set, encode_deleted, encode_found, encode_stored, refused};
use super::stream::{Answers, StreamLimits};
use crate::config::CacheConfig;
use crate::engine::{Engine, Namespace};
use crate::key::Key;
use crate::layer::disk::{Disk, HeldOnDisk};
use crate::layer::memory::PoolFigures;
use crate::layer::redis::{InRedis, RedisLayer};
use crate::metrics::{CacheMetrics, LastLayer, TimingFigures, WindowFigures};
use crate::origin::OriginFigures;

/// Decodes, calls the engine, encodes.
#[derive(Debug, Clone)]
pub(crate) struct CacheGrpc {
    engine: Arc<Engine>,
    redis_kind: &'static str,
    most_batch_bytes: usize,
    stream_limits: StreamLimits,
    stream_slots: Arc<Semaphore>,
    stopping: CancellationToken,
}

impl CacheGrpc {
    /// Streams end when `stopping` fires.
    pub(crate) fn new(engine: Arc<Engine>, config: &CacheConfig, stopping: CancellationToken) -> Self {
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Self {
            engine,
            redis_kind: config.redis.mode.as_str(),
            most_batch_bytes: bytes(config.largest_value()).max(BATCH_BYTES),
            stream_limits: StreamLimits {
                max_in_flight: config.streams.max_in_flight as usize,
                buffer_bytes: bytes(config.streams.buffer.as_u64()),
                default_within: config.server.default_deadline,
            },
            stream_slots: Arc::new(Semaphore::new(config.streams.max_open as usize)),
            stopping,
        }
    }

    /// Begins to answer the requests of a stream.
    pub(super) fn answers(&self, requests: Streaming<Bytes>) -> Result<Answers, Failure> {
        let slot = Arc::clone(&self.stream_slots).try_acquire_owned().map_err(|_| {
            Failure::new(ErrorCode::ResourceExhausted, "OVERLOADED", "too many streams are open")
                .retry_after(STREAMS_RETRY_AFTER)
        })?;
        Ok(Answers::new(
            Arc::clone(&self.engine),
            requests,
            self.stream_limits,
            self.stopping.clone().cancelled_owned(),
            slot,
        ))
    }

    /// Returns the methods that can be answered at once.
    pub(crate) fn quick(&self) -> Vec<QuickMethod> {
        super::quick::methods(&self.engine, self.most_batch_bytes)
    }
}

/// Values in the answer to one batch, or one larger value: what clients take unless told otherwise, less the framing.
const BATCH_BYTES: usize = 3 << 20;
const STREAMS_RETRY_AFTER: Duration = Duration::from_secs(1);

#[tonic::async_trait]
impl CacheService for CacheGrpc {
    async fn get(&self, request: Request<pb::GetRequest>) -> Reply<pb::GetResponse> {
        let left = time_left(&request);
        let pb::GetRequest { namespace, key, lease } = request.into_inner();
        let key = Key::try_new(&namespace, &key).map_err(refused)?;
        if lease {
            let (found, lease) = self.engine.get_or_lease(&key, left).await.map_err(Failure::from)?;
            return Ok(Response::new(pb::GetResponse { lease: lease.unwrap_or(0), ..encode_found(found) }));
        }
        let found = self.engine.get(&key, left).await.map_err(Failure::from)?;
        Ok(Response::new(encode_found(found)))
    }

    async fn set(&self, request: Request<pb::SetRequest>) -> Reply<pb::SetResponse> {
        let left = time_left(&request);
        let set = decode_set(request.into_inner()).map_err(refused)?;
        let stored = self.engine.set(set, left).await.map_err(Failure::from)?;
        Ok(Response::new(encode_stored(stored)))
    }

    async fn delete(&self, request: Request<pb::DeleteRequest>) -> Reply<pb::DeleteResponse> {
        let left = time_left(&request);
        let pb::DeleteRequest { namespace, key, fence, idempotency_key } = request.into_inner();
        let key = Key::try_new(&namespace, &key).map_err(refused)?;
        let removal = decode_removal(fence, &idempotency_key).map_err(refused)?;
        let deleted = self.engine.delete(&key, removal, left).await.map_err(Failure::from)?;
        Ok(Response::new(encode_deleted(deleted)))
    }

    async fn batch(&self, request: Request<pb::BatchRequest>) -> Reply<pb::BatchResponse> {
        let deadline = Deadline::of(&request).unwrap_or_else(|| Deadline::within(Duration::MAX));
        let answer = batch(&self.engine, request.into_inner(), deadline, self.most_batch_bytes).await?;
        Ok(Response::new(answer))
    }

    type StreamStream = Pending<Result<pb::StreamResponse, Status>>;

    /// Is not called: [`CacheDoor`](super::door::CacheDoor) takes these calls before the generated code does.
    async fn stream(&self, _: Request<Streaming<pb::StreamRequest>>) -> Reply<Self::StreamStream> {
        Err(Status::unimplemented("streams have a door of their own"))
    }

    async fn stats(&self, _: Request<pb::StatsRequest>) -> Reply<pb::StatsResponse> {
        let engine = &self.engine;
        let memory = engine.memory.figures();
        let held: HashMap<String, PoolFigures> = engine.memory.figures_by_namespace().into_iter().collect();
        let on_disk = engine.disk.as_ref().map(|disk| disk.figures_by_namespace()).unwrap_or_default();
        let on_disk: HashMap<String, HeldOnDisk> = on_disk.into_iter().collect();
        let in_redis = engine.redis.as_ref().map(|redis| redis.census().figures()).unwrap_or_default();
        let namespaces = engine.namespaces.all().into_iter().map(|(namespace, used)| {
            let held = held.get(&namespace).copied().unwrap_or_default();
            let on_disk = on_disk.get(&namespace).copied().unwrap_or_default();
            let in_redis = in_redis.get(&namespace).copied().unwrap_or_default();
            encode_namespace(namespace, &used, held, in_redis, on_disk)
        });
        Ok(Response::new(pb::StatsResponse {
            memory: Some(pb::MemoryStats {
                entries: memory.entries,
                bytes: memory.bytes,
                capacity_bytes: memory.capacity_bytes,
                evictions: memory.evictions,
                expirations: memory.expirations,
            }),
            redis: engine.redis.as_ref().map(|redis| encode_redis(redis, &engine.metrics, self.redis_kind)),
            operations: Some(encode_operations(engine)),
            namespaces: namespaces.collect(),
            disk: engine.disk.as_ref().map(|disk| encode_disk(disk)),
            log_position: engine.invalidation.position(),
            origins: engine.loads.origins.figures().into_iter().map(encode_origin).collect(),
        }))
    }
}

pub(super) fn time_left<T>(request: &Request<T>) -> Duration {
    // Every request that came through the stack has a deadline.
    Deadline::of(request).map_or(Duration::MAX, |deadline| deadline.left())
}

fn encode_operations(engine: &Engine) -> pb::OperationStats {
    let metrics = &engine.metrics;
    let [get, set, delete] =
        [&metrics.get, &metrics.set, &metrics.delete].map(|operation| operation.recent.figures());
    pb::OperationStats {
        gets: metrics.get.done.get(),
        l1_hits: metrics.hits_l1.get(),
        l2_hits: metrics.hits_l2.get(),
        misses: metrics.misses.get(),
        sets: metrics.set.done.get(),
        deletes: metrics.delete.done.get(),
        errors: metrics.get.errors.get() + metrics.set.errors.get() + metrics.delete.errors.get(),
        get_seconds_mean: get.mean.as_secs_f64(),
        set_seconds_mean: set.mean.as_secs_f64(),
        delete_seconds_mean: delete.mean.as_secs_f64(),
        get_window: Some(encode_window(get)),
        set_window: Some(encode_window(set)),
        delete_window: Some(encode_window(delete)),
        l3_hits: metrics.hits_l3.get(),
        origin_hits: metrics.hits_origin.get(),
        negatives: metrics.negatives.get(),
        stale: metrics.n_stale(),
        degraded: metrics.degraded.get(),
    }
}

fn encode_window(figures: WindowFigures) -> pb::WindowStats {
    pb::WindowStats {
        operations: figures.n_operations,
        hit_ratio: figures.hit_ratio(),
        mean_seconds: figures.mean.as_secs_f64(),
        p50_seconds: figures.p50.as_secs_f64(),
        p95_seconds: figures.p95.as_secs_f64(),
        p99_seconds: figures.p99.as_secs_f64(),
    }
}

fn encode_namespace(
    namespace: String,
    used: &Namespace,
    held: PoolFigures,
    in_redis: InRedis,
    on_disk: HeldOnDisk,
) -> pb::NamespaceStats {
    let (gets, hits) = (used.gets.get(), used.n_hits());
    pb::NamespaceStats {
        namespace,
        gets,
        hits,
        sets: used.sets.get(),
        misses: gets.saturating_sub(hits),
        stale: used.n_stale(),
        l1_hits: used.hits_in(LastLayer::L1).get(),
        l2_hits: used.hits_in(LastLayer::L2).get(),
        l3_hits: used.hits_in(LastLayer::L3).get(),
        origin_hits: used.hits_in(LastLayer::Origin).get(),
        l1_entries: held.entries,
        l1_bytes: held.bytes,
        l1_evictions: held.evictions,
        eviction: used.policy.eviction.as_str().to_owned(),
        l1_misses: used.misses_in(LastLayer::L1).get(),
        l2_misses: used.misses_in(LastLayer::L2).get(),
        l3_misses: used.misses_in(LastLayer::L3).get(),
        l3_entries: on_disk.entries,
        l3_bytes: on_disk.bytes,
        l3_evictions: on_disk.evictions,
        l2_entries: in_redis.entries,
        l2_bytes: in_redis.bytes,
        l1_stale: used.stale_in(LastLayer::L1).get(),
        l2_stale: used.stale_in(LastLayer::L2).get(),
        l3_stale: used.stale_in(LastLayer::L3).get(),
    }
}

fn encode_origin(origin: OriginFigures) -> pb::OriginStats {
    let breaker = origin.breaker().to_owned();
    let endpoints = origin.endpoints.into_iter().map(|endpoint| pb::OriginEndpointStats {
        endpoint: endpoint.endpoint,
        breaker: endpoint.breaker.to_owned(),
        in_flight: endpoint.in_flight,
    });
    pb::OriginStats {
        endpoints: endpoints.collect(),
        kind: origin.kind.to_owned(),
        name: origin.name,
        breaker,
    }
}

fn encode_disk(disk: &Disk) -> pb::DiskStats {
    let figures = disk.figures();
    pb::DiskStats {
        available: figures.available,
        entries: figures.entries,
        bytes: figures.bytes,
        capacity_bytes: figures.capacity_bytes,
        dropped: figures.dropped,
        damaged: figures.damaged,
    }
}

fn encode_cluster(cluster: &ClusterView) -> pb::RedisClusterStats {
    let shard = |shard: &ShardView| pb::RedisShardStats {
        address: shard.address.clone(),
        slots: shard.n_slots,
        replicas: shard.n_replicas,
        partitions: shard.n_partitions,
        answers: shard.answers,
        info: shard.info.clone().into_iter().collect(),
    };
    pb::RedisClusterStats {
        nodes: cluster.n_nodes,
        failing: cluster.n_failing,
        partitions: cluster.n_partitions,
        partitions_served: cluster.n_partitions_served,
        shards: cluster.shards.iter().map(shard).collect(),
    }
}

fn encode_command((command, took): (&'static str, TimingFigures)) -> pb::RedisCommandStats {
    pb::RedisCommandStats {
        command: command.to_owned(),
        commands: took.n,
        mean_seconds: took.mean.as_secs_f64(),
        p50_seconds_at_most: took.p50_at_most.map(|took| took.as_secs_f64()),
        p99_seconds_at_most: took.p99_at_most.map(|took| took.as_secs_f64()),
    }
}

fn encode_redis(layer: &RedisLayer, metrics: &CacheMetrics, kind: &str) -> pb::RedisStats {
    let redis = layer.redis();
    let view = redis.view();
    pb::RedisStats {
        kind: kind.to_owned(),
        available: redis.is_available(),
        breaker: layer.breaker_state().as_str().to_owned(),
        primary: redis.first().primary().map(|address| address.to_string()).unwrap_or_default(),
        info: view.info.clone().into_iter().collect(),
        sentinel: view.sentinel.as_ref().map(|sentinel| pb::SentinelStats {
            master_name: redis.master_name().to_owned(),
            master: sentinel.master.clone(),
            sentinels_configured: sentinel.n_configured,
            sentinels_reachable: sentinel.n_reachable,
        }),
        cluster: view.cluster.as_ref().map(encode_cluster),
        commands: metrics.l2_commands().into_iter().map(encode_command).collect(),
        keys: layer.census().n_keys(),
        keys_sampled: layer.census().n_sampled(),
    }
}
