//! Who is connected, who listens to what, and how a message gets to all of them.
//!
//! Channels are spread over shards, each with its own lock. A publication is encoded once and queued by reference, under
//! the lock of its shard, so all subscribers of a channel see its publications in the same order. Queueing never waits:
//! an outbox takes a message or its connection is closed as slow.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use mainstay_auth::jwt::Overrides;
use mainstay_runtime::Clock;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::backend::Backend;
use crate::broker::Broker;
use crate::channel::Channel;
use crate::codes::Disconnect;
use crate::config::NamespaceConfig;
use crate::courier::Couriers;
use crate::engine::{Epoch, Item, Position, Since};
use crate::filter::Filters;
use crate::journey::{Journal, Step};
use crate::mesh::Untold;
use crate::metrics::Metrics;
use crate::outbox::{Droppable, Pushed, Shed};
use crate::protocol::{Lifetime, Method};
use crate::publication::{Exclusion, Publication};
use crate::session::Profile;
use crate::watch::{Happening, Watchers};

mod attendance;
mod channels;
mod connection;
mod delta;
mod frames;
mod members;
mod recent;
mod registry;
mod relay;
mod relayed;
mod room;
mod seat;
#[cfg(test)]
mod tests;

pub(crate) use connection::Connection;
pub(crate) use members::NotJoined;
use recent::Recent;
use registry::Registry;
pub(crate) use registry::{Census, NoRoom};
pub(crate) use relayed::{Followed, Joined, NOT_NOW, counts_positions};
use room::Room;
pub(crate) use seat::Seat;

const SHARDS: usize = 64;

/// What a node allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_connections: usize,
    /// 0 means any number.
    pub(crate) max_connections_per_user: usize,
    /// 0 means any number.
    pub(crate) max_connections_per_address: usize,
    pub(crate) max_channels: usize,
    pub(crate) outbox_bytes: usize,
    /// Publications in one answer.
    pub(crate) history_items: usize,
    /// What all histories together may take.
    pub(crate) history_bytes: usize,
    pub(crate) position_ttl: Duration,
    pub(crate) idempotency_ttl: Duration,
    /// What is remembered of what clients did; 0 means nothing.
    pub(crate) journey_bytes: usize,
}

impl Limits {
    /// Returns what one answer may hold: a client that asks for much must not fill its own outbox.
    pub(crate) fn answer_bytes(&self) -> usize {
        self.outbox_bytes / 2
    }
}

/// What a client wants of a channel, or a server for it.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) channel: Channel,
    pub(crate) options: Arc<NamespaceConfig>,
    /// Where the client was.
    pub(crate) recover: Option<Since>,
    /// Rather an error than a subscription that missed something.
    pub(crate) reject_unrecovered: bool,
    pub(crate) positioned: bool,
    pub(crate) recoverable: bool,
    pub(crate) join_leave: bool,
    /// The client can apply deltas.
    pub(crate) delta: bool,
    pub(crate) filters: Filters,
    pub(crate) chan_info: Option<Arc<RawValue>>,
    /// What the token says of this subscription against its namespace.
    pub(crate) overrides: Overrides,
    pub(crate) lifetime: Lifetime,
    /// What the application tells the client.
    pub(crate) data: Option<Arc<RawValue>>,
    /// The client did not ask for it.
    pub(crate) by_server: bool,
}

impl Subscription {
    /// Tells whether changes are of use: publications that a filter leaves out would be missing in the chain.
    fn takes_deltas(&self) -> bool {
        self.delta && self.options.delta && self.filters.is_empty()
    }
}

/// How a subscription begins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subscribed {
    pub(crate) recoverable: bool,
    pub(crate) positioned: bool,
    pub(crate) was_recovering: bool,
    pub(crate) recovered: bool,
    pub(crate) missed: Vec<Item>,
    pub(crate) offset: u64,
    /// None when it is not positioned.
    pub(crate) epoch: Option<Epoch>,
    pub(crate) lifetime: Lifetime,
    /// Publications come with deltas.
    pub(crate) delta: bool,
    /// What the application tells the client.
    pub(crate) data: Option<Arc<RawValue>>,
}

/// A publication and what is to be done with it.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) publication: Arc<Publication>,
    pub(crate) exclusion: Option<Arc<Exclusion>>,
    /// Empty when there is none.
    pub(crate) idempotency_key: Box<str>,
}

/// What became of a publication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) receivers: u64,
    /// None where the channel has no history.
    pub(crate) position: Option<Position>,
    /// Nothing was published: the idempotency key was seen before.
    pub(crate) duplicate: bool,
    pub(crate) reach: Reach,
}

/// How far a publication went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reach {
    /// There are no other nodes.
    #[default]
    Alone,
    /// Redis took it, and so many nodes listened to its channel.
    Everywhere { n_nodes: u64 },
    /// Redis did not take it: other nodes have not seen it, and no history has it.
    Here,
}

/// The connections and channels of this node.
pub(crate) struct Hub {
    limits: Limits,
    clock: Clock,
    registry: Mutex<Registry>,
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    metrics: Metrics,
    watchers: Arc<Watchers>,
    journal: Arc<Journal>,
    /// Set when there is Redis between the nodes.
    broker: OnceLock<Weak<Broker>>,
    /// Takes who comes and goes, for other nodes.
    untold: OnceLock<Arc<Untold>>,
    backend: OnceLock<Arc<Backend>>,
    couriers: Couriers,
}

/// What became of a publication for one connection.
struct Given {
    is_sent: bool,
    has_missed: bool,
    /// Somebody has to be sent to write it.
    is_call: bool,
}

#[derive(Default)]
struct Shard {
    rooms: HashMap<Channel, Room>,
    recent: Recent,
    /// What the histories of these channels take.
    history_bytes: usize,
}

impl Hub {
    pub(crate) fn new(limits: Limits, clock: Clock, metrics: Metrics) -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let registry = Mutex::new(Registry::new(limits));
        let watchers = Watchers::new(metrics.watch.clone());
        let journal = Journal::new(limits.journey_bytes, clock.now(), metrics.journal.clone());
        Arc::new(Self {
            limits,
            clock,
            registry,
            shards,
            hasher: RandomState::new(),
            metrics,
            watchers,
            journal,
            broker: OnceLock::new(),
            untold: OnceLock::new(),
            backend: OnceLock::new(),
            couriers: Couriers::new(),
        })
    }

    /// Gives a new connection its place, if there is one.
    pub(crate) fn open(self: &Arc<Self>, remote: SocketAddr, now: SystemTime) -> Result<Seat, NoRoom> {
        let make = |id| Connection::new(id, Uuid::new_v4(), remote, now);
        let connection = self.registry.lock().open(remote.ip(), make)?;
        self.metrics.connections.inc();
        Ok(Seat::new(Arc::clone(self), connection))
    }

    /// Records who a connection is; false when the user has too many already.
    pub(crate) fn admit(&self, connection: &Connection, profile: Profile) -> bool {
        let admitted = self.registry.lock().admit(&profile.user) && connection.identify(profile);
        if admitted {
            self.tell(connection, Happening::Connected);
        }
        admitted
    }

    /// Notes a command that was answered; `code` is 0 when it went well.
    pub(crate) fn answered(&self, connection: &Connection, method: Method, code: u32) {
        self.metrics.answered(method, code);
        connection.traffic.answered(method, self.clock.unix_s());
        self.tell(connection, Happening::Command { method, code });
    }

    /// Notes the end of a connection.
    pub(crate) fn ended(&self, connection: &Connection, disconnect: Disconnect) {
        self.metrics.disconnected(disconnect);
        self.tell(connection, Happening::Disconnected { code: disconnect.code });
        let client = connection.client;
        tracing::debug!(%client, code = disconnect.code, reason = disconnect.reason, "connection ends");
    }

    pub(crate) fn watchers(&self) -> &Arc<Watchers> {
        &self.watchers
    }

    /// Returns what is remembered of what clients did.
    pub(crate) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Notes that a client has published.
    pub(crate) fn published_by(&self, connection: &Connection, channel: &Channel) {
        self.note(connection, Step::Published, Some(channel));
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    fn tell(&self, connection: &Connection, happening: Happening<'_>) {
        self.watchers.tell(|| self.clock.now(), connection.into(), happening);
        if let Some((step, channel)) = happening.step() {
            self.note(connection, step, channel);
        }
    }

    fn note(&self, connection: &Connection, step: Step, channel: Option<&Channel>) {
        // Who never said who it is has gone no way.
        if let Some(profile) = connection.profile() {
            self.journal.note(|| self.clock.now(), (connection.client, &profile.user), step, channel);
        }
    }

    /// Queues a message to one connection; false when it is being closed.
    pub(crate) fn send(&self, connection: &Connection, message: Bytes) -> bool {
        self.queued(connection.outbox.push(message, self.limits.outbox_bytes))
    }

    /// Queues a message to one connection before all others.
    pub(crate) fn send_first(&self, connection: &Connection, message: Bytes) -> bool {
        self.queued(connection.outbox.push_first(message, self.limits.outbox_bytes))
    }

    /// Queues a publication that the client may be too slow for.
    fn queue(&self, connection: &Connection, publication: Droppable) -> Given {
        let (policy, counted) = (publication.policy, publication.counted);
        let (Shed { pushed, dropped }, is_call) =
            connection.outbox.push_publication(publication, self.limits.outbox_bytes);
        if dropped > 0 {
            connection.traffic.left_out(dropped);
            self.metrics.shed(policy, dropped as u64);
        }
        let has_missed = dropped > 0 && counted;
        Given { is_sent: self.queued(pushed) && !has_missed, has_missed, is_call }
    }

    fn queued(&self, pushed: Pushed) -> bool {
        match pushed {
            Pushed::Queued => true,
            Pushed::Overflowed => {
                self.metrics.slow_disconnects.inc();
                false
            }
            Pushed::Closing => false,
        }
    }

    /// Closes every connection of a user; returns how many.
    pub(crate) fn disconnect_user(&self, user: &str, disconnect: Disconnect) -> u64 {
        let connections = self.connections_of(user);
        connections.iter().filter(|connection| connection.outbox.close(disconnect)).count() as u64
    }

    /// Lets nobody in from now on; returns who is there.
    pub(crate) fn start_draining(&self) -> Vec<Arc<Connection>> {
        self.registry.lock().start_draining()
    }

    /// Lets others in again; returns how many are there.
    pub(crate) fn stop_draining(&self) -> usize {
        self.registry.lock().stop_draining()
    }

    /// Returns the connections in the order in which they came.
    pub(crate) fn connections(&self) -> Vec<Arc<Connection>> {
        let mut connections = self.registry.lock().connections();
        connections.sort_unstable_by_key(|connection| connection.id);
        connections
    }

    /// Returns the connections of a user in the order in which they came.
    pub(crate) fn connections_of(&self, user: &str) -> Vec<Arc<Connection>> {
        let mut connections = self.connections();
        connections.retain(|connection| connection.user() == Some(user));
        connections
    }

    /// Counts what there is.
    pub(crate) fn census(&self) -> Census {
        let mut census = self.registry.lock().census();
        for shard in &self.shards {
            for room in shard.lock().rooms.values().filter(|room| room.n_members() > 0) {
                census.channels += 1;
                census.subscriptions += room.n_members();
            }
        }
        census
    }

    /// Lets what is said in channels go through Redis from now on.
    pub(crate) fn relay_by(&self, broker: &Arc<Broker>) {
        // A second one would do the same as the first.
        let _ = self.broker.set(Arc::downgrade(broker));
    }

    /// Tells other nodes from now on who comes and goes.
    pub(crate) fn tell_attendance(&self, untold: Arc<Untold>) {
        // A second one would be told the same.
        let _ = self.untold.set(untold);
    }

    /// Lets clients call the application from now on.
    pub(crate) fn serve_by(&self, backend: Arc<Backend>) {
        // A second one would do the same as the first.
        let _ = self.backend.set(backend);
    }

    /// Returns the application behind the gateway, if clients may call it.
    pub(crate) fn backend(&self) -> Option<&Arc<Backend>> {
        self.backend.get()
    }

    /// Returns what joins this node to others, if anything does.
    pub(crate) fn broker(&self) -> Option<Arc<Broker>> {
        self.broker.get()?.upgrade()
    }

    /// Returns those who write publications.
    pub(crate) fn couriers(&self) -> &Couriers {
        &self.couriers
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Takes a connection out of every channel and out of the list. Its place stays taken until the socket is gone.
    fn retire(&self, connection: &Connection) {
        let channels = connection.lock_channels().take();
        for channel in channels.unwrap_or_default() {
            self.remove_member(connection.id, &channel);
            self.tell(connection, Happening::Unsubscribed { channel: &channel });
        }
        self.registry.lock().retire(connection);
    }

    fn vacate(&self) {
        self.registry.lock().vacate();
        self.metrics.connections.dec();
    }

    fn shard(&self, channel: &Channel) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(channel.as_str()) as usize % SHARDS]
    }
}
