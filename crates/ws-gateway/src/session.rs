//! The life of one client in the protocol, without any input or output.
//!
//! Frames and the time go in, actions come out; whoever owns the socket carries them out in order. What a client may do
//! is decided here as far as tokens, names and options tell; what depends on who is subscribed is left to the hub.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mainstay_auth::jwt::Verifier;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::backend::{Headers, Matter, RpcCall};
use crate::channel::Channel;
use crate::codes::{Disconnect, ReplyError};
use crate::config::{ConnectionHook, HooksConfig, NamespaceConfig, RatesConfig};
use crate::emulation::Emulated;
use crate::engine::HistoryQuery;
use crate::filter::{Filter, Filters};
use crate::hub::Subscription;
use crate::namespace::Namespaces;
use crate::protocol::{self, Command, Lifetime, Method, Request};

mod admission;
mod hooks;
mod pace;
mod permission;
mod pulse;
mod requests;
#[cfg(test)]
mod tests;

use hooks::Hooks;
pub(crate) use hooks::{Ends, Word};
use pace::Pace;
use pulse::Pulse;
use requests::Turn;

/// What holds for every session of a node.
#[derive(Debug)]
pub(crate) struct Rules {
    /// None when no token is accepted.
    pub(crate) verifier: Option<Verifier>,
    pub(crate) allow_anonymous: bool,
    pub(crate) namespaces: Arc<Namespaces>,
    /// Every user listens to `#<user>`.
    pub(crate) personal_channels: bool,
    pub(crate) max_channel_bytes: usize,
    pub(crate) max_channels: usize,
    pub(crate) history_limit: usize,
    /// Clients may call the application.
    pub(crate) rpc: bool,
    pub(crate) hooks: HooksConfig,
    /// Questions about one client that the application is asked at the same time.
    pub(crate) asks_at_once: u32,
    pub(crate) max_data_bytes: usize,
    pub(crate) rates: RatesConfig,
    pub(crate) ping_every: Duration,
    pub(crate) pong_within: Duration,
    pub(crate) connect_within: Duration,
    pub(crate) refresh_within: Duration,
    /// Told to clients.
    pub(crate) version: Arc<str>,
}

/// The two times a session goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// For waiting.
    pub(crate) at: Instant,
    /// For tokens: seconds since the Unix epoch.
    pub(crate) unix_s: u64,
}

/// What is to be done for a session, in the order given.
#[derive(Debug)]
pub(crate) enum Action {
    /// Count the connection as one of this user's. If there are too many, close and drop the actions that follow.
    Admit(Profile),
    /// Subscribe to what the token lists, and answer `connect`.
    Open(Box<Open>),
    /// Carry out a command that takes the hub, and answer it.
    Ask { id: u32, ask: Box<Ask> },
    /// Ask the application behind the gateway, and pass its answer on.
    Call { id: u32, call: Box<RpcCall> },
    /// Ask the application, and bring its verdict back.
    Consult(Box<Matter>),
    /// Queue the reply to a command; `code` is 0 when it went well.
    Reply { frame: Bytes, method: Method, code: u32 },
    /// Queue something that is no reply.
    Send(Bytes),
    /// End a subscription that was not prolonged, if it is still there.
    Expire(Channel),
    /// Note how long the last ping took.
    RoundTrip(Duration),
    /// Write what is queued, then close. Nothing follows.
    Close(Disconnect),
}

/// How a connection begins.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) id: u32,
    pub(crate) client: Box<str>,
    pub(crate) version: Arc<str>,
    pub(crate) lifetime: Lifetime,
    pub(crate) ping_s: u32,
    pub(crate) subscriptions: Vec<Subscription>,
    /// Where the requests of a client go that comes over HTTP; filled in by whoever carries the session.
    pub(crate) emulated: Option<Emulated>,
    /// What the application tells the client.
    pub(crate) data: Option<Box<RawValue>>,
}

/// A command that only the hub can answer. The session has checked all that it can know; `members_only` says that the
/// rest depends on being subscribed.
#[derive(Debug)]
pub(crate) enum Ask {
    Subscribe(Subscription),
    Unsubscribe(Channel),
    /// Tell the client that its subscription lives longer.
    Renew {
        channel: Channel,
        lifetime: Lifetime,
        /// What the new token lets it see.
        granted: Option<Arc<Filter>>,
    },
    Publish {
        channel: Channel,
        options: Arc<NamespaceConfig>,
        data: Box<RawValue>,
        members_only: bool,
    },
    Presence {
        channel: Channel,
        members_only: bool,
    },
    PresenceStats {
        channel: Channel,
        members_only: bool,
    },
    History {
        channel: Channel,
        options: Arc<NamespaceConfig>,
        query: HistoryQuery,
        members_only: bool,
        /// What whoever is not subscribed may see.
        filters: Filters,
    },
}

/// Who a client turned out to be.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    /// Empty for anonymous clients.
    pub(crate) user: Arc<str>,
    pub(crate) client_name: Box<str>,
    pub(crate) client_version: Box<str>,
    /// Shown to others.
    pub(crate) info: Option<Arc<RawValue>>,
    /// Shown to servers.
    pub(crate) meta: Option<Arc<RawValue>>,
}

/// One client's state.
pub(crate) struct Session {
    rules: Arc<Rules>,
    client: Box<str>,
    state: State,
    /// Where in the second half of its period the first ping goes, 0 to 1.
    jitter: f64,
    /// Of the handshake, until the application has been told of them.
    headers: Option<Box<Headers>>,
}

enum State {
    /// No `connect` yet.
    Waiting {
        connect_by: Instant,
    },
    /// The application is asked who this is.
    Asking {
        answer_by: Instant,
    },
    Connected(Box<Connected>),
    /// `connect` was answered with an error; the client is expected to go.
    Refused {
        connect_by: Instant,
    },
    Closed,
}

struct Connected {
    user: Arc<str>,
    /// When the connection is closed unless the client brings a new token.
    expires_at: Option<Instant>,
    pulse: Pulse,
    /// Subscriptions that end unless they are prolonged; some of them may be over already.
    subscriptions_end: Vec<(Channel, Instant)>,
    /// What the application is asked; none before it is asked anything.
    hooks: Option<Box<Hooks>>,
    /// How often the client asked; none before it asked for anything that is limited.
    pace: Option<Box<Pace>>,
}

impl Session {
    /// Starts with a fresh socket. `jitter` is a random number from 0 to 1.
    pub(crate) fn new(rules: Arc<Rules>, client: impl Into<Box<str>>, now: Now, jitter: f64) -> Self {
        let connect_by = now.at + rules.connect_within;
        Self { rules, client: client.into(), state: State::Waiting { connect_by }, jitter, headers: None }
    }

    /// Keeps headers of the handshake for the application.
    pub(crate) fn with_headers(mut self, headers: Headers) -> Self {
        self.headers = (!headers.is_empty()).then(|| Box::new(headers));
        self
    }

    /// Takes a text frame; returns the number of commands in it.
    pub(crate) fn on_text(&mut self, frame: &str, now: Now, actions: &mut Vec<Action>) -> u64 {
        let mut n_commands = 0;
        for line in frame.split('\n').map(str::trim_ascii).filter(|line| !line.is_empty()) {
            n_commands += 1;
            match Command::parse(line) {
                Ok(command) => self.on_command(&command, now, actions),
                Err(protocol::Malformed) => self.close(Disconnect::BAD_REQUEST, actions),
            }
            if matches!(self.state, State::Closed) {
                return n_commands;
            }
        }
        if n_commands == 0 {
            self.close(Disconnect::BAD_REQUEST, actions);
        }
        n_commands
    }

    /// Takes a binary frame, which a client that speaks JSON does not send.
    pub(crate) fn on_binary(&mut self, actions: &mut Vec<Action>) {
        self.close(Disconnect::INAPPROPRIATE_PROTOCOL, actions);
    }

    /// Does what is due. Calling it early does no harm.
    pub(crate) fn on_timer(&mut self, now: Now, actions: &mut Vec<Action>) {
        let verdict = match &mut self.state {
            State::Waiting { connect_by } | State::Refused { connect_by } => {
                (*connect_by <= now.at).then_some(Disconnect::STALE)
            }
            State::Asking { answer_by } => (*answer_by <= now.at).then_some(Disconnect::STALE),
            State::Connected(connected) if connected.expires_at.is_some_and(|at| at <= now.at) => {
                Some(Disconnect::EXPIRED)
            }
            State::Connected(connected) => {
                connected.end_subscriptions(now.at, actions);
                if let Some(hooks) = &mut connected.hooks {
                    hooks.on_timer(&self.rules, now.at, actions);
                }
                match connected.pulse.on_timer(now.at, &self.rules) {
                    Ok(true) => {
                        actions.push(Action::Send(protocol::PING));
                        None
                    }
                    Ok(false) => None,
                    Err(pulse::NoPong) => Some(Disconnect::NO_PONG),
                }
            }
            State::Closed => None,
        };
        if let Some(disconnect) = verdict {
            self.close(disconnect, actions);
        }
    }

    /// Returns when [`Session::on_timer`] has something to do; none when never.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting { connect_by } | State::Refused { connect_by } => Some(*connect_by),
            State::Asking { answer_by } => Some(*answer_by),
            State::Connected(connected) => {
                let ends = connected.subscriptions_end.iter().map(|(_, at)| *at);
                let asks = connected.hooks.as_deref().and_then(Hooks::next_at);
                ends.chain(asks).chain(connected.expires_at).chain([connected.pulse.next_at()]).min()
            }
            State::Closed => None,
        }
    }

    fn on_command(&mut self, command: &Command<'_>, now: Now, actions: &mut Vec<Action>) {
        let id = command.id;
        let connected = match (&mut self.state, &command.request) {
            (State::Waiting { connect_by }, Request::Connect(request)) => {
                let connect_by = *connect_by;
                if request.token.is_empty() && self.rules.hooks.asks(ConnectionHook::Connect) {
                    return self.ask_who(id, request, now, actions);
                }
                return self.connect(id, request, connect_by, now, actions);
            }
            (State::Connected(connected), request) if !matches!(request, Request::Connect(_)) => connected,
            _ => return self.close(Disconnect::BAD_REQUEST, actions),
        };
        let mut turn = Turn { connected, rules: &self.rules, client: &self.client, id, now, actions };
        if let Err(disconnect) = turn.take(&command.request) {
            self.close(disconnect, actions);
        }
    }

    fn close(&mut self, disconnect: Disconnect, actions: &mut Vec<Action>) {
        if !matches!(self.state, State::Closed) {
            self.state = State::Closed;
            actions.push(Action::Close(disconnect));
        }
    }
}

impl Connected {
    fn end_subscriptions(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for (channel, _) in self.subscriptions_end.extract_if(.., |(_, at)| *at <= now) {
            actions.push(Action::Expire(channel));
        }
    }

    /// Notes when a subscription ends unless it is prolonged.
    fn ends_at(&mut self, channel: &Channel, ends_at: Option<Instant>) {
        self.subscriptions_end.retain(|(ending, _)| ending != channel);
        self.subscriptions_end.extend(ends_at.map(|at| (channel.clone(), at)));
        if let Some(hooks) = &mut self.hooks {
            hooks.forget(channel);
        }
    }
}

impl Ask {
    pub(crate) fn method(&self) -> Method {
        match self {
            Self::Subscribe(_) => Method::Subscribe,
            Self::Unsubscribe(_) => Method::Unsubscribe,
            Self::Renew { .. } => Method::SubRefresh,
            Self::Publish { .. } => Method::Publish,
            Self::Presence { .. } => Method::Presence,
            Self::PresenceStats { .. } => Method::PresenceStats,
            Self::History { .. } => Method::History,
        }
    }
}

impl Action {
    /// Answers a command with its result.
    fn accept<T: serde::Serialize>(id: u32, method: Method, result: &T) -> Self {
        Self::Reply { frame: protocol::reply(id, method, result), method, code: 0 }
    }

    /// Answers a command with an error; the connection lives on.
    fn refuse(id: u32, method: Method, error: ReplyError) -> Self {
        Self::Reply { frame: protocol::error_reply(id, error), method, code: error.code }
    }
}
