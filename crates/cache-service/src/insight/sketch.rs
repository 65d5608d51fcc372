use std::hash::BuildHasher as _;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Counts the most frequent of endless names in bounded memory: Space-Saving ("Efficient Computation of Frequent and Top-k
/// Elements in Data Streams", Metwally et al., 2005).
///
/// A name's count is never below the truth; it is above it by its `error` at most. Any name seen in more than
/// 1/`capacity` of all cases is among those kept.
///
/// Names stand in the order of their counts, so one that is counted only changes places with the first of those that had as many.
#[derive(Debug)]
pub(super) struct SpaceSaving {
    capacity: usize,
    /// The most frequent first.
    counts: Vec<Count>,
    /// Where each name stands.
    places: HashTable<usize>,
    hasher: DefaultHashBuilder,
    total: u64,
}

/// A name seen often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heavy {
    pub(crate) name: Arc<str>,
    pub(crate) count: u64,
    /// By how much `count` may be too high.
    pub(crate) error: u64,
}

#[derive(Debug)]
struct Count {
    name: String,
    hash: u64,
    count: u64,
    error: u64,
}

/// No place.
const NOWHERE: usize = usize::MAX;

impl SpaceSaving {
    /// `capacity` is above zero.
    pub(super) fn new(capacity: usize) -> Self {
        let (counts, places) = (Vec::with_capacity(capacity), HashTable::with_capacity(capacity));
        Self { capacity, counts, places, hasher: DefaultHashBuilder::default(), total: 0 }
    }

    pub(super) fn add(&mut self, name: &str) {
        self.total += 1;
        let hash = self.hasher.hash_one(name);
        let found = self.places.find(hash, |at| self.counts[*at].name == name).copied();
        let at = found.unwrap_or_else(|| self.admit(name, hash));
        // All before it that have as many stand together.
        let count = self.counts[at].count;
        let first = self.counts[..at].partition_point(|other| other.count > count);
        self.counts[at].count += 1;
        if first != at {
            self.counts.swap(first, at);
            // No two ever stand at one place, so that a place tells which one is meant.
            self.moved(self.counts[first].hash, at, NOWHERE);
            self.moved(self.counts[at].hash, first, at);
            self.moved(self.counts[first].hash, NOWHERE, first);
        }
    }

    /// Returns the most frequent, the first first.
    pub(super) fn heaviest(&self, most: usize) -> Vec<Heavy> {
        let counts = self.counts.iter().take(most);
        let heavy = |Count { name, count, error, .. }: &Count| Heavy {
            name: name.as_str().into(),
            count: *count,
            error: *error,
        };
        counts.map(heavy).collect()
    }

    /// Counts all that was added, faded as the counts are.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Halves all counts, and forgets what comes to nothing.
    pub(super) fn halve(&mut self) {
        self.total /= 2;
        self.counts.retain(|held| held.count > 1);
        self.places.clear();
        for held in &mut self.counts {
            held.count /= 2;
            held.error /= 2;
        }
        let Self { counts, places, .. } = self;
        for (at, held) in counts.iter().enumerate() {
            places.insert_unique(held.hash, at, |at| counts[*at].hash);
        }
    }

    /// Gives a newcomer a place and no count yet; where there is none left, that of the least, and as many as that had.
    fn admit(&mut self, name: &str, hash: u64) -> usize {
        let at = if self.counts.len() < self.capacity {
            self.counts.push(Count { name: name.to_owned(), hash, count: 0, error: 0 });
            self.counts.len() - 1
        } else {
            let at = self.counts.len() - 1;
            let least = &mut self.counts[at];
            if let Ok(place) = self.places.find_entry(least.hash, |other| *other == at) {
                place.remove();
            }
            least.name.clear();
            least.name.push_str(name);
            least.hash = hash;
            least.error = least.count;
            at
        };
        let counts = &self.counts;
        self.places.insert_unique(hash, at, |at| counts[*at].hash);
        at
    }

    fn moved(&mut self, hash: u64, from: usize, to: usize) {
        if let Some(at) = self.places.find_mut(hash, |at| *at == from) {
            *at = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fading_halves_counts_and_forgets_the_rare() {
        let mut sketch = SpaceSaving::new(10);
        for name in ["a", "a", "a", "a", "b"] {
            sketch.add(name);
        }
        sketch.halve();
        let heavy = sketch.heaviest(10);
        assert_eq!(heavy, [Heavy { name: "a".into(), count: 2, error: 0 }]);
        assert_eq!(sketch.total(), 2);
        for name in ["b", "a", "b"] {
            sketch.add(name);
        }
        let counts: Vec<_> =
            sketch.heaviest(10).into_iter().map(|heavy| (heavy.name.to_string(), heavy.count)).collect();
        assert_eq!(counts, [("a".to_owned(), 3), ("b".to_owned(), 2)]);
    }

    proptest! {
        #[test]
        fn counts_are_never_too_low_and_too_high_by_their_error_at_most(
            names in prop::collection::vec(0_u8..40, 0..400), capacity in 1_usize..20,
        ) {
            let mut sketch = SpaceSaving::new(capacity);
            let mut truth: HashMap<String, u64> = HashMap::new();
            for name in &names {
                sketch.add(&name.to_string());
                *truth.entry(name.to_string()).or_default() += 1;
            }
            let heavy = sketch.heaviest(capacity);
            prop_assert!(heavy.len() <= capacity && sketch.counts.len() == sketch.places.len());
            for (at, held) in sketch.counts.iter().enumerate() {
                prop_assert!(sketch.places.find(held.hash, |place| *place == at).is_some());
            }
            prop_assert!(heavy.is_sorted_by(|a, b| a.count >= b.count));
            for Heavy { name, count, error } in &heavy {
                let truth = truth[&**name];
                prop_assert!(*count >= truth && count - error <= truth);
            }
            for (name, count) in truth {
                let frequent = count > names.len() as u64 / capacity as u64;
                prop_assert!(!frequent || heavy.iter().any(|heavy| *heavy.name == *name), "{} is missing", name);
            }
        }
    }
}
