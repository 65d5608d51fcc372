//! Who changes a key on this node while its origin is told: one after the other, in the order in which they came.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Mutex as Line, OwnedMutexGuard};
use tokio::time::timeout;

use crate::key::Key;

/// A line for each key that somebody has or waits for.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<Key, Arc<Line<()>>>>);

/// A place in the line of a key, and then the turn.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    key: &'a Key,
    line: Arc<Line<()>>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the turn of a key; none if it does not come in time.
    pub(super) async fn take<'a>(&'a self, key: &'a Key, within: Duration) -> Option<Turn<'a>> {
        let line = Arc::clone(self.0.lock().entry(key.clone()).or_default());
        // Made before the turn has come, so that a caller who leaves the line leaves nothing behind.
        let mut turn = Turn { turns: self, key, line, guard: None };
        turn.guard = Some(timeout(within, Arc::clone(&turn.line).lock_owned()).await.ok()?);
        Some(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.guard.take());
        let mut lines = self.turns.0.lock();
        // The map's and ours: nobody else has it, and nobody gets it without the map.
        if Arc::strong_count(&self.line) == 2 {
            lines.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::poll;

    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_key_is_had_by_one_at_a_time_in_the_order_of_the_line_and_nothing_is_left_behind() {
        let (turns, key) = (Turns::default(), Key::try_new("n", "k").unwrap());
        let other = Key::try_new("n", "other").unwrap();
        let first = turns.take(&key, SOON).await.unwrap();
        assert!(turns.take(&key, SOON).await.is_none(), "two have it");
        assert!(turns.take(&other, SOON).await.is_some());
        let (mut second, mut third) = (Box::pin(turns.take(&key, SOON)), Box::pin(turns.take(&key, SOON)));
        assert!(poll!(&mut second).is_pending() && poll!(&mut third).is_pending());
        drop(first);
        assert!(poll!(&mut third).is_pending(), "it came later");
        let Poll::Ready(Some(second)) = poll!(&mut second) else { panic!("it came first") };
        drop(second);
        drop(third.await.unwrap());
        assert!(turns.0.lock().is_empty());
    }
}
