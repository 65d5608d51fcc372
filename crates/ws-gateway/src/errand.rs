//! Commands that wait for Redis. Those of one connection are carried out one after the other, in the order in which
//! they came, by a task that lives as long as there are any.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::broker::{Broker, NoHistory};
use crate::channel::Channel;
use crate::codes::{ReplyError, Unsubscribed};
use crate::desk::{Desk, sift};
use crate::hub::{Connection, Hub, Message, NotJoined, Subscribed};
use crate::protocol::{Empty, Method};
use crate::publication::Publication;
use crate::session::{Ask, Open};

/// Something to be done for one connection.
#[derive(Debug)]
pub(crate) enum Errand {
    Open(Box<Open>),
    Ask { id: u32, ask: Box<Ask> },
    Expire(Channel),
}

/// What waits to be done for one connection; none while nobody works at it.
pub(crate) type Errands = Option<VecDeque<Errand>>;

/// Commands that may wait beyond one for each channel.
const EXTRA: usize = 64;

/// Sees to it that something is done after what waits already. A client that sends much faster than Redis answers is
/// told so.
pub(crate) fn run(broker: &Arc<Broker>, connection: &Arc<Connection>, hub: &Hub, errand: Errand) {
    let most = hub.limits().max_channels + EXTRA;
    match connection.queue_errand(errand, most) {
        Queued::Waits => {}
        Queued::First => {
            let (broker, connection) = (Arc::clone(broker), Arc::clone(connection));
            let context = broker.context().clone();
            context.spawn_work(Box::pin(async move {
                while let Some(errand) = connection.next_errand() {
                    carry_out(&broker, &connection, errand).await;
                }
            }));
        }
        Queued::TooMany(Errand::Ask { id, ask }) => {
            Desk { hub, connection }.refuse(id, ask.method(), ReplyError::TOO_MANY_REQUESTS);
        }
        // There is one of the first kind, and no more of the other than channels.
        Queued::TooMany(Errand::Open(_) | Errand::Expire(_)) => {}
    }
}

/// What became of an errand.
#[derive(Debug)]
pub(crate) enum Queued {
    /// Nobody works at this connection's errands yet.
    First,
    Waits,
    TooMany(Errand),
}

/// Adds to what waits.
pub(crate) fn queue(errands: &mut Errands, errand: Errand, most: usize) -> Queued {
    match errands {
        Some(waiting) if waiting.len() >= most => Queued::TooMany(errand),
        Some(waiting) => {
            waiting.push_back(errand);
            Queued::Waits
        }
        None => {
            *errands = Some(VecDeque::from([errand]));
            Queued::First
        }
    }
}

/// Takes the next; when there is none, nobody works any more.
pub(crate) fn next(errands: &mut Errands) -> Option<Errand> {
    let errand = errands.as_mut()?.pop_front();
    if errand.is_none() {
        *errands = None;
    }
    errand
}

async fn carry_out(broker: &Broker, connection: &Arc<Connection>, errand: Errand) {
    let hub = broker.hub();
    let desk = Desk { hub, connection };
    match errand {
        Errand::Open(open) => open_connection(broker, desk, &open).await,
        Errand::Expire(channel) => {
            hub.unsubscribe(connection, &channel, Unsubscribed::EXPIRED);
        }
        Errand::Ask { id, ask } => {
            let method = ask.method();
            if let Err(error) = serve(broker, desk, id, *ask).await {
                desk.refuse(id, method, error);
            }
        }
    }
}

async fn open_connection(broker: &Broker, desk: Desk<'_>, open: &Open) {
    let mut begun = Vec::with_capacity(open.subscriptions.len());
    for wanted in &open.subscriptions {
        let answer = |subscribed| begun.push((&wanted.channel, subscribed));
        match broker.subscribe(desk.connection, wanted, answer).await {
            Ok(()) => {}
            Err(NotJoined::Gone) => return,
            // A client that is told so comes back in a while; its token is as good then.
            Err(NotJoined::Refused(error)) => return desk.refuse(open.id, Method::Connect, error),
        }
    }
    desk.welcome(open, &begun);
}

async fn serve(broker: &Broker, desk: Desk<'_>, id: u32, ask: Ask) -> Result<(), ReplyError> {
    let method = ask.method();
    match ask {
        Ask::Subscribe(wanted) => {
            let answer = |subscribed: Subscribed| desk.subscribed(id, &subscribed);
            match broker.subscribe(desk.connection, &wanted, answer).await {
                Ok(()) | Err(NotJoined::Gone) => Ok(()),
                Err(NotJoined::Refused(error)) => Err(error),
            }
        }
        Ask::Publish { channel, options, data, members_only } => {
            desk.member(&channel, members_only)?;
            let info = desk.connection.info(None).ok_or(ReplyError::BAD_REQUEST)?;
            let publication = Arc::new(Publication::from_client(data, info));
            let message = Message { publication, exclusion: None, idempotency_key: "".into() };
            broker.publish(&channel, &options, &message).await.map_err(|_| ReplyError::INTERNAL)?;
            desk.hub.published_by(desk.connection, &channel);
            desk.answer(id, method, &Empty {});
            Ok(())
        }
        Ask::History { channel, options, mut query, members_only, filters } => {
            desk.member(&channel, members_only)?;
            let filters = desk.hub.filters_of(desk.connection, &channel).unwrap_or(filters);
            let wanted = query.max_items;
            loop {
                let history = broker.history(&channel, &options, &query).await;
                let (items, position) = history.map_err(|error| match error {
                    NoHistory::NotThisEpoch => ReplyError::UNRECOVERABLE_POSITION,
                    NoHistory::Redis(_) => ReplyError::INTERNAL,
                })?;
                if let Some(items) = sift(&filters, items, &position, (&mut query, wanted)) {
                    desk.tell_history(id, &items, &position);
                    return Ok(());
                }
            }
        }
        Ask::Presence { channel, members_only } => {
            desk.member(&channel, members_only)?;
            desk.tell_presence(id, &broker.presence(&channel).await.ok_or(ReplyError::INTERNAL)?)
        }
        Ask::PresenceStats { channel, members_only } => {
            desk.member(&channel, members_only)?;
            let stats = broker.presence_stats(&channel).await.ok_or(ReplyError::INTERNAL)?;
            desk.tell_presence_stats(id, stats);
            Ok(())
        }
        other => {
            desk.serve(id, other);
            Ok(())
        }
    }
}
