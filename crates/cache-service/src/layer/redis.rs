//! L2: Redis under a breaker, with spans and figures.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mainstay_resilience::breaker::State;

use crate::config::RedisConfig;
use crate::entry::{Body, DamagedEnvelope, Decision, Draft, Envelope, Removal, Removed};
use crate::key::Key;
use crate::metrics::CacheMetrics;
use crate::redis::{Invalidation, Partition, Redis, RedisError};

mod census;
mod hot;
mod left;
mod part;
mod publish;
mod script;

pub(crate) use census::{Census, InRedis};
pub(crate) use left::Left;
pub(crate) use part::LayerPart;
use part::{ANSWER_TAKES, Lane};

/// Reads and writes entries in Redis, and stops asking while Redis fails.
#[derive(Debug)]
pub(crate) struct RedisLayer {
    redis: Arc<Redis>,
    /// Of each partition.
    lanes: Box<[Lane]>,
    command_within: Duration,
    metrics: Arc<CacheMetrics>,
    census: Census,
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
        Self {
            lanes: redis.partitions().map(|_| Lane::new(config.command_within)).collect(),
            redis,
            command_within: config.command_within,
            metrics,
            census: Census::new(&config.prefix),
        }
    }

    /// Reads an entry; `left` is the time the caller has.
    pub(crate) async fn read(
        &self,
        key: &Key,
        left: impl Into<Left>,
    ) -> Result<Option<Envelope>, LayerError> {
        let part = self.of(key.namespace());
        let left = left.into();
        let get = |within| self.redis.get(key, within);
        let (bytes, floor) = part.ask("redis.get", "MGET", left, get).await?;
        let Some(bytes) = bytes else { return Ok(None) };
        let envelope = decode(bytes).await.inspect_err(|_| self.metrics.l2_error("damaged"))?;
        // An entry whose barriers were lost is not proven: cold, never wrong.
        if floor.is_none_or(|floor| envelope.version <= floor) {
            return Ok(None);
        }
        if !envelope.tags.is_empty() {
            let barrier = |within| self.redis.tag_barrier(key.namespace(), &envelope.tags, within);
            let barrier = part.ask("redis.tags", "HMGET", left, barrier).await?;
            if barrier.is_none_or(|barrier| envelope.version <= barrier) {
                return Ok(None);
            }
        }
        Ok(Some(envelope))
    }

    /// Returns the newest change of a key that waits for its origin.
    pub(crate) async fn waiting(&self, key: &Key, left: Duration) -> Result<Option<Envelope>, LayerError> {
        let part = self.of(key.namespace());
        let waiting = |within| self.redis.waiting(key, within);
        let bytes = part.ask("redis.waiting", "EVALSHA", left, waiting).await?;
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
        let part = self.of(key.namespace());
        let body = pack(draft).await;
        let left = Left { waits_for_replica: draft.replica_ack, ..left.into() };
        let write = |within| self.redis.set(key, draft, &body, lowest_version, within);
        let decision = part.ask("redis.set", "EVALSHA", left, write).await?;
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
        let part = self.of(key.namespace());
        let left = Left { waits_for_replica: removal.replica_ack, ..left.into() };
        let delete = |within| self.redis.delete(key, removal, lowest_version, within);
        let removed = part.ask("redis.delete", "EVALSHA", left, delete).await?;
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
        let part = self.of(what.namespace);
        let invalidate = |within| self.redis.invalidate(what, lowest_version, within);
        part.ask("redis.invalidate", "EVALSHA", left, invalidate).await
    }

    /// Takes the lease to fill a key, if nobody has it.
    pub(crate) async fn lease(
        &self,
        key: &Key,
        token: u64,
        ttl: Duration,
        left: impl Into<Left>,
    ) -> Result<bool, LayerError> {
        let part = self.of(key.namespace());
        part.ask("redis.lease", "EVALSHA", left, |within| self.redis.lease(key, token, ttl, within)).await
    }

    /// Tells whether a lease is still its holder's.
    pub(crate) async fn holds_lease(
        &self,
        key: &Key,
        token: u64,
        left: Duration,
    ) -> Result<bool, LayerError> {
        let part = self.of(key.namespace());
        part.ask("redis.lease", "GET", left, |within| self.redis.holds_lease(key, token, within)).await
    }

    /// Returns the version that a condition is compared with, 0 for an entry that is none of ours; none where there is no entry.
    pub(crate) async fn version(&self, key: &Key, left: Duration) -> Result<Option<u64>, LayerError> {
        let part = self.of(key.namespace());
        let get = |within| self.redis.get(key, within);
        let (bytes, _) = part.ask("redis.get", "MGET", left, get).await?;
        let Some(bytes) = bytes else { return Ok(None) };
        match decode(bytes).await {
            Ok(envelope) => Ok(envelope.value.map(|_| envelope.version)),
            Err(_) => Ok(Some(0)),
        }
    }

    /// Gives a lease back that was not used.
    pub(crate) async fn release(&self, key: &Key, token: u64, left: Duration) -> Result<(), LayerError> {
        let part = self.of(key.namespace());
        part.ask("redis.release", "EVALSHA", left, |within| self.redis.release(key, token, within)).await
    }

    /// Returns all run-time policies, by namespace: version, a space, JSON.
    pub(crate) async fn policies(&self, left: Duration) -> Result<HashMap<String, String>, LayerError> {
        let part = self.part(Partition::FIRST);
        part.ask("redis.policies", "HGETALL", left, |within| self.redis.policies(within)).await
    }

    /// Returns the last changes of run-time policies, the last first.
    pub(crate) async fn policy_history(&self, left: Duration) -> Result<Vec<String>, LayerError> {
        let part = self.part(Partition::FIRST);
        part.ask("redis.policy_history", "LRANGE", left, |within| self.redis.policy_history(within)).await
    }

    /// Replaces a run-time policy and returns its version; none when another version is there than expected.
    pub(crate) async fn put_policy(
        &self,
        namespace: &str,
        expected: u64,
        policy: &str,
        left: Duration,
    ) -> Result<Option<u64>, LayerError> {
        let part = self.part(Partition::FIRST);
        let put = |within| self.redis.put_policy(namespace, expected, policy, within);
        part.ask("redis.put_policy", "EVALSHA", left, put).await
    }

    /// Tells whether a command of a caller with so much time may take as long as any.
    pub(crate) fn gives_full_time(&self, left: Duration) -> bool {
        left.saturating_sub(ANSWER_TAKES) >= self.command_within
    }

    /// Returns the state of the breaker; of several the worst.
    pub(crate) fn breaker_state(&self) -> State {
        let severity = |state: &State| match state {
            State::Closed => 0,
            State::HalfOpen => 1,
            State::Open => 2,
        };
        self.lanes.iter().map(Lane::state).max_by_key(severity).unwrap_or(State::Closed)
    }

    /// Returns the partition of what is called so: a namespace, a counter, ...
    pub(crate) fn partition_of(&self, name: &str) -> Partition {
        self.redis.partition_of(name)
    }

    pub(crate) fn partitions(&self) -> impl Iterator<Item = Partition> {
        self.redis.partitions()
    }

    pub(crate) fn part(&self, partition: Partition) -> LayerPart<'_> {
        LayerPart { layer: self, partition }
    }

    /// Returns the part of what is called so.
    pub(crate) fn of(&self, name: &str) -> LayerPart<'_> {
        self.part(self.partition_of(name))
    }

    /// Returns what is estimated to lie in Redis.
    pub(crate) fn census(&self) -> &Census {
        &self.census
    }

    pub(crate) fn redis(&self) -> &Redis {
        &self.redis
    }

    pub(crate) fn shared(&self) -> Arc<Redis> {
        Arc::clone(&self.redis)
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
