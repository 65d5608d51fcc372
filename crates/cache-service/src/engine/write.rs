//! What a write and a delete do in each layer.

use std::time::Duration;

use tracing::Instrument as _;

use super::keep::{Loading, Times, entry_of};
use super::{Engine, Policy, Set, Stored};
use crate::config::Strategy;
use crate::entry::{Condition, Decision, Draft, Written};
use crate::error::CacheError;
use crate::fence::Fence;
use crate::key::{Invalid, Key, Tags};
use crate::layer::memory::{Held, Memory};
use crate::layer::redis::RedisLayer;
use crate::metrics::LastLayer;

impl Engine {
    pub(super) async fn write(&self, set: Set, left: Duration) -> Result<(Stored, LastLayer), CacheError> {
        let Set { key, value, ttl, content_type, condition, tags, lease, fence } = set;
        let namespace = self.namespace(&key)?;
        let policy = &namespace.policy;
        let (bytes, max_bytes) = (value.len() as u64, policy.max_value_bytes);
        if bytes > max_bytes {
            return Err(CacheError::ValueTooLarge { bytes, max_bytes });
        }
        self.check_fence(policy, fence.as_ref())?;
        let ttl = ttl.unwrap_or(policy.ttl);
        if !tags.is_empty() && ttl.as_duration() > Tags::TTL_MAX {
            return Err(Invalid::TaggedTtlTooLong.into());
        }
        let compress_above = policy.compress_above;
        let draft =
            Draft { value: Some(value), content_type, tags, lease, fence, ttl, condition, compress_above };
        let version = self.versions.next(self.time.unix_us());
        self.write_through(&key, policy, Some(&draft), version, left).await?;
        let stored = match self.redis_of(policy) {
            None => {
                let written = Written { version, set_at_unix_ms: self.time.unix_ms() };
                let ttl = draft.ttl.as_duration();
                let epoch = self.invalidation.epoch();
                let times = Times { fresh_for: ttl, kept_for: ttl, confirmed: true, epoch };
                if condition != Condition::Always && self.held(&key).is_none() {
                    // What the condition is about may be on disk alone.
                    let loading = Loading { mark: self.memory.mark(&key), epoch };
                    self.found_on_disk(&key, policy, loading).await;
                }
                self.keep_if(&key, &draft, written, times)?;
                self.written_to_disk(&key, policy, &draft, written);
                (Stored { version, degraded: false }, LastLayer::L1)
            }
            Some(redis) => {
                let span = tracing::info_span!("cache.set", cache.namespace = key.namespace());
                self.write_below(redis, &key, policy, &draft, version, left).instrument(span).await?
            }
        };
        namespace.sets.inc();
        Ok(stored)
    }

    async fn write_below(
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
            Ok(Decision::Stored(written)) => {
                self.versions.see(written.version);
                if policy.memory {
                    self.keep(key, draft, written, times(true));
                }
                self.written_to_disk(key, policy, draft, written);
                Ok((Stored { version: written.version, degraded: false }, LastLayer::L2))
            }
            Err(error) if error.is_overload() => Err(CacheError::Overloaded),
            Err(error)
                if draft.condition != Condition::Always || draft.lease.is_some() || draft.fence.is_some() =>
            {
                Err(CacheError::NotConfirmed(error))
            }
            Err(error) if !policy.memory => Err(CacheError::NotStored(error)),
            Err(_) => {
                let written = Written { version, set_at_unix_ms: self.time.unix_ms() };
                self.keep(key, draft, written, times(false));
                self.written_to_disk(key, policy, draft, written);
                Ok((Stored { version, degraded: true }, LastLayer::L1))
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

    /// Refuses a fence that cannot be checked in one step with the write.
    fn check_fence(&self, policy: &Policy, fence: Option<&Fence>) -> Result<(), CacheError> {
        let away = self.redis.is_some() && !policy.redis;
        if fence.is_some() && (away || policy.strategy == Strategy::WriteThrough) {
            return Err(CacheError::FenceNotPossible);
        }
        Ok(())
    }

    pub(super) async fn remove(
        &self,
        key: &Key,
        fence: Option<&Fence>,
        left: Duration,
    ) -> Result<(bool, LastLayer), CacheError> {
        let namespace = self.namespace(key)?;
        self.check_fence(&namespace.policy, fence)?;
        if let Some(fence) = fence {
            return self.remove_fenced(key, &namespace.policy, fence, left).await;
        }
        let now = self.time.now();
        let version = self.versions.next(self.time.unix_us());
        self.write_through(key, &namespace.policy, None, version, left).await?;
        let held = self.memory.remove(key).is_some_and(|held| held.has_value && held.is_alive(now));
        let on_disk = match &self.disk {
            Some(disk) => disk.remove(key).await,
            None => false,
        };
        let Some(redis) = self.redis_of(&namespace.policy) else {
            return Ok((held || on_disk, if on_disk { LastLayer::L3 } else { LastLayer::L1 }));
        };
        let span = tracing::info_span!("cache.delete", cache.namespace = key.namespace());
        // Once more at the end, also when the caller goes away: a read between the two may have brought it back.
        let _gone = ForgetOnDrop { memory: &self.memory, key };
        let lowest_version = self.versions.next(self.time.unix_us());
        match redis.delete(key, lowest_version, left).instrument(span).await {
            Ok((existed, version)) => {
                self.versions.see(version);
                Ok((existed || held, LastLayer::L2))
            }
            Err(error) if error.is_overload() => Err(CacheError::Overloaded),
            Err(error) => Err(CacheError::NotDeleted(error)),
        }
    }
}

impl Engine {
    /// Removes a key if nobody else got the lock since. What says so is asked first: memory is not touched before.
    async fn remove_fenced(
        &self,
        key: &Key,
        policy: &Policy,
        fence: &Fence,
        left: Duration,
    ) -> Result<(bool, LastLayer), CacheError> {
        let now = self.time.now();
        let was_here = |held: Option<Held>| held.is_some_and(|held| held.has_value && held.is_alive(now));
        let lowest_version = self.versions.next(self.time.unix_us());
        let Some(redis) = self.redis_of(policy) else {
            let held = {
                let passed = self.fences.pass(fence);
                let _passed = passed.map_err(|newest| CacheError::Fenced { newest })?;
                was_here(self.memory.remove(key))
            };
            let on_disk = match &self.disk {
                Some(disk) => disk.remove(key).await,
                None => false,
            };
            return Ok((held || on_disk, LastLayer::L1));
        };
        let span = tracing::info_span!("cache.delete", cache.namespace = key.namespace());
        let _gone = ForgetOnDrop { memory: &self.memory, key };
        let deleted = redis.delete_fenced(key, fence, lowest_version, left).instrument(span).await;
        match deleted {
            Ok(Err(newest)) => Err(CacheError::Fenced { newest }),
            Ok(Ok((existed, version))) => {
                self.versions.see(version);
                let held = was_here(self.memory.remove(key));
                if let Some(disk) = &self.disk {
                    disk.remove(key).await;
                }
                Ok((existed || held, LastLayer::L2))
            }
            Err(error) if error.is_overload() => Err(CacheError::Overloaded),
            Err(error) => Err(CacheError::NotDeleted(error)),
        }
    }
}

/// Removes a key from memory when dropped: after a change in Redis that may or may not have been made, memory must not
/// go on answering with what was there before.
struct ForgetOnDrop<'a> {
    memory: &'a Memory,
    key: &'a Key,
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
