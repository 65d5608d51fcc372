use std::collections::HashMap;
use std::mem::size_of;
use std::ops::{Index, IndexMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::arena::{Address, Arena};
use super::pages::{PAGE_BYTES, Paged};
use super::record::{self, Record};
use crate::time::Moment;

/// The entries of a shard, by number, and where they lie. A number stays an entry's own until it is removed, or gets another by
/// [`Slots::move_down`].
///
/// Grows by pieces as large as a page, so that nothing is moved, and what is left unused serves as one.
#[derive(Debug)]
pub(super) struct Slots {
    pieces: Vec<Box<Piece>>,
    /// Numbers of pieces with room.
    with_room: Vec<u32>,
    n_used: u32,
    pub(super) arena: Arena,
    /// Large values.
    paged: HashMap<u32, Arc<Paged>>,
}

#[derive(Debug)]
struct Piece {
    slots: [Slot; Slots::PIECE],
    /// Beside the slots: a read takes note of itself and needs nothing else of them.
    heats: [Heat; Slots::PIECE],
    n_free: u32,
    first_free: u32,
}

/// The place of an entry in the order of its pool, and where it lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    /// Of its record, or one of [`FREE`] and [`UNWRITTEN`].
    pub(super) address: Address,
    pub(super) hash: u32,
    /// The newer neighbour in a list, or the lower branch of a tree.
    pub(super) before: u32,
    /// The older neighbour in a list, the higher branch of a tree, or the next free slot of its piece.
    pub(super) after: u32,
    /// What it counts for.
    pub(super) bytes: u32,
    pub(super) pool: u16,
    pub(super) place: Place,
}

/// Counts reads not yet taken into account, up to three. Readers who count at once may count one together: it is a hint.
#[derive(Debug, Default)]
pub(super) struct Heat(AtomicU8);

impl Heat {
    const HOTTEST: u8 = 3;

    pub(super) fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn read(&self) {
        let heat = self.get();
        if heat < Self::HOTTEST {
            self.0.store(heat + 1, Ordering::Relaxed);
        }
    }

    pub(super) fn cool(&self) {
        self.set(self.get().saturating_sub(1));
    }

    pub(super) fn set(&self, heat: u8) {
        self.0.store(heat, Ordering::Relaxed);
    }
}

/// In which order a slot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    None,
    /// The list of what was not read again yet.
    Trial,
    Main,
    /// By the end of the ttl.
    Tree,
    /// In no order: it stays.
    Pinned,
}

/// No slot.
pub(super) const NIL: u32 = u32::MAX;
/// Address of a slot without an entry.
const FREE: Address = u32::MAX;
/// Address of an entry that is about to be written.
const UNWRITTEN: Address = u32::MAX - 1;

impl Slots {
    const PIECE: usize = 640;
    /// What a slot takes with all that belongs to it.
    pub(super) const SLOT_BYTES: usize = size_of::<Slot>() + size_of::<Heat>();

    pub(super) fn new() -> Self {
        const { assert!(size_of::<Piece>() <= PAGE_BYTES && size_of::<Piece>() > PAGE_BYTES / 100 * 97) };
        Self {
            pieces: Vec::new(),
            with_room: Vec::new(),
            n_used: 0,
            arena: Arena::new(),
            paged: HashMap::new(),
        }
    }

    /// Returns how many slots there are, used or not.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.pieces.len() * Self::PIECE).expect("a shard has less than 2^32 slots")
    }

    pub(super) fn n_used(&self) -> u32 {
        self.n_used
    }

    /// Takes a slot for an entry that is about to be written.
    pub(super) fn insert(&mut self, hash: u32, pool: u16) -> u32 {
        if self.with_room.is_empty() {
            self.with_room.push(u32::try_from(self.pieces.len()).expect("less than there are slots"));
            self.pieces.push(Piece::new(self.len()));
        }
        let at = self.take_free(self.with_room.len() - 1);
        self[at] =
            Slot { address: UNWRITTEN, hash, before: NIL, after: NIL, bytes: 0, pool, place: Place::None };
        self.heat(at).set(0);
        at
    }

    /// Gives up a slot; what it owns was freed.
    pub(super) fn remove(&mut self, at: u32) {
        let (piece_at, within) = split(at);
        let piece = &mut self.pieces[piece_at];
        piece.slots[within].address = FREE;
        piece.slots[within].after = piece.first_free;
        piece.first_free = at;
        piece.n_free += 1;
        if piece.n_free == 1 {
            self.with_room.push(u32::try_from(piece_at).expect("less than there are slots"));
        }
        self.n_used -= 1;
    }

    pub(super) fn is_used(&self, at: u32) -> bool {
        self[at].address != FREE
    }

    pub(super) fn is_written(&self, at: u32) -> bool {
        self[at].address < UNWRITTEN
    }

    pub(super) fn set_unwritten(&mut self, at: u32) {
        self[at].address = UNWRITTEN;
    }

    pub(super) fn heat(&self, at: u32) -> &Heat {
        let (piece, within) = split(at);
        &self.pieces[piece].heats[within]
    }

    pub(super) fn bytes(&self, at: u32) -> u64 {
        self[at].bytes.into()
    }

    /// Returns the item of an entry.
    pub(super) fn item(&self, at: u32) -> &[u8] {
        self.arena.item(self[at].address)
    }

    pub(super) fn lives_until(&self, at: u32) -> Moment {
        record::lives_until(self.item(at))
    }

    pub(super) fn record(&self, at: u32) -> Record<'_> {
        self.record_at(self[at].address, at)
    }

    /// Returns the record at an address, that of this slot.
    pub(super) fn record_at(&self, address: Address, at: u32) -> Record<'_> {
        let item = self.arena.item(address);
        let paged = if record::is_paged(item) { self.paged(at).map(Arc::as_ref) } else { None };
        Record::new(item, &self.arena, paged)
    }

    pub(super) fn paged(&self, at: u32) -> Option<&Arc<Paged>> {
        if self.paged.is_empty() { None } else { self.paged.get(&at) }
    }

    pub(super) fn set_paged(&mut self, at: u32, paged: Option<Arc<Paged>>) -> Option<Arc<Paged>> {
        match paged {
            Some(paged) => self.paged.insert(at, paged),
            None if self.paged.is_empty() => None,
            None => self.paged.remove(&at),
        }
    }

    /// Drops pieces that are not used; if far more slots are free than are needed, moves one to a lower number and returns
    /// the old and the new one. The slot of the old number is as it was, and is to be removed.
    pub(super) fn move_down(&mut self) -> Option<(u32, u32)> {
        let n_free = |slots: &Self| slots.len() - slots.n_used;
        while n_free(self) > Self::PIECE as u32 + self.n_used / 4 {
            let last = self.pieces.len() - 1;
            let piece = &self.pieces[last];
            let is_last = |number: &u32| *number as usize == last;
            if piece.n_free as usize == Self::PIECE {
                self.pieces.pop();
                self.with_room.retain(|number| !is_last(number));
                continue;
            }
            let within = piece.slots.iter().rposition(|slot| slot.address != FREE)?;
            let from = u32::try_from(last * Self::PIECE + within).expect("less than there are slots");
            let to = self.take_free(self.with_room.iter().rposition(|number| !is_last(number))?);
            self[to] = self[from];
            self.heat(to).set(self.heat(from).get());
            if let Some(paged) = self.set_paged(from, None) {
                self.set_paged(to, Some(paged));
            }
            return Some((from, to));
        }
        None
    }

    /// Takes a free slot of the piece that stands there in `with_room`.
    fn take_free(&mut self, nth: usize) -> u32 {
        let piece = &mut self.pieces[self.with_room[nth] as usize];
        let at = piece.first_free;
        piece.first_free = piece.slots[split(at).1].after;
        piece.n_free -= 1;
        if piece.n_free == 0 {
            self.with_room.swap_remove(nth);
        }
        self.n_used += 1;
        at
    }
}

impl Piece {
    /// Returns unused slots numbered from `first`.
    fn new(first: u32) -> Box<Self> {
        let free = |nth: usize| Slot {
            address: FREE,
            hash: 0,
            before: NIL,
            after: if nth + 1 == Slots::PIECE { NIL } else { first + nth as u32 + 1 },
            bytes: 0,
            pool: 0,
            place: Place::None,
        };
        Box::new(Self {
            slots: std::array::from_fn(free),
            heats: std::array::from_fn(|_| Heat::default()),
            n_free: Slots::PIECE as u32,
            first_free: first,
        })
    }
}

fn split(at: u32) -> (usize, usize) {
    (at as usize / Slots::PIECE, at as usize % Slots::PIECE)
}

impl Index<u32> for Slots {
    type Output = Slot;

    fn index(&self, at: u32) -> &Slot {
        let (piece, within) = split(at);
        &self.pieces[piece].slots[within]
    }
}

impl IndexMut<u32> for Slots {
    fn index_mut(&mut self, at: u32) -> &mut Slot {
        let (piece, within) = split(at);
        &mut self.pieces[piece].slots[within]
    }
}
