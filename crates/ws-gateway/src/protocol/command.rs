use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::filter::FilterNode;

/// What a client asks, one line of a frame.
#[derive(Debug)]
pub(crate) struct Command<'a> {
    /// Chosen by the client and repeated in the reply; 0 where no reply is expected.
    pub(crate) id: u32,
    pub(crate) request: Request<'a>,
}

/// The body of a command.
#[derive(Debug)]
pub(crate) enum Request<'a> {
    /// An empty command: the answer to a ping.
    Pong,
    Connect(ConnectRequest<'a>),
    Subscribe(SubscribeRequest<'a>),
    Unsubscribe(ChannelRequest<'a>),
    Publish(PublishRequest<'a>),
    Refresh(RefreshRequest<'a>),
    SubRefresh(SubRefreshRequest<'a>),
    Presence(ChannelRequest<'a>),
    PresenceStats(ChannelRequest<'a>),
    History(HistoryRequest<'a>),
    /// Asynchronous message to the server; has no reply.
    Send,
    Rpc(RpcRequest<'a>),
    /// What is known and not served.
    Unserved(Method),
    /// A command with an id and no body that is known.
    Unknown,
}

/// Names of commands, for replies and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    Connect,
    Subscribe,
    Unsubscribe,
    Publish,
    Presence,
    PresenceStats,
    History,
    Ping,
    Send,
    Rpc,
    Refresh,
    SubRefresh,
    Unknown,
}

impl Method {
    /// Every one, at the place of its number.
    pub(crate) const ALL: [Self; 13] = [
        Self::Connect,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Publish,
        Self::Presence,
        Self::PresenceStats,
        Self::History,
        Self::Ping,
        Self::Send,
        Self::Rpc,
        Self::Refresh,
        Self::SubRefresh,
        Self::Unknown,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Publish => "publish",
            Self::Presence => "presence",
            Self::PresenceStats => "presence_stats",
            Self::History => "history",
            Self::Ping => "ping",
            Self::Send => "send",
            Self::Rpc => "rpc",
            Self::Refresh => "refresh",
            Self::SubRefresh => "sub_refresh",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(crate) struct ConnectRequest<'a> {
    #[serde(borrow)]
    pub(crate) token: Cow<'a, str>,
    /// Name and version of the SDK.
    #[serde(borrow)]
    pub(crate) name: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) version: Cow<'a, str>,
    /// Where the client was in the channels the server subscribed it to.
    #[serde(borrow)]
    pub(crate) subs: HashMap<Cow<'a, str>, SubscribeRequest<'a>>,
    /// For the application.
    #[serde(borrow)]
    pub(crate) data: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SubscribeRequest<'a> {
    #[serde(borrow)]
    pub(crate) channel: Cow<'a, str>,
    /// For channels that cannot be subscribed to without.
    #[serde(borrow)]
    pub(crate) token: Cow<'a, str>,
    /// For the application.
    #[serde(borrow)]
    pub(crate) data: Option<&'a RawValue>,
    /// The client wants what came after `offset` of `epoch`.
    pub(crate) recover: bool,
    #[serde(borrow)]
    pub(crate) epoch: Cow<'a, str>,
    pub(crate) offset: u64,
    pub(crate) positioned: bool,
    pub(crate) recoverable: bool,
    /// The client wants to be told who comes and goes.
    pub(crate) join_leave: bool,
    /// The kind of deltas the client can apply; empty for none.
    #[serde(borrow)]
    pub(crate) delta: Cow<'a, str>,
    /// Filter by tags.
    pub(crate) tf: Option<FilterNode>,
    /// Bit 2: answer with an error rather than with `recovered: false`.
    pub(crate) flag: i64,
    /// 0 is a stream of publications; others are maps and polls.
    #[serde(rename = "type")]
    pub(crate) kind: i32,
}

/// The body of commands that name a channel and nothing else of interest.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ChannelRequest<'a> {
    #[serde(borrow)]
    pub(crate) channel: Cow<'a, str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PublishRequest<'a> {
    #[serde(borrow)]
    pub(crate) channel: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) data: Option<&'a RawValue>,
    #[serde(rename = "type")]
    pub(crate) kind: i32,
}

/// Asks the application behind the gateway.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RpcRequest<'a> {
    #[serde(borrow)]
    pub(crate) data: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) method: Cow<'a, str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RefreshRequest<'a> {
    #[serde(borrow)]
    pub(crate) token: Cow<'a, str>,
}

/// Prolongs a subscription made with a token.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SubRefreshRequest<'a> {
    #[serde(borrow)]
    pub(crate) channel: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) token: Cow<'a, str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HistoryRequest<'a> {
    #[serde(borrow)]
    pub(crate) channel: Cow<'a, str>,
    /// 0 asks for the position alone, a negative number for all there is.
    pub(crate) limit: i32,
    #[serde(borrow)]
    pub(crate) since: Option<StreamPosition<'a>>,
    pub(crate) reverse: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StreamPosition<'a> {
    pub(crate) offset: u64,
    #[serde(borrow)]
    pub(crate) epoch: Cow<'a, str>,
}

impl Default for ConnectRequest<'_> {
    fn default() -> Self {
        Self {
            token: Cow::Borrowed(""),
            name: Cow::Borrowed(""),
            version: Cow::Borrowed(""),
            subs: HashMap::new(),
            data: None,
        }
    }
}

/// Says that a line is no command.
#[derive(Debug, thiserror::Error)]
#[error("not a command of the client protocol")]
pub(crate) struct Malformed;

/// The outer object. Bodies stay unread until it is clear which one counts.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Envelope<'a> {
    id: u32,
    #[serde(borrow)]
    connect: Option<&'a RawValue>,
    #[serde(borrow)]
    subscribe: Option<&'a RawValue>,
    #[serde(borrow)]
    unsubscribe: Option<&'a RawValue>,
    #[serde(borrow)]
    publish: Option<&'a RawValue>,
    #[serde(borrow)]
    presence: Option<&'a RawValue>,
    #[serde(borrow)]
    presence_stats: Option<&'a RawValue>,
    #[serde(borrow)]
    history: Option<&'a RawValue>,
    #[serde(borrow)]
    ping: Option<&'a RawValue>,
    #[serde(borrow)]
    send: Option<&'a RawValue>,
    #[serde(borrow)]
    rpc: Option<&'a RawValue>,
    #[serde(borrow)]
    refresh: Option<&'a RawValue>,
    #[serde(borrow)]
    sub_refresh: Option<&'a RawValue>,
}

impl<'a> Command<'a> {
    /// Reads one line. The first body that is not null counts; only `send` and a pong go without an id.
    pub(crate) fn parse(line: &'a str) -> Result<Self, Malformed> {
        let envelope: Envelope<'a> = object(line)?;
        let id = envelope.id;
        let request = envelope.request()?;
        match (&request, id) {
            (Request::Send, _) | (Request::Pong, 0) => {}
            (_, 0) => return Err(Malformed),
            _ => {}
        }
        Ok(Self { id, request })
    }
}

impl<'a> Envelope<'a> {
    fn request(self) -> Result<Request<'a>, Malformed> {
        let bodies = [
            (Method::Connect, self.connect),
            (Method::Subscribe, self.subscribe),
            (Method::Unsubscribe, self.unsubscribe),
            (Method::Publish, self.publish),
            (Method::Presence, self.presence),
            (Method::PresenceStats, self.presence_stats),
            (Method::History, self.history),
            (Method::Ping, self.ping),
            (Method::Send, self.send),
            (Method::Rpc, self.rpc),
            (Method::Refresh, self.refresh),
            (Method::SubRefresh, self.sub_refresh),
        ];
        let Some((method, body)) = bodies.into_iter().find_map(|(method, body)| Some((method, body?.get())))
        else {
            return Ok(if self.id == 0 { Request::Pong } else { Request::Unknown });
        };
        Ok(match method {
            Method::Connect => Request::Connect(object(body)?),
            Method::Subscribe => Request::Subscribe(object(body)?),
            Method::Unsubscribe => Request::Unsubscribe(object(body)?),
            Method::Publish => Request::Publish(object(body)?),
            Method::Refresh => Request::Refresh(object(body)?),
            Method::SubRefresh => Request::SubRefresh(object(body)?),
            Method::Presence => Request::Presence(object(body)?),
            Method::PresenceStats => Request::PresenceStats(object(body)?),
            Method::History => Request::History(object(body)?),
            Method::Rpc => Request::Rpc(object(body)?),
            Method::Send => Request::Send,
            method => Request::Unserved(method),
        })
    }
}

/// Reads a JSON object; serde would also take the fields of a struct from an array, by position.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Malformed> {
    if !text.trim_ascii_start().starts_with('{') {
        return Err(Malformed);
    }
    serde_json::from_str(text).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind(line: &str) -> String {
        match Command::parse(line) {
            Ok(command) => {
                let text = format!("{:?}", command.request);
                let name = text.split(['(', ' ']).next().unwrap().to_owned();
                format!("{} {name}", command.id)
            }
            Err(Malformed) => "malformed".to_owned(),
        }
    }

    #[test]
    fn lines_are_read_as_the_protocol_says() {
        for (line, expected) in [
            ("{}", "0 Pong"),
            (" {\"future\":1} ", "0 Pong"),
            (r#"{"id":1,"connect":{}}"#, "1 Connect"),
            (r#"{"id":1,"connect":{"token":"t","data":{"a":1},"subs":{},"future":[]}}"#, "1 Connect"),
            (r#"{"id":2,"subscribe":{"channel":"a"}}"#, "2 Subscribe"),
            (r#"{"id":2,"connect":null,"subscribe":{"channel":"a"}}"#, "2 Subscribe"),
            (r#"{"id":2,"subscribe":{},"connect":{}}"#, "2 Connect"),
            (r#"{"id":3,"unsubscribe":{"channel":"a"}}"#, "3 Unsubscribe"),
            (r#"{"id":4,"publish":{"channel":"a","data":null}}"#, "4 Publish"),
            (r#"{"id":5,"presence":{"channel":"a"}}"#, "5 Presence"),
            (r#"{"id":5,"history":{"since":{"offset":1,"epoch":"e"}}}"#, "5 History"),
            (r#"{"id":5,"sub_refresh":{}}"#, "5 SubRefresh"),
            (r#"{"id":5,"ping":{}}"#, "5 Unserved"),
            (r#"{"id":6,"refresh":{"token":"t"}}"#, "6 Refresh"),
            (r#"{"send":{"data":{}}}"#, "0 Send"),
            (r#"{"id":7}"#, "7 Unknown"),
            (r#"{"id":7,"future":{}}"#, "7 Unknown"),
            (r#"{"id":4294967295,"rpc":{}}"#, "4294967295 Rpc"),
            ("", "malformed"),
            ("null", "malformed"),
            ("[]", "malformed"),
            ("[1,{}]", "malformed"),
            ("{", "malformed"),
            ("{}{}", "malformed"),
            ("ping", "malformed"),
            (r#"{"id":-1,"connect":{}}"#, "malformed"),
            (r#"{"id":4294967296,"connect":{}}"#, "malformed"),
            (r#"{"id":"1","connect":{}}"#, "malformed"),
            (r#"{"id":1.5,"connect":{}}"#, "malformed"),
            (r#"{"connect":{}}"#, "malformed"),
            (r#"{"id":0,"subscribe":{"channel":"a"}}"#, "malformed"),
            (r#"{"id":1,"connect":[]}"#, "malformed"),
            (r#"{"id":1,"connect":"token"}"#, "malformed"),
            (r#"{"id":1,"connect":{"token":1}}"#, "malformed"),
            (r#"{"id":1,"subscribe":{"channel":["a"]}}"#, "malformed"),
            (r#"{"id":1,"id":2,"connect":{}}"#, "malformed"),
        ] {
            assert_eq!(kind(line), expected, "{line}");
        }
    }

    #[test]
    fn escaped_texts_are_read() {
        let command = Command::parse(r#"{"id":1,"subscribe":{"channel":"a\u0062\/"}}"#).unwrap();
        let Request::Subscribe(request) = command.request else { panic!("{command:?}") };
        assert_eq!(request.channel, "ab/");
    }

    proptest! {
        #[test]
        fn no_line_makes_the_reader_panic(line in ".{0,200}") {
            let _ = Command::parse(&line);
        }

        #[test]
        fn no_object_makes_the_reader_panic(
            key in "id|connect|subscribe|publish|refresh|send",
            value in r#"-?[0-9]{1,20}|null|\{\}|"[a-z]*"|\[\]|\{"channel":[0-9]\}|\{"data":\{"a":\[1\]\}\}"#,
        ) {
            let _ = Command::parse(&format!("{{\"id\":1,\"{key}\":{value}}}"));
        }
    }
}
