//! What a write does in each layer.

use std::time::Duration;

use tracing::Instrument as _;

use super::keep::{Loading, Times, entry_of};
use super::{Engine, Policy, Set, Stored};
use crate::config::{Durability, Strategy};
use crate::entry::{Condition, Decision, Draft, Removal, Written};
use crate::error::CacheError;
use crate::fence::Fence;
use crate::key::{Invalid, Key, Tags};
use crate::layer::memory::Memory;
use crate::layer::redis::RedisLayer;
use crate::metrics::LastLayer;
use crate::once::{Made, Once};

impl Engine {
    pub(super) async fn write(&self, set: Set, left: Duration) -> Result<(Stored, LastLayer), CacheError> {
        let Set { key, value, ttl, content_type, condition, tags, lease, fence, once } = set;
        let namespace = self.namespace(&key)?;
        let policy = &namespace.policy;
        let (bytes, max_bytes) = (value.len() as u64, policy.max_value_bytes);
        if bytes > max_bytes {
            return Err(CacheError::ValueTooLarge { bytes, max_bytes });
        }
        self.check_fence(&key, policy, fence.as_ref())?;
        check_once(policy, once.as_ref())?;
        let ttl = ttl.unwrap_or(policy.ttl);
        if !tags.is_empty() && ttl.as_duration() > Tags::TTL_MAX {
            return Err(Invalid::TaggedTtlTooLong.into());
        }
        let compress_above = policy.compress_above;
        let max_queued = self.max_queued_of(policy);
        let mut draft = Draft {
            value: Some(value),
            content_type,
            tags,
            lease,
            fence,
            ttl,
            condition,
            compress_above,
            max_queued,
            once,
            replica_ack: policy.durability == Durability::ReplicaAck,
        };
        let writes_around =
            namespace.writes_around() && condition == Condition::Always && draft.lease.is_none();
        let told = self.tell_first(&key, policy, Some(&mut draft), left).await?;
        let version =
            told.as_ref().map_or_else(|| self.versions.next(self.time.unix_us()), |told| told.version);
        if let Some(adaptive) = &namespace.adaptive {
            adaptive.wrote(&key);
        }
        let removal = Removal { replica_ack: draft.replica_ack, ..Removal::default() };
        if writes_around && let Ok((_, layer)) = self.forget(&key, policy, &removal, left).await {
            namespace.sets.inc();
            return Ok((Stored::applied(version), layer));
        }
        let stored = match self.redis_of(policy) {
            None if max_queued.is_some() => return Err(CacheError::NoQueue),
            None => {
                self.write_here(&key, policy, &draft, version).await.map(|stored| (stored, LastLayer::L1))
            }
            Some(redis) => {
                let span = tracing::info_span!("cache.set", cache.namespace = key.namespace());
                self.write_below(redis, &key, policy, &draft, version, left).instrument(span).await
            }
        };
        match stored {
            Ok(_) => drop(namespace.sets.inc()),
            Err(error) if told.is_some() => return Err(self.not_stored(&key, policy, error, left).await),
            Err(_) => {}
        }
        stored
    }

    /// Writes where there is no Redis below.
    async fn write_here(
        &self,
        key: &Key,
        policy: &Policy,
        draft: &Draft,
        version: u64,
    ) -> Result<Stored, CacheError> {
        let written = Written { version, set_at_unix_ms: self.time.unix_ms() };
        let ttl = draft.ttl.as_duration();
        let epoch = self.invalidation.epoch();
        let times = Times { fresh_for: ttl, kept_for: ttl, confirmed: true, epoch };
        if draft.condition != Condition::Always && self.held(key).is_none() {
            // What the condition is about may be on disk alone.
            let loading = Loading { mark: self.memory.mark(key), epoch };
            self.found_on_disk(key, policy, loading).await;
        }
        let (made, replayed) = self.made_here.make(key, draft.once.as_ref(), || {
            self.keep_if(key, draft, written, times)?;
            Ok(Made { version, existed: false })
        })?;
        if !replayed {
            self.written_to_disk(key, policy, draft, written);
        }
        Ok(Stored { replayed, ..Stored::applied(made.version) })
    }

    pub(super) async fn write_below(
        &self,
        redis: &RedisLayer,
        key: &Key,
        policy: &Policy,
        draft: &Draft,
        version: u64,
        left: Duration,
    ) -> Result<(Stored, LastLayer), CacheError> {
        let gone = ForgetOnDrop { memory: &self.memory, key };
        let epoch = self.invalidation.epoch();
        let answer = redis.write(key, draft, version, left).await;
        gone.disarm();
        let ttl = draft.ttl.as_duration();
        let times = |confirmed| Times {
            fresh_for: self.fresh_for(policy, ttl, confirmed),
            kept_for: ttl.saturating_add(policy.grace),
            confirmed,
            epoch,
        };
        match answer {
            Ok(Decision::Refused { version }) => {
                self.versions.see(version);
                self.memory.outdate(key, version);
                Err(CacheError::VersionMismatch { version })
            }
            Ok(Decision::LeaseLost) => Err(CacheError::LeaseLost),
            Ok(Decision::Fenced { newest }) => {
                // What this node holds may be what the newer holder replaced.
                self.memory.remove(key);
                Err(CacheError::Fenced { newest })
            }
            Ok(Decision::QueueFull) => Err(CacheError::QueueFull),
            Ok(Decision::OnceReused) => Err(CacheError::OnceReused),
            Ok(Decision::Replayed(made)) => {
                let stored =
                    Stored { replaced: made.existed, replayed: true, ..Stored::applied(made.version) };
                Ok((stored, LastLayer::L2))
            }
            Ok(Decision::NotDurable { version }) => {
                self.not_durable(key, version);
                if draft.max_queued.is_some() {
                    self.queued.notify_one();
                }
                Err(CacheError::NotDurable { version })
            }
            Ok(Decision::Stored { written, existed }) => {
                self.versions.see(written.version);
                if draft.max_queued.is_some() {
                    self.queued.notify_one();
                }
                if policy.memory {
                    self.keep(key, draft, written, times(true));
                }
                self.written_to_disk(key, policy, draft, written);
                Ok((Stored { replaced: existed, ..Stored::applied(written.version) }, LastLayer::L2))
            }
            Err(error) if error.is_overload() => Err(CacheError::Overloaded),
            Err(error)
                if draft.condition != Condition::Always
                    || draft.lease.is_some()
                    || draft.fence.is_some()
                    || draft.once.is_some()
                    || draft.replica_ack
                    || draft.max_queued.is_some() =>
            {
                Err(CacheError::NotConfirmed(error))
            }
            Err(error) if !policy.memory => Err(CacheError::NotStored(error)),
            Err(error) => {
                let written = Written { version, set_at_unix_ms: self.time.unix_ms() };
                self.keep(key, draft, written, times(false));
                self.written_to_disk(key, policy, draft, written);
                Ok((Stored { outcome: error.outcome(), ..Stored::applied(version) }, LastLayer::L1))
            }
        }
    }

    pub(super) fn keep(&self, key: &Key, draft: &Draft, written: Written, times: Times) {
        self.memory.put(key, &entry_of(draft, written, times, self.time.now()));
    }

    /// Stores a draft in memory if its condition holds there.
    fn keep_if(&self, key: &Key, draft: &Draft, written: Written, times: Times) -> Result<(), CacheError> {
        let now = self.time.now();
        // Held until it is stored: nobody gets the lock in between.
        let _passed = draft.fence.as_ref().map(|fence| self.fences.pass(fence)).transpose();
        let _passed = _passed.map_err(|newest| CacheError::Fenced { newest })?;
        let put = self.memory.put_if(key, &entry_of(draft, written, times, now), draft.condition, now);
        put.map_err(|version| CacheError::VersionMismatch { version })
    }

    /// Refuses a fence that cannot be checked in one step with the write. Where the origin learns later, it may take what was
    /// written under a lock when somebody else has it, and reads it. In a cluster the lock must lie where the namespace does.
    pub(super) fn check_fence(
        &self,
        key: &Key,
        policy: &Policy,
        fence: Option<&Fence>,
    ) -> Result<(), CacheError> {
        let away = self.redis.is_some() && !policy.redis;
        let origin_apart = policy.strategy.writes_first() || policy.strategy == Strategy::WriteBehind;
        let is_cluster = self.redis.as_ref().is_some_and(|redis| redis.redis().is_cluster());
        let lies_apart = |fence: &Fence| is_cluster && Fence::home_of(&fence.lock) != key.namespace();
        if fence.is_some_and(|fence| away || origin_apart || lies_apart(fence)) {
            return Err(CacheError::FenceNotPossible);
        }
        Ok(())
    }

    /// Forgets what Redis has replaced, and may replace again when it fails over.
    pub(super) fn not_durable(&self, key: &Key, version: u64) {
        self.versions.see(version);
        self.memory.remove(key);
        self.forget_on_disk(key);
    }
}

/// Refuses an idempotency key where the origin is told first: it cannot tell what it was told before.
pub(super) fn check_once(policy: &Policy, once: Option<&Once>) -> Result<(), CacheError> {
    if once.is_some() && policy.strategy.writes_first() {
        return Err(CacheError::OnceNotPossible);
    }
    Ok(())
}

/// Removes a key from memory when dropped: after a change in Redis that may or may not have been made, memory must not
/// go on answering with what was there before.
pub(super) struct ForgetOnDrop<'a> {
    pub(super) memory: &'a Memory,
    pub(super) key: &'a Key,
}

impl ForgetOnDrop<'_> {
    fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for ForgetOnDrop<'_> {
    fn drop(&mut self) {
        self.memory.remove(self.key);
    }
}
