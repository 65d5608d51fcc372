use std::sync::Arc;
use std::time::Duration;

use mainstay_proto::cache::v1::counter_service_server::CounterServiceServer;
use mainstay_proto::cache::v1::insight_service_server::InsightServiceServer;
use mainstay_proto::cache::v1::lock_service_server::LockServiceServer;
use mainstay_proto::cache::v1::rate_limit_service_server::RateLimitServiceServer;
use mainstay_proto::cache::v1::session_service_server::SessionServiceServer;
use mainstay_rpc::Routes;
use mainstay_runtime::{Context, Schedule};

use crate::config::CacheConfig;
use crate::counter::Counters;
use crate::engine::Engine;
use crate::grpc::counter::CounterGrpc;
use crate::grpc::insight::InsightGrpc;
use crate::grpc::lock::LockGrpc;
use crate::grpc::rate_limit::RateLimitGrpc;
use crate::grpc::session::SessionGrpc;
use crate::limiter::RateLimiter;
use crate::lock::Locks;
use crate::metrics::SharedMetrics;
use crate::session::Sessions;

const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// After so long, and again after as long, a read counts half.
const FADE_EVERY: Duration = Duration::from_mins(5);

/// Adds the doors to what all nodes share, rate limits, sessions, locks and counters, and to what this node has seen.
pub(super) fn add_doors(routes: Routes, cx: &Context, config: &CacheConfig, engine: &Arc<Engine>) -> Routes {
    let (redis, time) = (engine.redis.as_ref(), &engine.time);
    let metrics = Arc::new(cx.metrics(SharedMetrics::register));
    let limiter = RateLimiter::new(redis.cloned(), &config.rate_limits, Arc::clone(&metrics));
    let fences = engine.fences.clone();
    let locks = Locks::new(redis.cloned(), &config.locks, time.clone(), fences, cx.stopping());
    let counters = Counters::new(redis.cloned(), &config.counters, time.clone());
    let sessions = Arc::new(Sessions::new(redis.cloned(), &config.sessions, time.clone()));
    if redis.is_none() {
        sweep(cx, &sessions);
    }
    fade(cx, engine);
    routes
        .add_service(InsightServiceServer::new(InsightGrpc::new(Arc::clone(engine))))
        .add_service(RateLimitServiceServer::new(RateLimitGrpc::new(Arc::new(limiter))))
        .add_service(LockServiceServer::new(LockGrpc::new(Arc::new(locks), Arc::clone(&metrics))))
        .add_service(CounterServiceServer::new(CounterGrpc::new(Arc::new(counters), Arc::clone(&metrics))))
        .add_service(SessionServiceServer::new(SessionGrpc::new(sessions, metrics)))
}

fn sweep(cx: &Context, sessions: &Arc<Sessions>) {
    let sessions = Arc::clone(sessions);
    let sweep = move || {
        sessions.sweep();
        async { Ok(()) }
    };
    cx.background("sessions.sweep", Schedule::Every(SWEEP_EVERY), sweep);
}

fn fade(cx: &Context, engine: &Arc<Engine>) {
    let engine = Arc::clone(engine);
    let fade = move || {
        engine.insight.fade();
        async { Ok(()) }
    };
    cx.background("insight.fade", Schedule::Every(FADE_EVERY), fade);
}
