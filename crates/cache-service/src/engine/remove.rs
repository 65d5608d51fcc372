//! What a delete does in each layer.

use std::time::Duration;

use tracing::Instrument as _;

use super::write::{ForgetOnDrop, check_once};
use super::{Deleted, Engine, Policy};
use crate::config::{Durability, Strategy};
use crate::entry::{Head, Removal, Removed};
use crate::error::CacheError;
use crate::key::Key;
use crate::layer::redis::LayerError;
use crate::metrics::LastLayer;
use crate::once::Made;
use crate::time::Moment;

impl Engine {
    pub(super) async fn remove(
        &self,
        key: &Key,
        removal: Removal,
        left: Duration,
    ) -> Result<(Deleted, LastLayer), CacheError> {
        let namespace = self.namespace(key)?;
        let policy = &namespace.policy;
        self.check_fence(key, policy, removal.fence.as_ref())?;
        check_once(policy, removal.once.as_ref())?;
        let removal = Removal { replica_ack: policy.durability == Durability::ReplicaAck, ..removal };
        if policy.strategy == Strategy::WriteBehind {
            return self.remove_behind(key, policy, removal.once, left).await;
        }
        if removal.fence.is_some() || removal.once.is_some() {
            return self.remove_if(key, policy, &removal, left).await;
        }
        let told = self.tell_first(key, policy, None, left).await?;
        let removed = self.forget(key, policy, &removal, left).await;
        match removed {
            Err(error) if told.is_some() => Err(self.not_stored(key, policy, error, left).await),
            removed => removed,
        }
    }

    /// Removes a key from every layer, and tells whether it was in one.
    pub(super) async fn forget(
        &self,
        key: &Key,
        policy: &Policy,
        removal: &Removal,
        left: Duration,
    ) -> Result<(Deleted, LastLayer), CacheError> {
        let now = self.time.now();
        let held = was_here(self.memory.remove(key), now);
        let on_disk = self.remove_on_disk(key).await;
        let Some(redis) = self.redis_of(policy) else {
            return Ok((done(held || on_disk), if on_disk { LastLayer::L3 } else { LastLayer::L1 }));
        };
        let span = tracing::info_span!("cache.delete", cache.namespace = key.namespace());
        // Once more at the end, also when the caller goes away: a read between the two may have brought it back.
        let _gone = ForgetOnDrop { memory: &self.memory, key };
        let lowest_version = self.versions.next(self.time.unix_us());
        let removed = redis.delete(key, removal, lowest_version, left).instrument(span).await;
        let deleted = self.removed(key, removed)?;
        Ok((Deleted { existed: deleted.existed || held, ..deleted }, LastLayer::L2))
    }

    /// Removes a key if nobody else got the lock since, and it was not made before. What says so is asked first: memory is
    /// not touched before.
    async fn remove_if(
        &self,
        key: &Key,
        policy: &Policy,
        removal: &Removal,
        left: Duration,
    ) -> Result<(Deleted, LastLayer), CacheError> {
        let now = self.time.now();
        let lowest_version = self.versions.next(self.time.unix_us());
        let Some(redis) = self.redis_of(policy) else {
            let (made, replayed) = self.made_here.make(key, removal.once.as_ref(), || {
                let passed = removal.fence.as_ref().map(|fence| self.fences.pass(fence)).transpose();
                let _passed = passed.map_err(|newest| CacheError::Fenced { newest })?;
                let on_disk = self.forget_on_disk(key);
                let existed = was_here(self.memory.remove(key), now) || on_disk;
                Ok(Made { version: lowest_version, existed })
            })?;
            if !replayed {
                self.remove_on_disk(key).await;
            }
            return Ok((Deleted { existed: made.existed, replayed }, LastLayer::L1));
        };
        let span = tracing::info_span!("cache.delete", cache.namespace = key.namespace());
        let _gone = ForgetOnDrop { memory: &self.memory, key };
        let removed = redis.delete(key, removal, lowest_version, left).instrument(span).await;
        let deleted = self.removed(key, removed)?;
        if deleted.replayed {
            return Ok((deleted, LastLayer::L2));
        }
        let held = was_here(self.memory.remove(key), now);
        self.remove_on_disk(key).await;
        Ok((Deleted { existed: deleted.existed || held, ..deleted }, LastLayer::L2))
    }

    fn removed(&self, key: &Key, removed: Result<Removed, LayerError>) -> Result<Deleted, CacheError> {
        match removed {
            Ok(Removed::Done(made)) => {
                self.versions.see(made.version);
                Ok(done(made.existed))
            }
            Ok(Removed::Replayed(made)) => Ok(Deleted { existed: made.existed, replayed: true }),
            Ok(Removed::Fenced { newest }) => Err(CacheError::Fenced { newest }),
            Ok(Removed::OnceReused) => Err(CacheError::OnceReused),
            Ok(Removed::NotDurable { version }) => {
                self.not_durable(key, version);
                Err(CacheError::NotDurable { version })
            }
            Err(error) if error.is_overload() => Err(CacheError::Overloaded),
            Err(error) => Err(CacheError::NotDeleted(error)),
        }
    }

    async fn remove_on_disk(&self, key: &Key) -> bool {
        match &self.disk {
            Some(disk) => disk.remove(key).await,
            None => false,
        }
    }
}

fn done(existed: bool) -> Deleted {
    Deleted { existed, replayed: false }
}

fn was_here(held: Option<Head>, now: Moment) -> bool {
    held.is_some_and(|held| held.has_value && held.is_alive(now))
}
