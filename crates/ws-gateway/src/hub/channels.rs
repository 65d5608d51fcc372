//! What happens in channels: publications, and what is remembered of them.

use std::sync::Arc;

use tokio::time::Instant;

use super::room::Severed;
use super::{Hub, Message, Published, Room, SHARDS, Shard};
use crate::channel::Channel;
use crate::config::NamespaceConfig;
use crate::engine::{HistoryQuery, Item, NotThisEpoch, Position};
use crate::watch::{Happening, Subject};

impl Hub {
    /// Queues a publication to everybody in a channel and remembers it, if the namespace keeps a history. Places in the
    /// history are given under the lock under which the publication is queued, so everybody sees them in order.
    pub(crate) fn publish(
        &self,
        channel: &Channel,
        options: &Arc<NamespaceConfig>,
        message: &Message,
    ) -> Published {
        let now = Instant::now();
        let mut shard = self.shard(channel).lock();
        let key = &*message.idempotency_key;
        if !key.is_empty()
            && let Some(earlier) = shard.recent.find(channel, key, now)
        {
            self.metrics.duplicates.inc();
            return Published { duplicate: true, ..earlier };
        }
        let position =
            options.keeps_history().then(|| self.remember(&mut shard, channel, options, message, now));
        let room = shard.rooms.get_mut(channel);
        let (receivers, severed) =
            room.map(|room| self.give(room, channel, message, position.as_ref())).unwrap_or_default();
        let published = Published { receivers, position, ..Published::default() };
        if !key.is_empty() {
            shard.recent.note(channel, key, &published, now, self.limits.idempotency_ttl);
        }
        drop(shard);
        // Their clients subscribe again and recover what they missed.
        self.tell_severed(channel, severed);
        self.metrics.publications.inc();
        self.metrics.publish_seconds.observe(now.elapsed().as_secs_f64());
        published
    }

    /// Queues a publication to everybody in a channel; returns to how many, and who has missed something.
    pub(super) fn give(
        &self,
        room: &mut Room,
        channel: &Channel,
        message: &Message,
        position: Option<&Position>,
    ) -> (u64, Vec<Severed>) {
        let (receivers, severed) = room.deliver(channel, message, position, self);
        let offset = position.map_or(0, |position| position.offset);
        let publisher = message.publication.info.as_ref().map(Subject::from).unwrap_or_default();
        let happening = Happening::Published { channel, receivers, offset };
        self.watchers.tell(|| self.clock.now(), publisher, happening);
        (receivers, severed)
    }

    fn remember(
        &self,
        shard: &mut Shard,
        channel: &Channel,
        options: &Arc<NamespaceConfig>,
        message: &Message,
        now: Instant,
    ) -> Position {
        let room = shard.rooms.entry(channel.clone()).or_insert_with(|| Room::new(Arc::clone(options)));
        let bytes_before = room.history().map_or(0, |stream| stream.bytes());
        let stream = room.stream(now);
        let (publication, exclusion) = (Arc::clone(&message.publication), message.exclusion.clone());
        stream.append(publication, exclusion, (now, self.clock.now()), options.history_size);
        // Who publishes beyond what the node may remember loses its own past, not that of others.
        let others = shard.history_bytes - bytes_before;
        let budget = (self.limits.history_bytes / SHARDS).saturating_sub(others);
        while stream.bytes() > budget && stream.forget_oldest() {
            self.metrics.history_evictions.inc();
        }
        let position = stream.position();
        let bytes = stream.bytes();
        self.account(shard, others + bytes);
        position
    }

    /// Returns a part of what is remembered of a channel, and where the channel is.
    pub(crate) fn history(
        &self,
        channel: &Channel,
        options: &Arc<NamespaceConfig>,
        query: &HistoryQuery,
    ) -> Result<(Vec<Item>, Position), NotThisEpoch> {
        let mut shard = self.shard(channel).lock();
        let room = shard.rooms.entry(channel.clone()).or_insert_with(|| Room::new(Arc::clone(options)));
        let bytes_before = room.history().map_or(0, |stream| stream.bytes());
        let stream = room.stream(Instant::now());
        let page = stream.page(query, self.limits.answer_bytes());
        let (position, bytes) = (stream.position(), stream.bytes());
        let total = shard.history_bytes - bytes_before + bytes;
        self.account(&mut shard, total);
        Ok((page?, position))
    }

    /// Forgets what was published into a channel.
    pub(crate) fn forget_history(&self, channel: &Channel) {
        let mut shard = self.shard(channel).lock();
        let Some(room) = shard.rooms.get_mut(channel) else { return };
        let Some(bytes_before) = room.history().map(|stream| stream.bytes()) else { return };
        room.stream(Instant::now()).clear();
        let total = shard.history_bytes - bytes_before;
        self.account(&mut shard, total);
    }

    /// Forgets everywhere what is too old.
    pub(crate) fn sweep(&self, now: Instant) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let mut total = 0;
            shard.rooms.retain(|_, room| {
                let keep = room.sweep(now, &self.limits);
                total += room.history().map_or(0, |stream| stream.bytes());
                keep
            });
            shard.shrink();
            self.account(&mut shard, total);
        }
    }

    /// Returns the channels with members that start with `prefix`, by name, with the number of their members.
    pub(crate) fn channels(&self, prefix: &str) -> Vec<(Channel, u64)> {
        let mut channels = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let matching = shard
                .rooms
                .iter()
                .filter(|(channel, room)| channel.as_str().starts_with(prefix) && room.n_members() > 0);
            channels.extend(matching.map(|(channel, room)| (channel.clone(), room.n_members() as u64)));
        }
        channels.sort_unstable();
        channels
    }

    fn account(&self, shard: &mut Shard, history_bytes: usize) {
        let before = std::mem::replace(&mut shard.history_bytes, history_bytes);
        self.metrics.history_bytes.inc_by(history_bytes as i64 - before as i64);
    }
}
