//! Who joins and leaves which channel.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Connection, Hub, Room, Shard, Subscribed, Subscription};
use crate::channel::Channel;
use crate::codes::ReplyError;
use crate::filter::Filters;
use crate::mesh::Coming;
use crate::publication::ClientInfo;
use crate::watch::Happening;

/// Why a connection does not join a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotJoined {
    Refused(ReplyError),
    /// The connection is on its way out and needs no answer.
    Gone,
}

impl Hub {
    /// Makes a connection a member of a channel. `answer` is called when all is decided and before anybody can publish
    /// to the new member: what it queues comes before every publication that is not part of the answer.
    pub(crate) fn subscribe(
        &self,
        connection: &Arc<Connection>,
        wanted: &Subscription,
        answer: impl FnOnce(Subscribed),
    ) -> Result<(), NotJoined> {
        let mut channels = connection.lock_channels();
        self.may_join(channels.as_ref(), &wanted.channel)?;
        let channels = channels.as_mut().ok_or(NotJoined::Gone)?;
        let mut shard = self.shard(&wanted.channel).lock();
        let new_room = || Room::new(Arc::clone(&wanted.options));
        let room = shard.rooms.entry(wanted.channel.clone()).or_insert_with(new_room);
        let subscribed = match room.prepare(connection, wanted, &self.limits, Instant::now()) {
            Ok(subscribed) => subscribed,
            Err(error) => {
                shard.forget_if_empty(&wanted.channel);
                return Err(NotJoined::Refused(error));
            }
        };
        self.enter(room, connection, wanted, subscribed, 0, answer);
        channels.push(wanted.channel.clone());
        Ok(())
    }

    /// Says whether a connection with these channels may subscribe to one more.
    pub(super) fn may_join(
        &self,
        channels: Option<&Vec<Channel>>,
        channel: &Channel,
    ) -> Result<(), NotJoined> {
        let channels = channels.ok_or(NotJoined::Gone)?;
        if channels.contains(channel) {
            return Err(NotJoined::Refused(ReplyError::ALREADY_SUBSCRIBED));
        }
        if channels.len() >= self.limits.max_channels {
            return Err(NotJoined::Refused(ReplyError::LIMIT_EXCEEDED));
        }
        Ok(())
    }

    pub(super) fn enter(
        &self,
        room: &mut Room,
        connection: &Arc<Connection>,
        wanted: &Subscription,
        subscribed: Subscribed,
        begins_at: u64,
        answer: impl FnOnce(Subscribed),
    ) {
        let (was_recovering, recovered) = (subscribed.was_recovering, subscribed.recovered);
        if was_recovering {
            self.metrics.recovered(recovered);
            connection.traffic.came_back(recovered);
        }
        let counts_positions = subscribed.positioned;
        answer(subscribed);
        if room.join(connection, wanted, (counts_positions, begins_at)) {
            self.metrics.channels.inc();
        }
        self.metrics.subscriptions.inc();
        room.announce(&wanted.channel, connection.id, |to, push| self.send(to, push));
        self.pass_on(&wanted.channel, room.told_of(connection.id), Coming::Came);
        self.tell(connection, Happening::Subscribed { channel: &wanted.channel, was_recovering, recovered });
    }

    /// Ends a membership; false when there was none.
    pub(crate) fn leave(&self, connection: &Connection, channel: &Channel) -> bool {
        let mut channels = connection.lock_channels();
        let Some(channels) = channels.as_mut() else { return false };
        let Some(index) = channels.iter().position(|joined| joined == channel) else { return false };
        channels.swap_remove(index);
        self.remove_member(connection.id, channel);
        self.tell(connection, Happening::Unsubscribed { channel });
        true
    }

    /// Returns the members of a channel in the order in which they connected.
    pub(crate) fn members(&self, channel: &Channel) -> Vec<Arc<Connection>> {
        let mut members: Vec<_> = match self.shard(channel).lock().rooms.get(channel) {
            Some(room) => room.connections().cloned().collect(),
            None => Vec::new(),
        };
        members.sort_unstable_by_key(|connection| connection.id);
        members
    }

    /// Returns who is in a channel, in the order in which they connected.
    pub(crate) fn presence(&self, channel: &Channel) -> Vec<ClientInfo> {
        self.shard(channel).lock().rooms.get(channel).map(Room::presence).unwrap_or_default()
    }

    /// Returns the filters of a subscription; none where there is no such subscription.
    pub(crate) fn filters_of(&self, connection: &Connection, channel: &Channel) -> Option<Filters> {
        self.shard(channel).lock().rooms.get(channel)?.filters_of(connection.id)
    }

    pub(super) fn remove_member(&self, id: u64, channel: &Channel) {
        let mut shard = self.shard(channel).lock();
        let Some(room) = shard.rooms.get_mut(channel) else { return };
        let info = room.told_of(id);
        if !room.leave(channel, id, |to, push| self.send(to, push)) {
            return;
        }
        self.pass_on(channel, info, Coming::Left);
        self.metrics.subscriptions.dec();
        if room.n_members() == 0 {
            self.metrics.channels.dec();
        }
        shard.forget_if_empty(channel);
    }
}

impl Shard {
    pub(super) fn forget_if_empty(&mut self, channel: &Channel) {
        if self.rooms.get(channel).is_some_and(Room::is_forgotten) {
            self.rooms.remove(channel);
            self.shrink();
        }
    }

    /// Hash tables never shrink by themselves, and what the channel of the day leaves behind adds up.
    pub(super) fn shrink(&mut self) {
        if self.rooms.capacity() > 64 && self.rooms.len() < self.rooms.capacity() / 8 {
            self.rooms.shrink_to_fit();
        }
    }
}
