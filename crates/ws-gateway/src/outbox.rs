//! What waits to be written to one client.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Context;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::codes::Disconnect;
use crate::config::Slow;

/// What a queued message costs beside its bytes, which all subscribers share: its place in the queue.
const SLOT_BYTES: usize = size_of::<Slot>();

/// With more than this part of an outbox waiting, a client is slow enough to get only the latest of some channels, or to
/// be sent back for recovery.
const SLOW_FROM: usize = 4;

/// A queue this long is given back to the allocator as soon as it is empty.
const KEPT_SLOTS: usize = 16;

/// A bounded queue with any number of writers, none of which ever waits. The connection's task takes out of it, or a
/// courier that comes by; whoever does goes on until [`Outbox::rest`] finds nothing.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    reader: AtomicWaker,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Slot>,
    bytes: usize,
    peak_bytes: usize,
    closing: Option<Disconnect>,
    /// Somebody is there, or on the way, who goes on until nothing waits.
    is_attended: bool,
}

/// One place in the queue.
#[derive(Debug)]
struct Slot {
    message: Bytes,
    tag: Tag,
}

/// Tells the publications of one room from all else that waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tag(u32);

impl Tag {
    /// Of what must not be left out.
    pub(crate) const NONE: Self = Self(0);

    /// Returns one that no living room has, or almost certainly: they come again after four thousand million rooms.
    pub(crate) fn next() -> Self {
        static LATEST: AtomicU32 = AtomicU32::new(0);
        Self(LATEST.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1))
    }
}

/// A publication that may be left out when the client is too slow for all of them.
#[derive(Debug)]
pub(crate) struct Droppable {
    pub(crate) message: Bytes,
    pub(crate) tag: Tag,
    pub(crate) policy: Slow,
    /// The client counts publications: when one is left out, none after it may come.
    pub(crate) counted: bool,
}

/// What became of such a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shed {
    pub(crate) pushed: Pushed,
    /// Publications left out, this one included.
    pub(crate) dropped: usize,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Queued,
    /// It did not fit: the queue was thrown away and the connection is about to be closed as slow.
    Overflowed,
    /// The connection was about to be closed already.
    Closing,
}

/// How full an outbox is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) bytes: usize,
    pub(crate) peak_bytes: usize,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self { queue: Mutex::default(), reader: AtomicWaker::new() }
    }

    /// Queues a message unless that makes more than `max_bytes` wait, and has the connection's task look.
    pub(crate) fn push(&self, message: Bytes, max_bytes: usize) -> Pushed {
        let mut queue = self.queue.lock();
        let pushed = queue.push(message, Tag::NONE, max_bytes);
        let is_call = queue.calls(pushed);
        drop(queue);
        if is_call {
            self.reader.wake();
        }
        pushed
    }

    /// Queues a publication, and leaves out some of its kind when too much waits. Says whether somebody has to be sent to
    /// look: nobody is told.
    pub(crate) fn push_publication(&self, publication: Droppable, max_bytes: usize) -> (Shed, bool) {
        let mut queue = self.queue.lock();
        let shed = queue.push_or_shed(publication, max_bytes);
        let is_call = queue.calls(shed.pushed);
        (shed, is_call)
    }

    /// Queues a message before all others: what has to come first is complete only once the rest has begun.
    pub(crate) fn push_first(&self, message: Bytes, max_bytes: usize) -> Pushed {
        let mut queue = self.queue.lock();
        let pushed = queue.push(message, Tag::NONE, max_bytes);
        if pushed == Pushed::Queued {
            queue.messages.rotate_right(1);
        }
        let is_call = queue.calls(pushed);
        drop(queue);
        if is_call {
            self.reader.wake();
        }
        pushed
    }

    /// Asks for the connection to be closed once the queue is written. The first reason counts.
    pub(crate) fn close(&self, disconnect: Disconnect) -> bool {
        let mut queue = self.queue.lock();
        let first = queue.closing.is_none();
        queue.closing.get_or_insert(disconnect);
        drop(queue);
        self.reader.wake();
        first
    }

    /// Takes the next messages: at least one if there is any, then no more than fit the two limits.
    pub(crate) fn take(&self, max_messages: usize, max_bytes: usize, batch: &mut Vec<Bytes>) {
        self.queue.lock().take(max_messages, max_bytes, batch);
    }

    /// Returns why the connection is to be closed, if it is.
    pub(crate) fn closing(&self) -> Option<Disconnect> {
        self.queue.lock().closing
    }

    /// Begins to look: until [`Outbox::rest`] nobody else is sent. Says whom to wake afterwards.
    pub(crate) fn attend(&self, cx: &Context<'_>) {
        self.reader.register(cx.waker());
        self.queue.lock().is_attended = true;
    }

    /// Ends looking, unless something waits: then it is false, and whoever looks has to go on, or to see to it that the
    /// connection's task does.
    pub(crate) fn rest(&self) -> bool {
        let mut queue = self.queue.lock();
        queue.is_attended = !queue.messages.is_empty() || queue.closing.is_some();
        !queue.is_attended
    }

    pub(crate) fn level(&self) -> Level {
        let queue = self.queue.lock();
        Level { bytes: queue.bytes, peak_bytes: queue.peak_bytes }
    }

    /// Makes the reader look, also at what is not here.
    pub(crate) fn wake(&self) {
        self.reader.wake();
    }

    /// Forgets the reader, so that a finished task is not kept in memory by its outbox.
    pub(crate) fn forget_reader(&self) {
        drop(self.reader.take());
    }
}

impl Queue {
    /// Tells whether somebody has to be sent to see what became of a message; once, as long as nobody rests.
    fn calls(&mut self, pushed: Pushed) -> bool {
        match pushed {
            Pushed::Queued => !std::mem::replace(&mut self.is_attended, true),
            // Who waits for a client to read would not see it.
            Pushed::Overflowed => true,
            Pushed::Closing => false,
        }
    }

    fn push(&mut self, message: Bytes, tag: Tag, max_bytes: usize) -> Pushed {
        if self.closing.is_some() {
            return Pushed::Closing;
        }
        let bytes = self.bytes + cost(&message);
        self.peak_bytes = self.peak_bytes.max(bytes);
        if bytes > max_bytes {
            self.closing = Some(Disconnect::SLOW);
            self.messages = VecDeque::new();
            self.bytes = 0;
            return Pushed::Overflowed;
        }
        self.bytes = bytes;
        self.messages.push_back(Slot { message, tag });
        Pushed::Queued
    }

    fn push_or_shed(&mut self, publication: Droppable, max_bytes: usize) -> Shed {
        let Droppable { message, tag, policy, counted } = publication;
        let bytes = self.bytes + cost(&message);
        let dropped = match policy {
            _ if self.closing.is_some() => 0,
            Slow::DropOldest if !counted => self.shed(tag, bytes.saturating_sub(max_bytes)),
            // What is recovered has to fit into half of the outbox.
            Slow::DropOldest | Slow::KeepLatest if bytes > max_bytes / SLOW_FROM => {
                self.shed(tag, usize::MAX)
            }
            _ => 0,
        };
        if dropped > 0 && counted {
            return Shed { pushed: Pushed::Queued, dropped: dropped + 1 };
        }
        Shed { pushed: self.push(message, tag, max_bytes), dropped }
    }

    /// Leaves out the oldest publications of a room until so many bytes are free; returns how many.
    fn shed(&mut self, tag: Tag, mut bytes: usize) -> usize {
        let (before, mut freed) = (self.messages.len(), 0);
        self.messages.retain(|slot| {
            let goes = slot.tag == tag && bytes > 0;
            if goes {
                bytes = bytes.saturating_sub(cost(&slot.message));
                freed += cost(&slot.message);
            }
            !goes
        });
        self.bytes -= freed;
        before - self.messages.len()
    }

    fn take(&mut self, max_messages: usize, max_bytes: usize, batch: &mut Vec<Bytes>) {
        let mut batch_bytes = 0;
        while let Some(next) = self.messages.front() {
            batch_bytes += next.message.len();
            if batch.len() >= max_messages || (!batch.is_empty() && batch_bytes > max_bytes) {
                break;
            }
            let Some(Slot { message, .. }) = self.messages.pop_front() else { break };
            self.bytes -= cost(&message);
            batch.push(message);
        }
        if self.messages.is_empty() && self.messages.capacity() > KEPT_SLOTS {
            self.messages = VecDeque::new();
        }
    }
}

fn cost(message: &Bytes) -> usize {
    message.len() + SLOT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(len: usize) -> Bytes {
        vec![b'x'; len].into()
    }

    fn take(outbox: &Outbox, max_messages: usize, max_bytes: usize) -> Vec<usize> {
        let mut batch = Vec::new();
        outbox.take(max_messages, max_bytes, &mut batch);
        batch.iter().map(Bytes::len).collect()
    }

    #[test]
    fn batches_keep_the_order_and_both_limits() {
        let outbox = Outbox::new();
        for len in [1, 2, 3, 100, 4] {
            assert_eq!(outbox.push(message(len), 1_000), Pushed::Queued);
        }
        assert_eq!(take(&outbox, 2, 50), [1, 2]);
        assert_eq!(take(&outbox, 16, 50), [3]);
        assert_eq!(take(&outbox, 16, 50), [100]);
        assert_eq!(take(&outbox, 16, 50), [4]);
        assert_eq!(take(&outbox, 16, 50), [0; 0]);
        assert_eq!(outbox.level().bytes, 0);
        assert_eq!(outbox.level().peak_bytes, 110 + 5 * SLOT_BYTES);
    }

    #[test]
    fn a_full_outbox_lets_go_of_everything_at_once() {
        let outbox = Outbox::new();
        let shared = message(50);
        assert_eq!(outbox.push(shared.clone(), 100), Pushed::Queued);
        assert_eq!(outbox.push(shared.clone(), 100), Pushed::Overflowed);
        assert_eq!(outbox.push(shared.clone(), 100), Pushed::Closing);
        assert_eq!(outbox.closing(), Some(Disconnect::SLOW));
        assert_eq!(outbox.level().bytes, 0);
        assert!(shared.is_unique(), "the outbox still holds the message");
        assert!(!outbox.close(Disconnect::SHUTDOWN));
        assert_eq!(outbox.closing(), Some(Disconnect::SLOW));
    }

    fn shed(outbox: &Outbox, len: usize, tag: u32, policy: Slow, counted: bool) -> (Pushed, usize) {
        let publication = Droppable { message: message(len), tag: Tag(tag), policy, counted };
        let (Shed { pushed, dropped }, _) = outbox.push_publication(publication, 1_000);
        (pushed, dropped)
    }

    #[test]
    fn the_oldest_of_a_room_make_place_for_the_newest() {
        let outbox = Outbox::new();
        assert_eq!(outbox.push(message(1), 1_000), Pushed::Queued);
        for len in [180, 181, 182] {
            assert_eq!(shed(&outbox, len, 7, Slow::DropOldest, false), (Pushed::Queued, 0));
        }
        assert_eq!(shed(&outbox, 183, 8, Slow::DropOldest, false), (Pushed::Queued, 0));
        assert_eq!(shed(&outbox, 184, 7, Slow::DropOldest, false), (Pushed::Queued, 1));
        assert_eq!(take(&outbox, 16, 9_999), [1, 181, 182, 183, 184]);
        assert_eq!(outbox.level().bytes, 0);
        assert_eq!(shed(&outbox, 990, 7, Slow::DropOldest, false), (Pushed::Overflowed, 0));
    }

    #[test]
    fn a_slow_client_gets_the_latest_of_a_room() {
        let outbox = Outbox::new();
        for (len, dropped) in [(50, 0), (51, 1), (200, 1), (52, 1)] {
            assert_eq!(shed(&outbox, len, 7, Slow::KeepLatest, false), (Pushed::Queued, dropped), "{len}");
            outbox.push(message(len + 100), 9_999);
        }
        assert_eq!(take(&outbox, 16, 9_999), [150, 151, 300, 52, 152]);
    }

    #[test]
    fn whoever_counts_gets_nothing_after_a_gap() {
        for policy in [Slow::DropOldest, Slow::KeepLatest] {
            let outbox = Outbox::new();
            outbox.push(message(1), 1_000);
            assert_eq!(shed(&outbox, 400, 7, policy, true), (Pushed::Queued, 0));
            assert_eq!(shed(&outbox, 401, 7, policy, true), (Pushed::Queued, 2));
            assert_eq!(take(&outbox, 16, 9_999), [1]);
        }
    }

    #[test]
    fn empty_messages_cannot_pile_up() {
        let outbox = Outbox::new();
        let n_queued = (0..1_000).take_while(|_| outbox.push(Bytes::new(), 1_000) == Pushed::Queued).count();
        assert_eq!(n_queued, 1_000 / SLOT_BYTES);
    }

    #[test]
    fn somebody_is_sent_once_until_nothing_waits() {
        let outbox = Outbox::new();
        let queue = |len| {
            let publication =
                Droppable { message: message(len), tag: Tag::NONE, policy: Slow::Disconnect, counted: false };
            outbox.push_publication(publication, 100).1
        };
        assert_eq!([queue(1), queue(2)], [true, false]);
        assert!(!outbox.rest(), "two messages wait");
        assert_eq!(take(&outbox, 16, 50), [1, 2]);
        assert!(!queue(3), "whoever takes is still there");
        assert!(!outbox.rest());
        assert_eq!(take(&outbox, 16, 50), [3]);
        assert!(outbox.rest());
        assert!(queue(4), "nobody is there");
        assert!(queue(200), "the end is told to whoever waits for the client");
        assert!(!outbox.rest(), "the connection is to be closed");
    }

    #[test]
    fn what_was_queued_before_a_close_is_still_written() {
        let outbox = Outbox::new();
        outbox.push(message(1), 100);
        assert!(outbox.close(Disconnect::SHUTDOWN));
        assert_eq!(outbox.push(message(2), 100), Pushed::Closing);
        assert_eq!(take(&outbox, 16, 50), [1]);
    }
}
