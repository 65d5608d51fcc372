//! What memory keeps of a write or a load, and for how long.

use std::time::Duration;

use bytes::Bytes;

use super::Policy;
use crate::entry::{Draft, Entry, Envelope, Written};
use crate::layer::memory::Mark;
use crate::time::Moment;

/// How long memory keeps a write, from now.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) fresh_for: Duration,
    pub(super) kept_for: Duration,
    pub(super) confirmed: bool,
    pub(super) epoch: u32,
}

/// What was so before a load, and must still be so for what it brings to be kept.
#[derive(Clone, Copy)]
pub(super) struct Loading {
    pub(super) mark: Mark,
    pub(super) epoch: u32,
}

pub(super) fn entry_of(draft: &Draft, written: Written, times: Times, now: Moment) -> Entry {
    Entry {
        value: draft.value.clone(),
        content_type: draft.content_type.clone(),
        tags: draft.tags.clone(),
        version: written.version,
        set_at_unix_ms: written.set_at_unix_ms,
        fresh_until: now + times.fresh_for,
        lives_until: now + draft.ttl.as_duration(),
        kept_until: now + times.kept_for,
        confirmed: times.confirmed,
        epoch: times.epoch,
    }
}

pub(super) fn confirmed_entry(
    envelope: &Envelope,
    policy: &Policy,
    ttl_left: Duration,
    now: Moment,
    epoch: u32,
) -> Entry {
    Entry {
        value: envelope.value.clone(),
        content_type: envelope.content_type.clone(),
        tags: envelope.tags.clone(),
        version: envelope.version,
        set_at_unix_ms: envelope.set_at_unix_ms,
        fresh_until: now + ttl_left.min(policy.memory_ttl),
        lives_until: now + ttl_left,
        kept_until: now + ttl_left.saturating_add(policy.grace),
        confirmed: true,
        epoch,
    }
}

/// Copies a value out of the network buffer it is a part of; keeping the part would keep all of the buffer.
pub(super) fn own(value: &Bytes) -> Bytes {
    Bytes::copy_from_slice(value)
}
