use super::ghosts::Ghosts;
use super::order::{List, Tree};
use super::slots::{Place, Slots};
use crate::config::Eviction;

/// The entries of one namespace in one shard, in the order in which they will have to leave.
///
/// `lru` and `fifo` use one list, `ttl` a tree. `lfu` is S3-FIFO (Yang et al., "FIFO queues are all you need for cache
/// eviction", 2023): new entries stand in a short list for trial, from where only those that are read twice come into
/// the main list; there each read since its last turn gives another one. What left after its trial is remembered
/// for a while, and comes into the main list at once.
#[derive(Debug)]
pub(super) struct Pool {
    eviction: Eviction,
    trial: List,
    main: List,
    tree: Tree,
    /// What stays whatever else wants room.
    pinned: List,
    ghosts: Ghosts,
    trial_bytes: u64,
    pub(super) pinned_bytes: u64,
    pub(super) n_pinned: u64,
    pub(super) bytes: u64,
    pub(super) n_entries: u64,
    pub(super) n_evictions: u64,
}

/// Reads after which an entry on trial stays.
const STAYS_FROM: u8 = 2;
/// The part of the bytes that may be on trial.
const TRIAL_PART: u64 = 10;
/// One eviction looks at no more entries than this.
const MOST_TURNS: usize = 1_024;

impl Pool {
    pub(super) fn new(eviction: Eviction) -> Self {
        Self {
            eviction,
            trial: List::new(Place::Trial),
            main: List::new(Place::Main),
            tree: Tree::new(),
            pinned: List::new(Place::Pinned),
            ghosts: Ghosts::default(),
            trial_bytes: 0,
            pinned_bytes: 0,
            n_pinned: 0,
            bytes: 0,
            n_entries: 0,
            n_evictions: 0,
        }
    }

    /// Changes the order from now on; [`Pool::settle`] brings what is there into it.
    pub(super) fn switch(&mut self, eviction: Eviction) {
        if self.eviction != eviction {
            self.eviction = eviction;
            self.ghosts = Ghosts::default();
        }
    }

    /// Gives a new slot its place.
    pub(super) fn link(&mut self, slots: &mut Slots, at: u32, bytes: u64) {
        self.bytes += bytes;
        self.n_entries += 1;
        match self.eviction {
            Eviction::Lru | Eviction::Fifo => self.main.push_newest(slots, at),
            Eviction::Ttl => self.tree.insert(slots, at),
            Eviction::Lfu if self.ghosts.take(slots[at].hash) => self.main.push_newest(slots, at),
            Eviction::Lfu => {
                self.trial.push_newest(slots, at);
                self.trial_bytes += bytes;
            }
        }
    }

    /// Takes a slot out of its order.
    pub(super) fn unlink(&mut self, slots: &mut Slots, at: u32, bytes: u64) {
        self.bytes -= bytes;
        self.n_entries -= 1;
        self.displace(slots, at, bytes);
    }

    /// Takes note that a slot is to get another record in place, and tells whether it may: its place stays the same then.
    pub(super) fn resize(&mut self, slots: &Slots, at: u32, bytes: u64, new_bytes: u64) -> bool {
        let place = slots[at].place;
        if place == Place::Pinned {
            self.bytes = self.bytes - bytes + new_bytes;
            self.pinned_bytes = self.pinned_bytes - bytes + new_bytes;
            return true;
        }
        if self.eviction != Eviction::Lfu || place == Place::Tree {
            return false;
        }
        self.bytes = self.bytes - bytes + new_bytes;
        if place == Place::Trial {
            self.trial_bytes = self.trial_bytes - bytes + new_bytes;
        }
        true
    }

    /// Takes note of a read, or returns false if it changes the order, which is for [`Pool::read`].
    pub(super) fn note_read(&self, slots: &Slots, at: u32) -> bool {
        match self.eviction {
            Eviction::Lru => self.main.newest == at || slots[at].place != Place::Main,
            Eviction::Lfu => {
                slots.heat(at).read();
                true
            }
            Eviction::Ttl | Eviction::Fifo => true,
        }
    }

    /// Takes note of a read that changes the order.
    pub(super) fn read(&mut self, slots: &mut Slots, at: u32) {
        if !self.note_read(slots, at) {
            self.main.make_newest(slots, at);
        }
    }

    /// Takes a slot out of the order in which others leave.
    pub(super) fn pin(&mut self, slots: &mut Slots, at: u32, bytes: u64) {
        self.displace(slots, at, bytes);
        self.pinned.push_newest(slots, at);
        self.pinned_bytes += bytes;
        self.n_pinned += 1;
    }

    /// Brings a pinned slot back into the order, as one that was just read.
    pub(super) fn unpin(&mut self, slots: &mut Slots, at: u32, bytes: u64) {
        self.displace(slots, at, bytes);
        match self.eviction {
            Eviction::Ttl => self.tree.insert(slots, at),
            _ => self.main.push_newest(slots, at),
        }
    }

    pub(super) fn oldest_pinned(&self) -> Option<u32> {
        self.pinned.oldest()
    }

    /// Returns the slot that is to leave next; none when the pool has none but pinned ones.
    pub(super) fn victim(&mut self, slots: &mut Slots) -> Option<u32> {
        let lists = |pool: &Self| pool.trial.oldest().or_else(|| pool.main.oldest());
        match self.eviction {
            Eviction::Lru | Eviction::Fifo => lists(self).or_else(|| self.tree.soonest(slots)),
            Eviction::Ttl => self.tree.soonest(slots).or_else(|| lists(self)),
            Eviction::Lfu => {
                for _ in 0..MOST_TURNS {
                    let in_order = self.bytes - self.pinned_bytes;
                    let from_trial =
                        self.trial_bytes * TRIAL_PART >= in_order || self.main.oldest().is_none();
                    let on_trial = self.trial.oldest().filter(|_| from_trial);
                    let Some(at) = on_trial.or_else(|| self.main.oldest()) else { break };
                    let heat = slots.heat(at);
                    match slots[at].place {
                        Place::Trial if heat.get() >= STAYS_FROM => {
                            heat.set(0);
                            self.displace(slots, at, slots.bytes(at));
                            self.main.push_newest(slots, at);
                        }
                        Place::Main if heat.get() > 0 => {
                            heat.cool();
                            self.main.make_newest(slots, at);
                        }
                        _ => return Some(at),
                    }
                }
                lists(self).or_else(|| self.tree.soonest(slots))
            }
        }
    }

    /// Counts an eviction, before it is done.
    pub(super) fn evicts(&mut self, slots: &Slots, at: u32) {
        self.n_evictions += 1;
        if self.eviction == Eviction::Lfu && slots[at].place == Place::Trial {
            self.ghosts.add(slots[at].hash, self.n_entries);
        }
    }

    /// Brings up to `most` entries that stand in an order of an earlier policy into the one that holds, and tells
    /// whether there were fewer.
    pub(super) fn settle(&mut self, slots: &mut Slots, most: usize) -> bool {
        for _ in 0..most {
            let foreign = match self.eviction {
                Eviction::Lru | Eviction::Fifo => self.trial.oldest().or_else(|| self.tree.soonest(slots)),
                Eviction::Ttl => self.trial.oldest().or_else(|| self.main.oldest()),
                Eviction::Lfu => self.tree.soonest(slots),
            };
            let Some(at) = foreign else { return true };
            self.displace(slots, at, slots.bytes(at));
            slots.heat(at).set(0);
            match self.eviction {
                Eviction::Ttl => self.tree.insert(slots, at),
                _ => self.main.push_newest(slots, at),
            }
        }
        false
    }

    /// Takes note that the slot `from` is now `to`, its copy.
    pub(super) fn renumber(&mut self, slots: &mut Slots, from: u32, to: u32) {
        match slots[to].place {
            Place::None => {}
            Place::Trial => self.trial.renumber(slots, from, to),
            Place::Main => self.main.renumber(slots, from, to),
            Place::Pinned => self.pinned.renumber(slots, from, to),
            Place::Tree => {
                self.tree.remove(slots, from);
                self.tree.insert(slots, to);
            }
        }
    }

    fn displace(&mut self, slots: &mut Slots, at: u32, bytes: u64) {
        match slots[at].place {
            Place::None => {}
            Place::Trial => {
                self.trial_bytes -= bytes;
                self.trial.unlink(slots, at);
            }
            Place::Main => self.main.unlink(slots, at),
            Place::Tree => self.tree.remove(slots, at),
            Place::Pinned => {
                self.pinned_bytes -= bytes;
                self.n_pinned -= 1;
                self.pinned.unlink(slots, at);
            }
        }
    }
}
