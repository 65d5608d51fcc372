use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use super::held::{Held, HeldOnDisk};

/// Knows in memory where on disk each key lies. Keys are known by a hash of 64 bits; the record on disk has the key itself.
#[derive(Debug, Default)]
pub(super) struct Index {
    hasher: RandomState,
    places: HashMap<u64, Place>,
    held: Held,
    /// Puts that wait to be written: the last one of each key.
    pending: HashMap<u64, Pending>,
    n_puts: u64,
}

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u32,
    pub(super) length: u32,
    pub(super) version: u64,
    /// Of its namespace, as the index counts them; any, before the index has it.
    pub(super) namespace: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pending {
    number: u64,
    version: u64,
}

impl Index {
    pub(super) fn hash(&self, key: &str) -> u64 {
        self.hasher.hash_one(key)
    }

    pub(super) fn place(&self, hash: u64) -> Option<Place> {
        self.places.get(&hash).copied()
    }

    /// Tells whether this version lies on disk or waits to.
    pub(super) fn has_version(&self, hash: u64, version: u64) -> bool {
        match self.pending.get(&hash) {
            Some(pending) => pending.version == version,
            None => self.places.get(&hash).is_some_and(|place| place.version == version),
        }
    }

    /// Notes a put that will be written; what lies on disk for the key is no longer true.
    pub(super) fn announce(&mut self, hash: u64, version: u64) -> (Pending, Option<Place>) {
        self.n_puts += 1;
        let pending = Pending { number: self.n_puts, version };
        self.pending.insert(hash, pending);
        (pending, self.take(hash))
    }

    /// Tells whether a put is still the last word on its key.
    pub(super) fn is_wanted(&self, hash: u64, pending: Pending) -> bool {
        self.pending.get(&hash) == Some(&pending)
    }

    /// Makes a written put visible if it is still the last word on its key.
    pub(super) fn written(&mut self, hash: u64, key: &str, pending: Pending, place: Place) {
        if self.is_wanted(hash, pending) {
            self.pending.remove(&hash);
            self.found(hash, key, place);
        }
    }

    /// Forgets a put that will not be written.
    pub(super) fn given_up(&mut self, hash: u64, pending: Pending) {
        if self.is_wanted(hash, pending) {
            self.pending.remove(&hash);
        }
    }

    /// Forgets a key if what lies on disk, or is about to, is older than a version. Tells whether it was so.
    pub(super) fn remove_older(&mut self, key: &str, version: u64) -> bool {
        let hash = self.hash(key);
        let pending = self.pending.get(&hash).map(|pending| pending.version);
        let known = pending.or_else(|| self.places.get(&hash).map(|place| place.version));
        known.is_some_and(|known| known < version) && self.remove(hash)
    }

    /// Forgets a key and tells whether anything of it lies on disk or was about to.
    pub(super) fn remove(&mut self, hash: u64) -> bool {
        let was_pending = self.pending.remove(&hash).is_some();
        self.take(hash).is_some() || was_pending
    }

    /// Forgets a place that turned out to be of no use, unless it has been replaced.
    pub(super) fn remove_place(&mut self, hash: u64, place: Place) {
        if self.places.get(&hash) == Some(&place) {
            self.take(hash);
        }
    }

    /// Puts in where the record of a key lies.
    pub(super) fn found(&mut self, hash: u64, key: &str, place: Place) {
        self.take(hash);
        let namespace = self.held.number(key);
        self.held.added(namespace, place.length);
        self.places.insert(hash, Place { namespace, ..place });
    }

    /// Forgets those of the keys that lie in this segment.
    pub(super) fn drop_segment(&mut self, segment: u64, hashes: &[u64]) {
        for hash in hashes {
            if self.places.get(hash).is_some_and(|place| place.segment == segment)
                && let Some(place) = self.take(*hash)
            {
                self.held.evicted(place.namespace);
            }
        }
    }

    /// Takes over what was found at the start by an index that had nothing, unless it is known better by now.
    pub(super) fn take_over(&mut self, found: Self) {
        self.places = found.places;
        self.held.take_over(found.held);
        let known: Vec<u64> =
            self.pending.keys().copied().filter(|hash| self.places.contains_key(hash)).collect();
        for hash in known {
            self.take(hash);
        }
    }

    /// Returns an empty index with the same hashes.
    pub(super) fn sibling(&self) -> Self {
        Self { hasher: self.hasher.clone(), ..Self::default() }
    }

    /// Forgets everything that lies on disk.
    pub(super) fn clear(&mut self) {
        self.places.clear();
        self.held.clear();
    }

    /// Returns what lies on disk by namespace.
    pub(super) fn held(&self) -> Vec<(String, HeldOnDisk)> {
        self.held.figures()
    }

    fn take(&mut self, hash: u64) -> Option<Place> {
        let place = self.places.remove(&hash)?;
        self.held.removed(place.namespace, place.length);
        Some(place)
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }
}
