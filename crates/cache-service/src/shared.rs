//! What rate limits, sessions, locks and counters have in common: state that all nodes share through Redis, or that this
//! process keeps alone when Redis is not configured.

use std::time::Duration;

use mainstay_proto::cache::v1 as pb;
use mainstay_rpc::{ErrorCode, Failure};

use crate::layer::redis::LayerError;
use crate::redis::RedisError;

mod expiring;

pub(crate) use expiring::{Expiring, Full};

/// Where the state behind an answer is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Redis,
    Local,
}

impl Source {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Local => "local",
        }
    }

    pub(crate) fn to_pb(self) -> i32 {
        match self {
            Self::Redis => pb::Source::Redis.into(),
            Self::Local => pb::Source::Local.into(),
        }
    }
}

/// Says why shared state could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SharedError {
    #[error("too many redis commands in flight")]
    Overloaded,
    #[error("redis did not take the command: nothing was changed")]
    Unavailable(#[source] LayerError),
    #[error("redis did not answer: the change may have been made or not")]
    OutcomeUnknown(#[source] LayerError),
    #[error("this process keeps as many of them as it may, and no redis is configured")]
    Full,
}

const RETRY_AFTER: Duration = Duration::from_millis(500);
const OVERLOAD_LASTS: Duration = Duration::from_millis(50);

impl SharedError {
    /// Of a command that changes nothing.
    pub(crate) fn of_read(error: LayerError) -> Self {
        if error.is_overload() { Self::Overloaded } else { Self::Unavailable(error) }
    }

    /// Of a command that changes something.
    pub(crate) fn of_write(error: LayerError) -> Self {
        match &error {
            LayerError::Redis(RedisError::Timeout | RedisError::Lost | RedisError::Connection(_)) => {
                Self::OutcomeUnknown(error)
            }
            _ => Self::of_read(error),
        }
    }
}

impl From<Full> for SharedError {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

impl From<SharedError> for Failure {
    fn from(error: SharedError) -> Self {
        let message = error.to_string();
        let unavailable = |reason: &'static str, layer: LayerError| {
            let retry_after = match layer {
                LayerError::BreakerOpen { retry_after } => retry_after,
                _ => RETRY_AFTER,
            };
            Self::new(ErrorCode::Unavailable, reason, message.as_str())
                .retry_after(retry_after)
                .caused_by(layer)
        };
        match error {
            SharedError::Overloaded => {
                Self::new(ErrorCode::ResourceExhausted, "OVERLOADED", message).retry_after(OVERLOAD_LASTS)
            }
            SharedError::Unavailable(layer) => unavailable("REDIS_UNAVAILABLE", layer),
            SharedError::OutcomeUnknown(layer) => unavailable("OUTCOME_UNKNOWN", layer),
            SharedError::Full => Self::new(ErrorCode::ResourceExhausted, "LOCAL_STORE_FULL", message),
        }
    }
}

/// A name that a caller gives: so many bytes of UTF-8 at most, not empty, without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Name(Box<str>);

impl Name {
    pub(crate) fn try_new(field: &'static str, text: &str, max_bytes: usize) -> Result<Self, BadField> {
        let legal = !text.is_empty() && text.len() <= max_bytes && !text.contains(char::is_control);
        if !legal {
            let message = format!("must have 1 to {max_bytes} bytes without control characters");
            return Err(BadField { field, message });
        }
        Ok(Self(text.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn into_boxed_str(self) -> Box<str> {
        self.0
    }
}

/// Says that a field of a request is out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub(crate) struct BadField {
    pub(crate) field: &'static str,
    pub(crate) message: String,
}

impl BadField {
    pub(crate) fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self { field, message: message.into() }
    }
}

impl From<BadField> for Failure {
    fn from(bad: BadField) -> Self {
        Self::invalid(bad.field, bad.message)
    }
}

/// Reads a duration of a request, rounded up to whole milliseconds; none when it is absent.
pub(crate) fn duration(
    field: &'static str,
    given: Option<prost_types::Duration>,
    least: Duration,
    most: Duration,
) -> Result<Option<Duration>, BadField> {
    let Some(given) = given else { return Ok(None) };
    let given = exact(given).filter(|given| (least..=most).contains(given));
    let given =
        given.ok_or_else(|| BadField::new(field, format!("must be {} to {}", show(least), show(most))))?;
    let millis = given.as_nanos().div_ceil(1_000_000);
    Ok(Some(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))))
}

/// Reads a duration of a request; none for one below zero, and for one whose parts do not belong together: a second less a
/// nanosecond has to be told as so many nanoseconds.
pub(crate) fn exact(given: prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(given.seconds).ok()?;
    let nanos = u32::try_from(given.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

fn show(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}

/// Returns whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
