use std::sync::Arc;
use std::time::Duration;

use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_service_server::CacheService;
use mainstay_rpc::{Deadline, ErrorCode, Failure, Reply, Request, Response};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::batch::batch;
use super::codec::{decode_set, encode_found, encode_stored, refused};
use super::stream::{Answers, StreamLimits};
use crate::config::CacheConfig;
use crate::engine::Engine;
use crate::key::Key;
use crate::layer::redis::RedisLayer;

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
        let pb::DeleteRequest { namespace, key } = request.into_inner();
        let key = Key::try_new(&namespace, &key).map_err(refused)?;
        let existed = self.engine.delete(&key, left).await.map_err(Failure::from)?;
        Ok(Response::new(pb::DeleteResponse { existed }))
    }

    async fn batch(&self, request: Request<pb::BatchRequest>) -> Reply<pb::BatchResponse> {
        let deadline = Deadline::of(&request).unwrap_or_else(|| Deadline::within(Duration::MAX));
        let answer = batch(&self.engine, request.into_inner(), deadline, self.most_batch_bytes).await?;
        Ok(Response::new(answer))
    }

    type StreamStream = Answers;

    async fn stream(&self, request: Request<Streaming<pb::StreamRequest>>) -> Reply<Answers> {
        let slot = Arc::clone(&self.stream_slots).try_acquire_owned().map_err(|_| {
            Failure::new(ErrorCode::ResourceExhausted, "OVERLOADED", "too many streams are open")
                .retry_after(STREAMS_RETRY_AFTER)
        })?;
        Ok(Response::new(Answers::new(
            Arc::clone(&self.engine),
            request.into_inner(),
            self.stream_limits,
            self.stopping.clone().cancelled_owned(),
            slot,
        )))
    }

    async fn stats(&self, _: Request<pb::StatsRequest>) -> Reply<pb::StatsResponse> {
        let engine = &self.engine;
        let memory = engine.memory.figures();
        let namespaces = engine.namespaces.all().into_iter().map(|(namespace, used)| pb::NamespaceStats {
            namespace,
            gets: used.gets.get(),
            hits: used.hits.get(),
            sets: used.sets.get(),
        });
        Ok(Response::new(pb::StatsResponse {
            memory: Some(pb::MemoryStats {
                entries: memory.entries,
                bytes: memory.bytes,
                capacity_bytes: memory.capacity_bytes,
                evictions: memory.evictions,
                expirations: memory.expirations,
            }),
            redis: engine.redis.as_ref().map(|redis| encode_redis(redis, self.redis_kind)),
            operations: Some(encode_operations(engine)),
            namespaces: namespaces.collect(),
        }))
    }
}

pub(super) fn time_left<T>(request: &Request<T>) -> Duration {
    // Every request that came through the stack has a deadline.
    Deadline::of(request).map_or(Duration::MAX, |deadline| deadline.left())
}

fn encode_operations(engine: &Engine) -> pb::OperationStats {
    let metrics = &engine.metrics;
    pb::OperationStats {
        gets: metrics.get.done.get(),
        l1_hits: metrics.hits_l1.get(),
        l2_hits: metrics.hits_l2.get(),
        misses: metrics.misses.get(),
        sets: metrics.set.done.get(),
        deletes: metrics.delete.done.get(),
        errors: metrics.get.errors.get() + metrics.set.errors.get() + metrics.delete.errors.get(),
        get_seconds_mean: metrics.get.recent.seconds(),
        set_seconds_mean: metrics.set.recent.seconds(),
        delete_seconds_mean: metrics.delete.recent.seconds(),
    }
}

fn encode_redis(layer: &RedisLayer, kind: &str) -> pb::RedisStats {
    let redis = layer.redis();
    let view = redis.view();
    pb::RedisStats {
        kind: kind.to_owned(),
        available: redis.is_available(),
        breaker: layer.breaker_state().as_str().to_owned(),
        primary: redis.primary().map(|address| address.to_string()).unwrap_or_default(),
        info: view.info.clone().into_iter().collect(),
        sentinel: view.sentinel.as_ref().map(|sentinel| pb::SentinelStats {
            master_name: redis.master_name().to_owned(),
            master: sentinel.master.clone(),
            sentinels_configured: sentinel.n_configured,
            sentinels_reachable: sentinel.n_reachable,
        }),
    }
}
