//! What a read, a write and a delete do. Read this file first.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::entry::{Condition, Removal};
use crate::error::CacheError;
use crate::fence::{Fence, Fences};
use crate::insight::Insight;
use crate::invalidation::Invalidation;
use crate::key::{ContentType, Key, Tags, Ttl};
use crate::layer::disk::Disk;
use crate::layer::memory::Memory;
use crate::layer::redis::RedisLayer;
use crate::metrics::{CacheMetrics, LastLayer};
use crate::once::{MadeHere, Once};
use crate::origin::Seat;
use crate::time::Time;
use crate::version::Versions;

mod adapt;
mod audit;
mod behind;
mod coalesce;
mod disk;
mod hit;
mod hot;
mod invalidate;
mod keep;
mod lease;
mod load;
mod namespaces;
mod policies;
mod read;
mod reconcile;
mod remove;
mod through;
mod turns;
mod warm;
mod write;
mod xfetch;

#[cfg(test)]
mod tests;

pub(crate) use audit::{MOST_CHANGES, PolicyChange};
pub(crate) use coalesce::Reads;
pub(crate) use hit::{Hits, Seen};
pub(crate) use hot::{HotKeeper, HotKeys};
pub(crate) use invalidate::Invalidate;
pub(crate) use load::Loads;
pub(crate) use namespaces::{Namespace, Namespaces, Policy};
pub(crate) use policies::{PolicyView, RunTimePolicies};
pub(crate) use turns::Turns;
pub(crate) use warm::Warmed;

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
    /// Tokens of locks, where there is no Redis.
    pub(crate) fences: Fences,
    /// Changes with idempotency keys, where a namespace is not in Redis.
    pub(crate) made_here: MadeHere,
    pub(crate) loads: Loads,
    /// Changes that an origin is being told of.
    pub(crate) turns: Turns,
    /// Woken by every change that goes into a queue.
    pub(crate) queued: Notify,
    /// So many changes of a namespace may wait for its origin.
    pub(crate) max_queued: u64,
    pub(crate) reads: Reads,
    pub(crate) hot: HotKeys,
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
    /// Only if nobody else got this lock since.
    pub(crate) fence: Option<Fence>,
    /// Only if it was not made before under this key.
    pub(crate) once: Option<Once>,
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
    /// What became of the write in the last layer of the namespace. If it is not applied there, memory has it alone.
    pub(crate) outcome: WriteOutcome,
    /// Redis had an entry in its place.
    pub(crate) replaced: bool,
    /// It was made before, under its idempotency key.
    pub(crate) replayed: bool,
}

/// The answer to a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deleted {
    pub(crate) existed: bool,
    /// It was made before, under its idempotency key.
    pub(crate) replayed: bool,
}

/// Whether a change was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    Applied,
    NotApplied,
    /// It was sent, and there is no answer.
    Unknown,
}

impl WriteOutcome {
    /// Returns `applied`, `not_applied` or `unknown`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::NotApplied => "not_applied",
            Self::Unknown => "unknown",
        }
    }
}

impl Stored {
    fn applied(version: u64) -> Self {
        Self { version, outcome: WriteOutcome::Applied, replaced: false, replayed: false }
    }

    /// Tells that Redis did not confirm the write.
    pub(crate) fn is_degraded(self) -> bool {
        self.outcome != WriteOutcome::Applied
    }
}

impl Engine {
    /// Reads an entry; `left` is the time the caller has.
    pub(crate) async fn get(&self, key: &Key, left: Duration) -> Result<Found, CacheError> {
        self.get_among(key, left, None).await
    }

    /// Reads an entry; if it has to be loaded, together with those of the other seats.
    pub(crate) async fn get_among(
        &self,
        key: &Key,
        left: Duration,
        seat: Option<Seat>,
    ) -> Result<Found, CacheError> {
        let started = Instant::now();
        let found = self.read(key, started, left, seat).await;
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
        if found.stale {
            metrics.stale_from(found.layer);
        }
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
                metrics.degraded.inc_by(stored.is_degraded().into());
            }
            Err(_) => drop(metrics.set.errors.inc()),
        }
        stored.map(|(stored, _)| stored)
    }

    /// Removes an entry from every layer and tells whether it was in one.
    pub(crate) async fn delete(
        &self,
        key: &Key,
        removal: Removal,
        left: Duration,
    ) -> Result<Deleted, CacheError> {
        let started = Instant::now();
        let deleted = self.remove(key, removal, left).await;
        let metrics = &self.metrics;
        match &deleted {
            Ok((_, layer)) => {
                metrics.delete.done.inc();
                metrics.delete.took(started.elapsed(), *layer);
            }
            Err(_) => drop(metrics.delete.errors.inc()),
        }
        deleted.map(|(deleted, _)| deleted)
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
