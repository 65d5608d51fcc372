use fred::error::{Error, ErrorKind};

use crate::config::Address;

/// Says why a command has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RedisError {
    #[error("not connected to redis")]
    NotConnected,
    #[error("redis did not answer in time")]
    Timeout,
    #[error("the connection to redis was lost")]
    Lost,
    #[error("too many redis commands in flight")]
    Overloaded,
    #[error("redis does not know the script")]
    NoScript,
    /// The server answers, but not this: out of memory, a foreign type under the key, no permission.
    #[error("redis refused the command")]
    Refused(#[source] Error),
    /// The server reads and does not write now: a replica, without enough replicas, without a disk.
    #[error("redis refuses writes")]
    WriteRefused(#[source] Error),
    /// The server cannot serve now: loading, a replica without its primary, a password that it does not know.
    #[error("redis cannot serve")]
    CannotServe(#[source] Error),
    #[error("what lies in redis is not ours")]
    Foreign,
    /// Another node of the cluster has the slot, or, if `asking`, the keys that were moved already. Nothing was done.
    #[error("another node of the cluster has the keys")]
    Elsewhere { to: Option<Address>, asking: bool },
    /// Some keys are at one node and some at another. Nothing was done.
    #[error("the slot of the keys is being moved")]
    Moving,
    #[error("the connection to redis failed")]
    Connection(#[source] Error),
}

/// How replies begin that say that this server cannot serve now.
const CANNOT_SERVE: [&str; 5] = ["LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH", "WRONGPASS"];
/// How replies begin that say that this server does not write now.
const WRITE_REFUSED: [&str; 3] = ["READONLY", "NOREPLICAS", "MISCONF"];

impl RedisError {
    pub(crate) fn from_fred(error: Error) -> Self {
        let begins = |prefix: &str| error.details().starts_with(prefix);
        if CANNOT_SERVE.into_iter().any(begins) {
            return Self::CannotServe(error);
        }
        if WRITE_REFUSED.into_iter().any(begins) {
            return Self::WriteRefused(error);
        }
        if begins("TRYAGAIN") {
            return Self::Moving;
        }
        if let Some(redirect) = redirect(error.details()) {
            return redirect;
        }
        match error.kind() {
            ErrorKind::Timeout => Self::Timeout,
            ErrorKind::Backpressure => Self::Overloaded,
            ErrorKind::IO | ErrorKind::Canceled | ErrorKind::Routing | ErrorKind::Tls | ErrorKind::Auth => {
                Self::Connection(error)
            }
            _ if begins("NOSCRIPT") => Self::NoScript,
            _ => Self::Refused(error),
        }
    }

    /// Tells whether it speaks against the server, and not against this one command.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::NotConnected
            | Self::Timeout
            | Self::Lost
            | Self::CannotServe(_)
            | Self::Connection(_)
            | Self::Elsewhere { .. } => true,
            Self::Overloaded
            | Self::NoScript
            | Self::Foreign
            | Self::Refused(_)
            | Self::WriteRefused(_)
            | Self::Moving => false,
        }
    }

    /// Tells whether nothing was done because the keys lie, or will lie, at another node of the cluster.
    pub fn is_redirect(&self) -> bool {
        matches!(self, Self::Elsewhere { .. } | Self::Moving)
    }

    /// Returns the value of the metric label `kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotConnected | Self::Lost | Self::Connection(_) => "unreachable",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::NoScript | Self::Foreign | Self::Refused(_) => "refused",
            Self::WriteRefused(_) => "write_refused",
            Self::CannotServe(_) => "cannot_serve",
            Self::Elsewhere { .. } | Self::Moving => "redirected",
        }
    }

    /// Says it with its cause in one line.
    pub fn in_full(&self) -> String {
        match self {
            Self::Refused(cause)
            | Self::WriteRefused(cause)
            | Self::CannotServe(cause)
            | Self::Connection(cause) => {
                format!("{self}: {}", plain(cause.details()))
            }
            Self::NotConnected
            | Self::Timeout
            | Self::Lost
            | Self::Overloaded
            | Self::Foreign
            | Self::Elsewhere { .. }
            | Self::Moving
            | Self::NoScript => self.to_string(),
        }
    }
}

/// Reads `MOVED slot host:port` and `ASK slot host:port`. A node that does not know the host leaves it out.
fn redirect(reply: &str) -> Option<RedisError> {
    let mut words = reply.split(' ');
    let asking = match words.next()? {
        "MOVED" => false,
        "ASK" => true,
        _ => return None,
    };
    words.next()?.parse::<u16>().ok()?;
    let to = words.next()?.parse::<Address>().ok().filter(|to| to.host != "?");
    Some(RedisError::Elsewhere { to, asking })
}

/// Picks what is for people out of an I/O error that fred has turned into its debug text.
fn plain(details: &str) -> &str {
    let message = details.split_once("message: \"").and_then(|(_, rest)| rest.split_once('"'));
    message.map_or(details, |(message, _)| message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_told_apart_by_how_they_begin() {
        for (kind, details, label, is_outage) in [
            (ErrorKind::Unknown, "READONLY You can't write", "write_refused", false),
            (ErrorKind::Unknown, "NOREPLICAS Not enough good replicas", "write_refused", false),
            (ErrorKind::Unknown, "LOADING Redis is loading the dataset", "cannot_serve", true),
            (ErrorKind::Cluster, "CLUSTERDOWN Hash slot not served", "cannot_serve", true),
            (ErrorKind::Cluster, "MOVED 3999 127.0.0.1:6381", "redirected", true),
            (
                ErrorKind::Unknown,
                "TRYAGAIN Multiple keys request during rehashing of slot",
                "redirected",
                false,
            ),
            (ErrorKind::Unknown, "OOM command not allowed", "refused", false),
            (ErrorKind::InvalidArgument, "WRONGTYPE Operation against a key", "refused", false),
            (ErrorKind::IO, "Connection Closed", "unreachable", true),
            (ErrorKind::Timeout, "Request timed out.", "timeout", true),
            (ErrorKind::Backpressure, "Max command queue length exceeded.", "overloaded", false),
        ] {
            let error = RedisError::from_fred(Error::new(kind, details));
            assert_eq!((error.kind(), error.is_outage()), (label, is_outage), "{details}");
        }
    }

    #[test]
    fn redirects_name_a_node_if_it_is_known() {
        for (reply, expected) in [
            ("MOVED 3999 127.0.0.1:6381", Some((Some("127.0.0.1:6381"), false))),
            ("ASK 3999 ::1:6381", Some((Some("[::1]:6381"), true))),
            ("MOVED 3999 :6381", Some((None, false))),
            ("MOVED 3999 ?:6381", Some((None, false))),
            ("MOVED here", None),
            ("ERR MOVED 1 a:1", None),
        ] {
            let seen = redirect(reply).map(|error| match error {
                RedisError::Elsewhere { to, asking } => (to.map(|to| to.to_string()), asking),
                other => panic!("{other}"),
            });
            let expected = expected.map(|(to, asking)| (to.map(str::to_owned), asking));
            assert_eq!(seen, expected, "{reply}");
        }
    }

    #[test]
    fn an_io_error_is_told_in_words() {
        let details = "Os { code: 111, kind: ConnectionRefused, message: \"Connection refused\" }";
        let error = RedisError::from_fred(Error::new(ErrorKind::IO, details));
        assert_eq!(error.in_full(), "the connection to redis failed: Connection refused");
    }
}
