/// Remembers by their hashes which entries left lately, about as many as there are entries.
///
/// A hash has one place, where the next one with the same place replaces it: that is how it forgets.
#[derive(Debug, Default)]
pub(super) struct Ghosts {
    places: Vec<u32>,
}

const FEWEST_PLACES: usize = 64;

impl Ghosts {
    /// Remembers a hash, beside `n_entries` that are held.
    pub(super) fn add(&mut self, hash: u32, n_entries: u64) {
        let wanted = usize::try_from(n_entries).unwrap_or(usize::MAX).max(FEWEST_PLACES);
        if self.places.len() < wanted {
            let before = std::mem::replace(&mut self.places, vec![0; wanted.next_power_of_two()]);
            for ghost in before {
                self.put(ghost);
            }
        }
        self.put(named(hash));
    }

    /// Forgets a hash and tells whether it was remembered.
    pub(super) fn take(&mut self, hash: u32) -> bool {
        let ghost = named(hash);
        let at = self.place(ghost);
        let found = self.places.get_mut(at).filter(|place| **place == ghost);
        found.map(|place| *place = 0).is_some()
    }

    fn put(&mut self, ghost: u32) {
        let at = self.place(ghost);
        if ghost != 0 {
            self.places[at] = ghost;
        }
    }

    fn place(&self, ghost: u32) -> usize {
        ghost as usize & self.places.len().saturating_sub(1)
    }
}

/// Zero means an empty place.
fn named(hash: u32) -> u32 {
    hash.max(1)
}
