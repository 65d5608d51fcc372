//! L3 beside the other layers: filled behind them, asked when none of them can be.

use std::sync::Arc;
use std::time::Duration;

use super::keep::{Loading, confirmed_entry, own};
use super::{Engine, Found, FoundEntry, Policy};
use crate::entry::{Draft, Envelope, Written};
use crate::key::Key;
use crate::layer::disk::{Disk, Raised};
use crate::metrics::LastLayer;

impl Engine {
    /// Reads an entry from disk. Where Redis is not used, it goes back into memory.
    pub(super) async fn found_on_disk(&self, key: &Key, policy: &Policy, loading: Loading) -> Option<Found> {
        let disk = self.disk_of(policy)?;
        let envelope = disk.get(key).await?;
        let (now, now_unix_ms) = (self.time.now(), self.time.unix_ms());
        self.versions.see(envelope.version);
        let ttl_left = Duration::from_millis(envelope.expires_at_unix_ms.saturating_sub(now_unix_ms));
        let mut entry = confirmed_entry(&envelope, policy, ttl_left, now, loading.epoch);
        if !self.invalidation.admits(key, entry.version, entry.tags.iter()) {
            disk.forget(key);
            return None;
        }
        if policy.memory && self.redis_of(policy).is_none() && !ttl_left.is_zero() {
            entry.fresh_until = entry.lives_until;
            entry.kept_until = entry.lives_until;
            self.memory.fill(key, &entry, loading.mark);
        }
        let entry = FoundEntry {
            age: self.age(envelope.set_at_unix_ms),
            value: envelope.value?,
            content_type: envelope.content_type,
            version: envelope.version,
            ttl_left,
        };
        Some(Found { entry: Some(entry), layer: LastLayer::L3, stale: ttl_left.is_zero(), degraded: false })
    }

    /// Notes what is so before a look below memory.
    pub(super) fn loading(&self, key: &Key) -> Loading {
        Loading { mark: self.memory.mark(key), epoch: self.invalidation.epoch() }
    }

    /// Lets the disk have what was written.
    pub(super) fn written_to_disk(&self, key: &Key, policy: &Policy, draft: &Draft, written: Written) {
        if self.disk_of(policy).is_none() {
            return;
        }
        self.to_disk(
            key,
            policy,
            &Envelope {
                version: written.version,
                set_at_unix_ms: written.set_at_unix_ms,
                expires_at_unix_ms: written.set_at_unix_ms.saturating_add(draft.ttl.as_millis()),
                content_type: draft.content_type.clone(),
                tags: draft.tags.clone(),
                value: draft.value.clone(),
            },
        );
    }

    /// Lets the disk have what is true now.
    pub(super) fn to_disk(&self, key: &Key, policy: &Policy, envelope: &Envelope) {
        let Some(disk) = self.disk_of(policy) else { return };
        if envelope.value.is_none() {
            disk.forget(key);
            return;
        }
        if disk.has_version(key, envelope.version) {
            return;
        }
        let grace = if self.redis_of(policy).is_some() { policy.grace } else { Duration::ZERO };
        let value = envelope.value.as_ref().map(own);
        disk.put(key, Envelope { value, ..envelope.clone() }, grace, policy.compress_above);
    }

    /// Makes what the disk holds for a key unusable, for now at once and for ever soon, and tells whether there was anything.
    pub(crate) fn forget_on_disk(&self, key: &Key) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.forget(key))
    }

    /// Does so with what is older than a version.
    pub(crate) fn forget_older_on_disk(&self, key: &Key, version: u64) {
        if let Some(disk) = &self.disk {
            disk.forget_older(key, version);
        }
    }

    /// Makes what the disk holds for a tag or a namespace unusable after a restart too.
    pub(super) async fn raise_on_disk(&self, namespace: &str, tag: Option<&str>, number: u64) {
        if let Some(disk) = &self.disk {
            let tag = tag.map(Into::into);
            disk.raise(&Raised { namespace: namespace.into(), tag, number }).await;
        }
    }

    pub(super) fn disk_of(&self, policy: &Policy) -> Option<&Arc<Disk>> {
        self.disk.as_ref().filter(|_| policy.disk)
    }
}
