//! What a read, a write and a delete do. Read this file first.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::config::Strategy;
use crate::entry::{Condition, Decision, Draft, Entry, Envelope, Written};
use crate::error::CacheError;
use crate::insight::Insight;
use crate::invalidation::Invalidation;
use crate::key::{ContentType, Invalid, Key, Tags, Ttl};
use crate::layer::disk::Disk;
use crate::layer::memory::{Mark, Memory};
use crate::layer::redis::RedisLayer;
use crate::metrics::{CacheMetrics, LastLayer};
use crate::time::{Moment, Time};
use crate::version::Versions;

mod disk;
mod hit;
mod invalidate;
mod lease;
mod load;
mod namespaces;
mod policies;
mod reconcile;
mod xfetch;

#[cfg(test)]
mod tests;

pub(crate) use invalidate::Invalidate;
pub(crate) use load::Loads;
pub(crate) use namespaces::{Namespace, Namespaces, Policy};
pub(crate) use policies::{PolicyView, RunTimePolicies};
use reconcile::{Right, reconcile};

/// Decides what the layers are asked and told. Knows no protocol.
///
/// ```text
/// get     L1, while fresh -> L2 -> fills L1
///         L2 fails: what L1 holds within its grace, marked stale, else "not known"
/// set     L2, then L1;            L2 fails: L1 alone, marked degraded
/// delete  L1, then L2, then L1;   L2 fails: an error, for the entry may still be there
/// ```
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) memory: Arc<Memory>,
    pub(crate) insight: Insight,
    /// None when Redis is not configured.
    pub(crate) redis: Option<Arc<RedisLayer>>,
    /// None when no directory is configured.
    pub(crate) disk: Option<Arc<Disk>>,
    pub(crate) namespaces: Namespaces,
    pub(crate) metrics: Arc<CacheMetrics>,
    pub(crate) time: Time,
    pub(crate) versions: Versions,
    pub(crate) invalidation: Invalidation,
    pub(crate) policies: RunTimePolicies,
    pub(crate) loads: Loads,
}

/// What to store.
#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) key: Key,
    pub(crate) value: Bytes,
    /// None means the namespace's own.
    pub(crate) ttl: Option<Ttl>,
    pub(crate) content_type: ContentType,
    pub(crate) condition: Condition,
    pub(crate) tags: Tags,
    /// Only if this lease still holds.
    pub(crate) lease: Option<u64>,
}

/// The answer to a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) entry: Option<FoundEntry>,
    pub(crate) layer: LastLayer,
    /// The entry is past the time for which it may be given without asking below, which fails.
    pub(crate) stale: bool,
    /// A layer could not be asked.
    pub(crate) degraded: bool,
}

/// An entry as a caller sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundEntry {
    pub(crate) value: Bytes,
    pub(crate) content_type: ContentType,
    pub(crate) version: u64,
    /// Zero for a stale entry past its ttl.
    pub(crate) ttl_left: Duration,
    pub(crate) age: Duration,
}

/// The answer to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) version: u64,
    /// Redis did not confirm the write.
    pub(crate) degraded: bool,
}

impl Engine {
    /// Reads an entry; `left` is the time the caller has.
    pub(crate) async fn get(&self, key: &Key, left: Duration) -> Result<Found, CacheError> {
        let started = Instant::now();
        let found = self.read(key, left).await;
        let metrics = &self.metrics;
        let Ok(found) = found else {
            metrics.get.errors.inc();
            return found;
        };
        metrics.get.done.inc();
        metrics.get.took(started.elapsed(), found.layer);
        match found.layer {
            LastLayer::L1 => metrics.hits_l1.inc(),
            LastLayer::L2 => metrics.hits_l2.inc(),
            _ if found.layer != LastLayer::None && found.entry.is_none() => metrics.negatives.inc(),
            LastLayer::L3 => metrics.hits_l3.inc(),
            LastLayer::Origin => metrics.hits_origin.inc(),
            LastLayer::None => metrics.misses.inc(),
        };
        metrics.stale.inc_by(found.stale.into());
        metrics.degraded.inc_by(found.degraded.into());
        Ok(found)
    }

    /// Stores an entry in every layer of its namespace.
    pub(crate) async fn set(&self, set: Set, left: Duration) -> Result<Stored, CacheError> {
        let started = Instant::now();
        let stored = self.write(set, left).await;
        let metrics = &self.metrics;
        match &stored {
            Ok((stored, layer)) => {
                metrics.set.done.inc();
                metrics.set.took(started.elapsed(), *layer);
                metrics.degraded.inc_by(stored.degraded.into());
            }
            Err(_) => drop(metrics.set.errors.inc()),
        }
        stored.map(|(stored, _)| stored)
    }

    /// Removes an entry from every layer and tells whether it was in one.
    pub(crate) async fn delete(&self, key: &Key, left: Duration) -> Result<bool, CacheError> {
        let started = Instant::now();
        let deleted = self.remove(key, left).await;
        let metrics = &self.metrics;
        match &deleted {
            Ok((_, layer)) => {
                metrics.delete.done.inc();
                metrics.delete.took(started.elapsed(), *layer);
            }
            Err(_) => drop(metrics.delete.errors.inc()),
        }
        deleted.map(|(existed, _)| existed)
    }

    async fn read(&self, key: &Key, left: Duration) -> Result<Found, CacheError> {
        let namespace = self.namespace(key)?;
        let (policy, now) = (&namespace.policy, self.time.now());
        let held = if policy.memory { self.held(key) } else { None };
        let alone = held.as_ref().and_then(|entry| self.alone(policy, entry, now));
        let found = match (alone, self.redis_of(policy)) {
            (Some(found), _) => {
                self.refresh_ahead(&namespace, key, &found);
                Ok(found)
            }
            (None, _) if policy.strategy != Strategy::CacheAside => {
                let stale = held.filter(|entry| entry.value.is_some() && entry.is_kept(now));
                let stale = stale.map(|entry| self.found_in_memory(&entry, now));
                let span = tracing::info_span!("cache.get", cache.namespace = key.namespace());
                self.load(key, policy, stale, left).instrument(span).await
            }
            (None, Some(redis)) => {
                let span = tracing::info_span!("cache.get", cache.namespace = key.namespace());
                self.read_below(redis, key, policy, held, left).instrument(span).await
            }
            (None, None) => {
                if held.is_some() {
                    self.memory.expire(key, now);
                }
                let loading = Loading { mark: self.memory.mark(key), epoch: self.invalidation.epoch() };
                Ok(self.found_on_disk(key, policy, loading).await.unwrap_or_else(Found::nothing))
            }
        };
        namespace.gets.inc();
        let is_hit = matches!(&found, Ok(found) if found.entry.is_some());
        if is_hit {
            namespace.hits.inc();
        }
        self.insight.observe(key, is_hit);
        found
    }

    async fn read_below(
        &self,
        redis: &RedisLayer,
        key: &Key,
        policy: &Policy,
        held: Option<Arc<Entry>>,
        left: Duration,
    ) -> Result<Found, CacheError> {
        let loading = Loading { mark: self.memory.mark(key), epoch: self.invalidation.epoch() };
        let answer = redis.read(key, left).await;
        // It may have been invalidated while Redis was asked.
        let held = held.filter(|held| self.invalidation.admits(key, held));
        let now = self.time.now();
        match (answer, held) {
            (Ok(found), held) => match (reconcile(held.as_deref(), found.as_ref(), now), held, found) {
                (Right::Memory, Some(held), _) => {
                    Ok(Found { degraded: true, ..self.found_in_memory(&held, now) })
                }
                (_, _, Some(envelope)) => Ok(self.found_in_redis(key, policy, envelope, loading)),
                // An ended entry may still be given while the origin fails.
                (_, _, None) if policy.strategy != Strategy::CacheAside => Ok(Found::nothing()),
                (_, _, None) => {
                    self.memory.forget(key, loading.mark);
                    self.forget_on_disk(key);
                    Ok(Found::nothing())
                }
            },
            (Err(_), Some(held)) if held.is_kept(now) => {
                Ok(Found { stale: true, degraded: true, ..self.found_in_memory(&held, now) })
            }
            (Err(error), _) if error.is_overload() => Err(CacheError::Overloaded),
            (Err(_), _) => {
                let found = self.found_on_disk(key, policy, loading).await;
                Ok(Found { degraded: true, ..found.unwrap_or_else(Found::nothing) })
            }
        }
    }

    fn found_in_memory(&self, entry: &Entry, now: Moment) -> Found {
        let entry = entry.value.as_ref().map(|value| FoundEntry {
            value: value.clone(),
            content_type: entry.content_type.clone(),
            version: entry.version,
            ttl_left: entry.lives_until.left(now),
            age: self.age(entry.set_at_unix_ms),
        });
        Found { entry, layer: LastLayer::L1, stale: false, degraded: false }
    }

    fn found_in_redis(&self, key: &Key, policy: &Policy, envelope: Envelope, loading: Loading) -> Found {
        let now = self.time.now();
        self.versions.see(envelope.version);
        // Redis says by having it that it lives, whatever our clock says of its end.
        let ttl_left = Duration::from_millis(envelope.expires_at_unix_ms.saturating_sub(self.time.unix_ms()));
        if policy.memory && !ttl_left.is_zero() {
            let entry = confirmed_entry(&envelope, policy, ttl_left, now, loading.epoch);
            self.memory.fill(key, entry, loading.mark);
            self.to_disk(key, policy, &envelope);
        }
        let entry = envelope.value.map(|value| FoundEntry {
            age: self.age(envelope.set_at_unix_ms),
            value,
            content_type: envelope.content_type,
            version: envelope.version,
            ttl_left,
        });
        Found { entry, layer: LastLayer::L2, stale: false, degraded: false }
    }

    async fn write(&self, set: Set, left: Duration) -> Result<(Stored, LastLayer), CacheError> {
        let Set { key, value, ttl, content_type, condition, tags, lease } = set;
        let namespace = self.namespace(&key)?;
        let policy = &namespace.policy;
        let (bytes, max_bytes) = (value.len() as u64, policy.max_value_bytes);
        if bytes > max_bytes {
            return Err(CacheError::ValueTooLarge { bytes, max_bytes });
        }
        let ttl = ttl.unwrap_or(policy.ttl);
        if !tags.is_empty() && ttl.as_duration() > Tags::TTL_MAX {
            return Err(Invalid::TaggedTtlTooLong.into());
        }
        let compress_above = policy.compress_above;
        let draft = Draft { value: Some(value), content_type, tags, lease, ttl, condition, compress_above };
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
            Ok(Decision::Stored(written)) => {
                self.versions.see(written.version);
                if policy.memory {
                    self.keep(key, draft, written, times(true));
                }
                self.written_to_disk(key, policy, draft, written);
                Ok((Stored { version: written.version, degraded: false }, LastLayer::L2))
            }
            Err(error) if error.is_overload() => Err(CacheError::Overloaded),
            Err(error) if draft.condition != Condition::Always || draft.lease.is_some() => {
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

    fn keep(&self, key: &Key, draft: &Draft, written: Written, times: Times) {
        self.memory.put(key, entry_of(draft, written, times, self.time.now()));
    }

    /// Stores a draft in memory if its condition holds there.
    fn keep_if(&self, key: &Key, draft: &Draft, written: Written, times: Times) -> Result<(), CacheError> {
        let now = self.time.now();
        let put = self.memory.put_if(key, entry_of(draft, written, times, now), draft.condition, now);
        put.map_err(|version| CacheError::VersionMismatch { version })
    }

    async fn remove(&self, key: &Key, left: Duration) -> Result<(bool, LastLayer), CacheError> {
        let namespace = self.namespace(key)?;
        let now = self.time.now();
        let version = self.versions.next(self.time.unix_us());
        self.write_through(key, &namespace.policy, None, version, left).await?;
        let held = self.memory.remove(key).is_some_and(|entry| entry.value.is_some() && entry.is_alive(now));
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

    fn namespace(&self, key: &Key) -> Result<Arc<Namespace>, CacheError> {
        let namespace = self.namespaces.get(key.namespace());
        namespace.ok_or_else(|| CacheError::UnknownNamespace { namespace: key.namespace().to_owned() })
    }

    fn redis_of(&self, policy: &Policy) -> Option<&RedisLayer> {
        self.redis.as_deref().filter(|_| policy.redis)
    }

    /// A write that Redis never confirmed is proven by no log.
    fn fresh_for(&self, policy: &Policy, ttl: Duration, confirmed: bool) -> Duration {
        let ttl = ttl.min(policy.memory_ttl);
        if confirmed { ttl } else { ttl.min(self.invalidation.current_for()) }
    }

    fn age(&self, set_at_unix_ms: u64) -> Duration {
        Duration::from_millis(self.time.unix_ms().saturating_sub(set_at_unix_ms))
    }
}

impl Found {
    fn nothing() -> Self {
        Self { entry: None, layer: LastLayer::None, stale: false, degraded: false }
    }
}

/// How long memory keeps a write, from now.
#[derive(Clone, Copy)]
struct Times {
    fresh_for: Duration,
    kept_for: Duration,
    confirmed: bool,
    epoch: u32,
}

/// What was so before a load, and must still be so for what it brings to be kept.
#[derive(Clone, Copy)]
struct Loading {
    mark: Mark,
    epoch: u32,
}

fn entry_of(draft: &Draft, written: Written, times: Times, now: Moment) -> Entry {
    Entry {
        value: draft.value.as_ref().map(own),
        content_type: draft.content_type.clone(),
        tags: draft.tags.clone(),
        version: written.version,
        set_at_unix_ms: written.set_at_unix_ms,
        fresh_until: now + times.fresh_for,
        lives_until: now + draft.ttl.as_duration(),
        kept_until: now + times.kept_for,
        confirmed: times.confirmed,
        epoch: times.epoch,
    }
}

fn confirmed_entry(
    envelope: &Envelope,
    policy: &Policy,
    ttl_left: Duration,
    now: Moment,
    epoch: u32,
) -> Entry {
    Entry {
        value: envelope.value.as_ref().map(own),
        content_type: envelope.content_type.clone(),
        tags: envelope.tags.clone(),
        version: envelope.version,
        set_at_unix_ms: envelope.set_at_unix_ms,
        fresh_until: now + ttl_left.min(policy.memory_ttl),
        lives_until: now + ttl_left,
        kept_until: now + ttl_left.saturating_add(policy.grace),
        confirmed: true,
        epoch,
    }
}

/// Copies a value out of the network buffer it is a part of; keeping the part would keep all of the buffer.
fn own(value: &Bytes) -> Bytes {
    Bytes::copy_from_slice(value)
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
