//! How a request fails, and what its caller is told.

use std::time::Duration;

use mainstay_rpc::{ErrorCode, Failure};

use crate::engine::WriteOutcome;
use crate::key::Invalid;
use crate::layer::redis::LayerError;
use crate::origin::OriginError;
use crate::redis::RedisError;

/// Says why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("{namespace:?} is not configured, and open_namespaces is off")]
    UnknownNamespace { namespace: String },
    #[error("has {bytes} bytes, the namespace takes at most {max_bytes}")]
    ValueTooLarge { bytes: u64, max_bytes: u64 },
    #[error("too many redis commands in flight")]
    Overloaded,
    #[error("the lease is over, or the key was changed or invalidated since: nothing was stored")]
    LeaseLost,
    #[error("somebody else got the lock since: nothing was changed")]
    Fenced { newest: u64 },
    #[error(
        "a fence cannot be checked here: the namespace is not kept in redis, or not where the lock is (in a cluster a lock of it \
         begins with its name and a colon), or its origin is told first or later"
    )]
    FenceNotPossible,
    #[error("another change was made under this idempotency key")]
    OnceReused,
    #[error(
        "idempotency keys are not possible here: the namespace writes to its origin first, which may have been told before"
    )]
    OnceNotPossible,
    #[error("too many idempotency keys are remembered here: nothing was changed")]
    OnceFull,
    #[error("redis has the change, and no replica confirmed it in time: a failover may undo it")]
    NotDurable { version: u64 },
    #[error("the value could not be loaded: {message}")]
    NotLoaded { message: String },
    #[error("the origin did not confirm the change: nothing was stored here")]
    OriginRefused(#[source] OriginError),
    #[error("somebody else changes or loads the key: the origin was told nothing, and nothing was stored")]
    KeyBusy,
    #[error(
        "redis cannot be reached to check the condition: the origin was told nothing, and nothing was stored"
    )]
    NotReserved(#[source] LayerError),
    #[error(
        "the origin took the change, and somebody else changed the key meanwhile: a read shows what the origin has"
    )]
    Overtaken,
    #[error(
        "the origin took the change, and the cache did not: until it does, other nodes may have what was before"
    )]
    OriginAhead(#[source] Box<Self>),
    #[error("the policy is not legal: {}", problems.join("; "))]
    PolicyInvalid { problems: Vec<String> },
    #[error("the namespace has another version of its run-time policy")]
    PolicyChanged,
    #[error("redis cannot be reached: the policy may have been stored or not")]
    PolicyNotStored(#[source] LayerError),
    #[error("redis cannot be reached: the history is there")]
    HistoryNotRead(#[source] LayerError),
    #[error("redis cannot be reached: other nodes and redis may still have what was to be invalidated")]
    NotInvalidated(#[source] LayerError),
    #[error("the entry has another version")]
    VersionMismatch { version: u64 },
    #[error("redis did not confirm the write, which is kept nowhere else")]
    NotConfirmed(#[source] LayerError),
    #[error("redis did not confirm the write, and the namespace is not kept in memory")]
    NotStored(#[source] LayerError),
    #[error("too many changes of the namespace wait for its origin: nothing was stored")]
    QueueFull,
    #[error("the strategy write_behind needs redis, in the namespace too: nothing was stored")]
    NoQueue,
    #[error("redis cannot be reached")]
    QueueUnreachable(#[source] LayerError),
    #[error("redis cannot be reached: the entry may still be there, on other nodes too")]
    NotDeleted(#[source] LayerError),
}

const RETRY_AFTER: Duration = Duration::from_millis(500);
const OVERLOAD_LASTS: Duration = Duration::from_millis(50);

impl CacheError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(_) | Self::ValueTooLarge { .. } | Self::PolicyInvalid { .. } => {
                ErrorCode::InvalidArgument
            }
            Self::UnknownNamespace { .. } => ErrorCode::NotFound,
            Self::Overloaded | Self::QueueFull | Self::OnceFull => ErrorCode::ResourceExhausted,
            Self::VersionMismatch { .. }
            | Self::LeaseLost
            | Self::PolicyChanged
            | Self::OnceReused
            | Self::Fenced { .. } => ErrorCode::Conflict,
            Self::FenceNotPossible | Self::OnceNotPossible | Self::NoQueue => ErrorCode::FailedPrecondition,
            Self::NotConfirmed(_)
            | Self::KeyBusy
            | Self::Overtaken
            | Self::OriginAhead(_)
            | Self::NotStored(_)
            | Self::NotDeleted(_)
            | Self::NotDurable { .. }
            | Self::NotInvalidated(_)
            | Self::QueueUnreachable(_)
            | Self::PolicyNotStored(_)
            | Self::HistoryNotRead(_)
            | Self::NotLoaded { .. }
            | Self::OriginRefused(_) => ErrorCode::Unavailable,
            Self::NotReserved(layer) if layer.is_overload() => ErrorCode::ResourceExhausted,
            Self::NotReserved(_) => ErrorCode::Unavailable,
        }
    }
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Self {
        let (code, message) = (error.code(), error.to_string());
        let invalid =
            |field, reason| Self::new(code, reason, format!("{field}: {message}")).field(field, &message);
        match error {
            CacheError::Invalid(wrong) => {
                let (field, reason) = wrong.field_and_reason();
                invalid(field, reason)
            }
            CacheError::ValueTooLarge { .. } => invalid("value", "VALUE_TOO_LARGE"),
            CacheError::UnknownNamespace { .. } => invalid("namespace", "UNKNOWN_NAMESPACE"),
            CacheError::Overloaded => Self::new(code, "OVERLOADED", message).retry_after(OVERLOAD_LASTS),
            CacheError::VersionMismatch { version } => {
                Self::new(code, "VERSION_MISMATCH", message).detail("version", version.to_string())
            }
            CacheError::NotConfirmed(layer)
            | CacheError::NotStored(layer)
            | CacheError::NotDeleted(layer)
            | CacheError::NotInvalidated(layer)
            | CacheError::PolicyNotStored(layer) => {
                let outcome = layer.outcome();
                let reason = match outcome {
                    WriteOutcome::Unknown => "OUTCOME_UNKNOWN",
                    WriteOutcome::Applied | WriteOutcome::NotApplied => "REDIS_UNAVAILABLE",
                };
                unavailable(reason, layer, message).detail("outcome", outcome.as_str())
            }
            CacheError::NotDurable { version } => Self::new(code, "NOT_DURABLE", message)
                .retry_after(RETRY_AFTER)
                .detail("outcome", WriteOutcome::Unknown.as_str())
                .detail("version", version.to_string()),
            CacheError::OnceReused => Self::new(code, "IDEMPOTENCY_KEY_REUSED", message),
            CacheError::OnceNotPossible => Self::new(code, "IDEMPOTENCY_NOT_POSSIBLE", message),
            CacheError::OnceFull => Self::new(code, "LOCAL_STORE_FULL", message),
            CacheError::QueueUnreachable(layer) | CacheError::HistoryNotRead(layer) => {
                unavailable("REDIS_UNAVAILABLE", layer, message)
            }
            CacheError::Fenced { newest } => {
                Self::new(code, "FENCE_OUTDATED", message).detail("token", newest.to_string())
            }
            CacheError::FenceNotPossible => Self::new(code, "FENCE_NOT_POSSIBLE", message),
            CacheError::QueueFull => Self::new(code, "WRITE_BEHIND_FULL", message).retry_after(RETRY_AFTER),
            CacheError::NoQueue => Self::new(code, "WRITE_BEHIND_NEEDS_REDIS", message),
            CacheError::LeaseLost => Self::new(code, "LEASE_LOST", message),
            CacheError::PolicyInvalid { problems } => {
                let failure = Self::new(code, "POLICY_INVALID", message);
                problems.iter().fold(failure, |failure, problem| match problem.split_once(": ") {
                    Some((field, wrong)) => failure.field(field, wrong),
                    None => failure.field("policy", problem),
                })
            }
            CacheError::NotLoaded { .. } => {
                Self::new(code, "ORIGIN_UNAVAILABLE", message).retry_after(RETRY_AFTER)
            }
            CacheError::OriginRefused(origin) => {
                let outcome = origin.outcome();
                Self::new(code, "ORIGIN_UNAVAILABLE", message)
                    .retry_after(RETRY_AFTER)
                    .caused_by(origin)
                    .detail("outcome", outcome.as_str())
            }
            CacheError::PolicyChanged => Self::new(code, "VERSION_MISMATCH", message),
            CacheError::KeyBusy => Self::new(code, "KEY_BUSY", message)
                .retry_after(RETRY_AFTER)
                .detail("outcome", WriteOutcome::NotApplied.as_str()),
            CacheError::NotReserved(layer) if layer.is_overload() => {
                Self::new(code, "OVERLOADED", message).retry_after(OVERLOAD_LASTS)
            }
            CacheError::NotReserved(layer) => unavailable("REDIS_UNAVAILABLE", layer, message)
                .detail("outcome", WriteOutcome::NotApplied.as_str()),
            CacheError::Overtaken => origin_ahead(code, message),
            CacheError::OriginAhead(error) => origin_ahead(code, message).caused_by(*error),
        }
    }
}

fn origin_ahead(code: ErrorCode, message: String) -> Failure {
    Failure::new(code, "ORIGIN_AHEAD", message)
        .retry_after(RETRY_AFTER)
        .detail("outcome", WriteOutcome::Unknown.as_str())
}

fn unavailable(reason: &'static str, layer: LayerError, message: String) -> Failure {
    let retry_after = match layer {
        LayerError::BreakerOpen { retry_after } => retry_after,
        LayerError::NoTime | LayerError::Redis(_) | LayerError::Damaged(_) => RETRY_AFTER,
    };
    Failure::new(ErrorCode::Unavailable, reason, message).retry_after(retry_after).caused_by(layer)
}

impl LayerError {
    /// Says whether a write that failed so may have been done all the same.
    pub(crate) fn outcome(&self) -> WriteOutcome {
        match self {
            Self::Redis(RedisError::Timeout | RedisError::Lost | RedisError::Connection(_)) => {
                WriteOutcome::Unknown
            }
            Self::Redis(_) | Self::NoTime | Self::BreakerOpen { .. } | Self::Damaged(_) => {
                WriteOutcome::NotApplied
            }
        }
    }

    /// Tells whether we ourselves refused to ask.
    pub(crate) fn is_overload(&self) -> bool {
        matches!(self, Self::Redis(RedisError::Overloaded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_names_its_field_and_says_what_is_legal() {
        for (error, code, reason, message) in [
            (
                CacheError::Invalid(Invalid::KeyTooLong { bytes: 2_000 }),
                ErrorCode::InvalidArgument,
                "KEY_TOO_LONG",
                "key: must have 1 to 1024 bytes, has 2000",
            ),
            (
                CacheError::ValueTooLarge { bytes: 11, max_bytes: 10 },
                ErrorCode::InvalidArgument,
                "VALUE_TOO_LARGE",
                "value: has 11 bytes, the namespace takes at most 10",
            ),
            (
                CacheError::UnknownNamespace { namespace: "x".to_owned() },
                ErrorCode::NotFound,
                "UNKNOWN_NAMESPACE",
                "namespace: \"x\" is not configured, and open_namespaces is off",
            ),
        ] {
            let failure = Failure::from(error);
            assert_eq!((failure.code(), failure.reason(), failure.message()), (code, reason, message));
            assert_eq!(failure.fields().len(), 1);
        }
    }

    #[test]
    fn an_open_breaker_says_when_to_come_back() {
        let open = LayerError::BreakerOpen { retry_after: Duration::from_millis(120) };
        let failure = Failure::from(CacheError::NotDeleted(open));
        assert_eq!((failure.code(), failure.reason()), (ErrorCode::Unavailable, "REDIS_UNAVAILABLE"));
        assert_eq!(failure.retry_delay(), Some(Duration::from_millis(120)));
    }

    #[test]
    fn a_change_that_was_not_confirmed_says_whether_it_may_have_been_made() {
        let open = || LayerError::BreakerOpen { retry_after: Duration::from_millis(1) };
        let lost = || LayerError::Redis(RedisError::Lost);
        for (error, outcome) in [
            (CacheError::NotStored(open()), "not_applied"),
            (CacheError::NotStored(lost()), "unknown"),
            (CacheError::NotDeleted(open()), "not_applied"),
            (CacheError::NotDeleted(LayerError::Redis(RedisError::Timeout)), "unknown"),
            (CacheError::NotDeleted(LayerError::Redis(RedisError::NotConnected)), "not_applied"),
            (CacheError::NotDeleted(LayerError::NoTime), "not_applied"),
            (CacheError::NotInvalidated(lost()), "unknown"),
            (CacheError::NotDurable { version: 1 }, "unknown"),
            (CacheError::NotReserved(lost()), "not_applied"),
            (CacheError::KeyBusy, "not_applied"),
            (CacheError::Overtaken, "unknown"),
            (CacheError::OriginAhead(Box::new(CacheError::NotStored(open()))), "unknown"),
        ] {
            let failure = Failure::from(error);
            assert_eq!(failure.details().get("outcome").map(String::as_str), Some(outcome), "{failure:?}");
            let is_surely_not_made = matches!(failure.reason(), "REDIS_UNAVAILABLE" | "KEY_BUSY");
            assert_eq!(is_surely_not_made, outcome == "not_applied", "{failure:?}");
        }
    }
}
