use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::channel::Channel;
use crate::conn::Wire;
use crate::errand::{self, Errand, Errands, Queued};
use crate::outbox::Outbox;
use crate::protocol::Method;
use crate::publication::ClientInfo;
use crate::session::{Profile, Word};

/// Room for the seconds of many thousand years.
const SECOND_BITS: u32 = 48;

/// What everybody may know of a connection, and the way to reach it.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Rises with every connection of the process.
    pub(crate) id: u64,
    /// Told to the client.
    pub(crate) client: Uuid,
    pub(crate) remote: SocketAddr,
    pub(crate) connected_at: SystemTime,
    pub(crate) outbox: Outbox,
    pub(crate) traffic: Traffic,
    /// What couriers write to; none where only the connection's task can.
    wire: OnceLock<Weak<Wire>>,
    profile: OnceLock<Box<Profile>>,
    /// None once the connection is out of the hub: from then on it joins nothing.
    channels: Mutex<Option<Vec<Channel>>>,
    errands: Mutex<Errands>,
    /// What the session has not heard yet.
    words: Mutex<Vec<Word>>,
    /// Calls of the application that are under way.
    n_calls: AtomicU32,
}

/// A call of the application on behalf of a connection, until it is dropped.
pub(crate) struct CallUnderWay(Arc<Connection>);

/// What went over a connection.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    messages_sent: AtomicU64,
    messages_received: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    /// Microseconds, plus one; 0 before the first pong.
    round_trip_us: AtomicU64,
    /// The number of the command answered last, above the second in which it was; 0 before the first.
    last_command: AtomicU64,
    dropped: AtomicU32,
    recovered: AtomicU32,
    unrecovered: AtomicU32,
}

impl Connection {
    pub(super) fn new(id: u64, client: Uuid, remote: SocketAddr, connected_at: SystemTime) -> Self {
        Self {
            id,
            client,
            remote,
            connected_at,
            outbox: Outbox::new(),
            traffic: Traffic::default(),
            wire: OnceLock::new(),
            profile: OnceLock::new(),
            channels: Mutex::new(Some(Vec::new())),
            errands: Mutex::default(),
            words: Mutex::default(),
            n_calls: AtomicU32::new(0),
        }
    }

    /// Returns who this is, once it is known.
    pub(crate) fn profile(&self) -> Option<&Profile> {
        self.profile.get().map(|profile| &**profile)
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.profile().map(|profile| &*profile.user)
    }

    pub(crate) fn channels(&self) -> Vec<Channel> {
        self.channels.lock().clone().unwrap_or_default()
    }

    pub(crate) fn is_subscribed(&self, channel: &Channel) -> bool {
        self.channels.lock().as_ref().is_some_and(|channels| channels.contains(channel))
    }

    /// Returns what other clients are told; none before it is known who this is.
    pub(crate) fn info(&self, chan_info: Option<Arc<RawValue>>) -> Option<ClientInfo> {
        let profile = self.profile()?;
        Some(ClientInfo {
            user: Arc::clone(&profile.user),
            client: self.client,
            conn_info: profile.info.clone(),
            chan_info,
        })
    }

    /// Lets couriers write from now on.
    pub(crate) fn written_by(&self, wire: &Arc<Wire>) {
        // A connection has one socket.
        let _ = self.wire.set(Arc::downgrade(wire));
    }

    /// Returns what couriers write to, while it is open.
    pub(crate) fn wire(&self) -> Option<Arc<Wire>> {
        self.wire.get()?.upgrade()
    }

    /// Adds to what waits to be done for this connection.
    pub(crate) fn queue_errand(&self, errand: Errand, most: usize) -> Queued {
        errand::queue(&mut self.errands.lock(), errand, most)
    }

    /// Takes what is to be done next; none ends the work.
    pub(crate) fn next_errand(&self) -> Option<Errand> {
        errand::next(&mut self.errands.lock())
    }

    /// Tells the session something that its client did not say. Of what servers say about one thing the latest counts.
    pub(crate) fn tell(&self, word: Word) {
        let mut words = self.words.lock();
        words.retain(|earlier| !word.replaces(earlier));
        words.push(word);
        drop(words);
        self.outbox.wake();
    }

    /// Takes what the session has not heard yet.
    pub(crate) fn take_words(&self) -> Vec<Word> {
        std::mem::take(&mut self.words.lock())
    }

    /// Begins a call of the application; none when there are too many.
    pub(crate) fn begin_call(self: &Arc<Self>, most: u32) -> Option<CallUnderWay> {
        let one_more = |n_calls| (n_calls < most).then_some(n_calls + 1);
        let begun = self.n_calls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        begun.ok().map(|_| CallUnderWay(Arc::clone(self)))
    }

    pub(super) fn identify(&self, profile: Profile) -> bool {
        self.profile.set(Box::new(profile)).is_ok()
    }

    /// Locks the list of channels. Whoever changes it changes the hub under the same lock, so both stay equal.
    pub(super) fn lock_channels(&self) -> MutexGuard<'_, Option<Vec<Channel>>> {
        self.channels.lock()
    }
}

impl CallUnderWay {
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for CallUnderWay {
    fn drop(&mut self) {
        self.0.n_calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Traffic {
    pub(crate) fn sent(&self, messages: u64, bytes: u64) {
        self.messages_sent.fetch_add(messages, Ordering::Relaxed);
        self.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, messages: u64, bytes: u64) {
        self.messages_received.fetch_add(messages, Ordering::Relaxed);
        self.bytes_received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn round_trip(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        self.round_trip_us.store(us, Ordering::Relaxed);
    }

    pub(crate) fn answered(&self, method: Method, now_unix_s: u64) {
        let number = method as u64 + 1;
        self.last_command.store(number << SECOND_BITS | now_unix_s, Ordering::Relaxed);
    }

    pub(crate) fn left_out(&self, n_publications: usize) {
        self.dropped.fetch_add(u32::try_from(n_publications).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    pub(crate) fn came_back(&self, recovered: bool) {
        let count = if recovered { &self.recovered } else { &self.unrecovered };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the command answered last, and when.
    pub(crate) fn last_command(&self) -> Option<(Method, SystemTime)> {
        let noted = self.last_command.load(Ordering::Relaxed);
        let number = usize::try_from(noted >> SECOND_BITS).ok()?.checked_sub(1)?;
        let unix_s = noted & ((1 << SECOND_BITS) - 1);
        Some((*Method::ALL.get(number)?, SystemTime::UNIX_EPOCH + Duration::from_secs(unix_s)))
    }

    /// Returns how many publications the client was too slow for.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed).into()
    }

    /// Returns how often the client came back and was given all it missed, and how often not.
    pub(crate) fn recoveries(&self) -> (u64, u64) {
        let count = |count: &AtomicU32| count.load(Ordering::Relaxed).into();
        (count(&self.recovered), count(&self.unrecovered))
    }

    /// Returns messages and bytes written.
    pub(crate) fn total_sent(&self) -> (u64, u64) {
        (self.messages_sent.load(Ordering::Relaxed), self.bytes_sent.load(Ordering::Relaxed))
    }

    /// Returns commands and bytes read.
    pub(crate) fn total_received(&self) -> (u64, u64) {
        (self.messages_received.load(Ordering::Relaxed), self.bytes_received.load(Ordering::Relaxed))
    }

    /// Returns how long the last ping took.
    pub(crate) fn last_round_trip(&self) -> Option<Duration> {
        self.round_trip_us.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_micros)
    }
}
