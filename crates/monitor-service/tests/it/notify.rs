//! People are told: over real HTTP, at least once, and not when they asked not to be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use mainstay_proto::monitor::v1 as pb;
use mainstay_rpc::ErrorCode;
use mainstay_runtime::ComponentKind;
use monitor_service::Config;
use monitor_service::config::{ChannelConfig, ChannelKind};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use crate::harness::{PATIENCE, Spawned, TargetService, Watcher, free_address, quick, wait_for};

/// Takes webhooks; answers 500 as often as it is told to.
pub(crate) struct Receiver {
    address: SocketAddr,
    seen: Arc<Seen>,
    _server: Spawned,
}

#[derive(Default)]
struct Seen {
    refusals_left: AtomicUsize,
    attempts: AtomicUsize,
    bodies: Mutex<Vec<Value>>,
    arrivals: Mutex<Vec<Instant>>,
    signatures: Mutex<Vec<String>>,
}

impl Receiver {
    pub(crate) async fn start(address: SocketAddr, refusals: usize) -> Self {
        let seen = Arc::new(Seen { refusals_left: refusals.into(), ..Seen::default() });
        let app = axum::Router::new().route("/hook", post(take)).with_state(Arc::clone(&seen));
        let listener = tokio::net::TcpListener::bind(address).await.expect("the port is free");
        let address = listener.local_addr().expect("bound");
        let stopping = tokio_util::sync::CancellationToken::new();
        let options = mainstay_rpc::ServeOptions::new("receiver");
        let served = mainstay_rpc::serve(listener, app, options, stopping.clone(), stopping);
        let _server = Spawned::new(async move {
            served.await.expect("the listener is ours");
        });
        Self { address, seen, _server }
    }

    pub(crate) fn received(&self) -> Vec<Value> {
        self.seen.bodies.lock().clone()
    }

    pub(crate) async fn one(&self, within: Duration) -> Value {
        wait_for(within, async || {
            self.received().first().cloned().ok_or_else(|| "nothing received".to_owned())
        })
        .await
    }

    /// Tells when each of them came.
    pub(crate) fn arrivals(&self) -> Vec<Instant> {
        self.seen.arrivals.lock().clone()
    }

    /// Counts what was tried, also what was answered with 500.
    pub(crate) fn attempts(&self) -> usize {
        self.seen.attempts.load(Ordering::SeqCst)
    }

    /// Takes everything from now on.
    pub(crate) fn recovers(&self) {
        self.seen.refusals_left.store(0, Ordering::SeqCst);
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn channel(&self) -> ChannelConfig {
        ChannelConfig {
            kind: ChannelKind::Webhook,
            url: format!("http://{}/hook", self.address).into(),
            secret: "shared".into(),
            allow_private: true,
            ..ChannelConfig::default()
        }
    }
}

async fn take(State(seen): State<Arc<Seen>>, headers: HeaderMap, body: String) -> StatusCode {
    seen.attempts.fetch_add(1, Ordering::SeqCst);
    let refuse =
        seen.refusals_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    if refuse.is_ok() {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    let signature = headers.get("x-mainstay-signature").and_then(|value| value.to_str().ok());
    seen.signatures.lock().extend(signature.map(str::to_owned));
    let mut bodies = seen.bodies.lock();
    seen.arrivals.lock().push(Instant::now());
    bodies.push(serde_json::from_str(&body).expect("the body is JSON"));
    StatusCode::NO_CONTENT
}

pub(crate) fn telling(target: &TargetService, channels: &[(&str, ChannelConfig)]) -> Config {
    let mut config = quick(&[("cache-service", target)]);
    config.notify.retry_after = Duration::from_millis(20);
    config.notify.retry_after_max = Duration::from_millis(50);
    config.notify.channels =
        channels.iter().map(|(name, channel)| ((*name).to_owned(), channel.clone())).collect();
    config
}

#[tokio::test]
async fn webhook_that_fails_for_a_while_is_told_once_and_signed() {
    let receiver = Receiver::start(free_address(), 3).await;
    let target = TargetService::start("cache-service").await;
    let redis = target.cx.component("redis", ComponentKind::Datastore, true);
    redis.unhealthy("connection refused");
    let watcher = Watcher::start(telling(&target, &[("hook", receiver.channel())])).await;
    let fired = receiver.one(PATIENCE).await;
    assert_eq!((&fired["change"], &fired["alert"]["rule"]), (&"fired".into(), &"component_unhealthy".into()));
    redis.healthy("connected");
    let all = wait_for(PATIENCE, async || {
        let all = receiver.received();
        if all.len() >= 2 { Ok(all) } else { Err(format!("{all:?}")) }
    })
    .await;
    let changes: Vec<&str> = all.iter().filter_map(|body| body["change"].as_str()).collect();
    assert_eq!(changes, ["fired", "resolved"]);
    assert_eq!(receiver.seen.attempts.load(Ordering::SeqCst), 5);
    assert!(receiver.seen.signatures.lock()[0].starts_with("t="));
    let channel = watcher.channels().await.remove(0);
    assert_eq!((channel.delivered, channel.failures, channel.queued), (2, 3, 0));
    assert_eq!(channel.address, "http://127.0.0.1");
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn private_address_is_refused_and_the_other_channel_says_so() {
    let receiver = Receiver::start(free_address(), 0).await;
    let target = TargetService::start("cache-service").await;
    let forbidden = ChannelConfig { allow_private: false, ..receiver.channel() };
    let redis = target.cx.component("redis", ComponentKind::Datastore, true);
    redis.unhealthy("connection refused");
    let channels = [("forbidden", forbidden), ("hook", receiver.channel())];
    let watcher = Watcher::start(telling(&target, &channels)).await;
    let about = wait_for(PATIENCE, async || {
        let all = receiver.received();
        let about = all.iter().find(|body| body["alert"]["rule"] == "channel_failing").cloned();
        about.ok_or_else(|| format!("{all:?}"))
    })
    .await;
    assert_eq!(about["alert"]["subject"], "forbidden");
    assert_eq!(receiver.received().len(), 2, "nothing came through the other one");
    let failure = watcher.test_channel("forbidden").await.expect_err("it is private");
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::Unavailable, "DELIVERY_FAILED"));
    watcher.test_channel("hook").await.expect("it is allowed");
    let failure = watcher.test_channel("none").await.expect_err("there is none");
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::NotFound, "CHANNEL_NOT_FOUND"));
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn silenced_alert_is_told_when_the_silence_is_ended() {
    let receiver = Receiver::start(free_address(), 0).await;
    let target = TargetService::start("cache-service").await;
    let redis = target.cx.component("redis", ComponentKind::Datastore, true);
    let watcher = Watcher::start(telling(&target, &[("hook", receiver.channel())])).await;
    let wrong = watcher.silence(&[], "").await.expect_err("nothing is right about it");
    let fields: Vec<&str> = wrong.fields().iter().map(|field| field.field.as_str()).collect();
    assert_eq!(fields, ["matchers", "comment"]);
    let silence = watcher.silence(&[("subject", "redis")], "moving it").await.expect("it is legal");
    redis.unhealthy("connection refused");
    let firing = watcher.alert("component_unhealthy", pb::AlertState::Firing, PATIENCE).await;
    assert!(firing.silenced);
    assert_eq!(receiver.received(), Vec::<Value>::new());
    watcher.end_silence(&silence.id).await.expect("it is there");
    assert_eq!(receiver.one(PATIENCE).await["change"], "released");
    let again = watcher.end_silence(&silence.id).await.expect_err("it is over");
    assert_eq!((again.code(), again.reason()), (ErrorCode::NotFound, "SILENCE_NOT_FOUND"));
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn second_channel_is_told_of_what_nobody_acknowledges_and_never_of_the_rest() {
    let (first, second) =
        (Receiver::start(free_address(), 0).await, Receiver::start(free_address(), 0).await);
    let target = TargetService::start("cache-service").await;
    let (redis, disk) = (
        target.cx.component("redis", ComponentKind::Datastore, true),
        target.cx.component("disk", ComponentKind::System, false),
    );
    let waiting = ChannelConfig { escalate_after: Duration::from_millis(1_500), ..second.channel() };
    let watcher = Watcher::start(telling(&target, &[("first", first.channel()), ("second", waiting)])).await;
    disk.unhealthy("full");
    let looked_after = watcher.alert("component_unhealthy", pb::AlertState::Firing, PATIENCE).await;
    watcher.acknowledge(&looked_after.id, "on it", Some("ann")).await.expect("it fires");
    redis.unhealthy("connection refused");
    let escalated = second.one(PATIENCE).await;
    assert_eq!(
        (&escalated["change"], &escalated["alert"]["subject"]),
        (&"escalated".into(), &"redis".into())
    );
    redis.healthy("connected");
    disk.healthy("empty");
    wait_for(PATIENCE, async || {
        let over = |received: Vec<Value>| received.iter().filter(|body| body["change"] == "resolved").count();
        let counts = (over(first.received()), over(second.received()));
        if counts == (2, 1) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    let subjects: Vec<Value> =
        second.received().iter().map(|body| body["alert"]["subject"].clone()).collect();
    assert_eq!(subjects, ["redis", "redis"]);
    watcher.cx.shut_down().await;
}
