//! Who changes a key on this node while its origin is told: a conditional change alone, others together.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tokio::time::timeout;

use crate::key::Key;

/// A lock for each key that somebody has or waits for, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<Key, Arc<RwLock<()>>>>);

/// A place in the line of a key, and then the turn.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    key: &'a Key,
    lock: Arc<RwLock<()>>,
    guard: Option<Guard>,
}

#[derive(Debug)]
enum Guard {
    Shared(#[expect(dead_code, reason = "held, not looked at")] OwnedRwLockReadGuard<()>),
    Alone(#[expect(dead_code, reason = "held, not looked at")] OwnedRwLockWriteGuard<()>),
}

impl Turns {
    /// Waits for the turn of a key, to have it alone or with all who do not ask for that; none if it does not come in time.
    pub(super) async fn take<'a>(
        &'a self,
        key: &'a Key,
        is_alone: bool,
        within: Duration,
    ) -> Option<Turn<'a>> {
        let lock = Arc::clone(self.0.lock().entry(key.clone()).or_default());
        let mut turn = Turn { turns: self, key, lock, guard: None };
        let lock = Arc::clone(&turn.lock);
        let guard = async {
            if is_alone {
                Guard::Alone(lock.write_owned().await)
            } else {
                Guard::Shared(lock.read_owned().await)
            }
        };
        turn.guard = Some(timeout(within, guard).await.ok()?);
        Some(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.guard.take());
        let mut locks = self.turns.0.lock();
        // The map's and ours: nobody else has it, and nobody gets it without the map.
        if Arc::strong_count(&self.lock) == 2 {
            locks.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn who_has_a_key_alone_has_it_alone_and_nothing_is_left_behind() {
        let (turns, key) = (Turns::default(), Key::try_new("n", "k").unwrap());
        let other = Key::try_new("n", "other").unwrap();
        let first = turns.take(&key, true, SOON).await.unwrap();
        assert!(turns.take(&key, true, SOON).await.is_none(), "two have it alone");
        assert!(turns.take(&key, false, SOON).await.is_none(), "one more has it");
        assert!(turns.take(&other, true, SOON).await.is_some());
        let (second, ()) = tokio::join!(turns.take(&key, false, SOON), async { drop(first) });
        let third = turns.take(&key, false, SOON).await;
        assert!(third.is_some() && turns.take(&key, true, SOON).await.is_none());
        assert_eq!(turns.0.lock().len(), 1);
        drop((second.unwrap(), third));
        assert!(turns.0.lock().is_empty());
    }
}
