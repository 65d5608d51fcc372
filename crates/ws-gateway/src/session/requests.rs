//! Commands of a connected client.

use std::sync::Arc;

use super::admission::{NotAdmitted, identify, since};
use super::pace::Kind;
use super::permission::{Allowed, allowed};
use super::pulse::Pong;
use super::{Action, Ask, Connected, Now, Rules};
use crate::backend::{RpcCall, Wish};
use crate::channel::Channel;
use crate::codes::{Disconnect, ReplyError};
use crate::config::ChannelHook;
use crate::engine::{HistoryQuery, Since};
use crate::filter::{Filter, Filters};
use crate::hub::Subscription;
use crate::protocol::{
    HistoryRequest, Method, PublishRequest, RefreshRequest, RefreshResult, Request, RpcRequest,
    SubRefreshRequest, SubscribeRequest,
};

/// Bit of `SubscribeRequest.flag`: answer with an error rather than with `recovered: false`.
const REJECT_UNRECOVERED: i64 = 2;

/// The one kind of deltas served.
const FOSSIL: &str = "fossil";

/// Longest name of what a client calls.
const MAX_RPC_METHOD_BYTES: usize = 128;

/// What a command comes to: something for the hub, an error, or nothing until the application has been asked.
type Outcome = Result<Option<Ask>, ReplyError>;

/// One command and all it may touch.
pub(super) struct Turn<'a> {
    pub(super) connected: &'a mut Connected,
    pub(super) rules: &'a Rules,
    pub(super) client: &'a str,
    pub(super) id: u32,
    pub(super) now: Now,
    pub(super) actions: &'a mut Vec<Action>,
}

impl Turn<'_> {
    /// Answers a command, or gives the reason to close the connection.
    pub(super) fn take(&mut self, request: &Request<'_>) -> Result<(), Disconnect> {
        if let Some(method) = self.is_too_fast(request) {
            self.actions.push(Action::refuse(self.id, method, ReplyError::TOO_MANY_REQUESTS));
            return Ok(());
        }
        let (method, outcome) = match request {
            Request::Pong => return self.pong(),
            Request::Rpc(request) => {
                self.rpc(request);
                return Ok(());
            }
            Request::Send => return Err(Disconnect::NOT_AVAILABLE),
            Request::Connect(_) => return Err(Disconnect::BAD_REQUEST),
            Request::Refresh(request) => return self.refresh(request),
            Request::Subscribe(request) => (Method::Subscribe, self.subscribe(request)?),
            Request::Unsubscribe(request) => (Method::Unsubscribe, self.unsubscribe(&request.channel)?),
            Request::Publish(request) => (Method::Publish, self.publish(request)?),
            Request::SubRefresh(request) => (Method::SubRefresh, self.sub_refresh(request)?),
            Request::Presence(request) => (Method::Presence, self.presence(&request.channel)?),
            Request::PresenceStats(request) => {
                (Method::PresenceStats, self.presence_stats(&request.channel)?)
            }
            Request::History(request) => (Method::History, self.history(request)?),
            Request::Unserved(method) => (*method, Err(ReplyError::NOT_AVAILABLE)),
            Request::Unknown => (Method::Unknown, Err(ReplyError::METHOD_NOT_FOUND)),
        };
        self.actions.push(match outcome {
            Ok(None) => return Ok(()),
            Ok(Some(ask)) => Action::Ask { id: self.id, ask: Box::new(ask) },
            Err(error) => Action::refuse(self.id, method, error),
        });
        Ok(())
    }

    /// Counts a command; returns its name when it is one too many.
    fn is_too_fast(&mut self, request: &Request<'_>) -> Option<Method> {
        let (kind, method) = Kind::of(request)?;
        let rate = kind.rate(&self.rules.rates);
        if rate.per_second == 0 {
            return None;
        }
        let pace = self.connected.pace.get_or_insert_default();
        (!pace.allows(kind, rate, self.now.at)).then_some(method)
    }

    fn pong(&mut self) -> Result<(), Disconnect> {
        match self.connected.pulse.on_pong(self.now.at) {
            Pong::Expected { round_trip } => {
                self.actions.push(Action::RoundTrip(round_trip));
                Ok(())
            }
            Pong::Unasked => Err(Disconnect::BAD_REQUEST),
        }
    }

    fn subscribe(&mut self, request: &SubscribeRequest<'_>) -> Result<Outcome, Disconnect> {
        let name = named(&request.channel)?;
        Ok(self.subscription(name, request).and_then(|wanted| {
            if request.token.is_empty() && self.rules.is_asked(ChannelHook::Subscribe, &wanted.options) {
                return self.ask_to_subscribe(wanted, request.data).map(|()| None);
            }
            Ok(Some(Ask::Subscribe(wanted)))
        }))
    }

    fn subscription(
        &mut self,
        name: &str,
        request: &SubscribeRequest<'_>,
    ) -> Result<Subscription, ReplyError> {
        let (channel, options) = self.rules.channel(name)?;
        let user = &self.connected.user;
        let permit = self.rules.permit(&channel, &options, user, &request.token, self.now)?;
        if request.kind != 0 {
            return Err(ReplyError::NOT_AVAILABLE);
        }
        let asked = match &request.tf {
            None => None,
            // Leaving the filter out would deliver what the client asked not to see.
            Some(_) if !options.filters => return Err(ReplyError::BAD_REQUEST),
            Some(node) => Some(Arc::new(Filter::parse(node).map_err(|_| ReplyError::BAD_REQUEST)?)),
        };
        self.connected.ends_at(&channel, permit.expires_at);
        Ok(Subscription {
            filters: Filters {
                asked,
                namespace: self.rules.namespaces.filter_of(&channel),
                granted: permit.filter,
            },
            channel,
            options,
            recover: since(request),
            reject_unrecovered: request.flag & REJECT_UNRECOVERED != 0,
            positioned: request.positioned,
            recoverable: request.recoverable,
            join_leave: request.join_leave,
            delta: request.delta == FOSSIL,
            chan_info: permit.chan_info,
            overrides: permit.overrides,
            lifetime: permit.lifetime,
            data: None,
            by_server: false,
        })
    }

    fn unsubscribe(&mut self, channel: &str) -> Result<Outcome, Disconnect> {
        let name = named(channel)?;
        // A name that is none cannot be subscribed to, so there is nothing to end.
        let channel = Channel::parse(name, self.rules.max_channel_bytes).map_err(|_| ReplyError::BAD_REQUEST);
        Ok(channel.map(|channel| {
            let hooks = self.connected.hooks.as_mut();
            if hooks.is_some_and(|hooks| hooks.unsubscribe_later(&channel, self.id)) {
                return None;
            }
            self.connected.ends_at(&channel, None);
            Some(Ask::Unsubscribe(channel))
        }))
    }

    fn sub_refresh(&mut self, request: &SubRefreshRequest<'_>) -> Result<Outcome, Disconnect> {
        let name = named(&request.channel)?;
        if request.token.is_empty() {
            return Err(Disconnect::BAD_REQUEST);
        }
        Ok(self.rules.channel(name).and_then(|(channel, _)| {
            let (user, now) = (&self.connected.user, self.now);
            let permit = self.rules.read_permit(&channel, user, &request.token, now, ReplyError::EXPIRED)?;
            self.connected.ends_at(&channel, permit.expires_at);
            Ok(Some(Ask::Renew { channel, lifetime: permit.lifetime, granted: permit.filter }))
        }))
    }

    fn publish(&mut self, request: &PublishRequest<'_>) -> Result<Outcome, Disconnect> {
        let name = named(&request.channel)?;
        Ok(self.rules.channel(name).and_then(|(channel, options)| {
            let Allowed { members_only } = allowed(options.publish, &channel, &self.connected.user)?;
            if request.kind != 0 {
                return Err(ReplyError::NOT_AVAILABLE);
            }
            let data = request.data.ok_or(ReplyError::BAD_REQUEST)?.to_owned();
            if self.rules.is_asked(ChannelHook::Publish, &options) {
                let wish = Wish { id: self.id, channel, options, data, members_only };
                return self.ask_to_publish(wish).map(|()| None);
            }
            Ok(Some(Ask::Publish { channel, options, data, members_only }))
        }))
    }

    fn presence(&self, channel: &str) -> Result<Outcome, Disconnect> {
        let presence = self.seen(named(channel)?);
        Ok(presence.map(|(channel, members_only)| Some(Ask::Presence { channel, members_only })))
    }

    fn presence_stats(&self, channel: &str) -> Result<Outcome, Disconnect> {
        let presence = self.seen(named(channel)?);
        Ok(presence.map(|(channel, members_only)| Some(Ask::PresenceStats { channel, members_only })))
    }

    /// Returns a channel whose presence the client may see, and whether only as a subscriber.
    fn seen(&self, name: &str) -> Result<(Channel, bool), ReplyError> {
        let (channel, options) = self.rules.channel(name)?;
        if !options.presence {
            return Err(ReplyError::NOT_AVAILABLE);
        }
        let Allowed { members_only } = allowed(options.see_presence, &channel, &self.connected.user)?;
        Ok((channel, members_only))
    }

    fn history(&self, request: &HistoryRequest<'_>) -> Result<Outcome, Disconnect> {
        let name = named(&request.channel)?;
        Ok(self.rules.channel(name).and_then(|(channel, options)| {
            if !options.keeps_history() {
                return Err(ReplyError::NOT_AVAILABLE);
            }
            let Allowed { members_only } = allowed(options.see_history, &channel, &self.connected.user)?;
            let most = self.rules.history_limit;
            let since = request.since.as_ref();
            let query = HistoryQuery {
                max_items: usize::try_from(request.limit).map_or(most, |limit| limit.min(most)),
                since: since.map(|since| Since { offset: since.offset, epoch: (*since.epoch).into() }),
                reverse: request.reverse,
            };
            let namespace = self.rules.namespaces.filter_of(&channel);
            let filters = Filters { namespace, ..Filters::default() };
            Ok(Some(Ask::History { channel, options, query, members_only, filters }))
        }))
    }

    /// Passes a call on to the application.
    fn rpc(&mut self, request: &RpcRequest<'_>) {
        let action = if !self.rules.rpc {
            Action::refuse(self.id, Method::Rpc, ReplyError::NOT_AVAILABLE)
        } else if request.method.len() > MAX_RPC_METHOD_BYTES {
            Action::refuse(self.id, Method::Rpc, ReplyError::BAD_REQUEST)
        } else {
            let call =
                RpcCall { method: (*request.method).into(), data: request.data.map(ToOwned::to_owned) };
            Action::Call { id: self.id, call: Box::new(call) }
        };
        self.actions.push(action);
    }

    fn refresh(&mut self, request: &RefreshRequest<'_>) -> Result<(), Disconnect> {
        if request.token.is_empty() {
            return Err(Disconnect::BAD_REQUEST);
        }
        let refreshed = identify(self.rules, &request.token, self.now.unix_s).and_then(|claims| {
            if *claims.sub != *self.connected.user {
                return Err(NotAdmitted::Disconnect(Disconnect::INVALID_TOKEN));
            }
            self.rules.lifetime(&claims, self.now).ok_or(NotAdmitted::Expired)
        });
        let (lifetime, expires_at) = refreshed.map_err(|problem| match problem {
            // The SDK comes back, is told that its token has expired, and fetches another.
            NotAdmitted::Expired => Disconnect::EXPIRED,
            NotAdmitted::Disconnect(disconnect) => disconnect,
        })?;
        self.connected.expires_at = expires_at;
        let result = RefreshResult { client: self.client, version: &self.rules.version, lifetime };
        self.actions.push(Action::accept(self.id, Method::Refresh, &result));
        Ok(())
    }
}

/// A command without its channel is no command.
fn named(channel: &str) -> Result<&str, Disconnect> {
    if channel.is_empty() { Err(Disconnect::BAD_REQUEST) } else { Ok(channel) }
}
