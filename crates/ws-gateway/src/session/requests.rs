//! Commands of a connected client.

use super::admission::{NotAdmitted, identify, lifetime};
use super::pulse::Pong;
use super::{Action, Connected, Now, Rules};
use crate::channel::Channel;
use crate::codes::{Disconnect, ReplyError};
use crate::protocol::{
    ClientInfo, Empty, Method, PublishRequest, RefreshRequest, RefreshResult, Request, SubscribeRequest,
    SubscribeResult,
};
use crate::publication::Publication;

/// Bit of `SubscribeRequest.flag`: answer with an error rather than with `recovered: false`.
const REJECT_UNRECOVERED: i64 = 2;

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
        let (method, outcome) = match request {
            Request::Pong => return self.pong(),
            Request::Send => return Err(Disconnect::NOT_AVAILABLE),
            Request::Connect(_) => return Err(Disconnect::BAD_REQUEST),
            Request::Refresh(request) => return self.refresh(request),
            Request::Subscribe(request) => (Method::Subscribe, self.subscribe(request)?),
            Request::Unsubscribe(request) => (Method::Unsubscribe, self.unsubscribe(&request.channel)?),
            Request::Publish(request) => (Method::Publish, self.publish(request)?),
            Request::Unserved(method) => (*method, Err(ReplyError::NOT_AVAILABLE)),
            Request::Unknown => (Method::Unknown, Err(ReplyError::METHOD_NOT_FOUND)),
        };
        if let Err(error) = outcome {
            self.actions.push(Action::refuse(self.id, method, error));
        }
        Ok(())
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

    fn subscribe(&mut self, request: &SubscribeRequest<'_>) -> Result<Result<(), ReplyError>, Disconnect> {
        let name = named(&request.channel)?;
        Ok(self.subscribable(name, request).map(|channel| {
            let result = SubscribeResult { was_recovering: request.recover };
            self.actions.push(Action::accept(self.id, Method::Subscribe, &result));
            self.connected.channels.push(channel.clone());
            self.actions.push(Action::Join(channel));
        }))
    }

    fn subscribable(&self, name: &str, request: &SubscribeRequest<'_>) -> Result<Channel, ReplyError> {
        let channel = self.channel(name)?;
        if self.connected.channels.contains(&channel) {
            return Err(ReplyError::ALREADY_SUBSCRIBED);
        }
        if self.connected.channels.len() >= self.rules.max_channels {
            return Err(ReplyError::LIMIT_EXCEEDED);
        }
        channel.admits(&self.connected.user)?;
        if request.kind != 0 {
            return Err(ReplyError::NOT_AVAILABLE);
        }
        if request.tf.is_some() {
            // Leaving the filter out would deliver what the client asked not to see.
            return Err(ReplyError::BAD_REQUEST);
        }
        if request.recover && request.flag & REJECT_UNRECOVERED != 0 {
            return Err(ReplyError::UNRECOVERABLE_POSITION);
        }
        Ok(channel)
    }

    fn unsubscribe(&mut self, channel: &str) -> Result<Result<(), ReplyError>, Disconnect> {
        let name = named(channel)?;
        let channels = &mut self.connected.channels;
        if let Some(index) = channels.iter().position(|subscribed| subscribed.as_str() == name) {
            self.actions.push(Action::Leave(channels.swap_remove(index)));
        }
        self.actions.push(Action::accept(self.id, Method::Unsubscribe, &Empty {}));
        Ok(Ok(()))
    }

    fn publish(&mut self, request: &PublishRequest<'_>) -> Result<Result<(), ReplyError>, Disconnect> {
        let name = named(&request.channel)?;
        Ok(self.publishable(name, request).map(|(channel, publication)| {
            let push = publication.push_to(&channel);
            self.actions.push(Action::Publish { channel, push });
            self.actions.push(Action::accept(self.id, Method::Publish, &Empty {}));
        }))
    }

    fn publishable(
        &self,
        name: &str,
        request: &PublishRequest<'_>,
    ) -> Result<(Channel, Publication), ReplyError> {
        if !self.rules.client_publish {
            return Err(ReplyError::PERMISSION_DENIED);
        }
        let channel = self.channel(name)?;
        // Who was subscribed by the token may publish also where it could not have subscribed by itself.
        if !self.connected.channels.contains(&channel) {
            channel.admits(&self.connected.user)?;
        }
        if request.kind != 0 {
            return Err(ReplyError::NOT_AVAILABLE);
        }
        let data = request.data.ok_or(ReplyError::BAD_REQUEST)?;
        let connected = &*self.connected;
        let info =
            ClientInfo { user: &connected.user, client: self.client, conn_info: connected.info.as_deref() };
        Ok((channel, Publication::from_client(data, &info)))
    }

    fn refresh(&mut self, request: &RefreshRequest<'_>) -> Result<(), Disconnect> {
        if request.token.is_empty() {
            return Err(Disconnect::BAD_REQUEST);
        }
        let refreshed = identify(self.rules, &request.token, self.now.unix_s).and_then(|claims| {
            if *claims.sub != *self.connected.user {
                return Err(NotAdmitted::Disconnect(Disconnect::INVALID_TOKEN));
            }
            lifetime(&claims, self.rules, self.now)
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

    fn channel(&self, name: &str) -> Result<Channel, ReplyError> {
        Channel::parse(name, self.rules.max_channel_bytes).map_err(|_| ReplyError::BAD_REQUEST)
    }
}

/// A command without its channel is no command.
fn named(channel: &str) -> Result<&str, Disconnect> {
    if channel.is_empty() { Err(Disconnect::BAD_REQUEST) } else { Ok(channel) }
}
