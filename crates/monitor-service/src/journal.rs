//! What happened lately, for watchers that listen and for those that come back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::broadcast;

use crate::alert::{Event, Record};

/// Numbers events and hands them to watchers.
#[derive(Debug)]
pub(crate) struct Journal {
    next_id: u64,
    recent: VecDeque<Arc<Record>>,
    live_tx: broadcast::Sender<Arc<Record>>,
    /// Events up to this one are not in `recent`.
    forgotten_id: u64,
}

/// Holds what a watcher gets first, and what it listens to then.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// Events it missed, oldest first.
    pub missed: Vec<Arc<Record>>,
    /// Some that it missed are not kept any more.
    pub lost: bool,
    /// What happens from now on.
    pub live_rx: broadcast::Receiver<Arc<Record>>,
}

/// Events kept for watchers that come back, and waiting for each that is slow.
const RECENT: usize = 1_000;

impl Journal {
    /// Goes on after what was stored. Numbers start at the microsecond, so that they grow even if nothing was.
    pub(crate) fn new(stored: Vec<Record>, now: SystemTime) -> Self {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let by_clock = u64::try_from(since.as_micros()).unwrap_or_default();
        let newest = stored.last().map_or(0, |record| record.id);
        let forgotten_id = stored.first().map_or(by_clock - 1, |record| record.id - 1);
        Self {
            next_id: by_clock.max(newest + 1),
            recent: stored.into_iter().map(Arc::new).collect(),
            live_tx: broadcast::Sender::new(RECENT),
            forgotten_id,
        }
    }

    /// Puts an event on record.
    pub(crate) fn add(&mut self, event: Event, by: &str, now: SystemTime) -> Arc<Record> {
        let Event { change, alert } = event;
        let record = Arc::new(Record {
            id: self.next_id,
            at: now,
            change: change.as_str().into(),
            by: by.to_owned(),
            alert,
        });
        self.next_id += 1;
        if self.recent.len() == RECENT
            && let Some(oldest) = self.recent.pop_front()
        {
            self.forgotten_id = oldest.id;
        }
        self.recent.push_back(Arc::clone(&record));
        // Nobody listens: fine.
        let _ = self.live_tx.send(Arc::clone(&record));
        record
    }

    /// Begins to listen; `after` is the last event that was seen, 0 for none.
    pub(crate) fn subscribe(&self, after: u64) -> Subscription {
        let resumes = after > 0;
        let missed = self.recent.iter().filter(|record| resumes && record.id > after);
        Subscription {
            missed: missed.cloned().collect(),
            lost: resumes && after < self.forgotten_id,
            live_rx: self.live_tx.subscribe(),
        }
    }
}
