//! What is known about changes made elsewhere: how far the log was read, what it said, and whether that is recent.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::entry::Head;
use crate::key::Key;
use crate::redis::Partition;
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
/// on ends an epoch: entries of earlier epochs are never fresh again. A cluster has a log for each partition.
#[derive(Debug)]
pub(crate) struct Invalidation {
    barriers: Barriers,
    logs: Box<[Log]>,
    epoch: AtomicU32,
    current_for: Duration,
    pub(crate) metrics: InvalidationMetrics,
}

/// How far a log was read, and when.
#[derive(Debug, Default)]
struct Log {
    position: AtomicU64,
    /// Steady milliseconds since the origin, plus one; 0 before the first proof.
    proven_at: AtomicU64,
}

impl Log {
    fn unproven_for(&self, now: Moment) -> Option<Duration> {
        let proven_at = self.proven_at.load(Ordering::Acquire).checked_sub(1)?;
        Some(Moment::from_millis(proven_at).left_until(now))
    }
}

impl Invalidation {
    pub(crate) fn new(current_for: Duration, n_partitions: usize, metrics: InvalidationMetrics) -> Self {
        Self {
            barriers: Barriers::default(),
            logs: (0..n_partitions).map(|_| Log::default()).collect(),
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

    /// Tells whether all changes up to a moment ago were applied to this entry of a partition.
    pub(crate) fn proves(&self, partition: Partition, entry: &Head, now: Moment) -> bool {
        entry.epoch == self.epoch() && self.is_current_in(partition, now)
    }

    /// Tells whether the log of a partition was read to its end within `current_for`.
    pub(crate) fn is_current_in(&self, partition: Partition, now: Moment) -> bool {
        self.is_recent(self.logs[partition.index()].unproven_for(now))
    }

    /// Tells whether every log was read to its end within `current_for`.
    pub(crate) fn is_current(&self, now: Moment) -> bool {
        self.is_recent(self.unproven_for(now))
    }

    fn is_recent(&self, unproven_for: Option<Duration>) -> bool {
        unproven_for.is_some_and(|unproven_for| unproven_for <= self.current_for)
    }

    /// Returns the time since the log, the least recent of all, was known to be read to its end; none when it never was.
    pub(crate) fn unproven_for(&self, now: Moment) -> Option<Duration> {
        let all = self.logs.iter().map(|log| log.unproven_for(now));
        all.reduce(|one, other| Some(one?.max(other?))).flatten()
    }

    pub(crate) fn current_for(&self) -> Duration {
        self.current_for
    }

    /// Returns the number of the last change applied.
    pub(crate) fn position(&self) -> u64 {
        self.logs.iter().map(|log| log.position.load(Ordering::Relaxed)).max().unwrap_or_default()
    }

    /// Makes entries of a tag written up to `position` unusable.
    pub(crate) fn raise_tag(&self, namespace: &str, tag: &str, position: u64) {
        self.barriers.raise_tag(namespace, tag, position);
    }

    /// Makes entries of a namespace written up to `position` unusable.
    pub(crate) fn raise_namespace(&self, namespace: &str, position: u64) {
        self.barriers.raise_namespace(namespace, position);
    }

    fn read_to(&self, partition: Partition, position: u64) {
        self.logs[partition.index()].position.store(position, Ordering::Relaxed);
    }

    fn proven_at(&self, partition: Partition, at: Moment) {
        self.logs[partition.index()].proven_at.store(at.as_millis() + 1, Ordering::Release);
    }

    /// Says that changes may have been missed: nothing loaded before now is proven.
    fn end_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }
}
