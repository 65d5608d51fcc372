use hashbrown::HashTable;

use super::pool::Pool;
use super::record::Record;
use super::slots::{Slot, Slots};
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
    marks: [u64; MARKS],
    random: u64,
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
            marks: [0; MARKS],
            random: seed | 1,
        }
    }

    pub(super) fn find(&self, key: &Key, hash: u32) -> Option<u32> {
        self.table.find(spread(hash), |at| self.slots.record(*at).is_of(key)).copied()
    }

    /// Returns an entry and takes note of the read.
    pub(super) fn read(&mut self, key: &Key, hash: u32) -> Option<Record> {
        let at = self.find(key, hash)?;
        let pool = usize::from(self.slots[at].pool);
        self.pools[pool].read(&mut self.slots, at);
        Some(self.slots.record(at).clone())
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
        } else {
            pool.unlink(&mut self.slots, at, before);
            self.slots[at].record = Some(record);
            pool.link(&mut self.slots, at, bytes);
        }
        self.bytes = self.bytes - before + bytes;
    }

    fn remove_at(&mut self, at: u32) -> Record {
        let bytes = self.bytes_of(at);
        let Slot { hash, pool, .. } = self.slots[at];
        self.pools[usize::from(pool)].unlink(&mut self.slots, at, bytes);
        if let Ok(found) = self.table.find_entry(spread(hash), |there| *there == at) {
            found.remove();
        }
        self.bytes -= bytes;
        self.slots.remove(at)
    }

    /// Lets one entry leave. Which pool gives it up is drawn by lot: each byte held has the same chance.
    fn evict_one(&mut self) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let mut drawn = self.random % self.bytes.max(1);
        let passed = |pool: &Pool| {
            let is_here = drawn < pool.bytes;
            drawn = drawn.saturating_sub(pool.bytes);
            is_here
        };
        let at = self.pools.iter().position(passed).expect("the bytes of a shard are those of its pools");
        let pool = &mut self.pools[at];
        let victim = pool.victim(&mut self.slots, bytes_of).expect("a pool with bytes has entries");
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
