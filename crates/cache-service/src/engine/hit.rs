//! The fast way of a read: memory alone, without a future, with the clocks read once for many keys.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Engine, Found, Namespace, Policy};
use crate::config::Strategy;
use crate::key::{Key, Namespace as Namespaced};
use crate::layer::memory::{Held, LOOKED_AT_ONCE, Record, Value};
use crate::layer::redis::RedisLayer;
use crate::metrics::LastLayer;
use crate::time::Moment;

/// Answers reads of one namespace from memory, as of one moment. Counts what it answered when dropped.
pub(crate) struct Hits<'a> {
    engine: &'a Engine,
    namespace: Arc<Namespace>,
    now: Moment,
    unix_ms: u64,
    proof: Proof,
    /// Whether entries may be shown where they lie; a hit that may start a load has to be a [`Hits::get`].
    sees: bool,
    started: Instant,
    n_hits: u32,
    /// Of the namespace.
    name: &'a str,
    /// Where full keys are put together.
    text: String,
}

/// What memory needs to answer alone, as of that moment.
#[derive(Clone, Copy)]
enum Proof {
    /// There is no layer below.
    None,
    Epoch(u32),
    /// The log of changes cannot be read.
    Impossible,
}

/// An entry as it lies in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) value: Value<'a>,
    pub(crate) content_type: &'a str,
    pub(crate) version: u64,
    pub(crate) ttl_left_ms: u64,
    pub(crate) age_ms: u64,
}

impl Engine {
    /// Begins reads of a namespace; none when it may not be used.
    pub(crate) fn hits<'a>(&'a self, namespace: &'a str) -> Option<Hits<'a>> {
        let name = Namespaced::try_new(namespace).ok()?.as_str();
        let (namespace, started) = (self.namespaces.get(name)?, Instant::now());
        let now = self.time.at(started);
        let proof = match self.redis_of(&namespace.policy) {
            None => Proof::None,
            Some(redis) if self.invalidation.is_current_in(redis.partition_of(name), now) => {
                Proof::Epoch(self.invalidation.epoch())
            }
            Some(_) => Proof::Impossible,
        };
        // A strategy that acts on a hit, or watches it, is not among them.
        let is_passive = matches!(
            namespace.policy.strategy,
            Strategy::CacheAside | Strategy::ReadThrough | Strategy::WriteThrough | Strategy::WriteBehind
        );
        let sees = namespace.policy.memory && is_passive && namespace.adaptive.is_none();
        Some(Hits {
            engine: self,
            namespace,
            now,
            unix_ms: self.time.unix_ms(),
            proof,
            sees,
            started,
            n_hits: 0,
            name,
            text: String::with_capacity(name.len() + 64),
        })
    }

    /// Tells whether a miss of this namespace is a load from its origin.
    pub(crate) fn loads_misses(&self, namespace: &str) -> bool {
        let namespace = self.namespaces.get(namespace);
        namespace.is_some_and(|namespace| namespace.policy.strategy != Strategy::CacheAside)
    }

    /// Tells whether memory may answer alone, with this entry. All reads pass here.
    ///
    /// Where Redis is used, the log of changes must prove that nothing was missed. A write that Redis never confirmed is
    /// here alone, so there is nothing to miss.
    pub(super) fn suffices(&self, key: &Key, policy: &Policy, entry: &Held, now: Moment) -> bool {
        let proves =
            |redis: &RedisLayer| self.invalidation.proves(redis.partition_of(key.namespace()), entry, now);
        let proven = !entry.confirmed || self.redis_of(policy).is_none_or(proves);
        proven && entry.is_fresh(now)
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
    /// Shows an entry where it lies, if memory alone can answer; else the read is for [`Hits::get`], and nothing is counted.
    ///
    /// All but large values are shown under the lock of their shard: the caller copies it and does nothing else.
    pub(crate) fn look<T>(&mut self, name: &str, show: impl FnOnce(&Seen<'_>) -> T) -> Option<T> {
        if !self.sees {
            return None;
        }
        self.text.clear();
        self.text.push_str(self.name);
        self.text.push(':');
        self.text.push_str(name);
        let memory = &self.engine.memory;
        let shown = memory.look(&self.text, |record| self.seen(record).map(|seen| show(&seen)))??;
        self.n_hits += 1;
        self.engine.insight.observe_text(&self.text, true);
        Some(shown)
    }

    /// Does the same for up to [`LOOKED_AT_ONCE`] keys, in their order, until one is not shown, or `show` returns false. Returns
    /// how many were shown; the next may still be one for [`Hits::look`].
    pub(crate) fn look_at_once<'n>(
        &mut self,
        names: impl Iterator<Item = &'n str>,
        mut show: impl FnMut(u32, &Seen<'_>) -> bool,
    ) -> u32 {
        if !self.sees {
            return 0;
        }
        let (mut ends, mut n) = ([0; LOOKED_AT_ONCE], 0);
        self.text.clear();
        for name in names.take(LOOKED_AT_ONCE) {
            self.text.push_str(self.name);
            self.text.push(':');
            self.text.push_str(name);
            ends[n] = self.text.len();
            n += 1;
        }
        let mut keys = [""; LOOKED_AT_ONCE];
        let mut start = 0;
        for (key, end) in keys.iter_mut().zip(&ends[..n]) {
            *key = &self.text[start..*end];
            start = *end;
        }
        let mut n_shown = 0;
        self.engine.memory.look_at_once(&keys[..n], |record| {
            let Some(seen) = self.seen(record) else { return false };
            n_shown += 1;
            show(n_shown - 1, &seen)
        });
        for key in &keys[..n_shown as usize] {
            self.engine.insight.observe_text(key, true);
        }
        self.n_hits += n_shown;
        n_shown
    }

    /// Returns an entry if memory alone may answer with it.
    fn seen<'r>(&self, record: &Record<'r>) -> Option<Seen<'r>> {
        let head = record.head();
        let proven = match self.proof {
            _ if !head.confirmed => true,
            Proof::None => true,
            Proof::Epoch(epoch) => head.epoch == epoch,
            Proof::Impossible => false,
        };
        let answers = proven
            && head.has_value
            && head.is_fresh(self.now)
            && self.engine.invalidation.admits_in(self.name, head.version, record.tags());
        answers.then(|| Seen {
            value: record.value(),
            content_type: record.content_type(),
            version: head.version,
            ttl_left_ms: head.lives_until.as_millis().saturating_sub(self.now.as_millis()),
            age_ms: self.unix_ms.saturating_sub(head.set_at_unix_ms),
        })
    }

    /// Counts nothing: somebody else answers all of it.
    pub(crate) fn forget(mut self) {
        self.n_hits = 0;
    }

    /// Answers if memory alone can; else the read is for [`Engine::get`], and nothing is counted.
    pub(crate) fn get(&mut self, key: &Key) -> Option<Found> {
        if !self.namespace.policy.memory {
            return None;
        }
        let held = self.engine.held(key).filter(|held| held.has_value)?;
        if !self.engine.suffices(key, &self.namespace.policy, &held, self.now) {
            return None;
        }
        let found = self.engine.found_in_memory(held, self.now);
        self.engine.refresh_ahead(&self.namespace, key, &found);
        self.n_hits += 1;
        self.engine.insight.observe(key, true);
        if let Some(adaptive) = &self.namespace.adaptive {
            adaptive.read(key);
        }
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
        metrics.get.each_took(each, LastLayer::L1, n_hits);
        metrics.get.done.inc_by(n_hits);
        metrics.hits_l1.inc_by(n_hits);
        self.namespace.gets.inc_by(n_hits);
        self.namespace.hits_in(LastLayer::L1).inc_by(n_hits);
    }
}
