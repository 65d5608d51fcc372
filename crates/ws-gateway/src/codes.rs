//! The numbers of the Centrifuge client protocol that say what went wrong.

use serde::Serialize;

/// An error in the reply to a command. The connection lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplyError {
    pub(crate) code: u32,
    pub(crate) message: &'static str,
    pub(crate) temporary: bool,
}

impl ReplyError {
    pub(crate) const INTERNAL: Self = Self { temporary: true, ..Self::new(100, "internal server error") };
    pub(crate) const UNKNOWN_CHANNEL: Self = Self::new(102, "unknown channel");
    pub(crate) const PERMISSION_DENIED: Self = Self::new(103, "permission denied");
    pub(crate) const METHOD_NOT_FOUND: Self = Self::new(104, "method not found");
    pub(crate) const ALREADY_SUBSCRIBED: Self = Self::new(105, "already subscribed");
    pub(crate) const LIMIT_EXCEEDED: Self = Self::new(106, "limit exceeded");
    pub(crate) const BAD_REQUEST: Self = Self::new(107, "bad request");
    pub(crate) const NOT_AVAILABLE: Self = Self::new(108, "not available");
    /// Makes an SDK fetch a new token and connect again.
    pub(crate) const TOKEN_EXPIRED: Self = Self::new(109, "token expired");
    pub(crate) const EXPIRED: Self = Self::new(110, "expired");
    /// Makes an SDK try again later.
    pub(crate) const TOO_MANY_REQUESTS: Self =
        Self { temporary: true, ..Self::new(111, "too many requests") };
    pub(crate) const UNRECOVERABLE_POSITION: Self = Self::new(112, "unrecoverable position");

    const fn new(code: u32, message: &'static str) -> Self {
        Self { code, message, temporary: false }
    }
}

/// Why a subscription is ended by the server. SDKs subscribe again from 2500 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Unsubscribed {
    pub(crate) code: u32,
    pub(crate) reason: &'static str,
}

impl Unsubscribed {
    pub(crate) const BY_SERVER: Self = Self { code: 2000, reason: "server unsubscribe" };
    /// It has missed a publication and may recover.
    pub(crate) const INSUFFICIENT: Self = Self { code: 2500, reason: "insufficient state" };
    pub(crate) const EXPIRED: Self = Self { code: 2501, reason: "subscription expired" };
}

/// The close code and reason of a connection. SDKs come back after 3000 to 3499, and stay away after 3500 to 3999.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disconnect {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
}

impl Disconnect {
    /// The client went; nothing is sent.
    pub(crate) const CLOSED: Self = Self::new(3000, "connection closed");
    pub(crate) const SHUTDOWN: Self = Self::new(3001, "shutdown");
    pub(crate) const EXPIRED: Self = Self::new(3005, "connection expired");
    pub(crate) const SLOW: Self = Self::new(3008, "slow");
    pub(crate) const WRITE_ERROR: Self = Self::new(3009, "write error");
    /// The client may have missed something in a channel it did not ask for.
    pub(crate) const INSUFFICIENT_STATE: Self = Self::new(3010, "insufficient state");
    pub(crate) const NO_PONG: Self = Self::new(3012, "no pong");
    pub(crate) const INVALID_TOKEN: Self = Self::new(3500, "invalid token");
    pub(crate) const BAD_REQUEST: Self = Self::new(3501, "bad request");
    pub(crate) const STALE: Self = Self::new(3502, "stale");
    pub(crate) const FORCED: Self = Self::new(3503, "force disconnect");
    pub(crate) const CONNECTION_LIMIT: Self = Self::new(3504, "connection limit");
    pub(crate) const CHANNEL_LIMIT: Self = Self::new(3505, "channel limit");
    pub(crate) const INAPPROPRIATE_PROTOCOL: Self = Self::new(3506, "inappropriate protocol");
    pub(crate) const NOT_AVAILABLE: Self = Self::new(3508, "not available");
    /// RFC 6455, section 7.4.1: a frame broke the rules of WebSocket itself.
    pub(crate) const PROTOCOL_ERROR: Self = Self::new(1002, "protocol error");
    /// RFC 6455, section 7.4.1: a text frame was not UTF-8.
    pub(crate) const NOT_UTF8: Self = Self::new(1007, "not utf-8");
    /// RFC 6455, section 7.4.1: SDKs take it as final, since the same message would be as large again.
    pub(crate) const MESSAGE_SIZE_LIMIT: Self = Self::new(1009, "message size limit");

    /// Says whether SDKs come back after it.
    pub(crate) const fn is_temporary(self) -> bool {
        matches!(self.code, 3_000..=3_499 | 4_000..=4_499)
    }

    const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason }
    }
}
