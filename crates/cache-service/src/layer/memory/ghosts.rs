/// Remembers by their hashes which entries left lately, about as many as there are entries.
///
/// A hash has two places, which it shares with others: the third with the same places pushes the first out. That is how it
/// forgets.
#[derive(Debug, Default)]
pub(super) struct Ghosts {
    places: Vec<u32>,
}

const FEWEST_PLACES: usize = 64;

impl Ghosts {
    /// Remembers a hash, beside `n_entries` that are held.
    pub(super) fn add(&mut self, hash: u32, n_entries: u64) {
        let wanted = usize::try_from(n_entries).unwrap_or(usize::MAX).max(FEWEST_PLACES);
        if self.places.len() < wanted || self.places.len() / 8 > wanted {
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
        let at = self.first_place(ghost);
        let both = self.places.get_mut(at..at + 2).unwrap_or_default();
        both.iter_mut().find(|place| **place == ghost).map(|place| *place = 0).is_some()
    }

    fn put(&mut self, ghost: u32) {
        let at = self.first_place(ghost);
        if ghost != 0 {
            self.places[at + 1] = std::mem::replace(&mut self.places[at], ghost);
        }
    }

    fn first_place(&self, ghost: u32) -> usize {
        ghost as usize & self.places.len().saturating_sub(1) & !1
    }
}

/// Zero means an empty place.
fn named(hash: u32) -> u32 {
    hash.max(1)
}
