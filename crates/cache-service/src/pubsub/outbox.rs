//! What waits for one stream: bounded, and honest about what it lost.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Message;
use crate::config::SlowReaders;

/// The buffer of one stream.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
}

/// What a subscriber is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Everything it asked for is heard from here on.
    Listening,
    Message(Arc<Message>),
    Gap(Gap),
}

/// Messages are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) reason: GapReason,
    /// 0 where it is not known.
    pub(crate) lost: u64,
}

/// Why messages are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GapReason {
    /// Until the next [`Delivery::Listening`].
    Link,
    SlowReader,
    Overrun,
}

/// The stream was not read, and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream was not read as fast as messages came")]
pub(crate) struct TooSlow;

/// How a message went into a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    Taken,
    /// Others went out of it.
    InPlaceOf(u64),
    /// The stream ends because of it.
    Ended,
    /// The stream had ended before.
    AfterEnd,
}

/// Bounds of one buffer, and what happens at them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) most_messages: usize,
    pub(super) most_bytes: usize,
    pub(super) slow_readers: SlowReaders,
}

/// Breaks of the link, and their ends, that wait to be told; more are told as one.
const MOST_NEWS: usize = 8;

#[derive(Debug)]
struct Queue {
    bounds: Bounds,
    waiting: VecDeque<Delivery>,
    n_messages: usize,
    n_bytes: usize,
    /// Lost since the last delivery, and older than what waits.
    lost: u64,
    is_ended: bool,
}

impl Outbox {
    pub(super) fn new(bounds: Bounds) -> Self {
        let queue =
            Queue { bounds, waiting: VecDeque::new(), n_messages: 0, n_bytes: 0, lost: 0, is_ended: false };
        Self { queue: Mutex::new(queue), filled: Notify::new() }
    }

    pub(super) fn push(&self, message: &Arc<Message>) -> Pushed {
        let pushed = self.queue.lock().push(message);
        self.filled.notify_one();
        pushed
    }

    pub(super) fn tell(&self, news: Delivery) {
        self.queue.lock().tell(news);
        self.filled.notify_one();
    }

    /// Waits for the next delivery. May be dropped and called again; nothing is lost. One caller at a time.
    pub(super) async fn next(&self) -> Result<Delivery, TooSlow> {
        loop {
            if let Some(next) = self.queue.lock().pop() {
                return next;
            }
            self.filled.notified().await;
        }
    }
}

impl Queue {
    fn push(&mut self, message: &Arc<Message>) -> Pushed {
        if self.is_ended {
            return Pushed::AfterEnd;
        }
        let mut n_lost = 0;
        if self.bounds.slow_readers == SlowReaders::KeepLatest && self.drop_of_topic(message) {
            n_lost += 1;
        }
        let Bounds { most_messages, most_bytes, slow_readers } = self.bounds;
        let n_bytes = message.n_bytes();
        while self.n_messages > 0 && (self.n_messages >= most_messages || self.n_bytes + n_bytes > most_bytes)
        {
            if slow_readers == SlowReaders::Disconnect {
                self.is_ended = true;
                self.waiting = VecDeque::new();
                return Pushed::Ended;
            }
            let oldest = self.waiting.iter().position(|waiting| matches!(waiting, Delivery::Message(_)));
            self.drop_at(oldest.expect("messages are counted"));
            n_lost += 1;
        }
        self.n_messages += 1;
        self.n_bytes += n_bytes;
        self.waiting.push_back(Delivery::Message(Arc::clone(message)));
        self.lost += n_lost;
        if n_lost == 0 { Pushed::Taken } else { Pushed::InPlaceOf(n_lost) }
    }

    fn tell(&mut self, news: Delivery) {
        if self.is_ended {
            return;
        }
        let is_news = |waiting: &Delivery| !matches!(waiting, Delivery::Message(_));
        if self.waiting.iter().filter(|waiting| is_news(waiting)).count() >= MOST_NEWS {
            let first = self.waiting.iter().position(is_news).expect("there are some");
            // One wide gap, from the first of them to the next time that all is heard.
            self.waiting[first] = Delivery::Gap(Gap { reason: GapReason::Link, lost: 0 });
            let mut at = 0;
            self.waiting.retain(|waiting| {
                at += 1;
                at - 1 <= first || !is_news(waiting)
            });
        }
        self.waiting.push_back(news);
    }

    fn pop(&mut self) -> Option<Result<Delivery, TooSlow>> {
        if self.is_ended {
            return Some(Err(TooSlow));
        }
        if self.lost > 0 {
            let lost = std::mem::take(&mut self.lost);
            return Some(Ok(Delivery::Gap(Gap { reason: GapReason::SlowReader, lost })));
        }
        let next = self.waiting.pop_front()?;
        if let Delivery::Message(message) = &next {
            self.n_messages -= 1;
            self.n_bytes -= message.n_bytes();
        }
        Some(Ok(next))
    }

    fn drop_of_topic(&mut self, newer: &Message) -> bool {
        let same =
            |waiting: &Delivery| matches!(waiting, Delivery::Message(older) if older.topic == newer.topic);
        let found = self.waiting.iter().position(same);
        if let Some(at) = found {
            self.drop_at(at);
        }
        found.is_some()
    }

    fn drop_at(&mut self, at: usize) {
        if let Some(Delivery::Message(message)) = self.waiting.remove(at) {
            self.n_messages -= 1;
            self.n_bytes -= message.n_bytes();
        }
    }
}

#[cfg(test)]
mod tests;
