//! Fences: writes that name a lock and its token are refused once somebody else has got the lock since.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::shared::{Expiring, Name};
use crate::time::{Moment, Time};

/// A lock and the token that its holder was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fence {
    pub(crate) lock: Name,
    pub(crate) token: u64,
}

/// The last token of each lock, where there is no Redis to keep it. Shared by the locks, which give tokens out, and the
/// write path, which checks them.
#[derive(Debug, Clone)]
pub(crate) struct Fences {
    last: Arc<Mutex<Expiring<u64>>>,
    time: Time,
}

/// So long after its last change a lock's token is known: as in Redis, where locks live for a day at most.
const KNOWN_FOR: Duration = Duration::from_hours(48);

impl Fence {
    /// Tokens are exact in Redis up to here.
    pub(crate) const TOKEN_MAX: u64 = (1 << 53) - 1;

    /// Returns what decides in which partition of a cluster a lock lies: all before the first colon. So the lock `users:42` lies
    /// where the namespace `users` does.
    pub(crate) fn home_of(lock: &Name) -> &str {
        lock.as_str().split(':').next().unwrap_or_default()
    }

    /// Names what lies in Redis: the last token given out for a lock.
    pub(crate) fn key_of(lock: &Name) -> String {
        ["_fence:", lock.as_str()].concat()
    }
}

impl Fences {
    /// Knows at most so many locks; the tokens of more are not given out.
    pub(crate) fn new(max: usize, time: Time) -> Self {
        Self { last: Arc::new(Mutex::new(Expiring::new(max))), time }
    }

    /// Takes note of a token given out; false when there is no room for it.
    pub(crate) fn given(&self, lock: &Name, token: u64) -> bool {
        self.last.lock().put(lock.as_str(), token, Some(KNOWN_FOR), self.time.now()).is_ok()
    }

    /// Lets a write pass whose token is the last of its lock; nobody can get that lock while the guard is held.
    pub(crate) fn pass(&self, fence: &Fence) -> Result<MutexGuard<'_, Expiring<u64>>, u64> {
        let last = self.last.lock();
        let now: Moment = self.time.now();
        match last.get(fence.lock.as_str(), now) {
            Some((newest, _)) if *newest > fence.token => Err(*newest),
            _ => Ok(last),
        }
    }
}
