use std::sync::Arc;
use std::time::Duration;

use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_service_server::CacheService;
use mainstay_rpc::{Deadline, Failure, Reply, Request, Response};

use crate::engine::{Engine, Found, Set};
use crate::error::CacheError;
use crate::key::{ContentType, Invalid, Key, Ttl};
use crate::layer::redis::RedisLayer;
use crate::metrics::LastLayer;

/// Decodes, calls the engine, encodes.
#[derive(Debug, Clone)]
pub(crate) struct CacheGrpc {
    engine: Arc<Engine>,
    redis_kind: &'static str,
}

impl CacheGrpc {
    pub(crate) fn new(engine: Arc<Engine>, redis_kind: &'static str) -> Self {
        Self { engine, redis_kind }
    }
}

#[tonic::async_trait]
impl CacheService for CacheGrpc {
    async fn get(&self, request: Request<pb::GetRequest>) -> Reply<pb::GetResponse> {
        let left = time_left(&request);
        let pb::GetRequest { namespace, key } = request.into_inner();
        let key = Key::try_new(&namespace, &key).map_err(refused)?;
        let found = self.engine.get(&key, left).await.map_err(Failure::from)?;
        Ok(Response::new(encode_found(found)))
    }

    async fn set(&self, request: Request<pb::SetRequest>) -> Reply<pb::SetResponse> {
        let left = time_left(&request);
        let set = decode_set(request.into_inner()).map_err(refused)?;
        let stored = self.engine.set(set, left).await.map_err(Failure::from)?;
        Ok(Response::new(pb::SetResponse { version: stored.version, degraded: stored.degraded }))
    }

    async fn delete(&self, request: Request<pb::DeleteRequest>) -> Reply<pb::DeleteResponse> {
        let left = time_left(&request);
        let pb::DeleteRequest { namespace, key } = request.into_inner();
        let key = Key::try_new(&namespace, &key).map_err(refused)?;
        let existed = self.engine.delete(&key, left).await.map_err(Failure::from)?;
        Ok(Response::new(pb::DeleteResponse { existed }))
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

fn time_left<T>(request: &Request<T>) -> Duration {
    // Every request that came through the stack has a deadline.
    Deadline::of(request).map_or(Duration::MAX, |deadline| deadline.left())
}

fn refused(invalid: Invalid) -> Failure {
    CacheError::from(invalid).into()
}

fn decode_set(request: pb::SetRequest) -> Result<Set, Invalid> {
    let ttl = request.ttl.map(|ttl| {
        let ttl = Duration::try_from(ttl).map_err(|_| Invalid::TtlOutOfRange)?;
        Ttl::try_new(ttl)
    });
    Ok(Set {
        key: Key::try_new(&request.namespace, &request.key)?,
        value: request.value,
        ttl: ttl.transpose()?,
        content_type: ContentType::try_new(&request.content_type)?,
    })
}

fn encode_found(found: Found) -> pb::GetResponse {
    let layer = match found.layer {
        LastLayer::None => pb::Layer::Unspecified,
        LastLayer::L1 => pb::Layer::L1,
        LastLayer::L2 => pb::Layer::L2,
    };
    // Both are bounded far below what a protobuf duration holds.
    let duration = |duration: Duration| duration.try_into().ok();
    let entry = found.entry.map(|entry| pb::Entry {
        value: entry.value,
        version: entry.version,
        ttl: duration(entry.ttl_left),
        age: duration(entry.age),
        content_type: entry.content_type.as_str().to_owned(),
    });
    pb::GetResponse { entry, layer: layer.into(), stale: found.stale, degraded: found.degraded }
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
