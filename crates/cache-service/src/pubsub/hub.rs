//! Who on this node listens to what, and what of it Redis has been asked for.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::message::MessageId;
use super::outbox::{Bounds, Outbox, Pushed};
use super::{Delivery, Gap, GapReason, Interest, Message, Pattern, PubSubError, TooSlow, Topic};
use crate::config::{PubSubConfig, SlowReaders};
use crate::metrics::PubSubMetrics;

/// Gives each message to the streams that want it.
#[derive(Debug)]
pub(super) struct Hub {
    state: Mutex<State>,
    /// Something is to be asked of Redis.
    changed: Notify,
    /// Without Redis everything is heard at once.
    is_local: bool,
    most_streams: usize,
    most_interests: usize,
    bounds: (usize, usize),
    metrics: Arc<PubSubMetrics>,
}

#[derive(Debug, Default)]
struct State {
    topics: HashMap<Topic, Room>,
    patterns: HashMap<Pattern, Room>,
    /// Not asked for yet on this connection.
    unasked: Vec<Interest>,
    is_linked: bool,
    /// Streams that were not told yet that all is heard.
    expectant: Vec<Arc<Subscriber>>,
    n_streams: usize,
    /// What came last: Redis sends one message once for its topic and once for each pattern, one after the other.
    recent: VecDeque<MessageId>,
}

/// Those who listen to one topic or pattern.
#[derive(Debug, Default)]
struct Room {
    subscribers: Vec<Arc<Subscriber>>,
    /// Redis has confirmed that it sends it.
    is_heard: bool,
}

#[derive(Debug)]
struct Subscriber {
    interests: Vec<Interest>,
    outbox: Outbox,
    slow_readers: SlowReaders,
}

/// A stream's place; it is given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    subscriber: Arc<Subscriber>,
}

const MOST_RECENT: usize = 32;

impl Hub {
    pub(super) fn new(is_local: bool, config: &PubSubConfig, metrics: Arc<PubSubMetrics>) -> Self {
        let most_bytes = usize::try_from(config.buffer.as_u64()).unwrap_or(usize::MAX);
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            is_local,
            most_streams: config.max_streams as usize,
            most_interests: config.max_node_topics as usize,
            bounds: (config.buffer_messages as usize, most_bytes),
            metrics,
        }
    }

    pub(super) fn subscribe(
        self: &Arc<Self>,
        interests: Vec<Interest>,
        slow_readers: SlowReaders,
    ) -> Result<Subscription, PubSubError> {
        let (most_messages, most_bytes) = self.bounds;
        let outbox = Outbox::new(Bounds { most_messages, most_bytes, slow_readers });
        let subscriber = Arc::new(Subscriber { interests, outbox, slow_readers });
        let mut state = self.state.lock();
        if state.n_streams >= self.most_streams {
            return Err(PubSubError::TooManyStreams);
        }
        if state.n_interests() + subscriber.interests.len() > self.most_interests {
            return Err(PubSubError::TooManyTopics);
        }
        state.n_streams += 1;
        for interest in &subscriber.interests {
            state.enter(interest, &subscriber, self.is_local);
        }
        state.expectant.push(Arc::clone(&subscriber));
        state.settle();
        self.show(&state);
        drop(state);
        self.changed.notify_one();
        Ok(Subscription { hub: Arc::clone(self), subscriber })
    }

    /// Gives a message to the streams that want it, once to each, and counts them.
    pub(super) fn deliver(&self, message: &Arc<Message>) -> u32 {
        let mut state = self.state.lock();
        if state.recent.contains(&message.id) {
            return 0;
        }
        if state.recent.len() == MOST_RECENT {
            state.recent.pop_front();
        }
        state.recent.push_back(message.id);
        self.metrics.received.inc();
        let of_topic = state.topics.get(&message.topic).into_iter().flat_map(|room| &room.subscribers);
        let mut n_streams = 0;
        let mut give = |subscriber: &Subscriber| {
            n_streams += 1;
            match subscriber.outbox.push(message) {
                Pushed::Taken => drop(self.metrics.delivered.inc()),
                Pushed::InPlaceOf(n_lost) => {
                    self.metrics.delivered.inc();
                    self.metrics.dropped(subscriber.slow_readers, n_lost);
                }
                Pushed::Ended => drop(self.metrics.disconnected.inc()),
                Pushed::AfterEnd => {}
            }
        };
        if state.patterns.is_empty() {
            of_topic.for_each(|subscriber| give(subscriber));
            return n_streams;
        }
        let matching = state.patterns.iter().filter(|(pattern, _)| pattern.matches(&message.topic));
        let of_patterns = matching.flat_map(|(_, room)| &room.subscribers);
        let mut takers: Vec<&Arc<Subscriber>> = of_topic.chain(of_patterns).collect();
        takers.sort_unstable_by_key(|subscriber| Arc::as_ptr(subscriber));
        takers.dedup_by_key(|subscriber| Arc::as_ptr(subscriber));
        takers.into_iter().for_each(|subscriber| give(subscriber));
        n_streams
    }

    /// Tells every stream that messages were lost before they were looked at.
    pub(super) fn overrun(&self, lost: u64) {
        self.tell_all(&Delivery::Gap(Gap { reason: GapReason::Overrun, lost }));
    }

    /// Waits until there is something to ask Redis for.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Notes that nothing is heard any more, and tells all who were heard.
    pub(super) fn link_lost(&self) {
        let mut state = self.state.lock();
        let State { topics, patterns, unasked, is_linked, expectant, .. } = &mut *state;
        *is_linked = false;
        topics.retain(|_, room| !room.subscribers.is_empty());
        patterns.retain(|_, room| !room.subscribers.is_empty());
        for room in topics.values_mut().chain(patterns.values_mut()) {
            room.is_heard = false;
        }
        unasked.clear();
        // In each room: the same stream is found in several, and is told by the first.
        let mut all: Vec<Arc<Subscriber>> =
            topics.values().chain(patterns.values()).flat_map(|room| room.subscribers.clone()).collect();
        all.sort_unstable_by_key(Arc::as_ptr);
        all.dedup_by_key(|subscriber| Arc::as_ptr(subscriber));
        expectant.sort_unstable_by_key(Arc::as_ptr);
        let gap = Delivery::Gap(Gap { reason: GapReason::Link, lost: 0 });
        for subscriber in &all {
            let is_expectant = expectant.binary_search_by_key(&Arc::as_ptr(subscriber), Arc::as_ptr).is_ok();
            if !is_expectant {
                subscriber.outbox.tell(gap.clone());
                self.metrics.gap(GapReason::Link);
            }
        }
        *expectant = all;
    }

    /// Begins with a new connection: everything has to be asked for.
    pub(super) fn link_made(&self) {
        let mut state = self.state.lock();
        state.is_linked = true;
        let topics = state.topics.keys().cloned().map(Interest::Topic);
        state.unasked = topics.chain(state.patterns.keys().cloned().map(Interest::Pattern)).collect();
    }

    /// Takes what is to be asked for.
    pub(super) fn take_unasked(&self, most: usize) -> Vec<Interest> {
        let mut state = self.state.lock();
        let from = state.unasked.len().saturating_sub(most);
        state.unasked.split_off(from)
    }

    /// Notes what Redis has confirmed.
    pub(super) fn confirm(&self, interests: &[Interest]) {
        let mut state = self.state.lock();
        for interest in interests {
            if let Some(room) = state.room(interest) {
                room.is_heard = true;
            }
        }
        // While more is to be asked for, hardly anybody has all.
        if state.unasked.is_empty() {
            state.settle();
        }
    }

    /// Takes what nobody listens to any more, and was asked for.
    pub(super) fn take_unneeded(&self, most: usize) -> Vec<Interest> {
        let mut state = self.state.lock();
        let mut unneeded = empty(&state.topics, most, Interest::Topic);
        unneeded.extend(empty(&state.patterns, most - unneeded.len(), Interest::Pattern));
        unneeded.iter().for_each(|interest| state.close(interest));
        self.show(&state);
        unneeded
    }

    pub(super) fn n_interests(&self) -> usize {
        self.state.lock().n_interests()
    }

    fn leave(&self, subscriber: &Arc<Subscriber>) {
        let mut state = self.state.lock();
        state.n_streams -= 1;
        let is_linked = state.is_linked;
        state.expectant.retain(|other| !Arc::ptr_eq(other, subscriber));
        for interest in &subscriber.interests {
            let Some(room) = state.room(interest) else { continue };
            room.subscribers.retain(|other| !Arc::ptr_eq(other, subscriber));
            // Otherwise the listener tells Redis first.
            if !is_linked && room.subscribers.is_empty() {
                state.close(interest);
            }
        }
        self.show(&state);
    }

    fn tell_all(&self, news: &Delivery) {
        let state = self.state.lock();
        let rooms = state.topics.values().chain(state.patterns.values());
        let mut all: Vec<&Arc<Subscriber>> = rooms.flat_map(|room| &room.subscribers).collect();
        all.sort_unstable_by_key(|subscriber| Arc::as_ptr(subscriber));
        all.dedup_by_key(|subscriber| Arc::as_ptr(subscriber));
        for subscriber in all {
            subscriber.outbox.tell(news.clone());
            if let Delivery::Gap(gap) = news {
                self.metrics.gap(gap.reason);
            }
        }
    }

    fn show(&self, state: &State) {
        self.metrics.streams.set(state.n_streams as i64);
        self.metrics.topics.set(state.n_interests() as i64);
    }
}

impl State {
    fn n_interests(&self) -> usize {
        self.topics.len() + self.patterns.len()
    }

    fn room(&mut self, interest: &Interest) -> Option<&mut Room> {
        match interest {
            Interest::Topic(topic) => self.topics.get_mut(topic),
            Interest::Pattern(pattern) => self.patterns.get_mut(pattern),
        }
    }

    fn enter(&mut self, interest: &Interest, subscriber: &Arc<Subscriber>, is_heard: bool) {
        let is_new = self.room(interest).is_none();
        let room = match interest {
            Interest::Topic(topic) => self.topics.entry(topic.clone()).or_default(),
            Interest::Pattern(pattern) => self.patterns.entry(pattern.clone()).or_default(),
        };
        room.subscribers.push(Arc::clone(subscriber));
        if is_new {
            room.is_heard = is_heard;
            // A new connection begins with asking for all.
            if !is_heard && self.is_linked {
                self.unasked.push(interest.clone());
            }
        }
    }

    fn close(&mut self, interest: &Interest) {
        match interest {
            Interest::Topic(topic) => drop(self.topics.remove(topic)),
            Interest::Pattern(pattern) => drop(self.patterns.remove(pattern)),
        }
    }

    /// Tells the streams of which everything is heard.
    fn settle(&mut self) {
        let Self { topics, patterns, expectant, .. } = self;
        let is_heard = |interest: &Interest| {
            let room = match interest {
                Interest::Topic(topic) => topics.get(topic),
                Interest::Pattern(pattern) => patterns.get(pattern),
            };
            room.is_some_and(|room| room.is_heard)
        };
        expectant.retain(|subscriber| {
            let is_settled = subscriber.interests.iter().all(is_heard);
            if is_settled {
                subscriber.outbox.tell(Delivery::Listening);
            }
            !is_settled
        });
    }
}

/// Finds rooms in which nobody is left, and that Redis was asked for.
fn empty<K: Clone + Eq + Hash>(
    rooms: &HashMap<K, Room>,
    most: usize,
    interest: fn(K) -> Interest,
) -> Vec<Interest> {
    let empty = rooms.iter().filter(|(_, room)| room.is_heard && room.subscribers.is_empty());
    empty.take(most).map(|(key, _)| interest(key.clone())).collect()
}

impl Subscription {
    /// Waits for the next delivery. May be dropped and called again; nothing is lost.
    pub(crate) async fn next(&self) -> Result<Delivery, TooSlow> {
        let next = self.subscriber.outbox.next().await;
        if let Ok(Delivery::Gap(Gap { reason: GapReason::SlowReader, .. })) = &next {
            self.hub.metrics.gap(GapReason::SlowReader);
        }
        next
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.leave(&self.subscriber);
    }
}

#[cfg(test)]
mod tests;
