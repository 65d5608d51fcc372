//! The two orders in which slots stand, linked through the slots themselves.

use super::slots::{NIL, Place, Slots};

/// A doubly linked list, newest first.
#[derive(Debug)]
pub(super) struct List {
    place: Place,
    pub(super) newest: u32,
    oldest: u32,
}

impl List {
    pub(super) fn new(place: Place) -> Self {
        Self { place, newest: NIL, oldest: NIL }
    }

    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != NIL).then_some(self.oldest)
    }

    pub(super) fn push_newest(&mut self, slots: &mut Slots, at: u32) {
        let second = std::mem::replace(&mut self.newest, at);
        let slot = &mut slots[at];
        (slot.place, slot.before, slot.after) = (self.place, NIL, second);
        if second == NIL {
            self.oldest = at;
        } else {
            slots[second].before = at;
        }
    }

    pub(super) fn unlink(&mut self, slots: &mut Slots, at: u32) {
        let slot = &mut slots[at];
        slot.place = Place::None;
        let (before, after) = (slot.before, slot.after);
        if before == NIL {
            self.newest = after;
        } else {
            slots[before].after = after;
        }
        if after == NIL {
            self.oldest = before;
        } else {
            slots[after].before = before;
        }
    }

    /// Takes note that the slot `from` is now `to`, its copy.
    pub(super) fn renumber(&mut self, slots: &mut Slots, from: u32, to: u32) {
        let (before, after) = (slots[to].before, slots[to].after);
        if before == NIL {
            self.newest = to;
        } else {
            slots[before].after = to;
        }
        if after == NIL {
            self.oldest = to;
        } else {
            slots[after].before = to;
        }
        slots[from].place = Place::None;
    }

    pub(super) fn make_newest(&mut self, slots: &mut Slots, at: u32) {
        if self.newest != at {
            self.unlink(slots, at);
            self.push_newest(slots, at);
        }
    }
}

/// A treap by the end of the ttl: a search tree that is a heap by hash, which keeps it flat.
///
/// See "Randomized Search Trees" (Seidel, Aragon, 1996). Takes no memory beyond the two links of a slot.
#[derive(Debug)]
pub(super) struct Tree {
    root: u32,
}

type Rank = (u64, u32);

impl Tree {
    pub(super) fn new() -> Self {
        Self { root: NIL }
    }

    pub(super) fn soonest(&self, slots: &Slots) -> Option<u32> {
        let mut at = self.root;
        while at != NIL && slots[at].before != NIL {
            at = slots[at].before;
        }
        (at != NIL).then_some(at)
    }

    pub(super) fn insert(&mut self, slots: &mut Slots, at: u32) {
        let slot = &mut slots[at];
        (slot.place, slot.before, slot.after) = (Place::Tree, NIL, NIL);
        self.root = insert(slots, self.root, at, rank(slots, at));
    }

    /// Its record must still be the one it was inserted with.
    pub(super) fn remove(&mut self, slots: &mut Slots, at: u32) {
        self.root = remove(slots, self.root, at, rank(slots, at));
        slots[at].place = Place::None;
    }
}

/// Every slot has a rank of its own.
fn rank(slots: &Slots, at: u32) -> Rank {
    (slots.lives_until(at).as_millis(), at)
}

fn insert(slots: &mut Slots, root: u32, at: u32, rank_of_new: Rank) -> u32 {
    if root == NIL {
        return at;
    }
    if slots[at].hash > slots[root].hash {
        (slots[at].before, slots[at].after) = split(slots, root, rank_of_new);
        return at;
    }
    if rank_of_new < rank(slots, root) {
        slots[root].before = insert(slots, slots[root].before, at, rank_of_new);
    } else {
        slots[root].after = insert(slots, slots[root].after, at, rank_of_new);
    }
    root
}

fn remove(slots: &mut Slots, root: u32, at: u32, rank_of_old: Rank) -> u32 {
    assert_ne!(root, NIL, "only what is in the tree is removed");
    if root == at {
        return join(slots, slots[root].before, slots[root].after);
    }
    if rank_of_old < rank(slots, root) {
        slots[root].before = remove(slots, slots[root].before, at, rank_of_old);
    } else {
        slots[root].after = remove(slots, slots[root].after, at, rank_of_old);
    }
    root
}

/// Parts a tree into what is below a rank and what is above.
fn split(slots: &mut Slots, root: u32, by: Rank) -> (u32, u32) {
    if root == NIL {
        return (NIL, NIL);
    }
    if rank(slots, root) < by {
        let (below, above) = split(slots, slots[root].after, by);
        slots[root].after = below;
        (root, above)
    } else {
        let (below, above) = split(slots, slots[root].before, by);
        slots[root].before = above;
        (below, root)
    }
}

/// Joins two trees of which all of the first is below all of the second.
fn join(slots: &mut Slots, below: u32, above: u32) -> u32 {
    if below == NIL || above == NIL {
        return if below == NIL { above } else { below };
    }
    if slots[below].hash > slots[above].hash {
        slots[below].after = join(slots, slots[below].after, above);
        below
    } else {
        slots[above].before = join(slots, below, slots[above].before);
        above
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, UNIX_EPOCH};

    use mainstay_runtime::Clock;
    use proptest::prelude::*;

    use super::*;
    use crate::entry::Entry;
    use crate::key::{ContentType, Key, Tags};
    use crate::layer::memory::record::Draft;
    use crate::time::Time;

    proptest! {
        #[test]
        fn the_soonest_of_the_tree_is_the_soonest_of_all(
            steps in prop::collection::vec((any::<u32>(), 0_u64..50, any::<bool>()), 1..300),
        ) {
            let now = Time::by_clock_alone(Clock::fixed(UNIX_EPOCH).0).now();
            let key = Key::try_new("n", "k").unwrap();
            let (mut slots, mut tree, mut model) = (Slots::new(), Tree::new(), BTreeSet::new());
            for (hash, lives_for, removes) in steps {
                if removes && !model.is_empty() {
                    let nth = hash as usize % model.len();
                    let rank: Rank = *model.iter().nth(nth).unwrap();
                    model.remove(&rank);
                    tree.remove(&mut slots, rank.1);
                    if let Some(moved) = slots.arena.free(slots[rank.1].address) {
                        slots[moved.owner].address = moved.to;
                    }
                    slots.remove(rank.1);
                } else {
                    let entry = Entry {
                        value: None,
                        content_type: ContentType::default(),
                        tags: Tags::default(),
                        version: 1,
                        set_at_unix_ms: 0,
                        fresh_until: now,
                        lives_until: now + Duration::from_millis(lives_for),
                        kept_until: now,
                        confirmed: true,
                        epoch: 0,
                    };
                    let draft = Draft::new(&key, &entry);
                    let at = slots.insert(hash, 0);
                    let address = slots.arena.take(draft.layout.class);
                    draft.write(at, 0, address, &mut slots.arena);
                    slots[at].address = address;
                    tree.insert(&mut slots, at);
                    model.insert(rank(&slots, at));
                }
                prop_assert_eq!(tree.soonest(&slots), model.first().map(|rank| rank.1));
            }
        }
    }
}
