//! Invalidation on demand: by key, by tag, by namespace.

use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;

use super::Engine;
use crate::error::CacheError;
use crate::key::Key;
use crate::metrics::LastLayer;
use crate::redis;

/// What to invalidate.
#[derive(Debug)]
pub(crate) struct Invalidate {
    pub(crate) namespace: Box<str>,
    /// All in that namespace.
    pub(crate) keys: Vec<Key>,
    pub(crate) tags: Vec<Box<str>>,
    pub(crate) all: bool,
}

/// What an invalidation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Invalidated {
    pub(crate) position: u64,
    pub(crate) n_keys_removed: u64,
}

impl Engine {
    /// Numbers the invalidation in Redis, from where every node learns of it, and applies it here at once.
    pub(crate) async fn invalidate(
        &self,
        what: &Invalidate,
        left: Duration,
    ) -> Result<Invalidated, CacheError> {
        let started = Instant::now();
        let done = self.invalidate_everywhere(what, left).await;
        let (metrics, layer) = (&self.metrics.invalidate, self.redis.as_ref().map(|_| LastLayer::L2));
        match &done {
            Ok(_) => {
                metrics.done.inc();
                metrics.took(started.elapsed(), layer.unwrap_or(LastLayer::L1));
            }
            Err(_) => drop(metrics.errors.inc()),
        }
        done
    }

    async fn invalidate_everywhere(
        &self,
        what: &Invalidate,
        left: Duration,
    ) -> Result<Invalidated, CacheError> {
        if self.namespaces.get(&what.namespace).is_none() {
            return Err(CacheError::UnknownNamespace { namespace: what.namespace.to_string() });
        }
        let number = self.versions.next(self.time.unix_us());
        let n_held = self.invalidate_here(what, number).await;
        let Some(redis) = &self.redis else {
            return Ok(Invalidated { position: number, n_keys_removed: n_held });
        };
        let Invalidate { namespace, keys, tags, all } = what;
        let below = redis::Invalidation { namespace, keys, tags, all: *all };
        let span = tracing::info_span!("cache.invalidate", cache.namespace = &**namespace);
        match redis.invalidate(&below, number, left).instrument(span).await {
            Ok((position, n_keys_removed)) => {
                self.versions.see(position);
                // Once more: a read between the two may have brought something back.
                self.invalidate_here(what, position).await;
                Ok(Invalidated { position, n_keys_removed })
            }
            Err(error) => {
                self.invalidation.metrics.failures.inc();
                if error.is_overload() {
                    return Err(CacheError::Overloaded);
                }
                Err(CacheError::NotInvalidated(error))
            }
        }
    }

    async fn invalidate_here(&self, what: &Invalidate, number: u64) -> u64 {
        let now = self.time.now();
        let is_there = |key: &&Key| self.memory.remove(key).is_some_and(|entry| entry.is_alive(now));
        let n_held = what.keys.iter().filter(is_there).count();
        for tag in &what.tags {
            self.invalidation.raise_tag(&what.namespace, tag, number);
            self.raise_on_disk(&what.namespace, Some(tag), number).await;
        }
        if what.all {
            self.invalidation.raise_namespace(&what.namespace, number);
            self.raise_on_disk(&what.namespace, None, number).await;
        }
        if let Some(disk) = &self.disk {
            for key in &what.keys {
                disk.remove(key).await;
            }
        }
        n_held as u64
    }
}
