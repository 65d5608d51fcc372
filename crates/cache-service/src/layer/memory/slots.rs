use std::ops::{Index, IndexMut};
use std::sync::atomic::{AtomicU8, Ordering};

use super::record::Record;

/// The entries of a shard, by number. A number stays an entry's own until it is removed.
///
/// Grows by pieces, so that nothing is moved and no more than one piece is unused.
#[derive(Debug)]
pub(super) struct Slots {
    pieces: Vec<Box<[Slot]>>,
    first_free: u32,
}

/// One entry and its place in the order of its pool.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) record: Option<Record>,
    pub(super) hash: u32,
    /// The newer neighbour in a list, or the lower branch of a tree.
    pub(super) before: u32,
    /// The older neighbour in a list, the higher branch of a tree, or the next free slot.
    pub(super) after: u32,
    pub(super) pool: u16,
    pub(super) place: Place,
    /// Reads not yet taken into account.
    pub(super) heat: Heat,
}

/// Counts reads up to three. Readers who count at once may count one together: it is a hint.
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

    pub(super) fn cool(&mut self) {
        *self.0.get_mut() = self.get().saturating_sub(1);
    }

    pub(super) fn reset(&mut self) {
        *self = Self::default();
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

impl Slots {
    const PIECE: usize = 256;

    pub(super) fn new() -> Self {
        Self { pieces: Vec::new(), first_free: NIL }
    }

    /// Returns how many slots there are, used or not.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.pieces.len() * Self::PIECE).expect("a shard has less than 2^32 slots")
    }

    pub(super) fn insert(&mut self, record: Record, hash: u32, pool: u16) -> u32 {
        if self.first_free == NIL {
            self.grow();
        }
        let at = self.first_free;
        self.first_free = self[at].after;
        self[at] = Slot {
            record: Some(record),
            hash,
            before: NIL,
            after: NIL,
            pool,
            place: Place::None,
            heat: Heat::default(),
        };
        at
    }

    pub(super) fn remove(&mut self, at: u32) -> Record {
        let first_free = self.first_free;
        let slot = &mut self[at];
        slot.after = first_free;
        let record = slot.record.take().expect("only used slots are removed");
        self.first_free = at;
        record
    }

    pub(super) fn record(&self, at: u32) -> &Record {
        self[at].record.as_ref().expect("only used slots are in an order")
    }

    fn grow(&mut self) {
        let first = self.len();
        let piece = (1..=u32::try_from(Self::PIECE).expect("small")).map(|next| Slot {
            record: None,
            hash: 0,
            before: NIL,
            after: if next as usize == Self::PIECE { NIL } else { first + next },
            pool: 0,
            place: Place::None,
            heat: Heat::default(),
        });
        self.pieces.push(piece.collect());
        self.first_free = first;
    }
}

impl Index<u32> for Slots {
    type Output = Slot;

    fn index(&self, at: u32) -> &Slot {
        &self.pieces[at as usize / Self::PIECE][at as usize % Self::PIECE]
    }
}

impl IndexMut<u32> for Slots {
    fn index_mut(&mut self, at: u32) -> &mut Slot {
        &mut self.pieces[at as usize / Self::PIECE][at as usize % Self::PIECE]
    }
}
