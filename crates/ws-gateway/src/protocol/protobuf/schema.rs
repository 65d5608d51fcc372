/// One field of a message, in both forms.
pub(super) struct Field {
    pub(super) number: u64,
    pub(super) name: &'static str,
    pub(super) kind: Type,
}

/// What a field holds.
#[derive(Clone, Copy)]
pub(super) enum Type {
    Unsigned,
    /// As a varint of two's complement, not zigzag.
    Signed,
    Bool,
    Text,
    /// Bytes that are a JSON document.
    Json,
    /// Bytes for the application, which is given JSON: any others are nothing to it.
    MaybeJson,
    /// A JSON document; beside a field `delta` any bytes, which JSON carries as a text.
    Payload,
    Message(&'static [Field]),
    List(&'static Type),
    /// From texts.
    Map(&'static Type),
}

use Type::{Bool, Json, List, Map, MaybeJson, Message, Payload, Signed, Text, Unsigned};

const fn field(number: u64, name: &'static str, kind: Type) -> Field {
    Field { number, name, kind }
}

pub(super) const COMMAND: &[Field] = &[
    field(1, "id", Unsigned),
    field(4, "connect", Message(CONNECT_REQUEST)),
    field(5, "subscribe", Message(SUBSCRIBE_REQUEST)),
    field(6, "unsubscribe", Message(CHANNEL)),
    field(7, "publish", Message(PUBLISH_REQUEST)),
    field(8, "presence", Message(CHANNEL)),
    field(9, "presence_stats", Message(CHANNEL)),
    field(10, "history", Message(HISTORY_REQUEST)),
    field(11, "ping", Message(&[])),
    field(12, "send", Message(DATA)),
    field(13, "rpc", Message(RPC_REQUEST)),
    field(14, "refresh", Message(&[field(1, "token", Text)])),
    field(15, "sub_refresh", Message(SUB_REFRESH_REQUEST)),
];

const CONNECT_REQUEST: &[Field] = &[
    field(1, "token", Text),
    field(2, "data", MaybeJson),
    field(3, "subs", Map(&Message(SUBSCRIBE_REQUEST))),
    field(4, "name", Text),
    field(5, "version", Text),
];

const SUBSCRIBE_REQUEST: &[Field] = &[
    field(1, "channel", Text),
    field(2, "token", Text),
    field(3, "recover", Bool),
    field(6, "epoch", Text),
    field(7, "offset", Unsigned),
    field(8, "data", MaybeJson),
    field(9, "positioned", Bool),
    field(10, "recoverable", Bool),
    field(11, "join_leave", Bool),
    field(12, "delta", Text),
    field(13, "tf", Message(&FILTER)),
    field(14, "flag", Signed),
    field(15, "type", Signed),
];

static FILTER: [Field; 6] = [
    field(1, "op", Text),
    field(2, "key", Text),
    field(3, "cmp", Text),
    field(4, "val", Text),
    field(5, "vals", List(&Text)),
    field(6, "nodes", List(&FILTER_NODE)),
];

static FILTER_NODE: Type = Message(&FILTER);

const PUBLISH_REQUEST: &[Field] =
    &[field(1, "channel", Text), field(2, "data", Json), field(3, "type", Signed)];

const HISTORY_REQUEST: &[Field] = &[
    field(1, "channel", Text),
    field(7, "limit", Signed),
    field(8, "since", Message(&[field(1, "offset", Unsigned), field(2, "epoch", Text)])),
    field(9, "reverse", Bool),
];

const RPC_REQUEST: &[Field] = &[field(1, "data", Json), field(2, "method", Text)];
const SUB_REFRESH_REQUEST: &[Field] = &[field(1, "channel", Text), field(2, "token", Text)];
const CHANNEL: &[Field] = &[field(1, "channel", Text)];
const DATA: &[Field] = &[field(1, "data", Json)];

pub(super) const REPLY: &[Field] = &[
    field(1, "id", Unsigned),
    field(2, "error", Message(ERROR)),
    field(4, "push", Message(PUSH)),
    field(5, "connect", Message(CONNECT_RESULT)),
    field(6, "subscribe", Message(SUBSCRIBE_RESULT)),
    field(7, "unsubscribe", Message(&[])),
    field(8, "publish", Message(&[])),
    field(9, "presence", Message(&[field(1, "presence", Map(&Message(CLIENT_INFO)))])),
    field(10, "presence_stats", Message(PRESENCE_STATS)),
    field(11, "history", Message(HISTORY_RESULT)),
    field(13, "rpc", Message(DATA)),
    field(14, "refresh", Message(REFRESH_RESULT)),
    field(15, "sub_refresh", Message(LIFETIME)),
];

const ERROR: &[Field] = &[field(1, "code", Unsigned), field(2, "message", Text), field(3, "temporary", Bool)];

const CONNECT_RESULT: &[Field] = &[
    field(1, "client", Text),
    field(2, "version", Text),
    field(3, "expires", Bool),
    field(4, "ttl", Unsigned),
    field(5, "data", Json),
    field(6, "subs", Map(&Message(SUBSCRIBE_RESULT))),
    field(7, "ping", Unsigned),
    field(8, "pong", Bool),
    field(9, "session", Text),
    field(10, "node", Text),
];

const SUBSCRIBE_RESULT: &[Field] = &[
    field(1, "expires", Bool),
    field(2, "ttl", Unsigned),
    field(3, "recoverable", Bool),
    field(6, "epoch", Text),
    field(7, "publications", List(&Message(PUBLICATION))),
    field(8, "recovered", Bool),
    field(9, "offset", Unsigned),
    field(10, "positioned", Bool),
    field(11, "data", Json),
    field(12, "was_recovering", Bool),
    field(13, "delta", Bool),
];

const PRESENCE_STATS: &[Field] = &[field(1, "num_clients", Unsigned), field(2, "num_users", Unsigned)];

const HISTORY_RESULT: &[Field] = &[
    field(1, "publications", List(&Message(PUBLICATION))),
    field(2, "epoch", Text),
    field(3, "offset", Unsigned),
];

const REFRESH_RESULT: &[Field] = &[
    field(1, "client", Text),
    field(2, "version", Text),
    field(3, "expires", Bool),
    field(4, "ttl", Unsigned),
];

/// Of refreshed subscriptions and of pushes that ask for a refresh.
const LIFETIME: &[Field] = &[field(1, "expires", Bool), field(2, "ttl", Unsigned)];

const PUSH: &[Field] = &[
    field(2, "channel", Text),
    field(4, "pub", Message(PUBLICATION)),
    field(5, "join", Message(ABOUT)),
    field(6, "leave", Message(ABOUT)),
    field(7, "unsubscribe", Message(&[field(2, "code", Unsigned), field(3, "reason", Text)])),
    field(8, "message", Message(DATA)),
    field(9, "subscribe", Message(SUBSCRIBED)),
    field(11, "disconnect", Message(DISCONNECTED)),
    field(12, "refresh", Message(LIFETIME)),
];

const DISCONNECTED: &[Field] =
    &[field(1, "code", Unsigned), field(2, "reason", Text), field(3, "reconnect", Bool)];

const ABOUT: &[Field] = &[field(1, "info", Message(CLIENT_INFO))];

const SUBSCRIBED: &[Field] = &[
    field(1, "recoverable", Bool),
    field(4, "epoch", Text),
    field(5, "offset", Unsigned),
    field(6, "positioned", Bool),
    field(7, "data", Json),
];

const PUBLICATION: &[Field] = &[
    field(4, "data", Payload),
    field(5, "info", Message(CLIENT_INFO)),
    field(6, "offset", Unsigned),
    field(7, "tags", Map(&Text)),
    field(8, "delta", Bool),
    field(9, "time", Signed),
    field(14, "epoch", Text),
];

const CLIENT_INFO: &[Field] = &[
    field(1, "user", Text),
    field(2, "client", Text),
    field(3, "conn_info", Json),
    field(4, "chan_info", Json),
];
