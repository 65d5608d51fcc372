use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Method;
use crate::codes::ReplyError;

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
    format!("{{\"id\":{id},\"error\":{{\"code\":{},\"message\":\"{}\"}}}}", error.code, error.message).into()
}

/// Writes a publication for the subscribers of a channel.
pub(crate) fn publication_push(channel: &str, publication: &RawValue) -> Bytes {
    #[derive(Serialize)]
    struct Push<'a> {
        channel: &'a str,
        #[serde(rename = "pub")]
        publication: &'a RawValue,
    }
    #[derive(Serialize)]
    struct Reply<'a> {
        push: Push<'a>,
    }
    let reply = Reply { push: Push { channel, publication } };
    serde_json::to_vec(&reply).expect("texts and checked JSON can be written").into()
}

/// A result without content.
#[derive(Serialize)]
pub(crate) struct Empty {}

/// When a connection has to be refreshed; absent when never.
#[derive(Clone, Copy, Debug, Default, Serialize)]
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
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) subs: BTreeMap<&'a str, SubscribeResult>,
    /// Seconds between pings.
    pub(crate) ping: u32,
    /// Whether pings are to be answered.
    pub(crate) pong: bool,
}

#[derive(Serialize)]
pub(crate) struct RefreshResult<'a> {
    pub(crate) client: &'a str,
    pub(crate) version: &'a str,
    #[serde(flatten)]
    pub(crate) lifetime: Lifetime,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct SubscribeResult {
    /// The client asked for what it missed. Without history nothing is ever recovered.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) was_recovering: bool,
}

/// Says which client published.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ClientInfo<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) user: &'a str,
    pub(crate) client: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) conn_info: Option<&'a RawValue>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
