use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Counts the most frequent of endless names in bounded memory: Space-Saving ("Efficient Computation of Frequent and Top-k
/// Elements in Data Streams", Metwally et al., 2005).
///
/// A name's count is never below the truth; it is above it by its `error` at most. Any name seen in more than
/// 1/`capacity` of all cases is among those kept.
#[derive(Debug)]
pub(super) struct SpaceSaving {
    capacity: usize,
    by_name: HashMap<Arc<str>, Count>,
    /// The same names by count, the least first.
    by_count: BTreeSet<(u64, Arc<str>)>,
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

#[derive(Debug, Clone, Copy)]
struct Count {
    count: u64,
    error: u64,
}

impl SpaceSaving {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, by_name: HashMap::with_capacity(capacity), by_count: BTreeSet::new(), total: 0 }
    }

    pub(super) fn add(&mut self, name: &str) {
        self.total += 1;
        if let Some((name, held)) = self.by_name.get_key_value(name) {
            let (name, held) = (Arc::clone(name), *held);
            self.by_count.remove(&(held.count, Arc::clone(&name)));
            self.put(name, Count { count: held.count + 1, ..held });
            return;
        }
        // A newcomer takes the place of the least, and may have been seen as often as that.
        let least = if self.by_name.len() < self.capacity { None } else { self.by_count.pop_first() };
        let error = least.map_or(0, |(count, least)| {
            self.by_name.remove(&least);
            count
        });
        self.put(name.into(), Count { count: error + 1, error });
    }

    /// Returns the most frequent, the first first.
    pub(super) fn heaviest(&self, most: usize) -> Vec<Heavy> {
        let names = self.by_count.iter().rev().take(most);
        names
            .map(|(count, name)| {
                let error = self.by_name.get(name).map_or(0, |held| held.error);
                Heavy { name: Arc::clone(name), count: *count, error }
            })
            .collect()
    }

    /// Counts all that was added, faded as the counts are.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Halves all counts, and forgets what comes to nothing.
    pub(super) fn halve(&mut self) {
        self.total /= 2;
        let before = std::mem::take(&mut self.by_name);
        self.by_count.clear();
        for (name, Count { count, error }) in before {
            if count > 1 {
                self.put(name, Count { count: count / 2, error: error / 2 });
            }
        }
    }

    fn put(&mut self, name: Arc<str>, count: Count) {
        self.by_count.insert((count.count, Arc::clone(&name)));
        self.by_name.insert(name, count);
    }
}

#[cfg(test)]
mod tests {
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
            prop_assert!(heavy.len() <= capacity && sketch.by_count.len() == sketch.by_name.len());
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
