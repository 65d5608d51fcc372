use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::Instant;
use uuid::Uuid;

use super::delta::{Base, DeltaFrames, Deltas};
use super::frames::Frames;
use super::{Connection, Hub, Limits, Message, Subscribed, Subscription};
use crate::channel::Channel;
use crate::codes::ReplyError;
use crate::config::{NamespaceConfig, Recovery, Slow};
use crate::engine::{Item, Position, Stream};
use crate::filter::Filter;
use crate::outbox::{Droppable, Tag};
use crate::protocol::{About, Push};
use crate::publication::{ClientInfo, Exclusion};

/// One channel: who listens, and what is remembered.
pub(super) struct Room {
    options: Arc<NamespaceConfig>,
    members: HashMap<u64, Member>,
    /// Marks its publications in outboxes.
    tag: Tag,
    stream: Option<Box<Stream>>,
    /// None while nobody here wants deltas.
    deltas: Option<Box<Deltas>>,
}

struct Member {
    connection: Arc<Connection>,
    chan_info: Option<Arc<RawValue>>,
    filter: Option<Arc<Filter>>,
    /// Is told who comes and goes.
    hears_of_others: bool,
    base: Base,
    /// Is told positions, so that it must not miss a publication and get the next.
    counts: bool,
    /// Has missed a publication and is about to be unsubscribed.
    lost: bool,
}

impl Room {
    pub(super) fn new(options: Arc<NamespaceConfig>) -> Self {
        Self { options, members: HashMap::new(), tag: Tag::next(), stream: None, deltas: None }
    }

    /// Says how a subscription begins, without beginning it.
    pub(super) fn prepare(
        &mut self,
        connection: &Connection,
        wanted: &Subscription,
        limits: &Limits,
        now: Instant,
    ) -> Result<Subscribed, ReplyError> {
        let options = Arc::clone(&self.options);
        let recoverable = self.is_recoverable(wanted);
        let positioned =
            options.keeps_history() && (options.force_positioning || wanted.positioned || recoverable);
        let mut subscribed = Subscribed {
            recoverable,
            positioned,
            was_recovering: wanted.recover.is_some(),
            lifetime: wanted.lifetime,
            delta: options.delta && wanted.delta,
            ..Subscribed::default()
        };
        if positioned {
            self.recover(connection, wanted, limits, now, &mut subscribed);
        }
        if wanted.reject_unrecovered && wanted.recover.is_some() && !subscribed.recovered {
            return Err(ReplyError::UNRECOVERABLE_POSITION);
        }
        Ok(subscribed)
    }

    fn is_recoverable(&self, wanted: &Subscription) -> bool {
        self.options.recovery != Recovery::Off
            && (self.options.force_recovery || wanted.recoverable || wanted.recover.is_some())
    }

    fn recover(
        &mut self,
        connection: &Connection,
        wanted: &Subscription,
        limits: &Limits,
        now: Instant,
        subscribed: &mut Subscribed,
    ) {
        let (mode, max_bytes) = (self.options.recovery, limits.answer_bytes());
        let stream = self.stream(now);
        let position = stream.position();
        let since = wanted.recover.as_ref();
        let is_wanted = |item: &&Item| {
            !is_left_out(connection, item.exclusion.as_deref())
                && wanted.filter.as_ref().is_none_or(|filter| filter.wants(&item.publication.tags))
        };
        match (mode, since) {
            (Recovery::Stream, Some(since)) => {
                if let Some(missed) = stream.recover(since, limits.history_items, max_bytes) {
                    subscribed.missed = missed.filter(is_wanted).cloned().collect();
                    subscribed.recovered = true;
                    // The client goes on from where it was and moves with each publication it is given.
                    subscribed.offset = since.offset;
                }
            }
            (Recovery::Cache, _) if subscribed.recoverable => {
                subscribed.was_recovering = true;
                if let Some(latest) = stream.latest() {
                    subscribed.recovered = true;
                    let has_it = since.is_some_and(|since| {
                        since.offset == position.offset && *since.epoch == *position.epoch
                    });
                    subscribed.missed =
                        [latest].into_iter().filter(|_| !has_it).filter(is_wanted).cloned().collect();
                }
            }
            _ => {}
        }
        if mode != Recovery::Stream || !subscribed.recovered {
            subscribed.offset = position.offset;
        }
        subscribed.epoch = Some(position.epoch);
    }

    /// Lets a connection in; true when it is the first.
    pub(super) fn join(&mut self, connection: &Arc<Connection>, wanted: &Subscription) -> bool {
        let was_empty = self.members.is_empty();
        // The first publication comes whole: what the client has from before may be older than ours.
        let base = if self.options.delta && wanted.delta { Base::NOTHING } else { Base::NEVER };
        if base.is_wanted() {
            self.deltas.get_or_insert_default().n_members += 1;
        }
        let member = Member {
            connection: Arc::clone(connection),
            chan_info: wanted.chan_info.clone(),
            filter: wanted.filter.clone(),
            hears_of_others: self.options.join_leave && (self.options.force_join_leave || wanted.join_leave),
            base,
            counts: self.options.keeps_history()
                && (self.options.force_positioning || wanted.positioned || self.is_recoverable(wanted)),
            lost: false,
        };
        self.members.insert(connection.id, member);
        was_empty
    }

    /// Tells those who want to know that somebody came.
    pub(super) fn announce(&self, channel: &Channel, id: u64, send: impl Fn(&Connection, Bytes) -> bool) {
        let Some(member) = self.members.get(&id).filter(|_| self.options.join_leave) else { return };
        if let Some(info) = member.info() {
            self.tell(&Frames::new(channel, Push::Join(About { info: info.shown() })), send);
        }
    }

    /// Lets a connection out and tells those who want to know; false when it was not there.
    pub(super) fn leave(
        &mut self,
        channel: &Channel,
        id: u64,
        send: impl Fn(&Connection, Bytes) -> bool,
    ) -> bool {
        let Some(member) = self.members.remove(&id) else { return false };
        if member.base.is_wanted() {
            self.deltas = self.deltas.take().filter(|deltas| deltas.n_members > 1).map(Deltas::without_one);
        }
        if self.options.join_leave
            && let Some(info) = member.info()
        {
            self.tell(&Frames::new(channel, Push::Leave(About { info: info.shown() })), send);
        }
        true
    }

    fn tell(&self, frames: &Frames<'_>, send: impl Fn(&Connection, Bytes) -> bool) {
        for member in self.members.values().filter(|member| member.hears_of_others) {
            send(&member.connection, frames.get());
        }
    }

    /// Gives a publication to everybody who wants it; returns to how many, and who has missed something.
    pub(super) fn deliver(
        &mut self,
        channel: &Channel,
        message: &Message,
        position: Option<&Position>,
        hub: &Hub,
    ) -> (u64, Vec<Arc<Connection>>) {
        let publication = &message.publication;
        let turn = self.deltas.as_mut().map(|deltas| deltas.turn(publication));
        let shown = publication.shown(position);
        let delta_frames = turn.as_ref().map(|turn| DeltaFrames::new(channel, &shown, turn));
        let frames = Frames::new(channel, Push::Pub(shown.clone()));
        let (policy, tag, mut lost) = (self.options.slow, self.tag, Vec::new());
        let wanting = self.members.values_mut().filter(|member| {
            !member.lost
                && !is_left_out(&member.connection, message.exclusion.as_deref())
                && member.filter.as_ref().is_none_or(|filter| filter.wants(&publication.tags))
        });
        let sent = wanting.filter_map(|member| {
            let frame = match &delta_frames {
                Some(frames) if member.base.is_wanted() => frames.next(&mut member.base, hub.metrics()),
                _ => frames.get(),
            };
            if policy == Slow::Disconnect {
                return hub.send(&member.connection, frame).then_some(());
            }
            let publication = Droppable { message: frame, tag, policy, counted: member.counts };
            let (sent, missed) = hub.send_or_shed(&member.connection, publication);
            if missed {
                member.lost = true;
                lost.push(Arc::clone(&member.connection));
            }
            sent.then_some(())
        });
        (sent.count() as u64, lost)
    }

    /// Returns what is remembered, beginning to remember if need be.
    pub(super) fn stream(&mut self, now: Instant) -> &mut Stream {
        let options = &self.options;
        let stream = self.stream.get_or_insert_with(|| Box::new(Stream::new(new_epoch(), now)));
        stream.expire(now, options.history_ttl);
        stream
    }

    pub(super) fn history(&self) -> Option<&Stream> {
        self.stream.as_deref()
    }

    /// Forgets what is too old; false when there is nothing left to remember.
    pub(super) fn sweep(&mut self, now: Instant, limits: &Limits) -> bool {
        if let Some(stream) = &mut self.stream {
            stream.expire(now, self.options.history_ttl);
            let never_used = stream.position().offset == 0;
            let kept_for = if never_used { self.options.history_ttl } else { limits.position_ttl };
            let is_idle = now.saturating_duration_since(stream.touched_at()) >= kept_for;
            if self.members.is_empty() && stream.len() == 0 && is_idle {
                self.stream = None;
            }
        }
        !self.is_forgotten()
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.members.is_empty() && self.stream.is_none()
    }

    pub(super) fn n_members(&self) -> usize {
        self.members.len()
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.members.values().map(|member| &member.connection)
    }

    /// Returns who is here, in the order in which they connected.
    pub(super) fn presence(&self) -> Vec<ClientInfo> {
        let mut members: Vec<_> = self.members.values().collect();
        members.sort_unstable_by_key(|member| member.connection.id);
        members.into_iter().filter_map(Member::info).collect()
    }
}

impl Member {
    fn info(&self) -> Option<ClientInfo> {
        self.connection.info(self.chan_info.clone())
    }
}

fn is_left_out(connection: &Connection, exclusion: Option<&Exclusion>) -> bool {
    exclusion
        .is_some_and(|exclusion| exclusion.covers(connection.client, connection.user().unwrap_or_default()))
}

/// Enough to tell one numbering of a channel from the one before it.
fn new_epoch() -> Arc<str> {
    let mut text = Uuid::new_v4().simple().to_string();
    text.truncate(8);
    text.into()
}
