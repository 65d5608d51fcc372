use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_admin_server::CacheAdmin;
use mainstay_rpc::{Caller, Failure, Reply, Request, Response};

use super::cache::time_left;
use super::codec::refused;
use super::warming::{decode_plan, encode_plan};
use crate::adaptive::Report;
use crate::config::{Durability, Eviction, NamespaceConfig, NamespaceOverrides, Strategy, WarmPlan};
use crate::engine::{Engine, Invalidate, PolicyView};
use crate::error::CacheError;
use crate::key::{Key, Namespace, Tags};
use crate::shared::exact;

/// Keys, and tags, of one request at most.
const MOST_AT_ONCE: usize = 1_000;

/// Decodes, calls the engine, encodes.
#[derive(Debug, Clone)]
pub(crate) struct AdminGrpc {
    engine: Arc<Engine>,
}

impl AdminGrpc {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl CacheAdmin for AdminGrpc {
    async fn invalidate(&self, request: Request<pb::InvalidateRequest>) -> Reply<pb::InvalidateResponse> {
        let left = time_left(&request);
        let what = decode_invalidate(&request.into_inner())?;
        let done = self.engine.invalidate(&what, left).await.map_err(Failure::from)?;
        let keys_removed = u32::try_from(done.n_keys_removed).unwrap_or(u32::MAX);
        Ok(Response::new(pb::InvalidateResponse { position: done.position, keys_removed }))
    }

    async fn invalidation_stats(
        &self,
        _: Request<pb::InvalidationStatsRequest>,
    ) -> Reply<pb::InvalidationStatsResponse> {
        let engine = &self.engine;
        let (invalidation, now) = (&engine.invalidation, engine.time.now());
        let metrics = &invalidation.metrics;
        let current = engine.redis.is_none() || invalidation.is_current(now);
        let (lag, requests) = (metrics.recent_lag(), engine.metrics.invalidate.recent.figures());
        let unproven_for = invalidation.unproven_for(now).unwrap_or(Duration::ZERO);
        Ok(Response::new(pb::InvalidationStatsResponse {
            position: invalidation.position(),
            current,
            unproven_for: unproven_for.try_into().ok(),
            keys: metrics.keys.get(),
            tags: metrics.tags.get(),
            namespaces: metrics.namespaces.get(),
            per_second: metrics.per_second(engine.time.unix_ms() / 1_000) as f64,
            failures: metrics.failures.get(),
            replays: metrics.replays.get(),
            flushes: metrics.flushes.get(),
            lag_seconds_mean: lag.mean.as_secs_f64(),
            lag_seconds_max: lag.max.as_secs_f64(),
            lag_seconds_p50: lag.p50.as_secs_f64(),
            lag_seconds_p95: lag.p95.as_secs_f64(),
            lag_seconds_p99: lag.p99.as_secs_f64(),
            requests: engine.metrics.invalidate.done.get(),
            request_seconds_mean: requests.mean.as_secs_f64(),
            request_seconds_p99: requests.p99.as_secs_f64(),
            entries_possibly_stale: if current { 0 } else { engine.memory.figures().entries },
        }))
    }

    async fn get_namespace(&self, request: Request<pb::GetNamespaceRequest>) -> Reply<pb::NamespaceView> {
        let name = request.into_inner().namespace;
        let namespace = Namespace::try_new(&name).map_err(refused)?;
        let view = self.engine.policy(namespace.as_str()).map_err(Failure::from)?;
        Ok(Response::new(encode_view(name, view)))
    }

    async fn put_namespace(&self, request: Request<pb::PutNamespaceRequest>) -> Reply<pb::NamespaceView> {
        let left = time_left(&request);
        let put_by = Caller::of(&request).map(|caller| caller.subject).unwrap_or_default();
        let pb::PutNamespaceRequest { namespace: name, policy, if_version } = request.into_inner();
        let namespace = Namespace::try_new(&name).map_err(refused)?;
        let overrides = decode_policy(policy.unwrap_or_default())?;
        let put = self.engine.put_policy(namespace.as_str(), if_version, overrides, put_by, left).await;
        Ok(Response::new(encode_view(name, put.map_err(Failure::from)?)))
    }
}

fn decode_policy(policy: pb::NamespacePolicy) -> Result<NamespaceOverrides, Failure> {
    let duration = |field: &str, given: Option<prost_types::Duration>| {
        let read = |given| exact(given).ok_or_else(|| illegal(field, "must be a duration, not below zero"));
        given.map(read).transpose()
    };
    let strategy = policy.strategy.map(|name| {
        let known =
            "must be cache_aside, read_through, refresh_ahead, write_through, write_behind or adaptive";
        Strategy::from_name(&name).ok_or_else(|| illegal("strategy", known))
    });
    let eviction = policy.eviction.map(|name| {
        let known = "must be lfu, lru, ttl or fifo";
        Eviction::from_name(&name).ok_or_else(|| illegal("eviction", known))
    });
    let durability = policy.durability.map(|name| {
        Durability::from_name(&name).ok_or_else(|| illegal("durability", "must be none or replica_ack"))
    });
    let jitter = policy.ttl_jitter_percent.map(|percent| u8::try_from(percent).unwrap_or(u8::MAX));
    Ok(NamespaceOverrides {
        ttl: duration("ttl", policy.ttl)?,
        max_value_size: policy.max_value_bytes.map(ByteSize::b),
        grace: duration("grace", policy.grace)?,
        memory_ttl: duration("memory_ttl", policy.memory_ttl)?,
        memory: policy.memory,
        redis: policy.redis,
        strategy: strategy.transpose()?,
        eviction: eviction.transpose()?,
        durability: durability.transpose()?,
        disk: policy.disk,
        compress_above: policy.compress_above_bytes.map(ByteSize::b),
        origin: policy.origin,
        negative_ttl: duration("negative_ttl", policy.negative_ttl)?,
        soft_deadline: duration("soft_deadline", policy.soft_deadline)?,
        hard_deadline: duration("hard_deadline", policy.hard_deadline)?,
        ttl_jitter_percent: jitter,
        warm: policy.warm.map(|plan| decode_plan("policy.warm", plan, WarmPlan::default())).transpose()?,
    })
}

/// Says as every other illegal policy does what is wrong.
fn illegal(field: &str, wrong: &str) -> Failure {
    CacheError::PolicyInvalid { problems: vec![format!("policy.{field}: {wrong}")] }.into()
}

pub(super) fn encode_view(namespace: String, view: PolicyView) -> pb::NamespaceView {
    let (run_time, effective) = (view.run_time, view.effective);
    let put_at = run_time.as_ref().map(|put| timestamp(put.put_at_unix_ms));
    pb::NamespaceView {
        namespace,
        version: run_time.as_ref().map_or(0, |put| put.version),
        effective: Some(encode_policy(everything(effective))),
        put_at,
        put_by: run_time.as_ref().map(|put| put.put_by.clone()).unwrap_or_default(),
        run_time: run_time.map(|put| encode_policy(put.overrides)),
        adaptive: view.adaptive.map(encode_adaptive),
    }
}

fn encode_adaptive(report: Report) -> pb::AdaptiveView {
    let observed = report.observed;
    let estimates = report.estimates.iter().map(|estimate| pb::AdaptiveEstimate {
        strategy: estimate.behaviour.as_str().to_owned(),
        origin_calls_per_second: estimate.origin_calls_per_second,
        read_wait_seconds: estimate.read_wait.as_secs_f64(),
        stale_risk: estimate.stale_risk,
        cost: estimate.cost,
    });
    pb::AdaptiveView {
        chosen: report.chosen.as_str().to_owned(),
        since: (report.since_unix_ms > 0).then(|| timestamp(report.since_unix_ms)),
        switches: report.n_switches,
        reason: report.reason,
        observed: Some(pb::AdaptiveObserved {
            window: observed.window.try_into().ok(),
            reads: observed.reads,
            writes: observed.writes,
            loads: observed.loads,
            refreshes: observed.refreshes,
            reread_share: observed.reread_share,
            load_seconds: observed.load_cost.as_secs_f64(),
            fill: observed.fill,
        }),
        estimates: estimates.collect(),
    }
}

/// Says everything that holds as if it were put.
fn everything(config: NamespaceConfig) -> NamespaceOverrides {
    NamespaceOverrides {
        ttl: Some(config.ttl),
        max_value_size: Some(config.max_value_size),
        grace: Some(config.grace),
        memory_ttl: Some(config.memory_ttl),
        memory: Some(config.memory),
        redis: Some(config.redis),
        strategy: Some(config.strategy),
        eviction: Some(config.eviction),
        origin: Some(config.origin),
        negative_ttl: Some(config.negative_ttl),
        soft_deadline: Some(config.soft_deadline),
        hard_deadline: Some(config.hard_deadline),
        ttl_jitter_percent: Some(config.ttl_jitter_percent),
        durability: Some(config.durability),
        warm: Some(config.warm),
        disk: Some(config.disk),
        compress_above: Some(config.compress_above),
    }
}

pub(super) fn encode_policy(policy: NamespaceOverrides) -> pb::NamespacePolicy {
    let duration = |duration: Option<Duration>| duration.and_then(|duration| duration.try_into().ok());
    pb::NamespacePolicy {
        ttl: duration(policy.ttl),
        max_value_bytes: policy.max_value_size.map(|size| size.as_u64()),
        grace: duration(policy.grace),
        memory_ttl: duration(policy.memory_ttl),
        memory: policy.memory,
        redis: policy.redis,
        strategy: policy.strategy.map(|strategy| strategy.as_str().to_owned()),
        negative_ttl: duration(policy.negative_ttl),
        soft_deadline: duration(policy.soft_deadline),
        hard_deadline: duration(policy.hard_deadline),
        ttl_jitter_percent: policy.ttl_jitter_percent.map(u32::from),
        warm: policy.warm.as_ref().map(encode_plan),
        origin: policy.origin,
        disk: policy.disk,
        compress_above_bytes: policy.compress_above.map(|size| size.as_u64()),
        eviction: policy.eviction.map(|eviction| eviction.as_str().to_owned()),
        durability: policy.durability.map(|durability| durability.as_str().to_owned()),
    }
}

pub(super) fn timestamp(unix_ms: u64) -> prost_types::Timestamp {
    let (seconds, millis) = (unix_ms / 1_000, unix_ms % 1_000);
    prost_types::Timestamp {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis * 1_000_000).expect("below a second"),
    }
}

fn decode_invalidate(request: &pb::InvalidateRequest) -> Result<Invalidate, Failure> {
    let namespace = Namespace::try_new(&request.namespace).map_err(refused)?;
    for (field, n_given) in [("keys", request.keys.len()), ("tags", request.tags.len())] {
        if n_given > MOST_AT_ONCE {
            return Err(Failure::invalid(field, format!("must be at most {MOST_AT_ONCE}, are {n_given}")));
        }
    }
    if request.keys.is_empty() && request.tags.is_empty() && !request.all {
        return Err(Failure::invalid("keys", "keys, tags or all must be given"));
    }
    let keys: Result<Vec<Key>, _> =
        request.keys.iter().map(|key| Key::try_new(namespace.as_str(), key)).collect();
    let tags: Result<Vec<Box<str>>, _> = request.tags.iter().map(|tag| Tags::check(tag)).collect();
    Ok(Invalidate {
        namespace: namespace.as_str().into(),
        keys: keys.map_err(refused)?,
        tags: tags.map_err(refused)?,
        all: request.all,
    })
}
