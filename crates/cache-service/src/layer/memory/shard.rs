use std::sync::Arc;

use hashbrown::HashTable;

use super::Mark;
use super::arena::Address;
use super::pages::Paged;
use super::pool::Pool;
use super::record::{self, Draft, Held, Record};
use super::slots::{Place, Slots};
use crate::config::Eviction;
use crate::entry::Head;
use crate::time::Moment;

mod storage;

/// A part of memory under one lock: its entries, and in which order they have to leave.
#[derive(Debug)]
pub(super) struct Shard {
    table: HashTable<Found>,
    slots: Slots,
    /// By the number of the pool; those that were never used here are missing at the end, or empty.
    pools: Vec<Pool>,
    /// What all entries count for.
    bytes: u64,
    capacity_bytes: u64,
    /// A part of `bytes`.
    pinned_bytes: u64,
    most_pinned_bytes: u64,
    /// Bytes of large values, in whole pages; a part of `bytes`.
    paged_bytes: u64,
    /// Since the last [`Shard::tidy`].
    n_removed: u32,
    marks: [u64; MARKS],
    random: u64,
}

/// What the table knows of an entry: enough to go to its record at once, and past its slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    hash: u32,
    at: u32,
    address: Address,
}

/// What is found with a shard that others read too.
pub(super) enum Read<'a> {
    Noted(Record<'a>),
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

/// What some entries are, for those who want to see them without the lock.
#[derive(Debug, Default)]
pub(super) struct Glance {
    pub(super) keys: String,
    /// The end of the key in `keys`, the bytes of the value, and the end of the ttl.
    pub(super) entries: Vec<(usize, usize, Moment)>,
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
            paged_bytes: 0,
            n_removed: 0,
            marks: [0; MARKS],
            random: seed | 1,
        }
    }

    /// Says how much may be pinned; less than all.
    pub(super) fn pin_up_to(&mut self, percent: u8) {
        self.most_pinned_bytes = self.capacity_bytes / 100 * u64::from(percent);
    }

    /// Lets an entry stay whatever else wants room, if there is enough left for such; tells whether it does.
    pub(super) fn pin(&mut self, key: &str, hash: u32) -> bool {
        self.find(key, hash).is_some_and(|found| self.pin_at(found.at))
    }

    fn pin_at(&mut self, at: u32) -> bool {
        if self.slots[at].place == Place::Pinned {
            return true;
        }
        let bytes = self.slots.bytes(at);
        let has_room = self.pinned_bytes + bytes <= self.most_pinned_bytes;
        if has_room {
            self.pools[usize::from(self.slots[at].pool)].pin(&mut self.slots, at, bytes);
            self.pinned_bytes += bytes;
        }
        has_room
    }

    pub(super) fn unpin(&mut self, key: &str, hash: u32) {
        if let Some(found) = self.find(key, hash) {
            self.unpin_at(found.at);
        }
    }

    pub(super) fn is_pinned(&self, key: &str, hash: u32) -> bool {
        self.find(key, hash).is_some_and(|found| self.slots[found.at].place == Place::Pinned)
    }

    /// Finds `namespace:key`.
    fn find(&self, key: &str, hash: u32) -> Option<Found> {
        // Two keys of one shard rarely share all of their hash: the record is looked at once.
        let is_it = |found: &Found| {
            if found.hash != hash {
                return false;
            }
            // All that a read needs is on its way then while the key is compared.
            self.touch(*found);
            record::is_of(self.slots.arena.item(found.address), key)
        };
        self.table.find(spread(hash), is_it).copied()
    }

    /// Returns the entry of `namespace:key` and takes note of the read; [`Read::Moves`] if that takes [`Shard::read`].
    pub(super) fn see(&self, key: &str, hash: u32) -> Option<Read<'_>> {
        self.find(key, hash).map(|found| self.see_found(found))
    }

    /// Takes note of a read, whatever it moves, and returns the entry.
    pub(super) fn read(&mut self, key: &str, hash: u32) -> Option<Record<'_>> {
        let Found { at, .. } = self.find(key, hash)?;
        let pool = usize::from(self.slots[at].pool);
        self.pools[pool].read(&mut self.slots, at);
        Some(self.slots.record(at))
    }

    /// Does the same, and copies the entry.
    pub(super) fn read_copy(&mut self, key: &str, hash: u32) -> Option<Held> {
        let number = self.read(key, hash)?.number();
        Some(self.held(&self.slots.record(number)))
    }

    /// Returns the large value of a record, if it has one.
    pub(super) fn paged(&self, record: &Record<'_>) -> Option<&Arc<Paged>> {
        self.slots.paged(record.number())
    }

    /// Copies what a record says; a large value is shared.
    pub(super) fn held(&self, record: &Record<'_>) -> Held {
        Held::new(record, self.slots.paged(record.number()))
    }

    /// Returns the first entry with a hash: nearly always the one that is looked for. Looks at no record.
    pub(super) fn guess(&self, hash: u32) -> Option<Found> {
        self.table.find(spread(hash), |found| found.hash == hash).copied()
    }

    /// Loads what a read needs of an entry into the processor's cache.
    pub(super) fn touch(&self, found: Found) {
        self.slots.arena.touch(found.address);
        std::hint::black_box(self.slots.heat(found.at).get());
    }

    /// Does what [`Shard::see`] does, from a guess.
    pub(super) fn see_guessed(&self, guess: Found, key: &str, hash: u32) -> Option<Read<'_>> {
        let is_it = record::is_of(self.slots.arena.item(guess.address), key);
        if is_it { Some(self.see_found(guess)) } else { self.see(key, hash) }
    }

    fn see_found(&self, found: Found) -> Read<'_> {
        let record = self.slots.record_at(found.address, found.at);
        let pool = &self.pools[usize::from(record.pool())];
        if pool.note_read(&self.slots, found.at) { Read::Noted(record) } else { Read::Moves }
    }

    pub(super) fn head(&self, key: &str, hash: u32) -> Option<Head> {
        self.find(key, hash).map(|found| record::head_of(self.slots.arena.item(found.address)))
    }

    pub(super) fn mark(&self, hash: u32) -> Mark {
        Mark(self.marks[mark_at(hash)])
    }

    /// Lets loads under way know that what they bring is out of date.
    pub(super) fn change(&mut self, hash: u32) {
        self.marks[mark_at(hash)] += 1;
    }

    /// Stores an entry in place of the one that is there. What takes more than the whole shard is not stored.
    pub(super) fn store(&mut self, hash: u32, draft: Draft<'_>, of: PoolOf) {
        let found = self.find(draft.key, hash).map(|found| found.at);
        if !self.fits_alone(draft.layout) {
            if let Some(at) = found {
                self.remove_at(at);
            }
            return;
        }
        self.prepare_pool(of);
        match found {
            Some(at) => self.replace(at, draft, of.number),
            None => self.insert(hash, draft, of.number),
        }
        self.pools[usize::from(of.number)].settle(&mut self.slots, SETTLED_BY_WRITE);
        self.tidy();
    }

    pub(super) fn remove(&mut self, key: &str, hash: u32) -> Option<Head> {
        let Found { at, address, .. } = self.find(key, hash)?;
        let head = record::head_of(self.slots.arena.item(address));
        self.remove_at(at);
        self.tidy();
        Some(head)
    }

    /// Removes the entries with a number from `first` up to `first + n` that are of no use any more, and tells how many.
    pub(super) fn sweep(&mut self, first: u32, n: u32, now: Moment) -> u64 {
        let mut n_removed = 0;
        // What is moved to a lower number has been looked at, or will be.
        for at in self.range(first, n).rev() {
            if at < self.slots.len()
                && self.slots.is_written(at)
                && now >= record::kept_until(self.slots.item(at))
            {
                self.remove_at(at);
                n_removed += 1;
                self.tidy();
            }
        }
        n_removed
    }

    /// Tells what the entries with a number from `first` up to `first + n` are.
    pub(super) fn glance(&self, first: u32, n: u32) -> Glance {
        let mut glance = Glance::default();
        for at in self.range(first, n).filter(|at| self.slots.is_written(*at)) {
            let record = self.slots.record(at);
            glance.keys.push_str(record.key_text());
            glance.entries.push((glance.keys.len(), record.value_bytes(), record.lives_until()));
        }
        glance
    }

    /// Returns how many numbers there are.
    pub(super) fn n_numbers(&self) -> u32 {
        self.slots.len()
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
        self.pools.iter_mut().all(|pool| pool.settle(slots, most))
    }

    pub(super) fn n_entries(&self) -> u64 {
        self.slots.n_used().into()
    }

    /// Returns how many entries are pinned, and their bytes.
    pub(super) fn pinned(&self) -> (u64, u64) {
        (self.pools.iter().map(|pool| pool.n_pinned).sum(), self.pinned_bytes)
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

    fn unpin_at(&mut self, at: u32) {
        if self.slots[at].place == Place::Pinned {
            let bytes = self.slots.bytes(at);
            self.pools[usize::from(self.slots[at].pool)].unpin(&mut self.slots, at, bytes);
            self.pinned_bytes -= bytes;
        }
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
        let victim = pool.victim(&mut self.slots).expect("a pool with bytes in order has entries there");
        pool.evicts(&self.slots, victim);
        self.remove_at(victim);
    }

    fn range(&self, first: u32, n: u32) -> std::ops::Range<u32> {
        first..self.slots.len().min(first.saturating_add(n))
    }
}

/// The table takes its tags from the highest bits.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn mark_at(hash: u32) -> usize {
    // Other bits than those that ghosts are placed by.
    (hash >> 27) as usize
}
