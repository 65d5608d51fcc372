use hashbrown::HashTable;

use super::pool::Pool;
use super::record::Record;
use super::slots::{Place, Slot, Slots};
use super::{ENTRY_OVERHEAD_BYTES, Mark};
use crate::config::Eviction;
use crate::entry::Head;
use crate::key::Key;

/// A part of memory under one lock: its entries, and in which order they have to leave.
#[derive(Debug)]
pub(super) struct Shard {
    table: HashTable<u32>,
    slots: Slots,
    /// By the number of the pool; those that were never used here are missing at the end, or empty.
    pools: Vec<Pool>,
    bytes: u64,
    capacity_bytes: u64,
    /// A part of `bytes`.
    pinned_bytes: u64,
    most_pinned_bytes: u64,
    marks: [u64; MARKS],
    random: u64,
}

/// What is found with a shard that others read too.
pub(super) enum Read<'a> {
    Noted(&'a Record),
    /// The read changes the order in which entries leave.
    Moves,
}

/// The pool that an entry belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolOf {
    pub(super) number: u16,
    pub(super) eviction: Eviction,
}

/// Figures of a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PoolFigures {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) evictions: u64,
}

const MARKS: usize = 32;
/// After a change of policy each write brings so many entries into the new order.
const SETTLED_BY_WRITE: usize = 16;

impl Shard {
    pub(super) fn new(capacity_bytes: u64, seed: u64) -> Self {
        Self {
            table: HashTable::new(),
            slots: Slots::new(),
            pools: Vec::new(),
            bytes: 0,
            capacity_bytes,
            pinned_bytes: 0,
            most_pinned_bytes: 0,
            marks: [0; MARKS],
            random: seed | 1,
        }
    }

    /// Says how much may be pinned; less than all.
    pub(super) fn pin_up_to(&mut self, percent: u8) {
        self.most_pinned_bytes = self.capacity_bytes / 100 * u64::from(percent);
    }

    /// Lets an entry stay whatever else wants room, if there is enough left for such; tells whether it does.
    pub(super) fn pin(&mut self, key: &Key, hash: u32) -> bool {
        let Some(at) = self.find(key, hash) else { return false };
        if self.slots[at].place == Place::Pinned {
            return true;
        }
        let bytes = self.bytes_of(at);
        let has_room = self.pinned_bytes + bytes <= self.most_pinned_bytes;
        if has_room {
            self.pools[usize::from(self.slots[at].pool)].pin(&mut self.slots, at, bytes);
            self.pinned_bytes += bytes;
        }
        has_room
    }

    pub(super) fn unpin(&mut self, key: &Key, hash: u32) {
        if let Some(at) = self.find(key, hash) {
            self.unpin_at(at);
        }
    }

    pub(super) fn is_pinned(&self, key: &Key, hash: u32) -> bool {
        self.find(key, hash).is_some_and(|at| self.slots[at].place == Place::Pinned)
    }

    pub(super) fn find(&self, key: &Key, hash: u32) -> Option<u32> {
        self.find_text(key.as_str(), hash)
    }

    fn find_text(&self, key: &str, hash: u32) -> Option<u32> {
        // Two keys of one shard rarely share all of their hash: the record is looked at once.
        self.table
            .find(spread(hash), |at| self.slots[*at].hash == hash && self.slots.record(*at).is_of(key))
            .copied()
    }

    /// Returns the entry of `namespace:key` and takes note of the read; [`Read::Moves`] if that takes [`Shard::read`].
    pub(super) fn see(&self, key: &str, hash: u32) -> Option<Read<'_>> {
        self.find_text(key, hash).map(|at| self.see_at(at))
    }

    /// Returns an entry and takes note of the read, whatever it moves.
    pub(super) fn read(&mut self, key: &str, hash: u32) -> Option<&Record> {
        let at = self.find_text(key, hash)?;
        let pool = usize::from(self.slots[at].pool);
        self.pools[pool].read(&mut self.slots, at);
        Some(self.slots.record(at))
    }

    /// Returns the first entry with a hash: nearly always the one that is looked for. Looks at no record.
    pub(super) fn guess(&self, hash: u32) -> Option<u32> {
        self.table.find(spread(hash), |at| self.slots[*at].hash == hash).copied()
    }

    /// Loads the record of a guess into the processor's cache.
    pub(super) fn touch(&self, guess: u32) {
        self.slots.record(guess).touch();
    }

    /// Does what [`Shard::see`] does, from a guess.
    pub(super) fn see_guessed(&self, guess: u32, key: &str, hash: u32) -> Option<Read<'_>> {
        if self.slots.record(guess).is_of(key) { Some(self.see_at(guess)) } else { self.see(key, hash) }
    }

    fn see_at(&self, at: u32) -> Read<'_> {
        let pool = &self.pools[usize::from(self.slots[at].pool)];
        if pool.note_read(&self.slots, at) { Read::Noted(self.slots.record(at)) } else { Read::Moves }
    }

    pub(super) fn head(&self, key: &Key, hash: u32) -> Option<Head> {
        self.find(key, hash).map(|at| self.slots.record(at).head())
    }

    pub(super) fn mark(&self, hash: u32) -> Mark {
        Mark(self.marks[mark_at(hash)])
    }

    /// Lets loads under way know that what they bring is out of date.
    pub(super) fn change(&mut self, hash: u32) {
        self.marks[mark_at(hash)] += 1;
    }

    /// Stores a record in place of the one that is there. What takes more than the whole shard is not stored.
    pub(super) fn store(&mut self, key: &Key, hash: u32, record: Record, of: PoolOf) {
        let bytes = weight(&record);
        if bytes > self.capacity_bytes {
            self.remove(key, hash);
            return;
        }
        self.prepare_pool(of);
        let before = self.find(key, hash).map_or(0, |at| self.bytes_of(at));
        while self.bytes - before + bytes > self.capacity_bytes {
            self.evict_one();
            if before > 0 && self.find(key, hash).is_none() {
                break;
            }
        }
        match self.find(key, hash) {
            Some(at) => self.replace(at, record),
            None => self.insert(hash, record, of.number),
        }
        while self.bytes > self.capacity_bytes {
            self.evict_one();
        }
        let pool = &mut self.pools[usize::from(of.number)];
        pool.settle(&mut self.slots, SETTLED_BY_WRITE, bytes_of);
    }

    pub(super) fn remove(&mut self, key: &Key, hash: u32) -> Option<Record> {
        self.find(key, hash).map(|at| self.remove_at(at))
    }

    /// Removes the entries with a number from `first` up to `first + n` for which `is_over` holds, and tells how many;
    /// none when there is no such number.
    pub(super) fn sweep(&mut self, first: u32, n: u32, is_over: impl Fn(&Record) -> bool) -> Option<u64> {
        let mut n_removed = 0;
        for at in self.range(first, n)? {
            if self.slots[at].record.as_ref().is_some_and(&is_over) {
                self.remove_at(at);
                n_removed += 1;
            }
        }
        Some(n_removed)
    }

    /// Returns the entries with a number from `first` up to `first + n`; none when there is no such number.
    pub(super) fn records(&self, first: u32, n: u32) -> Option<Vec<Record>> {
        let range = self.range(first, n)?;
        Some(range.filter_map(|at| self.slots[at].record.clone()).collect())
    }

    /// Changes the order of a pool from now on.
    pub(super) fn switch(&mut self, number: u16, eviction: Eviction) {
        if let Some(pool) = self.pools.get_mut(usize::from(number)) {
            pool.switch(eviction);
        }
    }

    /// Brings up to `most` entries of a pool into the order that holds, and tells whether all of all are.
    pub(super) fn settle(&mut self, most: usize) -> bool {
        let slots = &mut self.slots;
        self.pools.iter_mut().all(|pool| pool.settle(slots, most, bytes_of))
    }

    pub(super) fn n_entries(&self) -> u64 {
        self.table.len() as u64
    }

    /// Returns how many entries are pinned, and their bytes.
    pub(super) fn pinned(&self) -> (u64, u64) {
        (self.pools.iter().map(|pool| pool.n_pinned).sum(), self.pinned_bytes)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn figures(&self) -> impl Iterator<Item = PoolFigures> {
        self.pools.iter().map(|pool| PoolFigures {
            entries: pool.n_entries,
            bytes: pool.bytes,
            evictions: pool.n_evictions,
        })
    }

    fn prepare_pool(&mut self, of: PoolOf) {
        while self.pools.len() <= usize::from(of.number) {
            // A pool between that was never used takes its own policy when it is.
            self.pools.push(Pool::new(of.eviction));
        }
        let pool = &mut self.pools[usize::from(of.number)];
        if pool.n_entries == 0 {
            pool.switch(of.eviction);
        }
    }

    fn insert(&mut self, hash: u32, record: Record, pool: u16) {
        let bytes = weight(&record);
        let at = self.slots.insert(record, hash, pool);
        self.pools[usize::from(pool)].link(&mut self.slots, at, bytes);
        let slots = &self.slots;
        self.table.insert_unique(spread(hash), at, |at| spread(slots[*at].hash));
        self.bytes += bytes;
    }

    /// The pool of an entry stays: it is its namespace's.
    fn replace(&mut self, at: u32, record: Record) {
        let (before, bytes) = (self.bytes_of(at), weight(&record));
        let pool = &mut self.pools[usize::from(self.slots[at].pool)];
        if pool.resize(&self.slots, at, before, bytes) {
            self.slots[at].record = Some(record);
            if self.slots[at].place == Place::Pinned {
                self.pinned_bytes = self.pinned_bytes - before + bytes;
            }
        } else {
            pool.unlink(&mut self.slots, at, before);
            self.slots[at].record = Some(record);
            pool.link(&mut self.slots, at, bytes);
        }
        self.bytes = self.bytes - before + bytes;
        if self.pinned_bytes > self.most_pinned_bytes {
            self.unpin_at(at);
        }
    }

    fn unpin_at(&mut self, at: u32) {
        if self.slots[at].place == Place::Pinned {
            let bytes = self.bytes_of(at);
            self.pools[usize::from(self.slots[at].pool)].unpin(&mut self.slots, at, bytes);
            self.pinned_bytes -= bytes;
        }
    }

    fn remove_at(&mut self, at: u32) -> Record {
        let bytes = self.bytes_of(at);
        let Slot { hash, pool, place, .. } = self.slots[at];
        if place == Place::Pinned {
            self.pinned_bytes -= bytes;
        }
        self.pools[usize::from(pool)].unlink(&mut self.slots, at, bytes);
        if let Ok(found) = self.table.find_entry(spread(hash), |there| *there == at) {
            found.remove();
        }
        self.bytes -= bytes;
        self.slots.remove(at)
    }

    /// Lets one entry leave. Which pool gives it up is drawn by lot: each byte held and not pinned has the same chance.
    fn evict_one(&mut self) {
        if self.bytes == self.pinned_bytes {
            // One entry takes the room of all that is not pinned.
            let pinned = self.pools.iter().find_map(Pool::oldest_pinned);
            self.unpin_at(pinned.expect("only a shard with entries has to let one go"));
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let mut drawn = self.random % (self.bytes - self.pinned_bytes).max(1);
        let passed = |pool: &Pool| {
            let in_order = pool.bytes - pool.pinned_bytes;
            let is_here = drawn < in_order;
            drawn = drawn.saturating_sub(in_order);
            is_here
        };
        let at = self.pools.iter().position(passed).expect("the bytes of a shard are those of its pools");
        let pool = &mut self.pools[at];
        let victim =
            pool.victim(&mut self.slots, bytes_of).expect("a pool with bytes in order has entries there");
        pool.evicts(&self.slots, victim);
        self.remove_at(victim);
    }

    fn bytes_of(&self, at: u32) -> u64 {
        bytes_of(&self.slots, at)
    }

    fn range(&self, first: u32, n: u32) -> Option<std::ops::Range<u32>> {
        (first < self.slots.len()).then(|| first..self.slots.len().min(first.saturating_add(n)))
    }
}

/// What an entry counts for.
pub(super) fn weight(record: &Record) -> u64 {
    (record.len() - Record::HEAD_BYTES) as u64 + ENTRY_OVERHEAD_BYTES
}

fn bytes_of(slots: &Slots, at: u32) -> u64 {
    weight(slots.record(at))
}

/// The table takes its tags from the highest bits.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn mark_at(hash: u32) -> usize {
    // Other bits than those that ghosts are placed by.
    (hash >> 27) as usize
}
