use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

/// More tags than this in one namespace are forgotten by invalidating the namespace.
pub(crate) const MOST_TAGS: usize = 50_000;
/// More namespaces than this are forgotten by invalidating all of them.
const MOST_NAMESPACES: usize = 10_000;

/// Remembers up to which number the entries of a tag or a namespace are invalid.
///
/// An entry's version and a barrier are numbers of the same counter, kept by Redis, so no clocks are compared. Memory
/// is bounded: what is forgotten invalidates more, never less.
#[derive(Debug, Default)]
pub(super) struct Barriers {
    /// The highest of all: an entry written later needs no look-up.
    newest: AtomicU64,
    all: RwLock<All>,
}

#[derive(Debug, Default)]
struct All {
    floor: u64,
    namespaces: HashMap<Box<str>, NamespaceBarriers>,
}

#[derive(Debug, Default)]
struct NamespaceBarriers {
    floor: u64,
    tags: HashMap<Box<str>, u64>,
}

impl Barriers {
    /// Tells whether an entry of this version is still valid.
    pub(super) fn admit<'a>(
        &self,
        namespace: &str,
        tags: impl IntoIterator<Item = &'a str>,
        version: u64,
    ) -> bool {
        if version > self.newest.load(Ordering::Acquire) {
            return true;
        }
        let all = self.all.read();
        if version <= all.floor {
            return false;
        }
        let Some(barriers) = all.namespaces.get(namespace) else { return true };
        let passed = |tag: &'a str| barriers.tags.get(tag).is_none_or(|barrier| version > *barrier);
        version > barriers.floor && tags.into_iter().all(passed)
    }

    pub(super) fn raise_tag(&self, namespace: &str, tag: &str, position: u64) {
        self.change(namespace, position, |barriers| {
            if barriers.tags.len() >= MOST_TAGS && !barriers.tags.contains_key(tag) {
                barriers.tags.clear();
                barriers.floor = barriers.floor.max(position);
                return;
            }
            let barrier = barriers.tags.entry(tag.into()).or_default();
            *barrier = position.max(*barrier);
        });
    }

    pub(super) fn raise_namespace(&self, namespace: &str, position: u64) {
        self.change(namespace, position, |barriers| {
            barriers.floor = barriers.floor.max(position);
            let floor = barriers.floor;
            barriers.tags.retain(|_, barrier| *barrier > floor);
        });
    }

    fn change(&self, namespace: &str, position: u64, change: impl FnOnce(&mut NamespaceBarriers)) {
        let mut all = self.all.write();
        if all.namespaces.len() >= MOST_NAMESPACES && !all.namespaces.contains_key(namespace) {
            all.namespaces.clear();
            all.floor = self.newest.load(Ordering::Acquire).max(position);
        }
        change(all.namespaces.entry(namespace.into()).or_default());
        self.newest.fetch_max(position, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_entry_is_invalid_up_to_the_barrier_of_any_of_its_tags_or_its_namespace() {
        let barriers = Barriers::default();
        barriers.raise_tag("users", "eu", 10);
        barriers.raise_namespace("orders", 20);
        for (namespace, named, version, valid) in [
            ("users", &["eu"][..], 10, false),
            ("users", &["eu"], 11, true),
            ("users", &["us", "eu"], 9, false),
            ("users", &["us"], 9, true),
            ("users", &[], 9, true),
            ("orders", &[], 20, false),
            ("orders", &[], 21, true),
            ("orders", &["eu"], 21, true),
            ("other", &["eu"], 1, true),
        ] {
            let admitted = barriers.admit(namespace, named.iter().copied(), version);
            assert_eq!(admitted, valid, "{namespace} {named:?} {version}");
        }
    }

    #[test]
    fn tags_that_are_forgotten_stay_invalid() {
        let barriers = Barriers::default();
        for number in 1..=MOST_TAGS as u64 + 10 {
            barriers.raise_tag("users", &format!("t{number}"), number);
        }
        assert!(!barriers.admit("users", ["t1"], 1));
        assert!(barriers.all.read().namespaces["users"].tags.len() <= MOST_TAGS);
    }

    proptest! {
        /// Whatever the order in which barriers arrive, twice or not, an entry is admitted exactly when it is newer than all
        /// that concern it.
        #[test]
        fn barriers_may_arrive_in_any_order(
            raised in prop::collection::vec((0_usize..3, 1_u64..50), 0..20),
            version in 1_u64..60,
        ) {
            let barriers = Barriers::default();
            for (what, position) in &raised {
                match what {
                    0 => barriers.raise_namespace("n", *position),
                    1 => barriers.raise_tag("n", "a", *position),
                    _ => barriers.raise_tag("n", "b", *position),
                }
            }
            let highest = raised.iter().filter(|(what, _)| *what < 2).map(|(_, position)| *position).max();
            let valid = highest.is_none_or(|highest| version > highest);
            prop_assert_eq!(barriers.admit("n", ["a"], version), valid);
        }
    }
}
