//! What all nodes share: rate limits, locks and counters.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, State};
use mainstay_proto::cache::v1 as wire;
use mainstay_proto::cache::v1::counter_service_client::CounterServiceClient;
use mainstay_proto::cache::v1::lock_service_client::LockServiceClient;
use mainstay_proto::cache::v1::rate_limit_service_client::RateLimitServiceClient;
use mainstay_rpc::{Call, Lane};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::words::{duration_of, seconds};
use crate::body::{Json, Params, Who};
use crate::error::Problem;
use crate::state::App;

const CHECK: &str = "mainstay.cache.v1.RateLimitService/Check";
const ACQUIRE: &str = "mainstay.cache.v1.LockService/Acquire";
const RENEW: &str = "mainstay.cache.v1.LockService/Renew";
const RELEASE: &str = "mainstay.cache.v1.LockService/Release";
const CHECK_LOCK: &str = "mainstay.cache.v1.LockService/Check";
const INCREMENT: &str = "mainstay.cache.v1.CounterService/Increment";
const GET: &str = "mainstay.cache.v1.CounterService/Get";
const RESET: &str = "mainstay.cache.v1.CounterService/Reset";

/// One more request against a limit.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RateLimitCheck {
    /// Whom or what the limit counts.
    key: String,
    /// Requests per window in the long run.
    quota: u32,
    /// Like `1s` or `1m`.
    window: String,
    /// Requests at once after a pause; without it the quota.
    #[serde(default)]
    burst: u32,
    /// What the request costs; 0 looks without counting. Without it 1.
    cost: Option<u32>,
}

/// Whether the request is within the limit. It was counted if so.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RateLimitAnswer {
    allowed: bool,
    limit: u32,
    remaining: u32,
    retry_after_seconds: Option<f64>,
    reset_after_seconds: Option<f64>,
    /// `redis`, shared by all nodes, or `local`, this node alone.
    source: &'static str,
}

/// A lock to take.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct LockWanted {
    /// Names the holder, unlike every other holder.
    owner: String,
    /// Like `10s`; 10 ms to 24 h.
    ttl: String,
    /// How long to wait for it; without it not at all.
    wait_within: Option<String>,
}

/// A lock that is held.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LockHeld {
    owner: String,
    token: u64,
}

/// A held lock and its new ttl.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LockRenewal {
    owner: String,
    token: u64,
    ttl: String,
}

/// Whether the lock was got.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LockAcquired {
    acquired: bool,
    /// Grows with every holder; give it with writes as their fence.
    token: Option<u64>,
    retry_after_seconds: Option<f64>,
    source: &'static str,
}

/// Whether it was still held, and so was done.
#[derive(Serialize, ToSchema)]
pub(crate) struct LockChanged {
    done: bool,
    source: &'static str,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LockQuery {
    /// The token that is asked for.
    #[serde(default)]
    token: u64,
}

/// How a lock stands.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LockState {
    held: bool,
    /// True when it is held with the token asked for.
    current: bool,
    ttl_seconds: Option<f64>,
    source: &'static str,
}

/// What to add.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Increment {
    /// May be negative; without it 1.
    by: Option<i64>,
    /// Lifetime of a counter that begins with this; without it it stays.
    ttl: Option<String>,
    /// True gives the ttl anew each time.
    extend: bool,
    /// The same key within 10 minutes changes nothing and gets the same answer.
    idempotency_key: String,
}

/// How a counter stands.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CounterValue {
    value: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exists: Option<bool>,
    ttl_seconds: Option<f64>,
    /// True when the idempotency key was seen before.
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed: Option<bool>,
    source: &'static str,
}

/// Asks whether one more request is within a limit, and counts it if so.
#[utoipa::path(post, path = "/rate-limits/check", tag = "coordination", request_body = RateLimitCheck, responses((status = 200, description = "allowed or not", body = RateLimitAnswer)))]
pub(crate) async fn check_rate(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Json(body): Json<RateLimitCheck>,
) -> Result<Answer<RateLimitAnswer>, Problem> {
    let RateLimitCheck { key, quota, window, burst, cost } = body;
    let window = duration_of("window", Some(window))?;
    let request =
        wire::RateLimitCheckRequest { key, limit: Some(wire::RateLimit { quota, window, burst }), cost };
    let send = async |mut client: RateLimitServiceClient<Lane>, request| client.check(request).await;
    let answer = app.upstreams.rate_limits(Call::write(CHECK).by(caller), request, send).await?;
    Ok(Answer(RateLimitAnswer {
        allowed: answer.allowed,
        limit: answer.limit,
        remaining: answer.remaining,
        source: source(answer.source),
        retry_after_seconds: seconds(answer.retry_after),
        reset_after_seconds: seconds(answer.reset_after),
    }))
}

/// Takes a lock.
#[utoipa::path(post, path = "/locks/{name}/acquire", tag = "coordination", params(("name" = String, Path, description = "the lock")), request_body = LockWanted, responses((status = 200, description = "got or not", body = LockAcquired)))]
pub(crate) async fn acquire(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Who(caller): Who,
    Json(body): Json<LockWanted>,
) -> Result<Answer<LockAcquired>, Problem> {
    let request = wire::AcquireLockRequest {
        name,
        owner: body.owner,
        ttl: duration_of("ttl", Some(body.ttl))?,
        wait_within: duration_of("waitWithin", body.wait_within)?,
    };
    let send = async |mut client: LockServiceClient<Lane>, request| client.acquire(request).await;
    let answer = app.upstreams.locks(Call::write(ACQUIRE).by(caller), request, send).await?;
    Ok(Answer(LockAcquired {
        acquired: answer.acquired,
        token: answer.acquired.then_some(answer.token),
        retry_after_seconds: seconds(answer.retry_after),
        source: source(answer.source),
    }))
}

/// Gives a held lock a new ttl.
#[utoipa::path(post, path = "/locks/{name}/renew", tag = "coordination", params(("name" = String, Path, description = "the lock")), request_body = LockRenewal, responses((status = 200, description = "done, or no longer held", body = LockChanged)))]
pub(crate) async fn renew(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Who(caller): Who,
    Json(body): Json<LockRenewal>,
) -> Result<Answer<LockChanged>, Problem> {
    let LockRenewal { owner, token, ttl } = body;
    let request = wire::RenewLockRequest { name, owner, token, ttl: duration_of("ttl", Some(ttl))? };
    let send = async |mut client: LockServiceClient<Lane>, request| client.renew(request).await;
    let answer = app.upstreams.locks(Call::write(RENEW).by(caller), request, send).await?;
    Ok(Answer(LockChanged { done: answer.renewed, source: source(answer.source) }))
}

/// Gives a held lock back.
#[utoipa::path(post, path = "/locks/{name}/release", tag = "coordination", params(("name" = String, Path, description = "the lock")), request_body = LockHeld, responses((status = 200, description = "done, or no longer held", body = LockChanged)))]
pub(crate) async fn release(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Who(caller): Who,
    Json(LockHeld { owner, token }): Json<LockHeld>,
) -> Result<Answer<LockChanged>, Problem> {
    let request = wire::ReleaseLockRequest { name, owner, token };
    let send = async |mut client: LockServiceClient<Lane>, request| client.release(request).await;
    let answer = app.upstreams.locks(Call::write(RELEASE).by(caller), request, send).await?;
    Ok(Answer(LockChanged { done: answer.released, source: source(answer.source) }))
}

/// Tells how a lock stands.
#[utoipa::path(get, path = "/locks/{name}", tag = "coordination", params(("name" = String, Path, description = "the lock"), LockQuery), responses((status = 200, description = "its state", body = LockState)))]
pub(crate) async fn lock(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Who(caller): Who,
    Params(LockQuery { token }): Params<LockQuery>,
) -> Result<Answer<LockState>, Problem> {
    let request = wire::CheckLockRequest { name, token };
    let send = async |mut client: LockServiceClient<Lane>, request| client.check(request).await;
    let answer = app.upstreams.locks(Call::read(CHECK_LOCK).by(caller), request, send).await?;
    Ok(Answer(LockState {
        held: answer.ttl.is_some(),
        current: answer.current,
        ttl_seconds: seconds(answer.ttl),
        source: source(answer.source),
    }))
}

/// Adds to a counter, which begins at 0.
#[utoipa::path(post, path = "/counters/{name}/increment", tag = "coordination", params(("name" = String, Path, description = "the counter")), request_body = Increment, responses((status = 200, description = "the value after it", body = CounterValue)))]
pub(crate) async fn increment(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Who(caller): Who,
    Json(body): Json<Increment>,
) -> Result<Answer<CounterValue>, Problem> {
    let Increment { by, ttl, extend, idempotency_key } = body;
    let ttl = duration_of("ttl", ttl)?;
    let request = wire::IncrementCounterRequest { name, by, ttl, extend, idempotency_key };
    let send = async |mut client: CounterServiceClient<Lane>, request| client.increment(request).await;
    let answer = app.upstreams.counters(Call::write(INCREMENT).by(caller), request, send).await?;
    Ok(Answer(CounterValue {
        value: answer.value,
        exists: None,
        ttl_seconds: seconds(answer.ttl),
        replayed: Some(answer.replayed),
        source: source(answer.source),
    }))
}

/// Reads a counter; one that is not there is 0.
#[utoipa::path(get, path = "/counters/{name}", tag = "coordination", params(("name" = String, Path, description = "the counter")), responses((status = 200, description = "its value", body = CounterValue)))]
pub(crate) async fn counter(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Who(caller): Who,
) -> Result<Answer<CounterValue>, Problem> {
    let send = async |mut client: CounterServiceClient<Lane>, request| client.get(request).await;
    let request = wire::GetCounterRequest { name };
    let answer = app.upstreams.counters(Call::read(GET).by(caller), request, send).await?;
    Ok(Answer(CounterValue {
        value: answer.value,
        exists: Some(answer.exists),
        ttl_seconds: seconds(answer.ttl),
        replayed: None,
        source: source(answer.source),
    }))
}

/// Removes a counter and tells what it was.
#[utoipa::path(delete, path = "/counters/{name}", tag = "coordination", params(("name" = String, Path, description = "the counter")), responses((status = 200, description = "the value before", body = CounterValue)))]
pub(crate) async fn reset(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Who(caller): Who,
) -> Result<Answer<CounterValue>, Problem> {
    let send = async |mut client: CounterServiceClient<Lane>, request| client.reset(request).await;
    let request = wire::ResetCounterRequest { name };
    let answer = app.upstreams.counters(Call::write(RESET).by(caller), request, send).await?;
    Ok(Answer(CounterValue {
        value: answer.value,
        exists: Some(answer.existed),
        ttl_seconds: None,
        replayed: None,
        source: source(answer.source),
    }))
}

fn source(value: i32) -> &'static str {
    match wire::Source::try_from(value).unwrap_or(wire::Source::Unspecified) {
        wire::Source::Redis => "redis",
        wire::Source::Local => "local",
        wire::Source::Unspecified => "unknown",
    }
}
