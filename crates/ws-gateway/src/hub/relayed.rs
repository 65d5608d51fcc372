//! Channels whose publications come from Redis: what arrives, and how subscriptions begin.

use std::sync::Arc;

use tokio::time::Instant;

use super::relay::{CaughtUp, Step};
use super::room::{Severed, begin};
use super::{Connection, Hub, Message, NotJoined, Published, Reach, Room, Subscribed, Subscription};
use crate::broker::{Arrival, ReadBack};
use crate::channel::Channel;
use crate::codes::{Disconnect, ReplyError, Unsubscribed};
use crate::config::NamespaceConfig;
use crate::engine::{Item, Position};

/// A subscription that is about to begin: its channel is listened to until this is dropped.
pub(crate) struct Beginning<'a> {
    hub: &'a Hub,
    channel: Channel,
}

/// What came of an attempt to begin a subscription.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    Yes,
    /// What was read does not meet what others have been given: the history has to be read again.
    ReadAgain,
}

/// A channel of this node, and how far its subscribers are.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) channel: Channel,
    pub(crate) options: Arc<NamespaceConfig>,
    pub(crate) at: Option<Position>,
}

impl Hub {
    /// Delivers a publication that arrives from Redis; true when the channel's history has to be read first.
    pub(crate) fn take(&self, channel: &Channel, arrival: Arrival) -> bool {
        let mut shard = self.shard(channel).lock();
        let Some(room) = shard.rooms.get_mut(channel) else { return false };
        let (severed, read) = if arrival.item.offset == 0 {
            (self.give_item(room, channel, &arrival.item, None), false)
        } else {
            match room.relay().take(&arrival) {
                Step::Deliver => {
                    let position = Position { offset: arrival.item.offset, epoch: arrival.epoch };
                    (self.give_item(room, channel, &arrival.item, Some(&position)), false)
                }
                Step::Drop => (Vec::new(), false),
                Step::Hold { read } => (Vec::new(), read),
            }
        };
        drop(shard);
        self.tell_severed(channel, severed);
        read
    }

    /// Begins to read a channel's history; none when that is going on already or nobody is there.
    pub(crate) fn start_catching_up(&self, channel: &Channel) -> bool {
        let mut shard = self.shard(channel).lock();
        shard.rooms.get_mut(channel).is_some_and(|room| room.relay().start_catching_up())
    }

    /// Returns where subscribers of a channel are; none when nobody is there.
    pub(crate) fn followed(&self, channel: &Channel) -> Option<Followed> {
        let shard = self.shard(channel).lock();
        shard.rooms.get(channel).map(|room| room.followed(channel))
    }

    /// Returns all channels with a history that have subscribers, of those that are meant.
    pub(crate) fn all_followed(&self, is_meant: impl Fn(&Channel) -> bool) -> Vec<Followed> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let followed =
                shard.rooms.iter().filter(|(channel, room)| room.n_members() > 0 && is_meant(channel));
            all.extend(
                followed
                    .map(|(channel, room)| room.followed(channel))
                    .filter(|followed| followed.options.keeps_history()),
            );
        }
        all
    }

    /// Takes what was read of a channel's history; true when it has to be read again.
    pub(crate) fn catch_up(&self, channel: &Channel, read: ReadBack) -> bool {
        let mut shard = self.shard(channel).lock();
        let Some(room) = shard.rooms.get_mut(channel) else { return false };
        let epoch = Arc::clone(&read.position.epoch);
        let CaughtUp { missed, lost, again } = room.relay().catch_up(read);
        let mut severed = if lost { room.sever() } else { Vec::new() };
        for item in &missed {
            let position = Position { offset: item.offset, epoch: Arc::clone(&epoch) };
            severed.extend(self.give_item(room, channel, item, Some(&position)));
        }
        drop(shard);
        if lost {
            self.metrics.gap(false);
        } else if !missed.is_empty() {
            self.metrics.gap(true);
        }
        self.tell_severed(channel, severed);
        again
    }

    /// Goes on without what could not be read; it is asked for again when something arrives, or by the next look.
    pub(crate) fn give_up_catching_up(&self, channel: &Channel) {
        if let Some(room) = self.shard(channel).lock().rooms.get_mut(channel) {
            room.relay().give_up_catching_up();
        }
    }

    /// Ends every subscription that counts positions in channels that are meant: their publications no longer arrive.
    /// Returns how many.
    pub(crate) fn sever(&self, is_meant: impl Fn(&Channel) -> bool) -> usize {
        let mut n_severed = 0;
        for shard in &self.shards {
            let mut shard = shard.lock();
            let meant = shard.rooms.iter_mut().filter(|(channel, _)| is_meant(channel));
            let severed: Vec<_> = meant.map(|(channel, room)| (channel.clone(), room.sever())).collect();
            drop(shard);
            for (channel, severed) in severed {
                n_severed += severed.len();
                self.tell_severed(&channel, severed);
            }
        }
        n_severed
    }

    /// Delivers to this node alone what Redis did not take.
    pub(crate) fn publish_here(&self, channel: &Channel, message: &Message) -> Published {
        let now = Instant::now();
        let mut shard = self.shard(channel).lock();
        let key = &*message.idempotency_key;
        if !key.is_empty()
            && let Some(earlier) = shard.recent.find(channel, key, now)
        {
            self.metrics.duplicates.inc();
            return Published { duplicate: true, ..earlier };
        }
        let room = shard.rooms.get_mut(channel);
        let (receivers, severed) =
            room.map(|room| self.give(room, channel, message, None)).unwrap_or_default();
        let published = Published { receivers, reach: Reach::Here, ..Published::default() };
        if !key.is_empty() {
            shard.recent.note(channel, key, &published, now, self.limits.idempotency_ttl);
        }
        drop(shard);
        self.tell_severed(channel, severed);
        published
    }

    /// Counts the subscribers of this node who want a publication.
    pub(crate) fn n_wanting(&self, channel: &Channel, message: &Message) -> u64 {
        let shard = self.shard(channel).lock();
        let wanting = |room: &Room| room.n_wanting(&message.publication, message.exclusion.as_deref());
        shard.rooms.get(channel).map_or(0, wanting)
    }

    /// Tells whether somebody listens to a channel, or is about to.
    pub(crate) fn is_attended(&self, channel: &Channel) -> bool {
        self.shard(channel).lock().rooms.get(channel).is_some_and(Room::is_attended)
    }

    /// Checks that a connection may subscribe, and keeps from now on what arrives in the channel.
    pub(crate) fn will_join(
        &self,
        connection: &Connection,
        wanted: &Subscription,
    ) -> Result<Beginning<'_>, NotJoined> {
        self.may_join(connection.lock_channels().as_ref(), &wanted.channel)?;
        let mut shard = self.shard(&wanted.channel).lock();
        let new_room = || Room::new(Arc::clone(&wanted.options));
        shard.rooms.entry(wanted.channel.clone()).or_insert_with(new_room).relay().will_begin();
        Ok(Beginning { hub: self, channel: wanted.channel.clone() })
    }

    /// Makes a connection a member of a channel, given what was read of its history; without that the subscription
    /// counts no positions. `answer` is as with [`Hub::subscribe`].
    pub(crate) fn join_relayed(
        &self,
        connection: &Arc<Connection>,
        wanted: &Subscription,
        read: Option<ReadBack>,
        answer: &mut dyn FnMut(Subscribed),
    ) -> Result<Joined, NotJoined> {
        let mut severed = Vec::new();
        let joined = self.join_locked(connection, wanted, read, answer, &mut severed);
        self.tell_severed(&wanted.channel, severed);
        joined
    }

    /// Does it, and says who has missed something meanwhile.
    fn join_locked(
        &self,
        connection: &Arc<Connection>,
        wanted: &Subscription,
        read: Option<ReadBack>,
        answer: &mut dyn FnMut(Subscribed),
        severed: &mut Vec<Severed>,
    ) -> Result<Joined, NotJoined> {
        let mut channels = connection.lock_channels();
        self.may_join(channels.as_ref(), &wanted.channel)?;
        let channels = channels.as_mut().ok_or(NotJoined::Gone)?;
        let mut shard = self.shard(&wanted.channel).lock();
        let new_room = || Room::new(Arc::clone(&wanted.options));
        let room = shard.rooms.entry(wanted.channel.clone()).or_insert_with(new_room);
        let mut stream = None;
        if let Some(read) = read {
            if room.relay().at().is_none() {
                let position = read.position.clone();
                let begun = room.relay().catch_up(ReadBack { position, items: Vec::new() });
                for item in &begun.missed {
                    let position = Position { offset: item.offset, epoch: Arc::clone(&read.position.epoch) };
                    severed.extend(self.give_item(room, &wanted.channel, item, Some(&position)));
                }
                if begun.again {
                    return Ok(Joined::ReadAgain);
                }
            }
            let Some(joined) = room.relay().join(read) else { return Ok(Joined::ReadAgain) };
            stream = Some(joined);
        }
        let begins_at = stream.as_ref().map_or(0, |stream| stream.position().offset);
        let subscribed = begin(&room.options(), connection, wanted, &self.limits, || stream.as_ref())
            .map_err(NotJoined::Refused)?;
        self.enter(room, connection, wanted, subscribed, begins_at, answer);
        channels.push(wanted.channel.clone());
        Ok(Joined::Yes)
    }

    /// Gives subscribers what has arrived or was read.
    fn give_item(
        &self,
        room: &mut Room,
        channel: &Channel,
        item: &Item,
        position: Option<&Position>,
    ) -> Vec<Severed> {
        let started = Instant::now();
        let message = Message {
            publication: Arc::clone(&item.publication),
            exclusion: item.exclusion.clone(),
            idempotency_key: "".into(),
        };
        let (_, severed) = self.give(room, channel, &message, position);
        self.metrics.publications.inc();
        self.metrics.publish_seconds.observe(started.elapsed().as_secs_f64());
        severed
    }

    /// Tells those who missed something. Their clients subscribe again and recover it.
    pub(super) fn tell_severed(&self, channel: &Channel, severed: Vec<Severed>) {
        for Severed { connection, by_server } in severed {
            if by_server {
                // Such a subscription cannot be begun again by itself.
                connection.outbox.close(Disconnect::INSUFFICIENT_STATE);
            } else {
                self.unsubscribe(&connection, channel, Unsubscribed::INSUFFICIENT);
            }
        }
    }
}

impl Drop for Beginning<'_> {
    fn drop(&mut self) {
        let mut shard = self.hub.shard(&self.channel).lock();
        if let Some(room) = shard.rooms.get_mut(&self.channel) {
            room.relay().has_begun();
            shard.forget_if_empty(&self.channel);
        }
    }
}

/// Tells whether a server has to be asked before a subscription can begin.
pub(crate) fn counts_positions(wanted: &Subscription) -> bool {
    super::room::is_positioned(&wanted.options, wanted)
}

/// The error for a subscription that cannot begin now, and can be tried again.
pub(crate) const NOT_NOW: NotJoined = NotJoined::Refused(ReplyError::INTERNAL);
