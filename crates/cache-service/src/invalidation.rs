//! What is known about changes made elsewhere: how far the log was read, what it said, and whether that is recent.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::entry::Head;
use crate::key::Key;
use crate::time::Moment;

mod barriers;
mod cursor;
mod metrics;
mod reader;

use barriers::Barriers;
pub(crate) use barriers::MOST_TAGS;
pub(crate) use cursor::{Event, LogEntry};
pub(crate) use metrics::InvalidationMetrics;
pub(crate) use reader::Reader;

/// Judges whether an entry in memory may be served without asking Redis.
///
/// Redis numbers every change and keeps the last ones as a log. [`Reader`] applies them here. While it knows that it
/// has read to the end, within `current_for`, memory is proven; else Redis is asked. What cannot be made good by reading
/// on ends an epoch: entries of earlier epochs are never fresh again.
#[derive(Debug)]
pub(crate) struct Invalidation {
    barriers: Barriers,
    position: AtomicU64,
    /// Steady milliseconds since the origin, plus one; 0 before the first proof.
    proven_at: AtomicU64,
    epoch: AtomicU32,
    current_for: Duration,
    pub(crate) metrics: InvalidationMetrics,
}

impl Invalidation {
    pub(crate) fn new(current_for: Duration, metrics: InvalidationMetrics) -> Self {
        Self {
            barriers: Barriers::default(),
            position: AtomicU64::new(0),
            proven_at: AtomicU64::new(0),
            epoch: AtomicU32::new(0),
            current_for,
            metrics,
        }
    }

    /// Returns the epoch that an entry loaded from now on belongs to. Taken before the load.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Tells whether no tag and no namespace of this entry was invalidated since it was written.
    pub(crate) fn admits<'a>(
        &self,
        key: &Key,
        version: u64,
        tags: impl IntoIterator<Item = &'a str>,
    ) -> bool {
        self.admits_in(key.namespace(), version, tags)
    }

    /// Tells the same of an entry of this namespace.
    pub(crate) fn admits_in<'a>(
        &self,
        namespace: &str,
        version: u64,
        tags: impl IntoIterator<Item = &'a str>,
    ) -> bool {
        self.barriers.admit(namespace, tags, version)
    }

    /// Tells whether all changes up to a moment ago were applied to this entry.
    pub(crate) fn proves(&self, entry: &Head, now: Moment) -> bool {
        entry.epoch == self.epoch() && self.is_current(now)
    }

    /// Tells whether the log was read to its end within `current_for`.
    pub(crate) fn is_current(&self, now: Moment) -> bool {
        self.unproven_for(now).is_some_and(|unproven| unproven <= self.current_for)
    }

    /// Returns the time since the log was known to be read to its end; none when it never was.
    pub(crate) fn unproven_for(&self, now: Moment) -> Option<Duration> {
        let proven_at = self.proven_at.load(Ordering::Acquire).checked_sub(1)?;
        Some(Moment::from_millis(proven_at).left_until(now))
    }

    pub(crate) fn current_for(&self) -> Duration {
        self.current_for
    }

    /// Returns the number of the last change applied.
    pub(crate) fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// Makes entries of a tag written up to `position` unusable.
    pub(crate) fn raise_tag(&self, namespace: &str, tag: &str, position: u64) {
        self.barriers.raise_tag(namespace, tag, position);
    }

    /// Makes entries of a namespace written up to `position` unusable.
    pub(crate) fn raise_namespace(&self, namespace: &str, position: u64) {
        self.barriers.raise_namespace(namespace, position);
    }

    fn read_to(&self, position: u64) {
        self.position.store(position, Ordering::Relaxed);
    }

    fn proven_at(&self, at: Moment) {
        self.proven_at.store(at.as_millis() + 1, Ordering::Release);
    }

    /// Says that changes may have been missed: nothing loaded before now is proven.
    fn end_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }
}
