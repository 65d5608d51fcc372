use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::config::Address;
use crate::link::Link;

/// The way to one partition: the connection to its primary, and how that answers.
#[derive(Debug, Default)]
pub(crate) struct Way {
    link: ArcSwapOption<Link>,
    replaced: Notify,
    timeouts_in_a_row: AtomicU32,
    available: AtomicBool,
    connections: AtomicU32,
}

impl Way {
    /// Returns the connection, unless there is none that works.
    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        self.link.load_full().filter(|link| !link.is_closed())
    }

    /// Puts a connection in the place of the one before.
    pub(crate) fn replace(&self, link: Option<Arc<Link>>) {
        if link.is_some() {
            self.connections.fetch_add(1, Ordering::Relaxed);
            self.timeouts_in_a_row.store(0, Ordering::Relaxed);
        }
        self.link.store(link);
        self.replaced.notify_waiters();
    }

    /// Does so unless it is that one already.
    pub(crate) fn lead_to(&self, link: Option<&Arc<Link>>) {
        let now = self.link.load();
        let is_same = match (now.as_ref(), link) {
            (Some(now), Some(link)) => Arc::ptr_eq(now, link),
            (now, link) => now.is_none() && link.is_none(),
        };
        if !is_same {
            self.replace(link.cloned());
        }
    }

    /// Waits for another connection than `before`.
    pub(crate) async fn after(&self, before: &Arc<Link>, until: Instant) -> Option<Arc<Link>> {
        loop {
            let replaced = self.replaced.notified();
            if let Some(link) = self.link().filter(|link| !Arc::ptr_eq(link, before)) {
                return Some(link);
            }
            timeout_at(until, replaced).await.ok()?;
        }
    }

    /// Waits until there is a connection to another server than this one.
    pub(crate) async fn leads_elsewhere(&self, than: &Address) {
        loop {
            let replaced = self.replaced.notified();
            if self.link().is_some_and(|link| link.address() != than) {
                return;
            }
            replaced.await;
        }
    }

    /// Drops a connection that no longer answers; false when it has been replaced already.
    pub(crate) fn give_up(&self, link: &Arc<Link>) -> bool {
        let before = self.link.compare_and_swap(link, None);
        let given_up = before.as_ref().is_some_and(|before| Arc::ptr_eq(before, link));
        if given_up {
            self.timeouts_in_a_row.store(0, Ordering::Relaxed);
        }
        given_up
    }

    pub(crate) fn answered(&self) {
        self.timeouts_in_a_row.store(0, Ordering::Relaxed);
        self.available.store(true, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.available.store(false, Ordering::Relaxed);
    }

    /// Counts a command without an answer, and returns how many there were in a row.
    pub(crate) fn timed_out(&self) -> u32 {
        self.timeouts_in_a_row.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn is_available(&self) -> bool {
        self.available.load(Ordering::Relaxed)
    }

    /// Counts the connections there were.
    pub(crate) fn n_connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }
}
