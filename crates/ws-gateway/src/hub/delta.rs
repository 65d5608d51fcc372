//! Deltas: what a publication changes against the one before it in its channel.

use std::cell::OnceCell;
use std::sync::Arc;

use bytes::Bytes;

use crate::channel::Channel;
use crate::fossil;
use crate::metrics::Metrics;
use crate::protocol::{self, Push};
use crate::publication::Publication;

/// What a room keeps while anybody in it wants deltas.
#[derive(Debug, Default)]
pub(super) struct Deltas {
    /// Members who want them.
    pub(super) n_members: usize,
    /// Rises with every publication; 0 before the first.
    turn: u64,
    /// What was published last.
    latest: Option<Arc<Publication>>,
}

/// What a member of a room knows of its latest publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Base(u64);

impl Base {
    /// The member wants no deltas.
    pub(super) const NEVER: Self = Self(u64::MAX);
    /// The member wants deltas and has nothing yet that one could be against.
    pub(super) const NOTHING: Self = Self(0);

    pub(super) fn is_wanted(self) -> bool {
        self != Self::NEVER
    }
}

impl Deltas {
    /// Counts a member less.
    pub(super) fn without_one(mut self: Box<Self>) -> Box<Self> {
        self.n_members -= 1;
        self
    }

    /// Takes a publication; what it returns is good for delivering it.
    pub(super) fn turn(&mut self, publication: &Arc<Publication>) -> Turn {
        let previous = self.latest.replace(Arc::clone(publication));
        let known = if previous.is_some() { Base(self.turn) } else { Base::NEVER };
        self.turn += 1;
        Turn { previous, known, now: Base(self.turn) }
    }
}

/// One publication on its way to the members who want deltas.
#[derive(Debug)]
pub(super) struct Turn {
    previous: Option<Arc<Publication>>,
    /// Base of those who have the previous publication.
    known: Base,
    /// Base of those who have this one.
    now: Base,
}

/// The frames of a turn, each encoded when the first member needs it.
pub(super) struct DeltaFrames<'a> {
    channel: &'a Channel,
    publication: &'a protocol::Publication<'a>,
    turn: &'a Turn,
    whole: OnceCell<Bytes>,
    /// With what it saves, in bytes.
    patch: OnceCell<Option<(Bytes, u64)>>,
}

impl<'a> DeltaFrames<'a> {
    pub(super) fn new(
        channel: &'a Channel,
        publication: &'a protocol::Publication<'a>,
        turn: &'a Turn,
    ) -> Self {
        Self { channel, publication, turn, whole: OnceCell::new(), patch: OnceCell::new() }
    }

    /// Returns the frame for a member and moves its base.
    pub(super) fn next(&self, base: &mut Base, metrics: &Metrics) -> Bytes {
        let has_previous = *base == self.turn.known;
        *base = self.turn.now;
        if let Some((frame, saved_bytes)) = has_previous.then(|| self.patch()).flatten() {
            metrics.delta_patches.inc();
            metrics.delta_saved_bytes.inc_by(saved_bytes);
            return frame;
        }
        metrics.delta_wholes.inc();
        self.whole.get_or_init(|| self.encode(self.publication.whole())).clone()
    }

    fn patch(&self) -> Option<(Bytes, u64)> {
        let previous = self.turn.previous.as_ref()?;
        let patched = || {
            let data = self.publication.data.get();
            let patch = fossil::patch(previous.data.get(), data)?;
            Some((self.encode(self.publication.patched(&patch)), (data.len() - patch.len()) as u64))
        };
        self.patch.get_or_init(patched).clone()
    }

    fn encode(&self, publication: protocol::Publication<'_>) -> Bytes {
        protocol::push(self.channel.as_str(), &Push::Pub(publication))
    }
}
