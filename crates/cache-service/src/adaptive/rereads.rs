use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;

use hashbrown::DefaultHashBuilder;
use parking_lot::Mutex;

use crate::key::Key;

/// Finds out how much of what is written is read again, from one key in eight.
#[derive(Debug, Default)]
pub(super) struct Rereads {
    hasher: DefaultHashBuilder,
    watched: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    /// Written and not read yet: in which look it was written.
    unread: HashMap<u64, u32>,
    order: VecDeque<(u64, u32)>,
    look: u32,
    n_reread: u64,
    n_unread: u64,
}

/// Of the hash of a key; these must be zero.
const SAMPLE_MASK: u64 = 7;
const MOST_WATCHED: usize = 2_048;
/// What was not read for so many looks counts as unread.
const GIVEN_UP_AFTER: u32 = 2;

impl Rereads {
    pub(super) fn read(&self, key: &Key) {
        let hash = self.hasher.hash_one(key.as_str());
        if hash & SAMPLE_MASK == 0 {
            let mut watched = self.watched.lock();
            if watched.unread.remove(&hash).is_some() {
                watched.n_reread += 1;
            }
        }
    }

    pub(super) fn wrote(&self, key: &Key) {
        let hash = self.hasher.hash_one(key.as_str());
        if hash & SAMPLE_MASK == 0 {
            self.watched.lock().wrote(hash);
        }
    }

    /// Ends a look: tells how many were read again, and how many not, since the last one.
    pub(super) fn settle(&self) -> (u64, u64) {
        let mut watched = self.watched.lock();
        watched.look += 1;
        let look = watched.look;
        while let Some((hash, written)) = watched.order.front().copied() {
            if look - written < GIVEN_UP_AFTER {
                break;
            }
            watched.order.pop_front();
            watched.give_up(hash, written);
        }
        (std::mem::take(&mut watched.n_reread), std::mem::take(&mut watched.n_unread))
    }
}

impl Watched {
    fn wrote(&mut self, hash: u64) {
        let look = self.look;
        if self.unread.insert(hash, look).is_some() {
            // Written over before it was read.
            self.n_unread += 1;
        }
        self.order.push_back((hash, look));
        if self.order.len() > MOST_WATCHED
            && let Some((oldest, written)) = self.order.pop_front()
        {
            self.give_up(oldest, written);
        }
    }

    /// Only what was not read, nor written anew, since.
    fn give_up(&mut self, hash: u64, written: u32) {
        if self.unread.get(&hash) == Some(&written) {
            self.unread.remove(&hash);
            self.n_unread += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        Key::try_new("n", &number.to_string()).unwrap()
    }

    #[test]
    fn what_is_read_after_its_write_counts_once_and_what_is_not_after_two_looks() {
        let rereads = Rereads::default();
        (0..800).for_each(|number| rereads.wrote(&key(number)));
        (0..400).for_each(|number| rereads.read(&key(number)));
        (0..400).for_each(|number| rereads.read(&key(number)));
        let (n_reread, n_unread) = rereads.settle();
        assert!((20..=100).contains(&n_reread) && n_unread == 0, "{n_reread} {n_unread}");
        let (again, n_unread) = rereads.settle();
        assert!(again == 0 && (20..=100).contains(&n_unread), "{again} {n_unread}");
        assert_eq!(rereads.settle(), (0, 0));
    }

    #[test]
    fn what_is_watched_is_bounded() {
        let rereads = Rereads::default();
        (0..100_000).for_each(|number| rereads.wrote(&key(number)));
        let watched = rereads.watched.lock();
        assert!(watched.order.len() <= MOST_WATCHED && watched.unread.len() <= MOST_WATCHED);
        assert!(watched.n_unread > 5_000);
    }
}
