//! What a client may do in a channel.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mainstay_auth::jwt::{Claims, Overrides, TokenError};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{Now, Rules};
use crate::channel::Channel;
use crate::codes::ReplyError;
use crate::config::{NamespaceConfig, Who};
use crate::filter::{Filter, InvalidFilter};
use crate::namespace::NoSuchChannel;
use crate::protocol::Lifetime;

/// What a subscription token adds to a subscription.
#[derive(Debug, Default)]
pub(super) struct Permit {
    pub(super) chan_info: Option<Arc<RawValue>>,
    pub(super) overrides: Overrides,
    /// Which publications the client may see; none stands for all.
    pub(super) filter: Option<Arc<Filter>>,
    pub(super) lifetime: Lifetime,
    /// When the subscription ends unless the client brings a new token.
    pub(super) expires_at: Option<Instant>,
}

/// What a client may do, if it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    /// Only while it is subscribed, which the hub knows.
    pub(super) members_only: bool,
}

impl Rules {
    /// Finds a channel and the options that hold for it.
    pub(super) fn channel(&self, name: &str) -> Result<(Channel, Arc<NamespaceConfig>), ReplyError> {
        let channel = Channel::parse(name, self.max_channel_bytes).map_err(|_| ReplyError::BAD_REQUEST)?;
        let options = self.namespaces.of(&channel).map_err(|problem| match problem {
            NoSuchChannel::Namespace => ReplyError::UNKNOWN_CHANNEL,
            NoSuchChannel::Pattern => ReplyError::BAD_REQUEST,
        })?;
        Ok((channel, Arc::clone(options)))
    }

    /// Says whether a client may subscribe, and for how long. A token says all; without one the namespace decides.
    pub(super) fn permit(
        &self,
        channel: &Channel,
        options: &NamespaceConfig,
        user: &str,
        token: &str,
        now: Now,
    ) -> Result<Permit, ReplyError> {
        if !token.is_empty() {
            return self.read_permit(channel, user, token, now, ReplyError::TOKEN_EXPIRED);
        }
        let may = match (channel.is_private(), channel.lists(user)) {
            (true, _) | (_, Some(false)) => false,
            (false, Some(true)) => true,
            (false, None) => match options.subscribe {
                Who::Nobody | Who::Subscribers => false,
                Who::Users => !user.is_empty(),
                Who::Everyone => true,
            },
        };
        if may { Ok(Permit::default()) } else { Err(ReplyError::PERMISSION_DENIED) }
    }

    /// Reads a subscription token: it must name this channel and this user.
    pub(super) fn read_permit(
        &self,
        channel: &Channel,
        user: &str,
        token: &str,
        now: Now,
        if_expired: ReplyError,
    ) -> Result<Permit, ReplyError> {
        let verifier = self.verifier.as_ref().ok_or(ReplyError::PERMISSION_DENIED)?;
        let claims = verifier.verify(token, now.unix_s).map_err(|problem| match problem {
            TokenError::Expired => if_expired,
            _ => ReplyError::PERMISSION_DENIED,
        })?;
        if claims.channel.as_deref() != Some(channel.as_str()) || claims.sub != user {
            return Err(ReplyError::PERMISSION_DENIED);
        }
        self.permit_of(&claims, now, if_expired)
    }

    /// Returns what claims allow that are about one channel.
    pub(super) fn permit_of(
        &self,
        claims: &Claims,
        now: Now,
        if_expired: ReplyError,
    ) -> Result<Permit, ReplyError> {
        let (lifetime, expires_at) = self.lifetime(claims, now).ok_or(if_expired)?;
        let chan_info = info_of(claims.info.as_ref(), claims.b64info.as_deref())
            .map_err(|NotJson| ReplyError::PERMISSION_DENIED)?;
        let filter =
            forced_filter(claims.tf.as_ref()).map_err(|InvalidFilter| ReplyError::PERMISSION_DENIED)?;
        Ok(Permit { chan_info, overrides: claims.overrides, filter, lifetime, expires_at })
    }

    /// Returns what to tell a client of an expiry, and when it takes effect if the client does nothing; none when that
    /// has passed.
    pub(super) fn lifetime(&self, claims: &Claims, now: Now) -> Option<(Lifetime, Option<Instant>)> {
        let Some(ends_at) = claims.ends_at() else { return Some((Lifetime::default(), None)) };
        let ttl_s = ends_at.saturating_sub(now.unix_s);
        if ttl_s == 0 {
            return None;
        }
        let ttl = u32::try_from(ttl_s).unwrap_or(u32::MAX);
        let ends_at = now.at.checked_add(Duration::from_secs(ttl.into()) + self.refresh_within);
        Some((Lifetime { expires: true, ttl }, ends_at))
    }
}

/// Says whether a client belongs to a group, as far as that is known without the hub. Whoever the name of a channel shuts
/// out is outside of every group.
pub(super) fn allowed(who: Who, channel: &Channel, user: &str) -> Result<Allowed, ReplyError> {
    // Who was subscribed by a token may go where it could not have gone by itself.
    let shut_out = channel.is_private() || channel.lists(user) == Some(false);
    match who {
        Who::Nobody => Err(ReplyError::PERMISSION_DENIED),
        Who::Users if user.is_empty() => Err(ReplyError::PERMISSION_DENIED),
        Who::Subscribers => Ok(Allowed { members_only: true }),
        Who::Users | Who::Everyone => Ok(Allowed { members_only: shut_out }),
    }
}

/// Reads what a token lets its holder see. Null is no filter; leaving out one that cannot be read would show what was to be
/// held back.
pub(super) fn forced_filter(tf: Option<&Value>) -> Result<Option<Arc<Filter>>, InvalidFilter> {
    tf.filter(|tf| !tf.is_null()).map(|tf| Filter::forced(&tf.to_string()).map(Arc::new)).transpose()
}

/// Says that bytes of a token are no JSON document, which is all that this gateway passes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotJson;

/// Returns what a token shows to others: a document, or the same as bytes in base64.
pub(super) fn info_of(info: Option<&Value>, b64info: Option<&str>) -> Result<Option<Arc<RawValue>>, NotJson> {
    let document = match (info, b64info) {
        (Some(info), _) => info.clone(),
        (None, Some(text)) => {
            let bytes = STANDARD.decode(text).map_err(|_| NotJson)?;
            serde_json::from_slice(&bytes).map_err(|_| NotJson)?
        }
        (None, None) => return Ok(None),
    };
    let document = serde_json::value::to_raw_value(&document).map_err(|_| NotJson)?;
    Ok(Some(document.into()))
}
