//! The `connect` command: who is this, and which channels come with the token.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mainstay_auth::jwt::{Claims, TokenError};
use tokio::time::Instant;

use super::{Action, Connected, Now, Profile, Pulse, Rules, Session, State};
use crate::channel::Channel;
use crate::codes::{Disconnect, ReplyError};
use crate::protocol::{ConnectRequest, ConnectResult, Lifetime, Method, SubscribeResult};

/// Names and versions of SDKs are shown to operators, not stored at any length a client likes.
const MAX_CLIENT_NAME_BYTES: usize = 64;

/// Why somebody is not let in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotAdmitted {
    /// The token was good once. The client may fetch another.
    Expired,
    Disconnect(Disconnect),
}

impl Session {
    pub(super) fn connect(
        &mut self,
        id: u32,
        request: &ConnectRequest<'_>,
        connect_by: Instant,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        match self.admit(id, request, now, actions) {
            Ok(connected) => self.state = State::Connected(Box::new(connected)),
            Err(NotAdmitted::Expired) => {
                self.state = State::Refused { connect_by };
                actions.push(Action::refuse(id, Method::Connect, ReplyError::TOKEN_EXPIRED));
            }
            Err(NotAdmitted::Disconnect(disconnect)) => self.close(disconnect, actions),
        }
    }

    fn admit(
        &self,
        id: u32,
        request: &ConnectRequest<'_>,
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Result<Connected, NotAdmitted> {
        let rules = &*self.rules;
        let claims = identify(rules, &request.token, now.unix_s)?;
        let (lifetime, expires_at) = lifetime(&claims, rules, now)?;
        let channels = server_side_channels(&claims, rules)?;
        let user: Arc<str> = claims.sub.as_str().into();

        actions.push(Action::Admit(Profile {
            user: Arc::clone(&user),
            client_name: shortened(&request.name),
            client_version: shortened(&request.version),
        }));
        let subs: BTreeMap<_, _> =
            channels.iter().map(|channel| (channel.as_str(), SubscribeResult::default())).collect();
        let ping = u32::try_from(rules.ping_every.as_secs_f64().ceil() as u64).unwrap_or(u32::MAX);
        let result =
            ConnectResult { client: &self.client, version: &rules.version, lifetime, subs, ping, pong: true };
        actions.push(Action::accept(id, Method::Connect, &result));
        actions.extend(channels.iter().cloned().map(Action::Join));
        let info = claims.info.as_ref().and_then(|info| serde_json::value::to_raw_value(info).ok());
        Ok(Connected { user, info, expires_at, pulse: Pulse::new(now.at, rules, self.jitter), channels })
    }
}

/// Reads a connection token; without one the client is anonymous, if that is allowed.
pub(super) fn identify(rules: &Rules, token: &str, now_unix_s: u64) -> Result<Claims, NotAdmitted> {
    let invalid = NotAdmitted::Disconnect(Disconnect::INVALID_TOKEN);
    let claims = match (token, &rules.verifier) {
        ("", _) => Claims::default(),
        (_, None) => return Err(invalid),
        (token, Some(verifier)) => match verifier.verify(token, now_unix_s) {
            Ok(claims) => claims,
            Err(TokenError::Expired) => return Err(NotAdmitted::Expired),
            Err(_) => return Err(invalid),
        },
    };
    // A token for one channel is weaker than one for a connection and must not stand in for it.
    if claims.is_subscription() || (claims.sub.is_empty() && !rules.allow_anonymous) {
        return Err(invalid);
    }
    Ok(claims)
}

/// Returns what to tell the client of its expiry, and when the connection is closed if it does nothing.
pub(super) fn lifetime(
    claims: &Claims,
    rules: &Rules,
    now: Now,
) -> Result<(Lifetime, Option<Instant>), NotAdmitted> {
    let Some(ends_at) = claims.ends_at() else { return Ok((Lifetime::default(), None)) };
    let ttl_s = ends_at.saturating_sub(now.unix_s);
    if ttl_s == 0 {
        return Err(NotAdmitted::Expired);
    }
    let ttl = u32::try_from(ttl_s).unwrap_or(u32::MAX);
    let closes_at = now.at.checked_add(Duration::from_secs(ttl.into()) + rules.refresh_within);
    Ok((Lifetime { expires: true, ttl }, closes_at))
}

fn server_side_channels(claims: &Claims, rules: &Rules) -> Result<Vec<Channel>, NotAdmitted> {
    let mut channels = Vec::new();
    for name in &claims.channels {
        let channel = Channel::parse(name, rules.max_channel_bytes)
            .map_err(|_| NotAdmitted::Disconnect(Disconnect::INVALID_TOKEN))?;
        if !channels.contains(&channel) {
            channels.push(channel);
        }
        if channels.len() > rules.max_channels {
            return Err(NotAdmitted::Disconnect(Disconnect::CHANNEL_LIMIT));
        }
    }
    Ok(channels)
}

fn shortened(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(MAX_CLIENT_NAME_BYTES)].into()
}
