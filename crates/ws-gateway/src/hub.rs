//! Who is connected, who listens to what, and how a message gets to all of them.
//!
//! Channels are spread over shards, each with its own lock. A publication is encoded once and queued by reference, under
//! the lock of its shard, so all subscribers of a channel see its publications in the same order. Queueing never waits:
//! an outbox takes a message or its connection is closed as slow.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::channel::Channel;
use crate::codes::Disconnect;
use crate::metrics::Metrics;
use crate::outbox::Pushed;
use crate::session::Profile;

mod connection;
mod registry;
mod seat;
#[cfg(test)]
mod tests;

pub(crate) use connection::Connection;
use registry::Registry;
pub(crate) use registry::{Census, NoRoom};
pub(crate) use seat::Seat;

const SHARDS: usize = 64;

/// What a node allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_connections: usize,
    /// 0 means any number.
    pub(crate) max_connections_per_user: usize,
    pub(crate) outbox_bytes: usize,
}

/// The connections and channels of this node.
pub(crate) struct Hub {
    limits: Limits,
    registry: Mutex<Registry>,
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    metrics: Metrics,
}

#[derive(Default)]
struct Shard {
    channels: HashMap<Channel, HashMap<u64, Arc<Connection>>>,
}

impl Hub {
    pub(crate) fn new(limits: Limits, metrics: Metrics) -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let registry = Mutex::new(Registry::new(limits));
        Arc::new(Self { limits, registry, shards, hasher: RandomState::new(), metrics })
    }

    /// Gives a new connection its place, if there is one.
    pub(crate) fn open(self: &Arc<Self>, remote: SocketAddr, now: SystemTime) -> Result<Seat, NoRoom> {
        let connection = self.registry.lock().open(|id| Connection::new(id, Uuid::new_v4(), remote, now))?;
        self.metrics.connections.inc();
        Ok(Seat::new(Arc::clone(self), connection))
    }

    /// Records who a connection is; false when the user has too many already.
    pub(crate) fn admit(&self, connection: &Connection, profile: Profile) -> bool {
        self.registry.lock().admit(&profile.user) && connection.identify(profile)
    }

    /// Queues a message to everybody in a channel; returns to how many.
    pub(crate) fn publish(&self, channel: &Channel, message: &Bytes) -> u64 {
        let started_at = Instant::now();
        let receivers = match self.shard(channel).lock().channels.get(channel) {
            Some(members) => members.values().filter(|member| self.send(member, message.clone())).count(),
            None => 0,
        };
        self.metrics.publications.inc();
        self.metrics.publish_seconds.observe(started_at.elapsed().as_secs_f64());
        receivers as u64
    }

    /// Queues a message to one connection; false when it is being closed.
    pub(crate) fn send(&self, connection: &Connection, message: Bytes) -> bool {
        match connection.outbox.push(message, self.limits.outbox_bytes) {
            Pushed::Queued => true,
            Pushed::Overflowed => {
                self.metrics.slow_disconnects.inc();
                false
            }
            Pushed::Closing => false,
        }
    }

    /// Makes a connection a member of a channel.
    pub(crate) fn join(&self, connection: &Arc<Connection>, channel: Channel) {
        if !connection.add_channel(&channel) {
            return;
        }
        self.metrics.subscriptions.inc();
        let mut shard = self.shard(&channel).lock();
        let members = shard.channels.entry(channel).or_insert_with(|| {
            self.metrics.channels.inc();
            HashMap::with_capacity(1)
        });
        members.insert(connection.id, Arc::clone(connection));
    }

    /// Ends a membership.
    pub(crate) fn leave(&self, connection: &Connection, channel: &Channel) {
        if connection.remove_channel(channel) {
            self.remove_member(connection.id, channel);
        }
    }

    /// Closes every connection of a user; returns how many.
    pub(crate) fn disconnect_user(&self, user: &str, disconnect: Disconnect) -> u64 {
        let connections = self.connections();
        let of_user = connections.iter().filter(|connection| connection.user() == Some(user));
        of_user.filter(|connection| connection.outbox.close(disconnect)).count() as u64
    }

    /// Lets nobody in from now on; returns who is there.
    pub(crate) fn start_draining(&self) -> Vec<Arc<Connection>> {
        self.registry.lock().start_draining()
    }

    /// Returns the connections in the order in which they came.
    pub(crate) fn connections(&self) -> Vec<Arc<Connection>> {
        let mut connections = self.registry.lock().connections();
        connections.sort_unstable_by_key(|connection| connection.id);
        connections
    }

    /// Returns the members of a channel in the order in which they connected.
    pub(crate) fn members(&self, channel: &Channel) -> Vec<Arc<Connection>> {
        let mut members: Vec<_> = match self.shard(channel).lock().channels.get(channel) {
            Some(members) => members.values().cloned().collect(),
            None => Vec::new(),
        };
        members.sort_unstable_by_key(|connection| connection.id);
        members
    }

    /// Returns the channels that start with `prefix`, by name, with the number of their members.
    pub(crate) fn channels(&self, prefix: &str) -> Vec<(Channel, u64)> {
        let mut channels = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let matching = shard.channels.iter().filter(|(channel, _)| channel.as_str().starts_with(prefix));
            channels.extend(matching.map(|(channel, members)| (channel.clone(), members.len() as u64)));
        }
        channels.sort_unstable();
        channels
    }

    /// Counts what there is.
    pub(crate) fn census(&self) -> Census {
        let mut census = self.registry.lock().census();
        for shard in &self.shards {
            let shard = shard.lock();
            census.channels += shard.channels.len();
            census.subscriptions += shard.channels.values().map(HashMap::len).sum::<usize>();
        }
        census
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Takes a connection out of every channel and out of the list. Its place stays taken until the socket is gone.
    fn retire(&self, connection: &Connection) {
        for channel in connection.take_channels() {
            self.remove_member(connection.id, &channel);
        }
        self.registry.lock().retire(connection);
    }

    fn vacate(&self) {
        self.registry.lock().vacate();
        self.metrics.connections.dec();
    }

    fn remove_member(&self, id: u64, channel: &Channel) {
        self.metrics.subscriptions.dec();
        let mut shard = self.shard(channel).lock();
        let Some(members) = shard.channels.get_mut(channel) else { return };
        members.remove(&id);
        if members.is_empty() {
            shard.channels.remove(channel);
            self.metrics.channels.dec();
        }
        // Hash tables never shrink by themselves, and what the channel of the day leaves behind adds up.
        if shard.channels.capacity() > 64 && shard.channels.len() < shard.channels.capacity() / 8 {
            shard.channels.shrink_to_fit();
        }
    }

    fn shard(&self, channel: &Channel) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(channel.as_str()) as usize % SHARDS]
    }
}
