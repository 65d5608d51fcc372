//! Bringing keys in before they are asked for: as a read does, through the same loads, but not counted as reads.

use std::time::Duration;

use super::keep::Loading;
use super::{Engine, Found, Policy, Set};
use crate::config::Strategy;
use crate::error::CacheError;
use crate::key::Key;
use crate::origin::Seat;

/// Time for a key, where the namespace gives its loads less.
const WITHIN: Duration = Duration::from_secs(1);

/// How a key ended that was to be brought in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Warmed {
    /// So many bytes of key and value came.
    Loaded { bytes: u64 },
    /// It was there before.
    Present,
    /// Nobody has it.
    Absent,
}

impl Engine {
    /// Brings a key into memory from where a read of it would find it.
    pub(crate) async fn warm(&self, key: &Key, seat: Option<Seat>) -> Result<Warmed, CacheError> {
        let namespace = self.namespace(key)?;
        let (policy, now) = (&namespace.policy, self.time.now());
        let held = if policy.memory { self.held(key) } else { None };
        if held.as_ref().is_some_and(|held| self.suffices(key, policy, held, now)) {
            return Ok(Warmed::Present);
        }
        let within = policy.hard_deadline.max(WITHIN);
        let found = match self.redis_of(policy) {
            _ if policy.strategy != Strategy::CacheAside => {
                self.load(key, policy, None, within, seat).await?
            }
            Some(redis) => self.read_below(redis, key, policy, held, within).await?,
            None => {
                let loading = Loading { mark: self.memory.mark(key), epoch: self.invalidation.epoch() };
                self.found_on_disk(key, policy, loading).await.unwrap_or_else(Found::nothing)
            }
        };
        match found.entry {
            _ if found.degraded => Err(CacheError::NotLoaded { message: "redis does not answer".to_owned() }),
            Some(entry) => Ok(Warmed::Loaded { bytes: (key.as_str().len() + entry.value.len()) as u64 }),
            None => Ok(Warmed::Absent),
        }
    }

    /// Stores a value that is known beforehand; its condition must be that the key is not there.
    pub(crate) async fn warm_with(&self, set: Set) -> Result<Warmed, CacheError> {
        let bytes = (set.key.as_str().len() + set.value.len()) as u64;
        let policy = &self.namespace(&set.key)?.policy;
        match self.write(set, policy.hard_deadline.max(WITHIN)).await {
            Ok((stored, _)) if stored.is_degraded() => {
                Err(CacheError::NotLoaded { message: "redis does not answer".to_owned() })
            }
            Ok(_) => Ok(Warmed::Loaded { bytes }),
            Err(CacheError::VersionMismatch { .. }) => Ok(Warmed::Present),
            Err(error) => Err(error),
        }
    }

    /// Tells whether callers keep what a namespace is loaded from busy: more than so many commands or loads are under way.
    /// Also while Redis is away, or what comes from it could not be proven by the log of changes.
    pub(crate) fn is_busy(&self, policy: &Policy, above: usize) -> bool {
        let redis = self.redis_of(policy).map(|layer| layer.redis());
        self.loads.n_under_way() > above
            || redis.is_some_and(|redis| redis.n_in_flight() > above)
            || (redis.is_some() && !self.is_settled())
    }

    /// Tells whether Redis, if there is one, answers, and the log of changes is read to its end.
    pub(crate) fn is_settled(&self) -> bool {
        let current = || self.invalidation.is_current(self.time.now());
        self.redis.as_ref().is_none_or(|layer| layer.redis().is_available() && current())
    }
}
