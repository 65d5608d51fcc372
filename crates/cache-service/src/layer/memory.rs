//! L1: the memory of this process, bounded by bytes.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::DefaultHashBuilder;
use parking_lot::RwLock;

use crate::config::Eviction;
use crate::entry::{Condition, Entry, Head};
use crate::key::Key;
use crate::time::Moment;

mod arena;
mod ghosts;
mod order;
mod pages;
mod pool;
mod record;
mod shard;
mod slots;

use pages::PAGE_BYTES;
use record::Draft;
pub(crate) use record::{Held, Record, Value};
pub(crate) use shard::PoolFigures;
use shard::{PoolOf, Read, Shard};

/// What an entry costs beside its record and what that leaves unused: its slot, its place in the table (thirteen bytes, of which up
/// to four sevenths are unused) and its ghost.
pub(crate) const ENTRY_OVERHEAD_BYTES: u64 = (slots::Slots::SLOT_BYTES + 30 + 8) as u64;

/// Below this the pages that are partly empty, up to one of each size, are too large a part of a shard.
const SHARD_BYTES_MIN: u64 = 8 << 20;
const SHARDS_MAX: u64 = 64;
/// Namespaces that have an order of their own; the entries of all others share one.
const MOST_POOLS: usize = 1_100;
/// Larger values are not shown while the locks of other shards are held.
const SEEN_TOGETHER_BYTES: usize = 4 << 10;
/// Keys looked at together.
pub(crate) const LOOKED_AT_ONCE: usize = 16;
/// Entries looked at under one lock, where all are.
const STEP: u32 = 512;

/// Keeps entries up to a number of bytes.
///
/// A read or a change takes the lock of one shard, once: checking a version and storing is one step. An entry read from
/// below is stored only if nothing near it has changed since the reading began: a set or delete during a load wins over
/// the load.
///
/// The bound is one for all namespaces. Each has an order of its own, by its eviction policy; when room is wanted, lots
/// decide which namespace gives up an entry, and each byte it holds is one lot.
#[derive(Debug)]
pub(crate) struct Memory {
    shards: Box<[RwLock<Shard>]>,
    pools: RwLock<Pools>,
    hasher: DefaultHashBuilder,
    shard_bytes: u64,
    expirations: AtomicU64,
}

/// Which namespace has which pool, and which policy.
#[derive(Debug)]
struct Pools {
    numbers: HashMap<Box<str>, u16>,
    /// By number; the first is that of all namespaces without a pool of their own.
    evictions: Vec<Eviction>,
    default: Eviction,
}

/// Remembers the state of a key before a load.
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
    pub(crate) pinned_entries: u64,
    /// A part of `bytes`.
    pub(crate) pinned_bytes: u64,
}

impl Memory {
    /// Holds `capacity_bytes`; each shard has room for several values of `largest_value_bytes`. Namespaces leave by
    /// `default` until [`Memory::set_eviction`] says otherwise.
    pub(crate) fn new(capacity_bytes: u64, largest_value_bytes: u64, default: Eviction) -> Self {
        let shard_bytes = SHARD_BYTES_MIN.max(4 * largest_value_bytes);
        let n_shards = prev_power_of_two((capacity_bytes / shard_bytes).clamp(1, SHARDS_MAX));
        let shard_bytes = capacity_bytes / n_shards;
        let hasher = DefaultHashBuilder::default();
        let shard = |number: u64| Shard::new(shard_bytes, hasher.hash_one(number));
        let shards = (0..n_shards).map(|number| RwLock::new(shard(number)));
        let pools = Pools { numbers: HashMap::new(), evictions: vec![default], default };
        Self {
            shards: shards.collect(),
            pools: RwLock::new(pools),
            hasher,
            shard_bytes,
            expirations: AtomicU64::new(0),
        }
    }

    /// Returns the largest value that is sure to find room.
    pub(crate) fn largest_value_bytes(&self) -> u64 {
        // Texts, and the ends of its pages.
        let beside = ENTRY_OVERHEAD_BYTES + 3 * PAGE_BYTES as u64;
        self.shard_bytes.saturating_sub(beside)
    }

    /// Says in which order the entries of a namespace leave. Those that are there stay, and come into the new order with
    /// the next writes and the next [`Memory::sweep`]. Returns false when too many namespaces have an order of their own.
    pub(crate) fn set_eviction(&self, namespace: &str, eviction: Eviction) -> bool {
        let number = {
            let mut pools = self.pools.write();
            let Some(number) = pools.number(namespace) else { return false };
            let before = std::mem::replace(&mut pools.evictions[usize::from(number)], eviction);
            if before == eviction {
                return true;
            }
            number
        };
        for shard in &self.shards {
            shard.write().switch(number, eviction);
        }
        true
    }

    /// Says which part of each shard may be pinned; nothing until then.
    pub(crate) fn pin_up_to(&self, percent: u8) {
        self.shards.iter().for_each(|shard| shard.write().pin_up_to(percent));
    }

    /// Lets an entry stay whatever else wants room, as far as there is room for such; tells whether it does. It stays so
    /// when it is written anew, until it is unpinned or removed.
    pub(crate) fn pin(&self, key: &Key) -> bool {
        let (hash, shard) = self.place(key);
        shard.write().pin(key.as_str(), hash)
    }

    pub(crate) fn unpin(&self, key: &Key) {
        let (hash, shard) = self.place(key);
        shard.write().unpin(key.as_str(), hash);
    }

    pub(crate) fn is_pinned(&self, key: &Key) -> bool {
        let (hash, shard) = self.place(key);
        shard.read().is_pinned(key.as_str(), hash)
    }

    /// Returns what is held, fresh or not.
    pub(crate) fn get(&self, key: &Key) -> Option<Held> {
        let (hash, at) = self.place_of(key.as_str());
        self.held(key.as_str(), hash, at)
    }

    /// Calls with what is held of `namespace:key`, fresh or not, under the lock of its shard unless the value is large.
    pub(crate) fn look<T>(&self, key: &str, see: impl FnOnce(&Record<'_>) -> T) -> Option<T> {
        let (hash, at) = self.place_of(key);
        let shard = self.shards[at].read();
        let Read::Noted(record) = shard.see(key, hash)? else {
            drop(shard);
            return self.shards[at].write().read(key, hash).map(|record| see(&record));
        };
        let Some(paged) = shard.paged(&record) else { return Some(see(&record)) };
        let (texts, paged) = (record.texts().to_vec(), Arc::clone(paged));
        drop(shard);
        Some(see(&Record::of_copy(&texts, &paged)))
    }

    /// Calls with what is held of these keys, at most [`LOOKED_AT_ONCE`], in their order, until one is not held, or the call
    /// returns false, or a key needs [`Memory::look`].
    ///
    /// Memory is slower than the processor by far, and a lock makes it wait. So all locks are taken first, and what is
    /// needed of one key is loaded while others are still on their way. Nobody holds one of these locks while waiting for
    /// another but those who read, and readers do not exclude each other.
    pub(crate) fn look_at_once(&self, keys: &[&str], mut see: impl FnMut(&Record<'_>) -> bool) {
        let keys = &keys[..keys.len().min(LOOKED_AT_ONCE)];
        let mut places = [(0, 0); LOOKED_AT_ONCE];
        let mut wanted = 0_u64;
        for (place, key) in places.iter_mut().zip(keys) {
            *place = self.place_of(key);
            wanted |= 1 << place.1;
        }
        let mut shards = Vec::with_capacity(keys.len());
        let mut left = wanted;
        while left != 0 {
            shards.push(self.shards[left.trailing_zeros() as usize].read());
            left &= left - 1;
        }
        let shard_of = |at: usize| &shards[(wanted & ((1_u64 << at) - 1)).count_ones() as usize];
        let mut guesses = [None; LOOKED_AT_ONCE];
        for (guess, (hash, at)) in guesses.iter_mut().zip(&places[..keys.len()]) {
            *guess = shard_of(*at).guess(*hash);
        }
        for (guess, (_, at)) in guesses.iter().zip(&places) {
            if let Some(guess) = guess {
                shard_of(*at).touch(*guess);
            }
        }
        for ((key, (hash, at)), guess) in keys.iter().zip(&places).zip(guesses) {
            let Some(Read::Noted(record)) =
                guess.and_then(|guess| shard_of(*at).see_guessed(guess, key, *hash))
            else {
                return;
            };
            if record.value_bytes() > SEEN_TOGETHER_BYTES {
                drop(shards);
                self.look(key, see);
                return;
            }
            if !see(&record) {
                return;
            }
        }
    }

    fn held(&self, key: &str, hash: u32, at: usize) -> Option<Held> {
        let shard = self.shards[at].read();
        if let Read::Noted(record) = shard.see(key, hash)? {
            return Some(shard.held(&record));
        }
        drop(shard);
        self.shards[at].write().read_copy(key, hash)
    }

    /// Notes the state of a key before it is loaded from below.
    pub(crate) fn mark(&self, key: &Key) -> Mark {
        let (hash, shard) = self.place(key);
        shard.read().mark(hash)
    }

    /// Stores a loaded entry unless the key was changed since the mark.
    pub(crate) fn fill(&self, key: &Key, entry: &Entry, mark: Mark) {
        let draft = Draft::new(key, entry);
        self.with_pool(key, |hash, shard, pool| {
            if shard.mark(hash) == mark {
                shard.store(hash, draft, pool);
            }
        });
    }

    /// Stores a written entry unless one with a higher version is held.
    pub(crate) fn put(&self, key: &Key, entry: &Entry) {
        let draft = Draft::new(key, entry);
        self.with_pool(key, |hash, shard, pool| {
            shard.change(hash);
            if shard.head(key.as_str(), hash).is_none_or(|held| held.version <= entry.version) {
                shard.store(hash, draft, pool);
            }
        });
    }

    /// Stores a written entry if its condition holds for what lives here; else tells the version that does, 0 for none.
    pub(crate) fn put_if(
        &self,
        key: &Key,
        entry: &Entry,
        condition: Condition,
        now: Moment,
    ) -> Result<(), u64> {
        let draft = Draft::new(key, entry);
        self.with_pool(key, |hash, shard, pool| {
            let alive = shard.head(key.as_str(), hash).filter(|held| held.has_value && held.is_alive(now));
            let version = alive.map(|held| held.version);
            if !condition.holds(version) {
                return Err(version.unwrap_or(0));
            }
            shard.change(hash);
            shard.store(hash, draft, pool);
            Ok(())
        })
    }

    /// Removes a key whose version in the layer below is another one. A write that is only here stays.
    pub(crate) fn outdate(&self, key: &Key, version: u64) {
        let (hash, shard) = self.place(key);
        let mut shard = shard.write();
        shard.change(hash);
        if shard.head(key.as_str(), hash).is_some_and(|held| held.confirmed && held.version != version) {
            shard.remove(key.as_str(), hash);
        }
    }

    /// Removes an entry that was invalidated after this version.
    pub(crate) fn outlived(&self, key: &Key, version: u64) {
        let (hash, shard) = self.place(key);
        let mut shard = shard.write();
        if shard.head(key.as_str(), hash).is_some_and(|held| held.version <= version) {
            shard.remove(key.as_str(), hash);
        }
    }

    /// Removes a key that was changed elsewhere unless what is held is as new; loads under way will not bring it back.
    pub(crate) fn remove_older(&self, key: &Key, version: u64) {
        let (hash, shard) = self.place(key);
        let mut shard = shard.write();
        if shard.head(key.as_str(), hash).is_none_or(|held| held.version < version) {
            shard.change(hash);
            shard.remove(key.as_str(), hash);
        }
    }

    /// Removes a key; loads under way will not bring it back.
    pub(crate) fn remove(&self, key: &Key) -> Option<Head> {
        let (hash, shard) = self.place(key);
        let mut shard = shard.write();
        shard.change(hash);
        shard.remove(key.as_str(), hash)
    }

    /// Removes a key that the layer below no longer has, unless it was changed since the mark.
    pub(crate) fn forget(&self, key: &Key, mark: Mark) {
        let (hash, shard) = self.place(key);
        let mut shard = shard.write();
        if shard.mark(hash) == mark {
            shard.remove(key.as_str(), hash);
        }
    }

    /// Removes one entry that is of no use any more, if it is still held.
    pub(crate) fn expire(&self, key: &Key, now: Moment) {
        let (hash, shard) = self.place(key);
        let mut shard = shard.write();
        if shard.head(key.as_str(), hash).is_some_and(|held| !held.is_kept(now)) {
            shard.remove(key.as_str(), hash);
            self.expirations.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Removes every entry that is of no use any more, and ends changes of policies.
    pub(crate) fn sweep(&self, now: Moment) {
        for shard in &self.shards {
            // One lock per step: who serves from this shard waits for no more. From above, for entries come to lower
            // numbers where many are free.
            let n_numbers = shard.read().n_numbers();
            for first in steps(n_numbers) {
                let n = shard.write().sweep(first, STEP, now);
                self.expirations.fetch_add(n, Ordering::Relaxed);
            }
            while !shard.write().settle(STEP as usize) {}
        }
    }

    /// Shows each entry: `namespace:key`, the bytes of key and value, and the end of its ttl.
    pub(crate) fn visit(&self, mut see: impl FnMut(&str, u64, Moment)) {
        for shard in &self.shards {
            let n_numbers = shard.read().n_numbers();
            for first in steps(n_numbers) {
                let glance = shard.read().glance(first, STEP);
                let mut start = 0;
                for (end, value_bytes, lives_until) in glance.entries {
                    let key = &glance.keys[start..end];
                    see(key, (key.len() + value_bytes) as u64, lives_until);
                    start = end;
                }
            }
        }
    }

    pub(crate) fn figures(&self) -> MemoryFigures {
        let mut figures = MemoryFigures {
            entries: 0,
            bytes: 0,
            capacity_bytes: self.shard_bytes * self.shards.len() as u64,
            evictions: 0,
            expirations: self.expirations.load(Ordering::Relaxed),
            pinned_entries: 0,
            pinned_bytes: 0,
        };
        for shard in &self.shards {
            let shard = shard.read();
            figures.entries += shard.n_entries();
            figures.bytes += shard.held_bytes();
            let (pinned_entries, pinned_bytes) = shard.pinned();
            figures.pinned_entries += pinned_entries;
            figures.pinned_bytes += pinned_bytes;
            figures.evictions += shard.figures().map(|pool| pool.evictions).sum::<u64>();
        }
        figures
    }

    /// Returns the figures of each eviction policy in use.
    pub(crate) fn figures_by_eviction(&self) -> Vec<(Eviction, PoolFigures)> {
        let by_pool = self.figures_by_pool();
        let pools = self.pools.read();
        let sum = |eviction| {
            let of_it = by_pool.iter().zip(&pools.evictions).filter(|(_, of)| **of == eviction);
            of_it.fold(PoolFigures::default(), |sum, (figures, _)| sum + *figures)
        };
        Eviction::ALL.into_iter().map(|eviction| (eviction, sum(eviction))).collect()
    }

    /// Returns the figures of each namespace that holds or held something; those without a pool of their own together.
    pub(crate) fn figures_by_namespace(&self) -> Vec<(String, PoolFigures)> {
        let by_pool = self.figures_by_pool();
        let pools = self.pools.read();
        let names = pools.numbers.iter().map(|(name, number)| (name.to_string(), usize::from(*number)));
        let rest = std::iter::once(("(other)".to_owned(), 0));
        let figures = rest.chain(names).filter_map(|(name, number)| {
            let figures = *by_pool.get(number)?;
            (figures != PoolFigures::default()).then_some((name, figures))
        });
        let mut figures: Vec<(String, PoolFigures)> = figures.collect();
        figures.sort_by(|(one, _), (other, _)| one.cmp(other));
        figures
    }

    fn figures_by_pool(&self) -> Vec<PoolFigures> {
        let mut sums = vec![PoolFigures::default(); self.pools.read().evictions.len()];
        for shard in &self.shards {
            for (sum, figures) in sums.iter_mut().zip(shard.read().figures()) {
                *sum = *sum + figures;
            }
        }
        sums
    }

    /// Calls with the shard of a key, locked, and the pool of its namespace.
    fn with_pool<T>(&self, key: &Key, call: impl FnOnce(u32, &mut Shard, PoolOf) -> T) -> T {
        let (hash, shard) = self.place(key);
        let known = |pools: &Pools| pools.numbers.get(key.namespace()).copied();
        let mut pools = self.pools.read();
        let number = match known(&pools) {
            Some(number) => number,
            None => {
                drop(pools);
                let number = self.pools.write().number(key.namespace()).unwrap_or(0);
                pools = self.pools.read();
                number
            }
        };
        // Held on: a policy that is set from here on finds what is stored under the one before.
        let pool = PoolOf { number, eviction: pools.evictions[usize::from(number)] };
        call(hash, &mut shard.write(), pool)
    }

    fn place(&self, key: &Key) -> (u32, &RwLock<Shard>) {
        let (hash, at) = self.place_of(key.as_str());
        (hash, &self.shards[at])
    }

    /// Returns the hash of `namespace:key` and the number of its shard.
    fn place_of(&self, key: &str) -> (u32, usize) {
        let hash = self.hasher.hash_one(key);
        let [high, low] =
            [hash >> 32, hash & 0xFFFF_FFFF].map(|half| u32::try_from(half).expect("half of 64 bits"));
        (low, high as usize & (self.shards.len() - 1))
    }
}

impl Pools {
    /// Returns the number of a namespace's pool; none when there are too many.
    fn number(&mut self, namespace: &str) -> Option<u16> {
        if let Some(number) = self.numbers.get(namespace) {
            return Some(*number);
        }
        if self.evictions.len() >= MOST_POOLS {
            return None;
        }
        let number = u16::try_from(self.evictions.len()).expect("fewer than the most");
        self.evictions.push(self.default);
        self.numbers.insert(namespace.into(), number);
        Some(number)
    }
}

impl std::ops::Add for PoolFigures {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            entries: self.entries + other.entries,
            bytes: self.bytes + other.bytes,
            evictions: self.evictions + other.evictions,
        }
    }
}

/// Returns where steps through so many numbers begin, the last first.
fn steps(n_numbers: u32) -> impl Iterator<Item = u32> {
    (0..n_numbers.div_ceil(STEP)).rev().map(|step| step * STEP)
}

fn prev_power_of_two(number: u64) -> u64 {
    1 << number.ilog2()
}

#[cfg(test)]
mod tests;
