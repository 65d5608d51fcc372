use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::Method;
use crate::codes::{Disconnect, ReplyError, Unsubscribed};
use crate::filter::Tags;

/// The empty reply: a client answers it with an empty command.
pub(crate) const PING: Bytes = Bytes::from_static(b"{}");

/// Writes the reply to a command that went well.
pub(crate) fn reply<T: Serialize>(id: u32, method: Method, result: &T) -> Bytes {
    let result =
        serde_json::value::to_raw_value(result).expect("results of texts and numbers can be written");
    format!("{{\"id\":{id},\"{}\":{}}}", method.as_str(), result.get()).into()
}

/// Writes the reply to a command that was refused.
pub(crate) fn error_reply(id: u32, error: ReplyError) -> Bytes {
    // The messages are ours and need no escaping.
    let ReplyError { code, message, temporary } = error;
    let temporary = if temporary { ",\"temporary\":true" } else { "" };
    format!("{{\"id\":{id},\"error\":{{\"code\":{code},\"message\":\"{message}\"{temporary}}}}}").into()
}

/// Writes what the application says against a command.
pub(crate) fn told_error(id: u32, code: u32, message: &str, temporary: bool) -> Bytes {
    let message = serde_json::Value::from(message);
    let temporary = if temporary { ",\"temporary\":true" } else { "" };
    format!("{{\"id\":{id},\"error\":{{\"code\":{code},\"message\":{message}{temporary}}}}}").into()
}

/// Writes what happens in a channel, for those who listen.
pub(crate) fn push(channel: &str, push: &Push<'_>) -> Bytes {
    #[derive(Serialize)]
    struct Outer<'a> {
        #[serde(skip_serializing_if = "str::is_empty")]
        channel: &'a str,
        #[serde(flatten)]
        push: &'a Push<'a>,
    }
    #[derive(Serialize)]
    struct Reply<'a> {
        push: Outer<'a>,
    }
    let reply = Reply { push: Outer { channel, push } };
    serde_json::to_vec(&reply).expect("texts and checked JSON can be written").into()
}

/// What happens in a channel.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Push<'a> {
    Pub(Publication<'a>),
    Join(About<'a>),
    Leave(About<'a>),
    /// The server subscribed the client.
    Subscribe(Subscribed<'a>),
    /// The server ended the subscription.
    Unsubscribe(Unsubscribed),
    /// The connection ends, where no close frame can say so.
    Disconnect(Disconnected),
}

/// Why a connection ends.
#[derive(Debug, Serialize)]
pub(crate) struct Disconnected {
    code: u16,
    reason: &'static str,
    /// Whether the client is to come back.
    reconnect: bool,
}

impl From<Disconnect> for Disconnected {
    fn from(disconnect: Disconnect) -> Self {
        let Disconnect { code, reason } = disconnect;
        Self { code, reason, reconnect: disconnect.is_temporary() }
    }
}

/// Who comes or goes.
#[derive(Debug, Serialize)]
pub(crate) struct About<'a> {
    pub(crate) info: ClientInfo<'a>,
}

/// One message of a channel.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Publication<'a> {
    /// A document; beside `delta` the text of one, or a patch that makes one from the publication before.
    pub(crate) data: Cow<'a, RawValue>,
    /// Whether data are a patch; absent for those who want no deltas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delta: Option<bool>,
    /// Who published it, if that was a client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) info: Option<ClientInfo<'a>>,
    /// 0 where the channel has no history.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) offset: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tags: &'a Tags,
    /// With the first offset only: a numbering begins.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) epoch: &'a str,
}

impl Publication<'_> {
    /// Returns it for those who want deltas, without one.
    pub(crate) fn whole(&self) -> Self {
        self.with_text(self.data.get(), false)
    }

    /// Returns it as what has changed.
    pub(crate) fn patched(&self, patch: &str) -> Self {
        self.with_text(patch, true)
    }

    fn with_text(&self, text: &str, delta: bool) -> Self {
        let data = serde_json::value::to_raw_value(text).expect("texts can be written");
        Self { data: Cow::Owned(data), delta: Some(delta), ..self.clone() }
    }
}

/// Where a subscription begins that the client did not ask for.
#[derive(Debug, Serialize)]
pub(crate) struct Subscribed<'a> {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) recoverable: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) epoch: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) offset: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) positioned: bool,
}

/// A result without content.
#[derive(Serialize)]
pub(crate) struct Empty {}

/// When a connection has to be refreshed; absent when never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Lifetime {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) expires: bool,
    /// Seconds.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) ttl: u32,
}

#[derive(Serialize)]
pub(crate) struct ConnectResult<'a> {
    pub(crate) client: &'a str,
    pub(crate) version: &'a str,
    #[serde(flatten)]
    pub(crate) lifetime: Lifetime,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) subs: BTreeMap<&'a str, SubscribeResult<'a>>,
    /// Seconds between pings.
    pub(crate) ping: u32,
    /// Whether pings are to be answered.
    pub(crate) pong: bool,
    /// Where requests go that belong to a stream over HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<Uuid>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) node: &'a str,
}

#[derive(Serialize)]
pub(crate) struct RefreshResult<'a> {
    pub(crate) client: &'a str,
    pub(crate) version: &'a str,
    #[serde(flatten)]
    pub(crate) lifetime: Lifetime,
}

/// How a subscription begins.
#[derive(Debug, Default, Serialize)]
pub(crate) struct SubscribeResult<'a> {
    #[serde(flatten)]
    pub(crate) lifetime: Lifetime,
    /// Whether the client may come back with its position.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) recoverable: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) epoch: &'a str,
    /// What the client missed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) publications: Vec<Publication<'a>>,
    /// Whether that is all it missed.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) recovered: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) offset: u64,
    /// Whether epoch and offset say where the channel is.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) positioned: bool,
    /// What the application tells the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<&'a RawValue>,
    /// Whether the client asked for what it missed.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) was_recovering: bool,
    /// Whether publications come with deltas.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) delta: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct SubRefreshResult {
    #[serde(flatten)]
    pub(crate) lifetime: Lifetime,
}

#[derive(Debug, Serialize)]
pub(crate) struct PresenceResult<'a> {
    /// By id of the connection.
    pub(crate) presence: BTreeMap<String, ClientInfo<'a>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct PresenceStatsResult {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) num_clients: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) num_users: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct HistoryResult<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) publications: Vec<Publication<'a>>,
    pub(crate) epoch: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) offset: u64,
}

/// Says which client something is about.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ClientInfo<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) user: &'a str,
    pub(crate) client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) conn_info: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) chan_info: Option<&'a RawValue>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
