use fred::error::{Error, ErrorKind};

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
    #[error("the connection to redis failed")]
    Connection(#[source] Error),
}

/// How replies begin that say that this server cannot serve now.
const CANNOT_SERVE: [&str; 6] = ["LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH", "WRONGPASS", "TRYAGAIN"];
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
            Self::NotConnected | Self::Timeout | Self::Lost | Self::CannotServe(_) | Self::Connection(_) => {
                true
            }
            Self::Overloaded | Self::NoScript | Self::Foreign | Self::Refused(_) | Self::WriteRefused(_) => {
                false
            }
        }
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
            | Self::NoScript => self.to_string(),
        }
    }
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
    fn an_io_error_is_told_in_words() {
        let details = "Os { code: 111, kind: ConnectionRefused, message: \"Connection refused\" }";
        let error = RedisError::from_fred(Error::new(ErrorKind::IO, details));
        assert_eq!(error.in_full(), "the connection to redis failed: Connection refused");
    }
}
