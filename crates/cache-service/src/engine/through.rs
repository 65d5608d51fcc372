//! Changes that the origin takes first.
//!
//! ```text
//! 1  the turn of the key on this node; with a condition, and Redis, then also its lease there, for all nodes
//! 2  the condition is checked: if it does not hold, nobody was told anything
//! 3  the origin takes the change, or it does not: then nothing is stored
//! 4  it is stored, if the lease is still ours: it is unless somebody else changed the key since
//! ```

use std::time::Duration;

use tokio::time::Instant;

use super::keep::Loading;
use super::turns::Turn;
use super::{Engine, Policy};
use crate::entry::{Condition, Draft, Removal};
use crate::error::CacheError;
use crate::key::Key;
use crate::layer::redis::RedisLayer;
use crate::origin::{Change, Loaded};

/// While somebody else has the lease of a key, it is asked for this often.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// So long the lease lasts beyond what the origin may take: for the write that follows.
const TO_STORE: Duration = Duration::from_secs(2);

/// A change that the origin has taken. Until it is dropped, others who change the key on this node wait: so the origin is told
/// of the changes of a key in the order in which they are stored.
#[derive(Debug)]
pub(super) struct Told<'a> {
    _turn: Turn<'a>,
    /// What the origin was told: above the version that the change replaces, as far as that was looked at.
    pub(super) version: u64,
}

/// What speaks for a write while the origin takes it.
enum Reserved {
    /// A lease of ours, given back when the origin refuses.
    Ours(u64),
    /// The lease of the caller.
    Callers(u64),
    /// Nothing beyond the turn, where Redis is not used.
    Here,
}

impl Engine {
    /// Lets the origin take a change, where the strategy asks for it. What a draft was conditional on has then been checked,
    /// and the draft asks only for what still has to be so.
    pub(super) async fn tell_first<'a>(
        &'a self,
        key: &'a Key,
        policy: &Policy,
        draft: Option<&mut Draft>,
        left: Duration,
    ) -> Result<Option<Told<'a>>, CacheError> {
        if !policy.strategy.writes_first() {
            return Ok(None);
        }
        let asked_at = Instant::now();
        let is_conditional = |draft: &Draft| draft.condition != Condition::Always || draft.lease.is_some();
        let must_hold = draft.as_deref().is_some_and(is_conditional);
        // What another one's turn takes; the origin has its own time after it.
        let waits = left.min(policy.hard_deadline.saturating_mul(2));
        let turn = self.turns.take(key, waits).await.ok_or(CacheError::KeyBusy)?;
        let until = Instant::now() + left.saturating_sub(asked_at.elapsed()).min(policy.hard_deadline);
        let reserved = match &draft {
            Some(draft) if must_hold => Some(self.reserve(key, policy, draft, until).await?),
            _ => None,
        };
        // Only now: it has to be above that of whoever had the turn before, and of what is there.
        let version = self.versions.next(self.time.unix_us());
        let value = draft.as_deref().map(|draft| Loaded {
            value: draft.value.clone().unwrap_or_default(),
            content_type: draft.content_type.clone(),
            ttl: Some(draft.ttl),
            tags: draft.tags.clone(),
        });
        let change = Change { key: key.clone(), value, version };
        let stored = self.loads.origins.store(&policy.origin, &[change], time_to(until)).await;
        if let Err(error) = stored {
            if let (Some(Reserved::Ours(token)), Some(redis)) = (reserved, self.redis_of(policy)) {
                self.unreserve(redis, key, token).await;
            }
            return Err(CacheError::OriginRefused(error));
        }
        if let (Some(reserved), Some(draft)) = (reserved, draft) {
            draft.condition = Condition::Always;
            draft.lease = match reserved {
                Reserved::Ours(token) | Reserved::Callers(token) => Some(token),
                Reserved::Here => None,
            };
        }
        Ok(Some(Told { _turn: turn, version }))
    }

    /// Says how a change ended that the origin has taken and that was not stored here. What the cache holds may be older
    /// than what the origin holds: it goes, as far as it can.
    pub(super) async fn not_stored(
        &self,
        key: &Key,
        policy: &Policy,
        error: CacheError,
        left: Duration,
    ) -> CacheError {
        self.memory.remove(key);
        self.forget_on_disk(key);
        match error {
            CacheError::NotDurable { .. } => error,
            CacheError::LeaseLost => {
                // Which of the two changes the origin kept, only the origin knows.
                let _ = self.forget(key, policy, &Removal::default(), left.min(TO_STORE)).await;
                CacheError::Overtaken
            }
            error => CacheError::OriginAhead(Box::new(error)),
        }
    }

    /// Checks what a draft is conditional on, in a way that keeps it so.
    async fn reserve(
        &self,
        key: &Key,
        policy: &Policy,
        draft: &Draft,
        until: Instant,
    ) -> Result<Reserved, CacheError> {
        let Some(redis) = self.redis_of(policy) else {
            // Leases are given by Redis alone.
            if draft.lease.is_some() {
                return Err(CacheError::LeaseLost);
            }
            let version = self.version_here(key, policy).await;
            return check(draft.condition, version).map(|()| Reserved::Here);
        };
        if let Some(lease) = draft.lease {
            let is_held = redis.holds_lease(key, lease, time_to(until)).await;
            if !is_held.map_err(CacheError::NotReserved)? {
                return Err(CacheError::LeaseLost);
            }
            self.check_below(redis, key, draft.condition, until).await?;
            return Ok(Reserved::Callers(lease));
        }
        let token = self.token();
        let lasts = time_to(until).saturating_add(TO_STORE);
        while !redis.lease(key, token, lasts, time_to(until)).await.map_err(CacheError::NotReserved)? {
            if time_to(until) <= LOOK_EVERY {
                return Err(CacheError::KeyBusy);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        match self.check_below(redis, key, draft.condition, until).await {
            Ok(()) => Ok(Reserved::Ours(token)),
            Err(error) => {
                self.unreserve(redis, key, token).await;
                Err(error)
            }
        }
    }

    async fn check_below(
        &self,
        redis: &RedisLayer,
        key: &Key,
        condition: Condition,
        until: Instant,
    ) -> Result<(), CacheError> {
        if condition == Condition::Always {
            return Ok(());
        }
        let version = redis.version(key, time_to(until)).await.map_err(CacheError::NotReserved)?;
        self.versions.see(version.unwrap_or(0));
        check(condition, version).inspect_err(|_| self.memory.outdate(key, version.unwrap_or(0)))
    }

    /// Returns the version of the entry that a read would give where Redis is not used.
    async fn version_here(&self, key: &Key, policy: &Policy) -> Option<u64> {
        if self.held(key).is_none() {
            let loading = Loading { mark: self.memory.mark(key), epoch: self.invalidation.epoch() };
            self.found_on_disk(key, policy, loading).await;
        }
        let now = self.time.now();
        let version =
            self.held(key).filter(|held| held.has_value && held.is_alive(now)).map(|held| held.version);
        self.versions.see(version.unwrap_or(0));
        version
    }

    async fn unreserve(&self, redis: &RedisLayer, key: &Key, token: u64) {
        // If it fails, the lease ends by itself.
        let _ = redis.release(key, token, TO_STORE).await;
    }
}

fn check(condition: Condition, version: Option<u64>) -> Result<(), CacheError> {
    if condition.holds(version) {
        return Ok(());
    }
    Err(CacheError::VersionMismatch { version: version.unwrap_or(0) })
}

fn time_to(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}
