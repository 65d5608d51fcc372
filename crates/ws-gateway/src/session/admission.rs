//! The `connect` command: who is this, and which channels come with the token.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstay_auth::jwt::{Claims, SubscriptionClaims, TokenError};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::permission::{NotJson, forced_filter, info_of};
use super::{Action, Connected, Now, Open, Profile, Pulse, Rules, Session, State};
use crate::codes::{Disconnect, ReplyError};
use crate::engine::Since;
use crate::filter::{Filters, InvalidFilter};
use crate::hub::Subscription;
use crate::protocol::{ConnectRequest, Lifetime, Method, SubscribeRequest};

/// Names and versions of SDKs are shown to operators, not stored at any length a client likes.
const MAX_CLIENT_NAME_BYTES: usize = 64;

/// What a client says of itself as it connects.
#[derive(Debug)]
pub(super) struct Newcoming {
    /// Of the command.
    pub(super) id: u32,
    /// Of the SDK, and its version.
    pub(super) name: Box<str>,
    pub(super) version: Box<str>,
    /// Where it was in the channels that the server subscribed it to.
    pub(super) positions: BTreeMap<String, Since>,
}

impl Newcoming {
    pub(super) fn new(id: u32, request: &ConnectRequest<'_>) -> Self {
        Self {
            id,
            name: shortened(&request.name),
            version: shortened(&request.version),
            positions: request
                .subs
                .iter()
                .filter_map(|(name, asked)| Some((name.to_string(), since(asked)?)))
                .collect(),
        }
    }
}

/// Why somebody is not let in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotAdmitted {
    /// The token was good once. The client may fetch another.
    Expired,
    Disconnect(Disconnect),
}

impl From<NotJson> for NotAdmitted {
    fn from(NotJson: NotJson) -> Self {
        Self::Disconnect(Disconnect::INVALID_TOKEN)
    }
}

impl From<InvalidFilter> for NotAdmitted {
    fn from(InvalidFilter: InvalidFilter) -> Self {
        Self::Disconnect(Disconnect::INVALID_TOKEN)
    }
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
        let claims = identify(&self.rules, &request.token, now.unix_s);
        let admitted = claims
            .and_then(|claims| self.admit(Newcoming::new(id, request), &claims, (None, false), now, actions));
        match admitted {
            Ok(connected) => self.state = State::Connected(Box::new(connected)),
            Err(NotAdmitted::Expired) => {
                self.state = State::Refused { connect_by };
                actions.push(Action::refuse(id, Method::Connect, ReplyError::TOKEN_EXPIRED));
            }
            Err(NotAdmitted::Disconnect(disconnect)) => self.close(disconnect, actions),
        }
    }

    /// Lets a client in, with data for it. Where the application prolongs the connection, the client is told of no end.
    pub(super) fn admit(
        &self,
        newcoming: Newcoming,
        claims: &Claims,
        (data, is_renewed): (Option<Box<RawValue>>, bool),
        now: Now,
        actions: &mut Vec<Action>,
    ) -> Result<Connected, NotAdmitted> {
        let rules = &*self.rules;
        let ends = rules.lifetime(claims, now).ok_or(NotAdmitted::Expired)?;
        let (lifetime, expires_at) = if is_renewed { Default::default() } else { ends };
        let subscriptions = server_side(claims, newcoming.positions, rules)?;
        let user: Arc<str> = claims.sub.as_str().into();

        actions.push(Action::Admit(Profile {
            user: Arc::clone(&user),
            client_name: newcoming.name,
            client_version: newcoming.version,
            info: info_of(claims.info.as_ref(), claims.b64info.as_deref())?,
            meta: info_of(claims.meta.as_ref(), None)?,
        }));
        let ping_s = u32::try_from(rules.ping_every.as_secs_f64().ceil() as u64).unwrap_or(u32::MAX);
        actions.push(Action::Open(Box::new(Open {
            id: newcoming.id,
            client: self.client.clone(),
            version: rules.version.clone(),
            lifetime,
            ping_s,
            subscriptions,
            emulated: None,
            data,
        })));
        let pulse = Pulse::new(now.at, rules, self.jitter);
        Ok(Connected { user, expires_at, pulse, subscriptions_end: Vec::new(), hooks: None, pace: None })
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

/// Returns what the token subscribes the client to; the request says where the client was in them.
fn server_side(
    claims: &Claims,
    mut positions: BTreeMap<String, Since>,
    rules: &Rules,
) -> Result<Vec<Subscription>, NotAdmitted> {
    let mut subscriptions: Vec<Subscription> = Vec::new();
    let personal = (rules.personal_channels && !claims.sub.is_empty()).then(|| format!("#{}", claims.sub));
    let nothing = SubscriptionClaims::default();
    let listed = claims.subs.iter();
    let plain = claims.channels.iter().chain(&personal).map(|name| (name, &nothing));
    for (name, options_of_token) in listed.chain(plain) {
        let (channel, options) =
            rules.channel(name).map_err(|_| NotAdmitted::Disconnect(Disconnect::INVALID_TOKEN))?;
        if subscriptions.iter().any(|subscription| subscription.channel == channel) {
            continue;
        }
        if subscriptions.len() >= rules.max_channels {
            return Err(NotAdmitted::Disconnect(Disconnect::CHANNEL_LIMIT));
        }
        let recover = positions.remove(name.as_str());
        subscriptions.push(Subscription {
            options,
            recover,
            reject_unrecovered: false,
            // The client cannot ask, so it is told all there is.
            positioned: true,
            recoverable: true,
            join_leave: true,
            delta: false,
            filters: Filters {
                asked: None,
                namespace: rules.namespaces.filter_of(&channel),
                granted: forced_filter(options_of_token.tf.as_ref())?,
            },
            channel,
            chan_info: info_of(options_of_token.info.as_ref(), options_of_token.b64info.as_deref())?,
            overrides: options_of_token.overrides,
            lifetime: Lifetime::default(),
            data: None,
            by_server: true,
        });
    }
    Ok(subscriptions)
}

/// Returns where a client says it was, if it wants what came after.
pub(super) fn since(request: &SubscribeRequest<'_>) -> Option<Since> {
    request.recover.then(|| Since { offset: request.offset, epoch: (*request.epoch).into() })
}

fn shortened(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(MAX_CLIENT_NAME_BYTES)].into()
}
