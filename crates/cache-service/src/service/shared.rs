use std::sync::Arc;
use std::time::Duration;

use mainstay_proto::cache::v1::counter_service_server::CounterServiceServer;
use mainstay_proto::cache::v1::insight_service_server::InsightServiceServer;
use mainstay_proto::cache::v1::lock_service_server::LockServiceServer;
use mainstay_proto::cache::v1::pub_sub_service_server::PubSubServiceServer;
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
use crate::grpc::pubsub::PubSubGrpc;
use crate::grpc::rate_limit::RateLimitGrpc;
use crate::grpc::session::SessionGrpc;
use crate::limiter::RateLimiter;
use crate::lock::Locks;
use crate::metrics::{PubSubMetrics, SharedMetrics};
use crate::pubsub::{Listener, PubSub};
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
    let sessions =
        Arc::new(Sessions::new(redis.cloned(), &config.sessions, time.clone(), Arc::clone(&metrics)));
    if redis.is_none() {
        sweep(cx, &sessions);
    }
    let touches = Arc::clone(&sessions).write_touches(config.sessions.touch_every, cx.stopping());
    cx.spawn("sessions.touches", touches);
    fade(cx, engine);
    let pubsub = listen(cx, config, engine);
    routes
        .add_service(InsightServiceServer::new(InsightGrpc::new(Arc::clone(engine))))
        .add_service(RateLimitServiceServer::new(RateLimitGrpc::new(Arc::new(limiter))))
        .add_service(LockServiceServer::new(LockGrpc::new(Arc::new(locks), Arc::clone(&metrics))))
        .add_service(CounterServiceServer::new(CounterGrpc::new(Arc::new(counters), Arc::clone(&metrics))))
        .add_service(SessionServiceServer::new(SessionGrpc::new(sessions, metrics)))
        .add_service(PubSubServiceServer::new(PubSubGrpc::new(pubsub, cx.stopping())))
}

fn listen(cx: &Context, config: &CacheConfig, engine: &Engine) -> Arc<PubSub> {
    let metrics = Arc::new(cx.metrics(PubSubMetrics::register));
    let pubsub = PubSub::new(engine.redis.clone(), &config.pubsub, engine.time.clone(), metrics);
    if let Some(listener) = Listener::new(&pubsub, &config.redis, cx) {
        cx.spawn("pubsub.listener", listener.run(cx.stopping()));
    }
    Arc::new(pubsub)
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
