use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;
use serde_json::value::RawValue;
use tokio::time::Instant;
use uuid::Uuid;

use super::delta::{Base, DeltaFrames, Deltas};
use super::frames::Frames;
use super::relay::Relay;
use super::{Connection, Followed, Given, Hub, Limits, Message, Subscribed, Subscription};
use crate::channel::Channel;
use crate::codes::ReplyError;
use crate::config::{NamespaceConfig, Recovery};
use crate::engine::{Item, Position, Stream};
use crate::filter::Filters;
use crate::outbox::{Droppable, Tag};
use crate::protocol::{About, Push};
use crate::publication::{ClientInfo, Exclusion, Publication};

/// One channel: who listens, and what is remembered.
pub(super) struct Room {
    options: Arc<NamespaceConfig>,
    /// In the order in which they came, as long as few go: then what belongs to neighbours lies together in memory.
    members: IndexMap<u64, Member>,
    /// Marks its publications in outboxes.
    tag: Tag,
    stream: Option<Box<Stream>>,
    /// None while nobody here wants deltas.
    deltas: Option<Box<Deltas>>,
    /// Where publications come from Redis: how far they have come.
    relay: Option<Box<Relay>>,
}

struct Member {
    connection: Arc<Connection>,
    chan_info: Option<Arc<RawValue>>,
    filters: Filters,
    /// Is told who comes and goes.
    hears_of_others: bool,
    base: Base,
    /// Has everything up to this offset; 0 where nothing can come twice.
    begins_at: u64,
    counts_positions: bool,
    by_server: bool,
    /// Gets no more publications: it missed one and is about to be told.
    is_severed: bool,
}

/// A member that missed something.
pub(super) struct Severed {
    pub(super) connection: Arc<Connection>,
    /// It did not ask for the subscription.
    pub(super) by_server: bool,
}

impl Room {
    pub(super) fn new(options: Arc<NamespaceConfig>) -> Self {
        Self { options, members: IndexMap::new(), tag: Tag::next(), stream: None, deltas: None, relay: None }
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
        begin(&options, connection, wanted, limits, || Some(&*self.stream(now)))
    }

    /// Lets a connection in; true when it is the first.
    pub(super) fn join(
        &mut self,
        connection: &Arc<Connection>,
        wanted: &Subscription,
        (counts_positions, begins_at): (bool, u64),
    ) -> bool {
        let was_empty = self.members.is_empty();
        // The first publication comes whole: what the client has from before may be older than ours.
        let base = if wanted.takes_deltas() { Base::NOTHING } else { Base::NEVER };
        if base.is_wanted() {
            self.deltas.get_or_insert_default().n_members += 1;
        }
        let member = Member {
            connection: Arc::clone(connection),
            chan_info: wanted.chan_info.clone(),
            filters: wanted.filters.clone(),
            hears_of_others: self.options.join_leave
                && (wanted.overrides.force_push_join_leave().unwrap_or(self.options.force_join_leave)
                    || wanted.join_leave),
            base,
            begins_at,
            counts_positions,
            by_server: wanted.by_server,
            is_severed: false,
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
        let Some(member) = self.members.swap_remove(&id) else { return false };
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

    /// Tells whether members are told who comes and goes.
    pub(super) fn tells_of_members(&self) -> bool {
        self.options.join_leave
    }

    pub(super) fn info_of(&self, id: u64) -> Option<ClientInfo> {
        self.members.get(&id).and_then(Member::info)
    }

    pub(super) fn filters_of(&self, id: u64) -> Option<Filters> {
        self.members.get(&id).map(|member| member.filters.clone())
    }

    pub(super) fn tell(&self, frames: &Frames<'_>, send: impl Fn(&Connection, Bytes) -> bool) {
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
    ) -> (u64, Vec<Severed>) {
        let publication = &message.publication;
        let turn = self.deltas.as_mut().map(|deltas| deltas.turn(publication));
        let shown = publication.shown(position);
        let delta_frames = turn.as_ref().map(|turn| DeltaFrames::new(channel, &shown, turn));
        let frames = Frames::new(channel, Push::Pub(shown.clone()));
        let (policy, tag) = (self.options.slow, self.tag);
        let (mut severed, mut calls) = (Vec::new(), Vec::new());
        let offset = position.map_or(0, |position| position.offset);
        let exclusion = message.exclusion.as_deref();
        let mut n_filtered = 0;
        let lacking = self
            .members
            .values_mut()
            .filter(|member| member.lacks(offset) && !is_left_out(&member.connection, exclusion));
        let wanting = lacking.filter(|member| {
            let wants = member.filters.want(&publication.tags);
            n_filtered += u64::from(!wants);
            wants
        });
        let sent = wanting.filter_map(|member| {
            let frame = match &delta_frames {
                Some(frames) if member.base.is_wanted() => frames.next(&mut member.base, hub.metrics()),
                _ => frames.get(),
            };
            let publication = Droppable { message: frame, tag, policy, counted: member.counts_positions };
            let Given { is_sent, has_missed, is_call } = hub.queue(&member.connection, publication);
            if has_missed {
                member.is_severed = true;
                severed.push(member.severed());
            }
            if is_call {
                calls.push(Arc::clone(&member.connection));
            }
            is_sent.then_some(())
        });
        let n_sent = sent.count() as u64;
        hub.couriers().call(calls);
        hub.metrics().filtered.inc_by(n_filtered);
        (n_sent, severed)
    }

    /// Counts those who want a publication.
    pub(super) fn n_wanting(&self, publication: &Publication, exclusion: Option<&Exclusion>) -> u64 {
        self.members.values().filter(|member| member.wants(publication, exclusion)).count() as u64
    }

    /// Gives no more publications to those who count positions, and returns them. To the others a new numbering begins.
    pub(super) fn sever(&mut self) -> Vec<Severed> {
        let mut severed = Vec::new();
        for member in self.members.values_mut() {
            if !member.counts_positions {
                member.begins_at = 0;
            } else if !std::mem::replace(&mut member.is_severed, true) {
                severed.push(member.severed());
            }
        }
        severed
    }

    /// Returns how far what comes from Redis has come, beginning to follow it if need be.
    pub(super) fn relay(&mut self) -> &mut Relay {
        self.relay.get_or_insert_default()
    }

    pub(super) fn followed(&self, channel: &Channel) -> Followed {
        let at = self.relay.as_ref().and_then(|relay| relay.at().cloned());
        Followed { channel: channel.clone(), options: Arc::clone(&self.options), at }
    }

    pub(super) fn options(&self) -> Arc<NamespaceConfig> {
        Arc::clone(&self.options)
    }

    /// Tells whether somebody is here, or about to come.
    pub(super) fn is_attended(&self) -> bool {
        !self.members.is_empty() || self.relay.as_ref().is_some_and(|relay| relay.is_awaited())
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
        !self.is_attended() && self.stream.is_none()
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
    fn wants(&self, publication: &Publication, exclusion: Option<&Exclusion>) -> bool {
        !is_left_out(&self.connection, exclusion) && self.filters.want(&publication.tags)
    }

    fn severed(&self) -> Severed {
        Severed { connection: Arc::clone(&self.connection), by_server: self.by_server }
    }

    /// Tells whether it has to be given what is at this place; 0 stands for none.
    fn lacks(&self, offset: u64) -> bool {
        !self.is_severed && (offset == 0 || offset > self.begins_at)
    }

    fn info(&self) -> Option<ClientInfo> {
        self.connection.info(self.chan_info.clone())
    }
}

/// Says how a subscription begins, given what is remembered; `stream` is asked for only when that matters.
pub(super) fn begin<'a>(
    options: &NamespaceConfig,
    connection: &Connection,
    wanted: &Subscription,
    limits: &Limits,
    stream: impl FnOnce() -> Option<&'a Stream>,
) -> Result<Subscribed, ReplyError> {
    let recoverable = is_recoverable(options, wanted);
    let positioned = is_positioned(options, wanted);
    let mut subscribed = Subscribed {
        recoverable,
        positioned,
        was_recovering: wanted.recover.is_some(),
        lifetime: wanted.lifetime,
        delta: wanted.takes_deltas(),
        data: wanted.data.clone(),
        ..Subscribed::default()
    };
    if positioned && let Some(stream) = stream() {
        recover(options.recovery, connection, wanted, limits, stream, &mut subscribed);
    }
    if wanted.reject_unrecovered && wanted.recover.is_some() && !subscribed.recovered {
        return Err(ReplyError::UNRECOVERABLE_POSITION);
    }
    Ok(subscribed)
}

/// Tells whether a subscription counts positions.
pub(super) fn is_positioned(options: &NamespaceConfig, wanted: &Subscription) -> bool {
    options.keeps_history()
        && (wanted.overrides.force_positioning().unwrap_or(options.force_positioning)
            || wanted.positioned
            || is_recoverable(options, wanted))
}

fn is_recoverable(options: &NamespaceConfig, wanted: &Subscription) -> bool {
    options.recovery != Recovery::Off
        && (wanted.overrides.force_recovery().unwrap_or(options.force_recovery)
            || wanted.recoverable
            || wanted.recover.is_some())
}

fn recover(
    mode: Recovery,
    connection: &Connection,
    wanted: &Subscription,
    limits: &Limits,
    stream: &Stream,
    subscribed: &mut Subscribed,
) {
    let max_bytes = limits.answer_bytes();
    let position = stream.position();
    let since = wanted.recover.as_ref();
    let is_wanted = |item: &&Item| {
        !is_left_out(connection, item.exclusion.as_deref()) && wanted.filters.want(&item.publication.tags)
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
                let has_it = since
                    .is_some_and(|since| since.offset == position.offset && *since.epoch == *position.epoch);
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
