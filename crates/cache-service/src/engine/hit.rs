//! The fast way of a read: memory alone, without a future, with the clocks read once for many keys.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Engine, Found, Namespace, Policy};
use crate::config::Strategy;
use crate::key::Key;
use crate::layer::memory::Held;
use crate::metrics::LastLayer;
use crate::time::Moment;

/// Answers reads of one namespace from memory, as of one moment. Counts what it answered when dropped.
pub(crate) struct Hits<'a> {
    engine: &'a Engine,
    namespace: Arc<Namespace>,
    now: Moment,
    started: Instant,
    n_hits: u32,
}

impl Engine {
    /// Begins reads of a namespace; none when it may not be used.
    pub(crate) fn hits(&self, namespace: &str) -> Option<Hits<'_>> {
        let namespace = self.namespaces.get(namespace)?;
        Some(Hits { engine: self, namespace, now: self.time.now(), started: Instant::now(), n_hits: 0 })
    }

    /// Tells whether a miss of this namespace is a load from its origin.
    pub(crate) fn loads_misses(&self, namespace: &str) -> bool {
        let namespace = self.namespaces.get(namespace);
        namespace.is_some_and(|namespace| namespace.policy.strategy != Strategy::CacheAside)
    }

    /// Answers with what memory holds, if it may answer alone. All reads pass here.
    ///
    /// Where Redis is used, the log of changes must prove that nothing was missed. A write that Redis never confirmed is
    /// here alone, so there is nothing to miss.
    pub(super) fn alone(&self, policy: &Policy, entry: &Held, now: Moment) -> Option<Found> {
        let proven =
            !entry.confirmed || self.redis_of(policy).is_none() || self.invalidation.proves(entry, now);
        (proven && entry.is_fresh(now)).then(|| self.found_in_memory(entry, now))
    }

    /// Returns what memory holds, fresh or not, unless its tags or its namespace were invalidated.
    pub(super) fn held(&self, key: &Key) -> Option<Held> {
        let entry = self.memory.get(key)?;
        if self.invalidation.admits(key, entry.version, entry.tags()) {
            return Some(entry);
        }
        self.memory.outlived(key, entry.version);
        None
    }
}

impl Hits<'_> {
    /// Answers if memory alone can; else the read is for [`Engine::get`], and nothing is counted.
    pub(crate) fn get(&mut self, key: &Key) -> Option<Found> {
        if !self.namespace.policy.memory {
            return None;
        }
        let found = self.engine.alone(&self.namespace.policy, &self.engine.held(key)?, self.now)?;
        found.entry.as_ref()?;
        self.engine.refresh_ahead(&self.namespace, key, &found);
        self.n_hits += 1;
        self.engine.insight.observe(key, true);
        Some(found)
    }
}

impl Drop for Hits<'_> {
    fn drop(&mut self) {
        if self.n_hits == 0 {
            return;
        }
        let (metrics, n_hits) = (&self.engine.metrics, u64::from(self.n_hits));
        let each = self.started.elapsed() / self.n_hits;
        for _ in 0..self.n_hits {
            metrics.get.took(each, LastLayer::L1);
        }
        metrics.get.done.inc_by(n_hits);
        metrics.hits_l1.inc_by(n_hits);
        self.namespace.gets.inc_by(n_hits);
        self.namespace.hits_in(LastLayer::L1).inc_by(n_hits);
    }
}
