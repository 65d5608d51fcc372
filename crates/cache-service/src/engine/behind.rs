//! What is different where the origin learns of changes later.

use std::time::Duration;

use tracing::Instrument as _;

use super::{Deleted, Engine, Found, FoundEntry, Policy};
use crate::config::{Durability, Strategy};
use crate::entry::{Condition, Draft, Envelope};
use crate::error::CacheError;
use crate::key::{ContentType, Key, Tags};
use crate::metrics::LastLayer;
use crate::once::Once;
use crate::origin::OriginError;

impl Engine {
    /// Returns how many changes may wait, where changes wait.
    pub(super) fn max_queued_of(&self, policy: &Policy) -> Option<u64> {
        (policy.strategy == Strategy::WriteBehind).then_some(self.max_queued)
    }

    /// Removes an entry whose origin learns of it later. That there is nothing is stored in its place: a read must not load
    /// what the origin still has.
    pub(super) async fn remove_behind(
        &self,
        key: &Key,
        policy: &Policy,
        once: Option<Once>,
        left: Duration,
    ) -> Result<(Deleted, LastLayer), CacheError> {
        let redis = self.redis_of(policy).ok_or(CacheError::NoQueue)?;
        let span = tracing::info_span!("cache.delete", cache.namespace = key.namespace());
        let draft = Draft {
            value: None,
            content_type: ContentType::default(),
            tags: Tags::default(),
            lease: None,
            fence: None,
            ttl: policy.ttl,
            condition: Condition::Always,
            compress_above: policy.compress_above,
            max_queued: self.max_queued_of(policy),
            once,
            replica_ack: policy.durability == Durability::ReplicaAck,
        };
        let version = self.versions.next(self.time.unix_us());
        let stored = self.write_below(redis, key, policy, &draft, version, left).instrument(span).await;
        stored.map(|(stored, layer)| (Deleted { existed: stored.replaced, replayed: stored.replayed }, layer))
    }

    /// Returns what waits for the origin, which has something older: it is the answer to a read whose entry has ended, was
    /// evicted or was invalidated. None: the origin is to be asked, and what it has may be kept.
    pub(super) async fn found_waiting(
        &self,
        key: &Key,
        policy: &Policy,
        left: Duration,
    ) -> Result<Option<Found>, OriginError> {
        let Some(redis) = self.redis_of(policy).filter(|_| policy.strategy == Strategy::WriteBehind) else {
            return Ok(None);
        };
        match redis.waiting(key, left).await {
            Ok(None) => Ok(None),
            Ok(Some(envelope)) => Ok(Some(self.found_in_queue(envelope))),
            // What the origin has may be older than what nobody can see now, so it is not kept.
            Err(_) => {
                let loaded = self.loads.origins.load(&policy.origin, key, left).await?;
                Ok(Some(Found { degraded: true, ..self.found_at_origin(loaded, policy, 0) }))
            }
        }
    }

    fn found_in_queue(&self, envelope: Envelope) -> Found {
        self.versions.see(envelope.version);
        let ttl_left = envelope.expires_at_unix_ms.saturating_sub(self.time.unix_ms());
        let entry = envelope.value.map(|value| FoundEntry {
            age: self.age(envelope.set_at_unix_ms),
            value,
            content_type: envelope.content_type,
            version: envelope.version,
            ttl_left: Duration::from_millis(ttl_left),
        });
        Found { entry, layer: LastLayer::L2, stale: false, degraded: false }
    }
}
