//! L2: Redis under a breaker, with spans and figures.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mainstay_resilience::breaker::{Breaker, BreakerConfig, Outcome, Permit, State};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::config::RedisConfig;
use crate::entry::{Body, DamagedEnvelope, Decision, Draft, Envelope, Removal, Removed};
use crate::key::Key;
use crate::metrics::CacheMetrics;
use crate::redis::{Invalidation, Redis, RedisError};

mod hot;
mod left;
mod publish;
mod script;

pub(crate) use left::Left;

/// A caller with less time left than this gets no answer from Redis: its own deadline would come first.
const ANSWER_TAKES: Duration = Duration::from_millis(5);

/// Reads and writes entries in Redis, and stops asking while Redis fails.
#[derive(Debug)]
pub(crate) struct RedisLayer {
    redis: Arc<Redis>,
    breaker: Mutex<Breaker>,
    /// Connections there had been when the breaker last looked.
    connections_seen: AtomicU32,
    command_within: Duration,
    metrics: Arc<CacheMetrics>,
}

/// Says why L2 has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LayerError {
    #[error("redis fails and is left alone for a while")]
    BreakerOpen { retry_after: Duration },
    #[error("the caller has too little time left to ask redis")]
    NoTime,
    #[error(transparent)]
    Redis(RedisError),
    #[error("what lies in redis cannot be read")]
    Damaged(#[source] DamagedEnvelope),
}

impl RedisLayer {
    pub(crate) fn new(redis: Arc<Redis>, config: &RedisConfig, metrics: Arc<CacheMetrics>) -> Self {
        let breaker = BreakerConfig {
            slow_after: config.command_within / 2,
            open_for: Duration::from_millis(250),
            open_for_max: Duration::from_secs(2),
            ..BreakerConfig::default()
        };
        Self {
            redis,
            breaker: Mutex::new(Breaker::new(breaker)),
            connections_seen: AtomicU32::new(0),
            command_within: config.command_within,
            metrics,
        }
    }

    /// Reads an entry; `left` is the time the caller has.
    pub(crate) async fn read(
        &self,
        key: &Key,
        left: impl Into<Left>,
    ) -> Result<Option<Envelope>, LayerError> {
        let left = left.into();
        let span = self.span("redis.get", "GET");
        let (bytes, floor) =
            self.guarded(left, |within| self.redis.get(key, within)).instrument(span).await?;
        let Some(bytes) = bytes else { return Ok(None) };
        let envelope = decode(bytes).await.inspect_err(|_| self.metrics.l2_error("damaged"))?;
        // An entry whose barriers were lost is not proven: cold, never wrong.
        if floor.is_none_or(|floor| envelope.version <= floor) {
            return Ok(None);
        }
        if !envelope.tags.is_empty() {
            let span = self.span("redis.tags", "HMGET");
            let barrier = |within| self.redis.tag_barrier(key.namespace(), &envelope.tags, within);
            let barrier = self.guarded(left, barrier).instrument(span).await?;
            if barrier.is_none_or(|barrier| envelope.version <= barrier) {
                return Ok(None);
            }
        }
        Ok(Some(envelope))
    }

    /// Returns the newest change of a key that waits for its origin.
    pub(crate) async fn waiting(&self, key: &Key, left: Duration) -> Result<Option<Envelope>, LayerError> {
        let span = self.span("redis.waiting", "EVALSHA");
        let bytes = self.guarded(left, |within| self.redis.waiting(key, within)).instrument(span).await?;
        let Some(bytes) = bytes else { return Ok(None) };
        decode(bytes).await.map(Some).inspect_err(|_| self.metrics.l2_error("damaged"))
    }

    /// Stores an entry with a version of at least `lowest_version`, if its condition holds.
    pub(crate) async fn write(
        &self,
        key: &Key,
        draft: &Draft,
        lowest_version: u64,
        left: impl Into<Left>,
    ) -> Result<Decision, LayerError> {
        let body = pack(draft).await;
        let span = self.span("redis.set", "EVALSHA");
        let write = |within| self.redis.set(key, draft, &body, lowest_version, within);
        let decision = self.guarded(left, write).instrument(span).await?;
        if draft.replica_ack {
            self.metrics.replica_acks(!matches!(decision, Decision::NotDurable { .. }));
        }
        Ok(decision)
    }

    /// Removes an entry and tells whether it was there, if nothing speaks against it.
    pub(crate) async fn delete(
        &self,
        key: &Key,
        removal: &Removal,
        lowest_version: u64,
        left: Duration,
    ) -> Result<Removed, LayerError> {
        let span = self.span("redis.delete", "EVALSHA");
        let delete = |within| self.redis.delete(key, removal, lowest_version, within);
        let removed = self.guarded(left, delete).instrument(span).await?;
        if removal.replica_ack {
            self.metrics.replica_acks(!matches!(removed, Removed::NotDurable { .. }));
        }
        Ok(removed)
    }

    /// Invalidates and returns the last number given, and how many keys were there.
    pub(crate) async fn invalidate(
        &self,
        what: &Invalidation<'_>,
        lowest_version: u64,
        left: Duration,
    ) -> Result<(u64, u64), LayerError> {
        let span = self.span("redis.invalidate", "EVALSHA");
        self.guarded(left, |within| self.redis.invalidate(what, lowest_version, within))
            .instrument(span)
            .await
    }

    /// Takes the lease to fill a key, if nobody has it.
    pub(crate) async fn lease(
        &self,
        key: &Key,
        token: u64,
        ttl: Duration,
        left: impl Into<Left>,
    ) -> Result<bool, LayerError> {
        let span = self.span("redis.lease", "EVALSHA");
        self.guarded(left, |within| self.redis.lease(key, token, ttl, within)).instrument(span).await
    }

    /// Gives a lease back that was not used.
    pub(crate) async fn release(&self, key: &Key, token: u64, left: Duration) -> Result<(), LayerError> {
        let span = self.span("redis.release", "EVALSHA");
        self.guarded(left, |within| self.redis.release(key, token, within)).instrument(span).await
    }

    /// Returns all run-time policies, by namespace: version, a space, JSON.
    pub(crate) async fn policies(&self, left: Duration) -> Result<HashMap<String, String>, LayerError> {
        let span = self.span("redis.policies", "HGETALL");
        self.guarded(left, |within| self.redis.policies(within)).instrument(span).await
    }

    /// Returns the last changes of run-time policies, the last first.
    pub(crate) async fn policy_history(&self, left: Duration) -> Result<Vec<String>, LayerError> {
        let span = self.span("redis.policy_history", "LRANGE");
        self.guarded(left, |within| self.redis.policy_history(within)).instrument(span).await
    }

    /// Replaces a run-time policy and returns its version; none when another version is there than expected.
    pub(crate) async fn put_policy(
        &self,
        namespace: &str,
        expected: u64,
        policy: &str,
        left: Duration,
    ) -> Result<Option<u64>, LayerError> {
        let span = self.span("redis.put_policy", "EVALSHA");
        let put = |within| self.redis.put_policy(namespace, expected, policy, within);
        self.guarded(left, put).instrument(span).await
    }

    /// Tells whether a command of a caller with so much time may take as long as any.
    pub(crate) fn gives_full_time(&self, left: Duration) -> bool {
        left.saturating_sub(ANSWER_TAKES) >= self.command_within
    }

    pub(crate) fn breaker_state(&self) -> State {
        self.breaker.lock().state(Instant::now().into_std())
    }

    pub(crate) fn redis(&self) -> &Redis {
        &self.redis
    }

    pub(crate) fn shared(&self) -> Arc<Redis> {
        Arc::clone(&self.redis)
    }

    async fn guarded<T, F>(
        &self,
        left: impl Into<Left>,
        command: impl FnOnce(Duration) -> F,
    ) -> Result<T, LayerError>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let left = left.into();
        let answered_within = left.time.saturating_sub(ANSWER_TAKES);
        let within = if left.patient { answered_within } else { answered_within.min(self.command_within) };
        if within.is_zero() {
            self.metrics.l2_error("timeout");
            return Err(LayerError::NoTime);
        }
        let admission = self.admit().inspect_err(|_| self.metrics.l2_error("breaker_open"))?;
        let (result, is_late_here) = if left.patient {
            self.unless_silent(command(within)).await
        } else {
            (command(within).await, false)
        };
        match &result {
            // The caller's hurry proves nothing about Redis.
            Err(RedisError::Timeout) if within < self.command_within => drop(admission),
            Err(RedisError::Overloaded) => drop(admission),
            Ok(_) | Err(RedisError::Timeout) if is_late_here => drop(admission),
            Ok(_) => admission.end(Outcome::Success),
            Err(error) if error.is_outage() => admission.end(Outcome::Failure),
            Err(_) => admission.end(Outcome::Success),
        }
        result.map_err(|error| {
            self.metrics.l2_error(error.kind());
            let span = tracing::Span::current();
            span.record("error.type", error.kind());
            span.record("otel.status_code", "ERROR");
            tracing::debug!(error = error.in_full(), "redis command failed");
            LayerError::Redis(error)
        })
    }

    /// Ends a command at `command_within`, unless Redis answers others meanwhile: then it is this process that is late, and
    /// the answer is waited for. Tells whether that was so.
    async fn unless_silent<T>(
        &self,
        command: impl Future<Output = Result<T, RedisError>>,
    ) -> (Result<T, RedisError>, bool) {
        let (half, mut is_late_here) = (self.command_within / 2, false);
        let expected = Instant::now() + self.command_within;
        let silent = async {
            tokio::time::sleep(half).await;
            while self.redis.pulse().await.is_some_and(|took| took < half) {
                is_late_here = true;
                tokio::time::sleep(half).await;
            }
            is_late_here = false;
            tokio::time::sleep_until(expected).await;
        };
        let result = tokio::select! {
            biased;
            answer = command => answer,
            () = silent => Err(RedisError::Timeout),
        };
        (result, is_late_here)
    }

    fn admit(&self) -> Result<Admission<'_>, LayerError> {
        let started = Instant::now();
        let n_connections = self.redis.n_connections();
        let mut breaker = self.breaker.lock();
        // What failed before a new connection speaks of another server, or of another time.
        if self.connections_seen.swap(n_connections, Ordering::Relaxed) != n_connections {
            breaker.reset(started.into_std());
        }
        match breaker.admit(started.into_std()) {
            Ok(permit) => Ok(Admission { breaker: &self.breaker, permit: Some(permit), started }),
            Err(rejected) => Err(LayerError::BreakerOpen { retry_after: rejected.retry_after }),
        }
    }

    fn span(&self, name: &'static str, operation: &'static str) -> tracing::Span {
        let span = tracing::info_span!(
            "redis",
            otel.name = name,
            otel.kind = "client",
            otel.status_code = tracing::field::Empty,
            db.system.name = "redis",
            db.operation.name = operation,
            server.address = tracing::field::Empty,
            server.port = tracing::field::Empty,
            error.type = tracing::field::Empty,
        );
        if !span.is_disabled()
            && let Some(address) = self.redis.primary()
        {
            span.record("server.address", address.host.as_str());
            span.record("server.port", address.port);
        }
        span
    }
}

/// Values of more bytes are packed aside.
const LARGE_BYTES: usize = 128 << 10;

async fn pack(draft: &Draft) -> Body {
    let Some(value) = draft.value.clone() else { return Body::absent() };
    let (content_type, tags, compress_above) =
        (draft.content_type.clone(), draft.tags.clone(), draft.compress_above);
    let is_large = value.len() > LARGE_BYTES && value.len() as u64 > compress_above;
    let pack = move || Body::pack(&content_type, &tags, &value, compress_above);
    if !is_large {
        return pack();
    }
    let again = pack.clone();
    // Fails only while the runtime ends.
    tokio::task::spawn_blocking(pack).await.unwrap_or_else(|_| again())
}

async fn decode(bytes: Bytes) -> Result<Envelope, LayerError> {
    let decode = |bytes: &Bytes| Envelope::decode(bytes).map_err(LayerError::Damaged);
    if !Envelope::is_large(&bytes) {
        return decode(&bytes);
    }
    let aside = bytes.clone();
    tokio::task::spawn_blocking(move || decode(&aside)).await.unwrap_or_else(|_| decode(&bytes))
}

/// Holds a breaker's permit for one command; gives it back unjudged when the caller goes away.
struct Admission<'a> {
    breaker: &'a Mutex<Breaker>,
    permit: Option<Permit>,
    started: Instant,
}

impl Admission<'_> {
    fn end(mut self, outcome: Outcome) {
        let Some(permit) = self.permit.take() else { return };
        let now = Instant::now();
        let change = self.breaker.lock().record(permit, outcome, now - self.started, now.into_std());
        if let Some(change) = change {
            let (from, to) = (change.from.as_str(), change.to.as_str());
            if change.to == State::Open {
                tracing::warn!(from, to, "breaker of redis changed");
            } else {
                tracing::info!(from, to, "breaker of redis changed");
            }
        }
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.breaker.lock().cancel(permit, Instant::now().into_std());
        }
    }
}
