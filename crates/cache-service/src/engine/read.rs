//! What a read asks below memory, and how an answer goes back into memory.

use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;

use super::keep::{Loading, confirmed_entry};
use super::reconcile::{Right, reconcile};
use super::{Engine, Found, FoundEntry, Namespace, Policy};
use crate::config::Strategy;
use crate::entry::Envelope;
use crate::error::CacheError;
use crate::key::Key;
use crate::layer::memory::Held;
use crate::layer::redis::{Left, RedisLayer};
use crate::metrics::LastLayer;
use crate::origin::Seat;
use crate::time::Moment;

impl Engine {
    pub(super) async fn read(
        &self,
        key: &Key,
        started: Instant,
        left: Duration,
        seat: Option<Seat>,
    ) -> Result<Found, CacheError> {
        let namespace = self.namespace(key)?;
        let (policy, now) = (&namespace.policy, self.time.at(started));
        let mut held = if policy.memory { self.held(key) } else { None };
        let alone = held.take_if(|entry| self.suffices(key, policy, entry, now));
        let alone = alone.map(|entry| self.found_in_memory(entry, now));
        let found = match (alone, self.redis_of(policy)) {
            (Some(found), _) => {
                self.refresh_ahead(&namespace, key, &found);
                Ok(found)
            }
            (None, _) if policy.strategy != Strategy::CacheAside => {
                let stale = held.filter(|held| held.has_value && held.is_kept(now));
                let stale = stale.map(|entry| self.found_in_memory(entry, now));
                let span = tracing::info_span!("cache.get", cache.namespace = key.namespace());
                self.load(key, policy, stale, left, seat).instrument(span).await
            }
            (None, Some(redis)) => {
                let span = tracing::info_span!("cache.get", cache.namespace = key.namespace());
                self.read_below(redis, key, policy, held, left).instrument(span).await
            }
            (None, None) => {
                if held.is_some() {
                    self.memory.expire(key, now);
                }
                Ok(self.found_on_disk(key, policy, self.loading(key)).await.unwrap_or_else(Found::nothing))
            }
        };
        namespace.gets.inc();
        let is_hit = matches!(&found, Ok(found) if found.entry.is_some());
        if let Ok(found) = &found {
            self.count_misses(&namespace, found);
            if is_hit {
                namespace.hits_in(found.layer).inc();
                namespace.stale_in(found.layer).inc_by(found.stale.into());
            }
        }
        self.insight.observe(key, is_hit);
        if let Some(adaptive) = &namespace.adaptive {
            adaptive.read(key);
        }
        found
    }

    /// Counts the layers that were asked before the one that answered. One that could not be asked has missed nothing.
    fn count_misses(&self, namespace: &Namespace, found: &Found) {
        let policy = &namespace.policy;
        let below = |layer| found.layer == LastLayer::None || found.layer as usize > layer as usize;
        let redis_is_used = self.redis_of(policy).is_some();
        let asks_disk = !redis_is_used || found.degraded;
        for (layer, was_asked) in [
            (LastLayer::L1, policy.memory),
            (LastLayer::L2, redis_is_used && !found.degraded),
            (LastLayer::L3, asks_disk && self.disk_of(policy).is_some()),
        ] {
            if was_asked && below(layer) {
                namespace.misses_in(layer).inc();
            }
        }
    }

    pub(super) async fn read_below(
        &self,
        redis: &RedisLayer,
        key: &Key,
        policy: &Policy,
        held: Option<Held>,
        left: impl Into<Left>,
    ) -> Result<Found, CacheError> {
        let loading = Loading { mark: self.memory.mark(key), epoch: self.invalidation.epoch() };
        let left = left.into();
        // What only Redis keeps is read there by each: a shared answer could be older than the question. So is what a load
        // asks for, which is one for all as it is: under a lease an older answer would not do.
        let answer = if policy.memory && !left.patient {
            self.read_together(redis, key, loading, left.time).await
        } else {
            redis.read(key, left).await
        };
        // It may have been invalidated while Redis was asked.
        let held = held.filter(|held| self.invalidation.admits(key, held.version, held.tags()));
        let now = self.time.now();
        match (answer, held) {
            (Ok(found), held) => match (reconcile(held.as_deref(), found.as_ref(), now), held, found) {
                (Right::Memory, Some(held), _) => {
                    Ok(Found { degraded: true, ..self.found_in_memory(held, now) })
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
                Ok(Found { stale: true, degraded: true, ..self.found_in_memory(held, now) })
            }
            (Err(error), _) if error.is_overload() => Err(CacheError::Overloaded),
            (Err(_), _) => {
                let found = self.found_on_disk(key, policy, loading).await;
                Ok(Found { degraded: true, ..found.unwrap_or_else(Found::nothing) })
            }
        }
    }

    pub(super) fn found_in_memory(&self, held: Held, now: Moment) -> Found {
        let (head, content_type, value) = held.into_parts();
        let entry = value.map(|value| FoundEntry {
            value,
            content_type,
            version: head.version,
            ttl_left: head.lives_until.left(now),
            age: self.age(head.set_at_unix_ms),
        });
        Found { entry, layer: LastLayer::L1, stale: false, degraded: false }
    }

    pub(super) fn found_in_redis(
        &self,
        key: &Key,
        policy: &Policy,
        envelope: Envelope,
        loading: Loading,
    ) -> Found {
        let now = self.time.now();
        self.versions.see(envelope.version);
        // Redis says by having it that it lives, whatever our clock says of its end.
        let ttl_left = Duration::from_millis(envelope.expires_at_unix_ms.saturating_sub(self.time.unix_ms()));
        if policy.memory && !ttl_left.is_zero() {
            let entry = confirmed_entry(&envelope, policy, ttl_left, now, loading.epoch);
            self.memory.fill(key, &entry, loading.mark);
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
}
