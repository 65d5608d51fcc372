//! L1: the memory of this process, bounded by bytes.

use std::hash::BuildHasher as _;
use std::mem::size_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use crate::entry::{Condition, Entry};
use crate::key::Key;
use crate::time::Moment;

/// What an entry costs beyond key, content type and value: entry and counters of its `Arc`, the key's pointer, the
/// cache's own slot, ghost and table (75 bytes, measured), and the headers of four allocations.
pub(crate) const ENTRY_OVERHEAD_BYTES: u64 =
    (size_of::<Entry>() + size_of::<Key>() + 16 + 75 + 4 * 16) as u64;

const STRIPES: usize = 256;
/// Below this a shard holds too few entries to choose well what to evict.
const SHARD_BYTES_MIN: u64 = 1 << 20;
const SHARDS_MAX: u64 = 16;
/// Only used to size tables at the start; they grow.
const TYPICAL_ENTRY_BYTES: u64 = 1024;

/// Keeps entries up to a number of bytes.
///
/// Reads take one lock of a shard. Changes of a key also take the lock of its stripe, so that checking a version and
/// storing is one step. An entry read from below is stored only if its stripe has not changed since the reading
/// began: a set or delete during a load wins over the load.
#[derive(Debug)]
pub(crate) struct Memory {
    cache: Cache<Key, Arc<Entry>, Weigher, DefaultHashBuilder, CountEvictions>,
    stripes: Box<[Mutex<u64>]>,
    hasher: DefaultHashBuilder,
    evictions: Arc<AtomicU64>,
    expirations: AtomicU64,
}

/// Remembers the state of a key's stripe before a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u64);

/// Figures of [`Memory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryFigures {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) capacity_bytes: u64,
    pub(crate) evictions: u64,
    pub(crate) expirations: u64,
}

impl Memory {
    /// Holds `capacity_bytes`; each shard has room for several values of `largest_value_bytes`.
    pub(crate) fn new(capacity_bytes: u64, largest_value_bytes: u64) -> Self {
        let shard_bytes = SHARD_BYTES_MIN.max(4 * largest_value_bytes);
        let shards = prev_power_of_two((capacity_bytes / shard_bytes).clamp(1, SHARDS_MAX));
        // Rounded up when divided among the shards, so it is made divisible.
        let capacity_bytes = capacity_bytes / shards * shards;
        let options = OptionsBuilder::new()
            .shards(usize::try_from(shards).expect("at most 16"))
            .estimated_items_capacity(
                usize::try_from(capacity_bytes / TYPICAL_ENTRY_BYTES).unwrap_or(usize::MAX),
            )
            .weight_capacity(capacity_bytes)
            .build()
            .expect("both capacities are given");
        let evictions = Arc::new(AtomicU64::new(0));
        let lifecycle = CountEvictions(Arc::clone(&evictions));
        Self {
            cache: Cache::with_options(options, Weigher, DefaultHashBuilder::default(), lifecycle),
            stripes: (0..STRIPES).map(|_| Mutex::new(0)).collect(),
            hasher: DefaultHashBuilder::default(),
            evictions,
            expirations: AtomicU64::new(0),
        }
    }

    /// Returns what is held, fresh or not.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.cache.get(key)
    }

    /// Notes the state of a key before it is loaded from below.
    pub(crate) fn mark(&self, key: &Key) -> Mark {
        Mark(*self.stripe(key).lock())
    }

    /// Stores a loaded entry unless the key was changed since the mark.
    pub(crate) fn fill(&self, key: &Key, entry: Entry, mark: Mark) {
        let stripe = self.stripe(key).lock();
        if Mark(*stripe) == mark {
            self.cache.insert(key.clone(), Arc::new(entry));
        }
    }

    /// Stores a written entry unless one with a higher version is held.
    pub(crate) fn put(&self, key: &Key, entry: Entry) {
        let mut stripe = self.stripe(key).lock();
        *stripe += 1;
        let newer_is_held = self.cache.peek(key).is_some_and(|held| held.version > entry.version);
        if !newer_is_held {
            self.cache.insert(key.clone(), Arc::new(entry));
        }
    }

    /// Stores a written entry if its condition holds for what lives here; else tells the version that does, 0 for none.
    pub(crate) fn put_if(
        &self,
        key: &Key,
        entry: Entry,
        condition: Condition,
        now: Moment,
    ) -> Result<(), u64> {
        let mut stripe = self.stripe(key).lock();
        let version = self.cache.peek(key).filter(|held| held.is_alive(now)).map(|held| held.version);
        if !condition.holds(version) {
            return Err(version.unwrap_or(0));
        }
        *stripe += 1;
        self.cache.insert(key.clone(), Arc::new(entry));
        Ok(())
    }

    /// Removes a key whose version in the layer below is another one. A write that is only here stays.
    pub(crate) fn outdate(&self, key: &Key, version: u64) {
        let mut stripe = self.stripe(key).lock();
        *stripe += 1;
        self.cache.remove_if(key, |held| held.confirmed && held.version != version);
    }

    /// Removes an entry that was invalidated after this version.
    pub(crate) fn outlived(&self, key: &Key, version: u64) {
        let _stripe = self.stripe(key).lock();
        self.cache.remove_if(key, |held| held.version <= version);
    }

    /// Removes a key that was changed elsewhere unless what is held is as new; loads under way will not bring it back.
    pub(crate) fn remove_older(&self, key: &Key, version: u64) {
        let mut stripe = self.stripe(key).lock();
        let is_as_new = self.cache.peek(key).is_some_and(|held| held.version >= version);
        if !is_as_new {
            *stripe += 1;
            self.cache.remove(key);
        }
    }

    /// Removes a key; loads under way will not bring it back.
    pub(crate) fn remove(&self, key: &Key) -> Option<Arc<Entry>> {
        let mut stripe = self.stripe(key).lock();
        *stripe += 1;
        self.cache.remove(key).map(|(_, entry)| entry)
    }

    /// Removes a key that the layer below no longer has, unless it was changed since the mark.
    pub(crate) fn forget(&self, key: &Key, mark: Mark) {
        let stripe = self.stripe(key).lock();
        if Mark(*stripe) == mark {
            self.cache.remove(key);
        }
    }

    /// Removes one entry that is of no use any more, if it is still held.
    pub(crate) fn expire(&self, key: &Key, now: Moment) {
        if self.cache.remove_if(key, |entry| !entry.is_kept(now)).is_some() {
            self.expirations.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Removes every entry that is of no use any more.
    pub(crate) fn sweep(&self, now: Moment) {
        let n_removed = AtomicU64::new(0);
        self.cache.retain(|_, entry| {
            let keep = entry.is_kept(now);
            if !keep {
                n_removed.fetch_add(1, Ordering::Relaxed);
            }
            keep
        });
        self.expirations.fetch_add(n_removed.into_inner(), Ordering::Relaxed);
    }

    /// Shows each entry: its key, the bytes of key and value, and the end of its ttl.
    pub(crate) fn visit(&self, mut see: impl FnMut(&Key, u64, Moment)) {
        for (key, entry) in self.cache.iter() {
            let value_bytes = entry.value.as_ref().map_or(0, Bytes::len);
            see(&key, (key.as_str().len() + value_bytes) as u64, entry.lives_until);
        }
    }

    pub(crate) fn figures(&self) -> MemoryFigures {
        MemoryFigures {
            entries: self.cache.len() as u64,
            bytes: self.cache.weight(),
            capacity_bytes: self.cache.capacity(),
            evictions: self.evictions.load(Ordering::Relaxed),
            expirations: self.expirations.load(Ordering::Relaxed),
        }
    }

    fn stripe(&self, key: &Key) -> &Mutex<u64> {
        let hash = usize::try_from(self.hasher.hash_one(key) % STRIPES as u64).expect("a small remainder");
        &self.stripes[hash]
    }
}

fn prev_power_of_two(number: u64) -> u64 {
    1 << number.ilog2()
}

#[derive(Debug, Clone, Copy)]
struct Weigher;

impl Weighter<Key, Arc<Entry>> for Weigher {
    fn weight(&self, key: &Key, entry: &Arc<Entry>) -> u64 {
        let texts = key.as_str().len() + entry.content_type.as_str().len() + entry.tags.bytes();
        let value = entry.value.as_ref().map_or(0, Bytes::len);
        (texts + value) as u64 + ENTRY_OVERHEAD_BYTES
    }
}

/// Counts what had to leave for want of room.
#[derive(Debug, Clone)]
struct CountEvictions(Arc<AtomicU64>);

impl Lifecycle<Key, Arc<Entry>> for CountEvictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: Key, _: Arc<Entry>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
