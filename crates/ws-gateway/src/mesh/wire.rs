//! What nodes say to each other.

use bytes::Bytes;

use super::attendance::Coming;
use crate::broker::ClientPacked;
use crate::publication::ClientInfo;

/// Separates the parts of a message between nodes; neither ids nor names have it.
pub(super) const SEPARATOR: char = '\x1f';

/// What one node may ask all others to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Channels,
    Connections,
    Disconnect,
    Drain,
    Feeds,
    Health,
    /// What a client says to its stream over HTTP.
    Hear,
    Journeys,
    Presence,
    Refresh,
    Subscribe,
    Unsubscribe,
    /// The users of a channel, each once, and how many clients they are.
    Users,
}

/// A message from a node.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It lives; the number rises.
    Beat {
        node: String,
        number: u64,
        /// Which process of that name.
        process: String,
    },
    /// It has ended in order.
    Gone {
        node: String,
    },
    Question {
        node: String,
        id: u64,
        method: Method,
        body: Bytes,
    },
    /// None when it refused.
    Answer {
        node: String,
        id: u64,
        body: Option<Bytes>,
    },
}

impl Method {
    const ALL: [Self; 13] = [
        Self::Channels,
        Self::Connections,
        Self::Disconnect,
        Self::Drain,
        Self::Feeds,
        Self::Health,
        Self::Hear,
        Self::Journeys,
        Self::Presence,
        Self::Refresh,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Users,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Channels => "channels",
            Self::Connections => "connections",
            Self::Disconnect => "disconnect",
            Self::Drain => "drain",
            Self::Feeds => "feeds",
            Self::Health => "health",
            Self::Hear => "hear",
            Self::Journeys => "journeys",
            Self::Presence => "presence",
            Self::Refresh => "refresh",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Users => "users",
        }
    }
}

impl Said {
    pub(super) fn parse(message: &Bytes) -> Option<Self> {
        let mut at = 0;
        let mut text = || {
            let rest = &message[at..];
            let end = rest.iter().position(|&byte| byte == SEPARATOR as u8).unwrap_or(rest.len());
            let part = std::str::from_utf8(&rest[..end]).ok()?.to_owned();
            at = (at + end + 1).min(message.len());
            Some(part)
        };
        let (kind, node, id) = (text()?, text()?, text()?.parse().ok()?);
        match kind.as_str() {
            "b" => Some(Self::Beat { node, number: id, process: text()? }),
            "d" => Some(Self::Gone { node }),
            "q" => {
                let name = text()?;
                let method = Method::ALL.into_iter().find(|method| method.as_str() == name)?;
                Some(Self::Question { node, id, method, body: message.slice(at..) })
            }
            "a" => Some(Self::Answer { node, id, body: Some(message.slice(at..)) }),
            "n" => Some(Self::Answer { node, id, body: None }),
            _ => None,
        }
    }
}

pub(super) fn parts(parts: &[&str]) -> String {
    parts.join("\x1f")
}

/// Reads who came or left from what a node told: the node, and who.
pub(crate) fn read_attendance(message: &[u8]) -> Option<(Coming, &str, ClientInfo)> {
    let coming = match message.first()? {
        b'j' => Coming::Came,
        b'l' => Coming::Left,
        _ => return None,
    };
    let (node, packed) = std::str::from_utf8(&message[1..]).ok()?.split_once(SEPARATOR)?;
    Some((coming, node, ClientPacked::read(packed)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nodes_say_is_understood() {
        let question = [parts(&["q", "n-1", "7", "presence", ""]).as_bytes(), b"\x1f\x00"].concat();
        let body = Bytes::from_static(b"\x1f\x00");
        let expected =
            Said::Question { node: "n-1".to_owned(), id: 7, method: Method::Presence, body: body.clone() };
        assert_eq!(Said::parse(&question.into()), Some(expected));
        let answer = [parts(&["a", "n-1", "7", ""]).as_bytes(), b"\x1f\x00"].concat();
        let expected = Said::Answer { node: "n-1".to_owned(), id: 7, body: Some(body) };
        assert_eq!(Said::parse(&answer.into()), Some(expected));
        let expected = Said::Beat { node: "n".to_owned(), number: 9, process: "p".to_owned() };
        assert_eq!(Said::parse(&parts(&["b", "n", "9", "p"]).into()), Some(expected));
        assert_eq!(Said::parse(&parts(&["d", "n", "0"]).into()), Some(Said::Gone { node: "n".to_owned() }));
        for foreign in ["", "q", "x\x1fn\x1f1", "q\x1fn\x1f1\x1fnothing\x1f", "b\x1fn\x1fx"] {
            assert_eq!(Said::parse(&Bytes::from_static(foreign.as_bytes())), None, "{foreign:?}");
        }
    }

    #[test]
    fn every_method_has_its_own_name() {
        let mut names: Vec<_> = Method::ALL.map(Method::as_str).into();
        names.dedup();
        assert_eq!(names.len(), Method::ALL.len());
    }
}
