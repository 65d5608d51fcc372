//! Which of the changes at the head of a queue are sent. Pure.

use std::collections::HashMap;

use crate::key::Key;
use crate::origin::Change;

/// A change as it lies in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) id: String,
    pub(super) change: Change,
}

/// The newest change of a key, and those that it makes superfluous.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) id: String,
    pub(super) change: Change,
    /// Places of older changes of the key in the queue: they leave it with this one.
    pub(super) older: Vec<String>,
}

impl Planned {
    /// Returns all places that this change settles.
    pub(super) fn places(&self) -> impl Iterator<Item = Place<'_>> {
        std::iter::once(Place { id: &self.id, key: &self.change.key }).chain(self.older_places())
    }

    pub(super) fn older_places(&self) -> impl Iterator<Item = Place<'_>> {
        self.older.iter().map(|id| Place { id, key: &self.change.key })
    }
}

/// Where a change of a key lies in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) id: &'a str,
    pub(super) key: &'a Key,
}

/// Keeps of each key the change with the highest version, in the order of versions. What was replayed lies behind newer
/// changes of its key, so the place in the queue does not decide.
pub(super) fn coalesce(taken: Vec<Taken>) -> Vec<Planned> {
    let mut by_key: HashMap<Key, Planned> = HashMap::new();
    for Taken { id, change } in taken {
        match by_key.get_mut(&change.key) {
            None => {
                let key = change.key.clone();
                by_key.insert(key, Planned { id, change, older: Vec::new() });
            }
            Some(planned) if planned.change.version <= change.version => {
                planned.older.push(std::mem::replace(&mut planned.id, id));
                planned.change = change;
            }
            Some(planned) => planned.older.push(id),
        }
    }
    let mut planned: Vec<Planned> = by_key.into_values().collect();
    planned.sort_by_key(|planned| planned.change.version);
    planned
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Each key is sent once, with its newest change; every place of the queue leaves it with exactly one of them.
        #[test]
        fn the_newest_of_each_key_stands_for_all(changes in prop::collection::vec((0_u8..6, 0_u64..50), 0..60)) {
            let taken: Vec<Taken> = changes.iter().enumerate().map(|(place, (key, version))| Taken {
                id: place.to_string(),
                change: Change { key: Key::try_new("n", &key.to_string()).unwrap(), value: None, version: *version },
            }).collect();
            let planned = coalesce(taken.clone());
            let keys: BTreeSet<_> = planned.iter().map(|planned| planned.change.key.as_str().to_owned()).collect();
            prop_assert_eq!(keys.len(), planned.len());
            prop_assert!(planned.is_sorted_by_key(|planned| planned.change.version));
            let mut places = Vec::new();
            for planned in &planned {
                let newest = taken.iter().filter(|taken| taken.change.key == planned.change.key);
                prop_assert_eq!(newest.map(|taken| taken.change.version).max(), Some(planned.change.version));
                places.push(planned.id.clone());
                places.extend(planned.older.iter().cloned());
            }
            places.sort_by_key(|place| place.parse::<usize>().unwrap());
            prop_assert_eq!(places, (0..taken.len()).map(|place| place.to_string()).collect::<Vec<_>>());
        }
    }
}
