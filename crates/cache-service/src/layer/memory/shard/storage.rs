//! How entries come into the pages of a shard, and out of them.

use super::super::ENTRY_OVERHEAD_BYTES;
use super::super::arena::{Address, CHUNK, Moved};
use super::super::pages::PAGE_BYTES;
use super::super::record::{self, Draft, Layout};
use super::super::slots::{Place, Slot};
use super::{Found, Shard, spread};

/// The table is not made smaller below this.
const FEWEST_PLACES: usize = 1_024;

impl Shard {
    /// Returns what is taken of the process: whole pages, and what each entry takes beside them.
    pub(in super::super) fn held_bytes(&self) -> u64 {
        self.held_with(self.slots.n_used().into())
    }

    fn held_with(&self, n_entries: u64) -> u64 {
        self.slots.arena.held_bytes() + self.paged_bytes + n_entries * ENTRY_OVERHEAD_BYTES
    }

    /// Tells whether an entry finds room when all others have left.
    pub(super) fn fits_alone(&self, layout: Layout) -> bool {
        (layout.pages_alone() * PAGE_BYTES) as u64 + ENTRY_OVERHEAD_BYTES <= self.capacity_bytes
    }

    pub(super) fn insert(&mut self, hash: u32, draft: Draft<'_>, pool: u16) {
        self.make_room(draft.layout, 1);
        let at = self.slots.insert(hash, pool);
        let address = self.write(at, draft, pool);
        let bytes = self.slots.bytes(at);
        self.pools[usize::from(pool)].link(&mut self.slots, at, bytes);
        self.table.insert_unique(spread(hash), Found { hash, at, address }, |found| spread(found.hash));
        self.bytes += bytes;
    }

    /// The pool of an entry stays: it is its namespace's.
    pub(super) fn replace(&mut self, at: u32, draft: Draft<'_>, pool: u16) {
        let old = self.slots.record(at).layout();
        if old == draft.layout && old.n_pages == 0 {
            let stays = self.begin_change(at, weight(old));
            draft.write(at, pool, self.slots[at].address, &mut self.slots.arena);
            self.end_change(at, stays);
            return;
        }
        // While it has no record it must be in no order that looks at records, and be no one's last resort.
        let was_pinned = self.slots[at].place == Place::Pinned;
        self.unpin_at(at);
        let stays = self.begin_change(at, weight(draft.layout));
        self.free(at);
        self.make_room(draft.layout, 0);
        if !self.slots.is_used(at) {
            // The one that had to leave was the entry itself.
            return self.insert(self.slots[at].hash, draft, pool);
        }
        let address = self.write(at, draft, pool);
        self.point(at, address);
        self.end_change(at, stays);
        if was_pinned {
            self.pin_at(at);
        }
    }

    /// Lets an entry count for what it will be, and takes it out of its order unless it may stay there; tells whether it does.
    fn begin_change(&mut self, at: u32, bytes: u64) -> bool {
        let before = self.slots.bytes(at);
        let pool = &mut self.pools[usize::from(self.slots[at].pool)];
        let stays = pool.resize(&self.slots, at, before, bytes);
        if stays {
            self.bytes += bytes;
        } else {
            pool.unlink(&mut self.slots, at, before);
        }
        self.bytes -= before;
        self.slots[at].bytes = u32::try_from(bytes).expect("a value has at most 16 MiB");
        stays
    }

    /// Brings an entry that did not stay into its order.
    fn end_change(&mut self, at: u32, stayed: bool) {
        if !stayed {
            let bytes = self.slots.bytes(at);
            self.pools[usize::from(self.slots[at].pool)].link(&mut self.slots, at, bytes);
            self.bytes += bytes;
        }
    }

    pub(super) fn remove_at(&mut self, at: u32) {
        let Slot { hash, pool, place, .. } = self.slots[at];
        let bytes = self.slots.bytes(at);
        if place == Place::Pinned {
            self.pinned_bytes -= bytes;
        }
        self.pools[usize::from(pool)].unlink(&mut self.slots, at, bytes);
        self.bytes -= bytes;
        if let Ok(found) = self.table.find_entry(spread(hash), |found| found.at == at) {
            found.remove();
        }
        if self.slots.is_written(at) {
            self.free(at);
        }
        self.slots.remove(at);
        self.n_removed += 1;
    }

    /// Gives back what a time with more entries needed: each that left pays for one that gets another number.
    pub(super) fn tidy(&mut self) {
        for _ in 0..=std::mem::take(&mut self.n_removed) {
            let Some((from, to)) = self.slots.move_down() else { break };
            self.renumber(from, to);
        }
        if self.table.capacity() / 4 > self.table.len().max(FEWEST_PLACES) {
            self.table.shrink_to(2 * self.table.len(), |found| spread(found.hash));
        }
    }

    /// Lets entries leave until there is room for one more, or for the one that was freed last.
    fn make_room(&mut self, layout: Layout, n_more: u64) {
        let is_full = |shard: &Self| {
            let pages = (layout.pages_in(&shard.slots.arena) * PAGE_BYTES) as u64;
            shard.held_with(u64::from(shard.slots.n_used()) + n_more) + pages > shard.capacity_bytes
        };
        while is_full(self) && self.bytes > 0 {
            self.evict_one();
        }
    }

    /// Writes the record of a slot into items of its own, for which there is room.
    fn write(&mut self, at: u32, draft: Draft<'_>, pool: u16) -> Address {
        let arena = &mut self.slots.arena;
        let address = arena.take(draft.layout.class);
        for nth in 0..draft.layout.n_chunks as u32 {
            let chunk = arena.take(CHUNK);
            record::set_chunk(arena.item_mut(address), nth, chunk);
        }
        draft.write(at, pool, address, arena);
        self.paged_bytes += (draft.layout.n_pages * PAGE_BYTES) as u64;
        self.slots.set_paged(at, draft.paged);
        self.slots[at].address = address;
        self.slots[at].bytes = u32::try_from(weight(draft.layout)).expect("a value has at most 16 MiB");
        address
    }

    /// Frees what the record of a slot takes; the slot stays, without one.
    fn free(&mut self, at: u32) {
        let n_chunks = record::n_chunks(self.slots.item(at));
        for nth in (0..n_chunks).rev() {
            // Looked up each time: the chunk that moved into the last gap may have been this entry's.
            let chunk = record::chunk_at(self.slots.item(at), nth);
            if let Some(moved) = self.slots.arena.free(chunk) {
                self.follow(moved);
            }
        }
        let address = self.slots[at].address;
        if let Some(paged) = self.slots.set_paged(at, None) {
            self.paged_bytes -= (paged.n_pages() * PAGE_BYTES) as u64;
        }
        self.slots.set_unwritten(at);
        if let Some(moved) = self.slots.arena.free(address) {
            self.follow(moved);
        }
    }

    /// Writes down where an item lies now.
    fn follow(&mut self, moved: Moved) {
        match moved.chunk {
            Some(nth) => {
                let owner = self.slots[moved.owner].address;
                record::set_chunk(self.slots.arena.item_mut(owner), nth, moved.to);
            }
            None => {
                self.slots[moved.owner].address = moved.to;
                self.point(moved.owner, moved.to);
            }
        }
    }

    /// Writes into the table where the record of a slot lies.
    fn point(&mut self, at: u32, address: Address) {
        let hash = spread(self.slots[at].hash);
        let found = self.table.find_mut(hash, |found| found.at == at);
        found.expect("every entry is in the table").address = address;
    }

    /// Lets the entry with one number have the other, that of its copy.
    fn renumber(&mut self, from: u32, to: u32) {
        let Slot { hash, pool, address, .. } = self.slots[to];
        self.pools[usize::from(pool)].renumber(&mut self.slots, from, to);
        let found = self.table.find_mut(spread(hash), |found| found.at == from);
        found.expect("every entry is in the table").at = to;
        let arena = &mut self.slots.arena;
        record::set_owner(arena.item_mut(address), to);
        for nth in 0..record::n_chunks(arena.item(address)) {
            let chunk = record::chunk_at(arena.item(address), nth);
            record::set_owner(arena.item_mut(chunk), to);
        }
        self.slots.remove(from);
    }
}

/// What an entry counts for in the order of its pool.
pub(in super::super) fn weight(layout: Layout) -> u64 {
    layout.n_bytes() as u64 + ENTRY_OVERHEAD_BYTES
}
