use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::remote::RemoteSessions;
use super::{Handle, Sessions};

/// Touches that wait to be written together: of each session the last.
#[derive(Debug, Default)]
pub(super) struct Touches {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    seen_at_ms: HashMap<Handle, u64>,
    is_closed: bool,
}

/// More are written at once, each by itself.
const MOST_WAITING: usize = 10_000;
/// Written with one command.
const MOST_AT_ONCE: usize = 500;
const WRITE_WITHIN: Duration = Duration::from_secs(1);
/// Before another try, where Redis did not take them.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Touches {
    /// Takes a touch that is to be written soon; false when it has to be written at once.
    pub(super) fn add(&self, handle: &Handle, seen_at_ms: u64) -> bool {
        let mut waiting = self.waiting.lock();
        let is_full = waiting.seen_at_ms.len() >= MOST_WAITING && !waiting.seen_at_ms.contains_key(handle);
        if waiting.is_closed || is_full {
            return false;
        }
        waiting.seen_at_ms.insert(handle.clone(), seen_at_ms);
        drop(waiting);
        self.filled.notify_one();
        true
    }

    fn take(&self) -> Vec<(Handle, u64)> {
        let mut waiting = self.waiting.lock();
        let taken: Vec<Handle> = waiting.seen_at_ms.keys().take(MOST_AT_ONCE).cloned().collect();
        let with_time = |handle: Handle| waiting.seen_at_ms.remove_entry(&handle);
        taken.into_iter().filter_map(with_time).collect()
    }

    /// Puts back what was not written, unless there is something newer.
    fn put_back(&self, touches: Vec<(Handle, u64)>) {
        let mut waiting = self.waiting.lock();
        for (handle, seen_at_ms) in touches {
            waiting.seen_at_ms.entry(handle).or_insert(seen_at_ms);
        }
    }

    fn close(&self) {
        self.waiting.lock().is_closed = true;
    }
}

impl Sessions {
    /// Writes touches together, every so often, until the service stops; then what is left.
    pub(crate) async fn write_touches(
        self: Arc<Self>,
        every: Duration,
        stopping: CancellationToken,
    ) -> anyhow::Result<()> {
        let Some((remote, touches)) = self.touched() else { return Ok(()) };
        while !stopping.is_cancelled() {
            let due = async {
                touches.filled.notified().await;
                sleep(every).await;
            };
            tokio::select! {
                () = due => {}
                () = stopping.cancelled() => break,
            }
            if !self.write_all(remote, touches).await {
                tokio::select! {
                    () = sleep(RETRY_AFTER) => touches.filled.notify_one(),
                    () = stopping.cancelled() => break,
                }
            }
        }
        touches.close();
        self.write_all(remote, touches).await;
        Ok(())
    }

    async fn write_all(&self, remote: &RemoteSessions, touches: &Touches) -> bool {
        loop {
            let taken = touches.take();
            if taken.is_empty() {
                return true;
            }
            if let Err(error) = remote.touch(&taken, WRITE_WITHIN).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "touches wait for redis");
                touches.put_back(taken);
                return false;
            }
            self.metrics().touched_together(taken.len() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionId;

    #[test]
    fn of_each_session_the_last_touch_waits_and_no_more_than_so_many() {
        let touches = Touches::default();
        let handles: Vec<Handle> = (0..=MOST_WAITING).map(|_| SessionId::random().handle()).collect();
        for (number, handle) in handles.iter().enumerate() {
            assert_eq!(touches.add(handle, 1), number < MOST_WAITING);
        }
        assert!(touches.add(&handles[0], 2), "it waits already");
        let mut all = Vec::new();
        loop {
            let taken = touches.take();
            assert!(taken.len() <= MOST_AT_ONCE);
            if taken.is_empty() {
                break;
            }
            all.extend(taken);
        }
        assert_eq!(all.len(), MOST_WAITING);
        assert!(all.contains(&(handles[0].clone(), 2)));

        assert!(touches.add(&handles[0], 4));
        touches.put_back(vec![(handles[0].clone(), 3), (handles[1].clone(), 3)]);
        let mut back = touches.take();
        back.sort_by_key(|(_, seen_at_ms)| *seen_at_ms);
        assert_eq!(back, [(handles[1].clone(), 3), (handles[0].clone(), 4)]);
        touches.close();
        assert!(!touches.add(&handles[0], 5), "nobody would write it");
    }
}
