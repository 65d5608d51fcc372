//! Does what a session asks for: the commands that need the hub are carried out and answered here.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::backend::Verdict;
use crate::channel::Channel;
use crate::codes::{Disconnect, ReplyError, Unsubscribed};
use crate::engine::{HistoryQuery, Item, Position, Since};
use crate::errand::{self, Errand};
use crate::filter::Filters;
use crate::hub::{Connection, Hub, Message, NotJoined, Seat, Subscribed, Subscription};
use crate::protocol::{
    self, ConnectResult, Empty, HistoryResult, Method, PresenceResult, PresenceStatsResult, Push,
    SubRefreshResult, SubscribeResult,
};
use crate::publication::{ClientInfo, Publication};
use crate::session::{Action, Ask, Open, Word};

/// Publications looked at together where filters hold back those before.
const PAGE_ITEMS: usize = 1_000;

/// Does what a session asks for, in the order given.
pub(crate) fn carry_out(seat: &Seat, actions: Vec<Action>) {
    let desk = Desk { hub: seat.hub(), connection: seat.connection() };
    let broker = desk.hub.broker();
    let later = |errand| {
        if let Some(broker) = &broker {
            errand::run(broker, desk.connection, desk.hub, errand);
        }
    };
    for action in actions {
        match action {
            Action::Admit(profile) => {
                if !desk.hub.admit(desk.connection, profile) {
                    desk.connection.outbox.close(Disconnect::CONNECTION_LIMIT);
                    return;
                }
            }
            Action::Open(open) if broker.is_some() => {
                later(Errand::Open(open));
            }
            Action::Open(open) => desk.open(&open),
            Action::Call { id, call } => match seat.hub().backend() {
                Some(backend) => backend.rpc(seat.hub(), desk.connection, id, *call),
                None => desk.refuse(id, Method::Rpc, ReplyError::NOT_AVAILABLE),
            },
            Action::Consult(matter) => match seat.hub().backend() {
                Some(backend) => backend.consult(desk.connection, *matter),
                None => desk.connection.tell(Word::Verdict(*matter, Verdict::Away)),
            },
            Action::Ask { id, ask } if broker.is_some() => {
                later(Errand::Ask { id, ask });
            }
            Action::Ask { id, ask } => desk.serve(id, *ask),
            Action::Reply { frame, method, code } => {
                desk.hub.answered(desk.connection, method, code);
                desk.hub.send(desk.connection, frame);
            }
            Action::Send(message) => {
                desk.hub.send(desk.connection, message);
            }
            Action::Expire(channel) if broker.is_some() => {
                later(Errand::Expire(channel));
            }
            Action::Expire(channel) => {
                desk.hub.unsubscribe(desk.connection, &channel, Unsubscribed::EXPIRED);
            }
            Action::RoundTrip(took) => desk.connection.traffic.round_trip(took),
            Action::Close(disconnect) => {
                desk.connection.outbox.close(disconnect);
            }
        }
    }
}

/// Where one connection's commands are served.
#[derive(Clone, Copy)]
pub(crate) struct Desk<'a> {
    pub(crate) hub: &'a Hub,
    pub(crate) connection: &'a Arc<Connection>,
}

impl Desk<'_> {
    /// Subscribes a new connection to what its token lists and then tells it all at once.
    fn open(&self, open: &Open) {
        let mut begun = Vec::with_capacity(open.subscriptions.len());
        for wanted in &open.subscriptions {
            // The list has no doubles and is within the limit; what can still happen is that the connection is gone.
            let joined = self.hub.subscribe(self.connection, wanted, |subscribed| {
                begun.push((&wanted.channel, subscribed));
            });
            if joined.is_err() {
                return;
            }
        }
        self.welcome(open, &begun);
    }

    /// Tells a client that it is connected, and to what.
    pub(crate) fn welcome(&self, open: &Open, begun: &[(&Channel, Subscribed)]) {
        let subs = begun.iter().map(|(channel, subscribed)| (channel.as_str(), subscribed.shown()));
        let result = ConnectResult {
            client: &open.client,
            version: &open.version,
            lifetime: open.lifetime,
            data: open.data.as_deref(),
            subs: subs.collect(),
            ping: open.ping_s,
            pong: true,
            session: open.emulated.as_ref().map(|emulated| emulated.session),
            node: open.emulated.as_ref().map_or("", |emulated| &emulated.node),
        };
        self.hub.answered(self.connection, Method::Connect, 0);
        self.hub.send_first(self.connection, protocol::reply(open.id, Method::Connect, &result));
    }

    pub(crate) fn serve(&self, id: u32, ask: Ask) {
        let method = ask.method();
        let outcome = match ask {
            Ask::Subscribe(wanted) => {
                let answer = |subscribed: Subscribed| self.subscribed(id, &subscribed);
                match self.hub.subscribe(self.connection, &wanted, answer) {
                    Ok(()) | Err(NotJoined::Gone) => Ok(()),
                    Err(NotJoined::Refused(error)) => Err(error),
                }
            }
            Ask::Unsubscribe(channel) => {
                self.hub.leave(self.connection, &channel);
                self.answer(id, method, &Empty {});
                Ok(())
            }
            Ask::Renew { channel, lifetime, granted } => self.member(&channel, true).map(|()| {
                self.answer(id, method, &SubRefreshResult { lifetime });
                // What is seen cannot change under somebody who counts positions: the subscription begins again, by the
                // new token.
                let filters = self.hub.filters_of(self.connection, &channel);
                if filters.is_some_and(|filters| filters.granted != granted) {
                    self.hub.unsubscribe(self.connection, &channel, Unsubscribed::EXPIRED);
                }
            }),
            Ask::Publish { channel, options, data, members_only } => {
                self.member(&channel, members_only).and_then(|()| {
                    let info = self.connection.info(None).ok_or(ReplyError::BAD_REQUEST)?;
                    let publication = Arc::new(Publication::from_client(data, info));
                    let message = Message { publication, exclusion: None, idempotency_key: "".into() };
                    self.hub.publish(&channel, &options, &message);
                    self.hub.published_by(self.connection, &channel);
                    self.answer(id, method, &Empty {});
                    Ok(())
                })
            }
            Ask::Presence { channel, members_only } => {
                self.member(&channel, members_only).and_then(|()| self.presence(id, &channel))
            }
            Ask::PresenceStats { channel, members_only } => self
                .member(&channel, members_only)
                .map(|()| self.tell_presence_stats(id, self.hub.presence_stats(&channel))),
            Ask::History { channel, options, mut query, members_only, filters } => {
                self.member(&channel, members_only).and_then(|()| {
                    let filters = self.hub.filters_of(self.connection, &channel).unwrap_or(filters);
                    let wanted = query.max_items;
                    loop {
                        let (items, position) = self
                            .hub
                            .history(&channel, &options, &query)
                            .map_err(|_| ReplyError::UNRECOVERABLE_POSITION)?;
                        if let Some(items) = sift(&filters, items, &position, (&mut query, wanted)) {
                            self.tell_history(id, &items, &position);
                            return Ok(());
                        }
                    }
                })
            }
        };
        if let Err(error) = outcome {
            self.refuse(id, method, error);
        }
    }

    /// Answers what was published into a channel.
    pub(crate) fn tell_history(&self, id: u32, items: &[Item], position: &Position) {
        let publications = items.iter().map(|item| item.shown()).collect();
        let result = HistoryResult { publications, epoch: &position.epoch, offset: position.offset };
        self.answer(id, Method::History, &result);
    }

    fn presence(&self, id: u32, channel: &Channel) -> Result<(), ReplyError> {
        self.tell_presence(id, &self.hub.presence(channel))
    }

    /// Answers who is in a channel.
    pub(crate) fn tell_presence(&self, id: u32, clients: &[ClientInfo]) -> Result<(), ReplyError> {
        let presence: BTreeMap<_, _> =
            clients.iter().map(|info| (info.client.to_string(), info.shown())).collect();
        let frame = protocol::reply(id, Method::Presence, &PresenceResult { presence });
        if frame.len() > self.hub.limits().answer_bytes() {
            return Err(ReplyError::LIMIT_EXCEEDED);
        }
        self.hub.answered(self.connection, Method::Presence, 0);
        self.hub.send(self.connection, frame);
        Ok(())
    }

    /// Answers how many clients and users are in a channel.
    pub(crate) fn tell_presence_stats(&self, id: u32, (clients, users): (usize, usize)) {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let result = PresenceStatsResult { num_clients: number(clients), num_users: number(users) };
        self.answer(id, Method::PresenceStats, &result);
    }

    pub(crate) fn member(&self, channel: &Channel, needed: bool) -> Result<(), ReplyError> {
        if needed && !self.connection.is_subscribed(channel) {
            return Err(ReplyError::PERMISSION_DENIED);
        }
        Ok(())
    }

    /// Answers a subscribe command.
    pub(crate) fn subscribed(&self, id: u32, subscribed: &Subscribed) {
        self.answer(id, Method::Subscribe, &subscribed.shown());
    }

    /// Answers a command with an error; the connection lives on.
    pub(crate) fn refuse(&self, id: u32, method: Method, error: ReplyError) {
        self.hub.answered(self.connection, method, error.code);
        self.hub.send(self.connection, protocol::error_reply(id, error));
    }

    pub(crate) fn answer<T: serde::Serialize>(&self, id: u32, method: Method, result: &T) {
        self.hub.answered(self.connection, method, 0);
        self.hub.send(self.connection, protocol::reply(id, method, result));
    }
}

/// Leaves of a page what a client may see, and no more than is wanted. Gives none where that is nothing of a page that had
/// something: then `query` asks for the page after it, a large one, since an empty one would look like the end.
pub(crate) fn sift(
    filters: &Filters,
    mut items: Vec<Item>,
    position: &Position,
    (query, wanted): (&mut HistoryQuery, usize),
) -> Option<Vec<Item>> {
    let Some(offset) = items.last().map(|last| last.offset) else { return Some(items) };
    items.retain(|item| filters.let_see(&item.publication.tags));
    if items.is_empty() {
        query.since = Some(Since { offset, epoch: (*position.epoch).into() });
        query.max_items = PAGE_ITEMS;
        return None;
    }
    items.truncate(wanted);
    Some(items)
}

impl Hub {
    /// Subscribes a connection that did not ask for it, and tells it; false when it is subscribed already, or leaving.
    pub(crate) fn subscribe_unasked(&self, connection: &Arc<Connection>, wanted: &Subscription) -> bool {
        let tell = |subscribed| self.tell_subscribed(connection, &wanted.channel, &subscribed);
        self.subscribe(connection, wanted, tell).is_ok()
    }

    /// Tells a client that it is subscribed to what it did not ask for.
    pub(crate) fn tell_subscribed(&self, connection: &Connection, channel: &Channel, begun: &Subscribed) {
        let push = Push::Subscribe(protocol::Subscribed {
            recoverable: begun.recoverable,
            epoch: begun.epoch.as_deref().unwrap_or_default(),
            offset: begun.offset,
            positioned: begun.positioned,
        });
        self.send(connection, protocol::push(channel.as_str(), &push));
    }

    /// Ends a subscription from this side and tells the client; false when there was none.
    pub(crate) fn unsubscribe(&self, connection: &Connection, channel: &Channel, why: Unsubscribed) -> bool {
        let left = self.leave(connection, channel);
        if left {
            self.send(connection, protocol::push(channel.as_str(), &Push::Unsubscribe(why)));
        }
        left
    }

    /// Counts the connections and the users in a channel.
    pub(crate) fn presence_stats(&self, channel: &Channel) -> (usize, usize) {
        let clients = self.presence(channel);
        let users: HashSet<_> = clients.iter().map(|info| &*info.user).collect();
        (clients.len(), users.len())
    }
}

impl Subscribed {
    /// Shows it in the form of the protocol.
    fn shown(&self) -> SubscribeResult<'_> {
        SubscribeResult {
            lifetime: self.lifetime,
            recoverable: self.recoverable,
            epoch: self.epoch.as_deref().unwrap_or_default(),
            publications: self.missed.iter().map(|item| self.as_wanted(item.shown())).collect(),
            recovered: self.recovered,
            offset: self.offset,
            positioned: self.positioned,
            data: self.data.as_deref(),
            was_recovering: self.was_recovering,
            delta: self.delta,
        }
    }

    fn as_wanted<'a>(&self, publication: protocol::Publication<'a>) -> protocol::Publication<'a> {
        if self.delta { publication.whole() } else { publication }
    }
}
