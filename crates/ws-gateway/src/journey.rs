//! What clients did lately: connects, subscriptions, publications and ends, numbered, in memory of a fixed size.
//!
//! Whoever follows reads from here at its own pace, so there is no queue that could grow and nobody to wait for.
//! Publications have a half of the memory to themselves: who publishes a lot does not make the node forget who came.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::channel::Channel;

mod follow;
#[cfg(test)]
mod tests;

pub(crate) use follow::{Follow, News, NotFollowed};

/// Entries looked at under one lock: whoever reads holds up those who write for so long.
const LOOK_AT_ONCE: usize = 4_096;
/// Entries by which the memory grows until it is full.
const GROW_BY: usize = 1_024;

/// What this node remembers of its clients' ways.
#[derive(Debug)]
pub(crate) struct Journal {
    /// Of each of the two shelves; 0 means that nothing is kept.
    shelf_bytes: usize,
    /// Tells this process from others of the same name.
    process: String,
    began_at: SystemTime,
    kept: Mutex<Kept>,
    arrived: Notify,
    n_following: AtomicUsize,
    figures: JournalFigures,
}

/// What is counted about journeys.
#[derive(Clone, Debug, Default)]
pub(crate) struct JournalFigures {
    pub(crate) events: Counter,
    pub(crate) bytes: Gauge,
    pub(crate) followers: Gauge,
    pub(crate) missed: Counter,
}

/// Something that a client did.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) number: u64,
    pub(crate) at: SystemTime,
    pub(crate) client: Uuid,
    pub(crate) user: Arc<str>,
    pub(crate) step: Step,
    /// None for a connection as a whole.
    pub(crate) channel: Option<Channel>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Connected,
    Subscribed,
    Published,
    Unsubscribed,
    Disconnected { code: u16 },
}

/// What somebody wants to know. Empty texts fit everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interest {
    pub(crate) user: Box<str>,
    pub(crate) channel: Box<str>,
    pub(crate) since: Option<SystemTime>,
}

/// The latest events that fit.
#[derive(Debug)]
pub(crate) struct Latest {
    /// Oldest first.
    pub(crate) events: Vec<Event>,
    /// There are more that fit, before these.
    pub(crate) truncated: bool,
    /// Nothing that happened from here on is forgotten.
    pub(crate) complete_since: SystemTime,
}

#[derive(Debug)]
struct Kept {
    /// Number of the latest event, kept or not.
    last: u64,
    /// Who came and went, and where.
    ways: Shelf,
    publications: Shelf,
}

/// Events in order, up to a number of bytes.
#[derive(Debug, Default)]
struct Shelf {
    events: VecDeque<Event>,
    bytes: usize,
    /// When the latest event that is forgotten was.
    forgotten_at: Option<SystemTime>,
}

/// What was found in one look.
struct Found {
    events: Vec<Event>,
    /// Number of the last entry looked at, going either way.
    at: u64,
    n_looked_at: usize,
    is_end: bool,
}

impl Journal {
    /// Remembers as much as fits into `memory_bytes`; nothing when that is 0.
    pub(crate) fn new(memory_bytes: usize, began_at: SystemTime, figures: JournalFigures) -> Arc<Self> {
        Arc::new(Self {
            shelf_bytes: memory_bytes / 2,
            process: Uuid::new_v4().simple().to_string(),
            began_at,
            kept: Mutex::new(Kept { last: 0, ways: Shelf::default(), publications: Shelf::default() }),
            arrived: Notify::new(),
            n_following: AtomicUsize::new(0),
            figures,
        })
    }

    pub(crate) fn is_on(&self) -> bool {
        self.shelf_bytes > 0
    }

    pub(crate) fn process(&self) -> &str {
        &self.process
    }

    /// Notes what a client does.
    pub(crate) fn note(
        &self,
        at: impl FnOnce() -> SystemTime,
        (client, user): (Uuid, &Arc<str>),
        step: Step,
        channel: Option<&Channel>,
    ) {
        if !self.is_on() {
            return;
        }
        let mut kept = self.kept.lock();
        kept.last += 1;
        let event = Event {
            number: kept.last,
            at: at(),
            client,
            user: Arc::clone(user),
            step,
            channel: channel.cloned(),
        };
        let shelf = if step == Step::Published { &mut kept.publications } else { &mut kept.ways };
        let change = shelf.keep(event, self.shelf_bytes);
        drop(kept);
        self.figures.events.inc();
        self.figures.bytes.inc_by(change);
        if self.n_following.load(Ordering::Relaxed) > 0 {
            self.arrived.notify_waiters();
        }
    }

    /// Returns the latest events that fit, at most so many.
    pub(crate) fn latest(&self, interest: &Interest, most: usize) -> Latest {
        let mut before = u64::MAX;
        let mut events = Vec::new();
        loop {
            // One more than is wanted tells whether there are more.
            let found = self.kept.lock().backward(before, interest, most + 1 - events.len());
            events.extend(found.events);
            before = found.at;
            if found.is_end || events.len() > most {
                break;
            }
        }
        let truncated = events.len() > most;
        events.truncate(most);
        events.reverse();
        Latest { events, truncated, complete_since: self.complete_since() }
    }

    fn complete_since(&self) -> SystemTime {
        let kept = self.kept.lock();
        let forgotten = [kept.ways.forgotten_at, kept.publications.forgotten_at];
        forgotten.into_iter().flatten().fold(self.began_at, SystemTime::max)
    }

    fn last(&self) -> u64 {
        self.kept.lock().last
    }
}

impl Kept {
    /// Looks at entries before a number, the latest first.
    fn backward(&self, before: u64, interest: &Interest, most: usize) -> Found {
        let of = |shelf: &'_ Shelf| shelf.events.partition_point(|event| event.number < before);
        let ways = self.ways.events.range(..of(&self.ways)).rev();
        let publications = self.publications.events.range(..of(&self.publications)).rev();
        let is_old = |event: &Event| interest.since.is_some_and(|since| event.at < since);
        look(
            merged(ways, publications, |one, other| one.number > other.number),
            before,
            interest,
            most,
            is_old,
        )
    }

    /// Looks at entries after a number, the earliest first.
    fn forward(&self, after: u64, interest: &Interest, most: usize) -> Found {
        let of = |shelf: &'_ Shelf| shelf.events.partition_point(|event| event.number <= after);
        let ways = self.ways.events.range(of(&self.ways)..);
        let publications = self.publications.events.range(of(&self.publications)..);
        look(
            merged(ways, publications, |one, other| one.number < other.number),
            after,
            interest,
            most,
            |_| false,
        )
    }
}

/// Takes from two sequences by turns, whichever has the one that comes first.
fn merged<'a>(
    one: impl Iterator<Item = &'a Event>,
    other: impl Iterator<Item = &'a Event>,
    comes_first: impl Fn(&Event, &Event) -> bool,
) -> impl Iterator<Item = &'a Event> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(a), Some(b)) if comes_first(b, a) => other.next(),
        (Some(_), _) => one.next(),
        (None, _) => other.next(),
    })
}

fn look<'a>(
    entries: impl Iterator<Item = &'a Event>,
    begin: u64,
    interest: &Interest,
    most: usize,
    ends: impl Fn(&Event) -> bool,
) -> Found {
    let mut found = Found { events: Vec::new(), at: begin, n_looked_at: 0, is_end: false };
    for event in entries {
        if found.events.len() == most || found.n_looked_at == LOOK_AT_ONCE {
            return found;
        }
        if ends(event) {
            break;
        }
        (found.at, found.n_looked_at) = (event.number, found.n_looked_at + 1);
        if interest.fits(event) {
            found.events.push(event.clone());
        }
    }
    found.is_end = true;
    found
}

impl Shelf {
    /// Takes an event and forgets the oldest until all fit; returns by how many bytes it grew.
    fn keep(&mut self, event: Event, most_bytes: usize) -> i64 {
        let before = self.bytes as i64;
        self.bytes += event.bytes();
        while self.bytes > most_bytes
            && let Some(oldest) = self.events.pop_front()
        {
            self.bytes -= oldest.bytes();
            self.forgotten_at = Some(oldest.at);
        }
        if self.events.len() == self.events.capacity() {
            // Doubling would leave up to a half of the memory unused.
            self.events.reserve_exact(GROW_BY);
        }
        self.events.push_back(event);
        self.bytes as i64 - before
    }
}

impl Event {
    /// What it takes, texts included, which it may share with others.
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.user.len()
            + self.channel.as_ref().map_or(0, |channel| channel.as_str().len())
    }
}

impl Interest {
    fn fits(&self, event: &Event) -> bool {
        let channel = event.channel.as_ref().map_or("", Channel::as_str);
        (self.user.is_empty() || *self.user == *event.user)
            && (self.channel.is_empty() || *self.channel == *channel)
    }
}
