//! What crosses a border when a request fails.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::code::ErrorCode;

mod wire;

pub(crate) use wire::{NoAnswer, answered_by_peer, broke_on_the_way};

#[cfg(test)]
mod tests;

/// Reason of a failure that says: no answer came from the service that was asked.
pub const UPSTREAM_UNAVAILABLE: &str = "UPSTREAM_UNAVAILABLE";
/// Reason of a failure that says: the answer did not come in time.
pub const DEADLINE_EXCEEDED: &str = "DEADLINE_EXCEEDED";

/// Describes a failed request: a part for the caller, and a cause that never leaves the process.
///
/// A service maps each of its errors to one of these, in one place. It becomes a [`tonic::Status`] on the way out
/// and is read back from one on the way in, so that a failure keeps its code, reason, fields and details across any
/// number of hops.
#[derive(Debug)]
pub struct Failure {
    code: ErrorCode,
    reason: Cow<'static, str>,
    message: String,
    cause: Option<Box<dyn Error + Send + Sync>>,
    retry_after: Option<Duration>,
    fields: Vec<FieldViolation>,
    details: BTreeMap<String, String>,
}

/// Says what is wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path of the field, e.g. `ttl` or `params[2].value`.
    pub field: String,
    /// What is wrong with it, for the caller.
    pub message: String,
}

impl Failure {
    /// Starts a failure; `reason` is stable and `SCREAMING_SNAKE`, `message` is for the caller's eyes.
    pub fn new(code: ErrorCode, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
            message: message.into(),
            cause: None,
            retry_after: None,
            fields: Vec::new(),
            details: BTreeMap::new(),
        }
    }

    /// Says that one field of the request is wrong; the reason is `INVALID_FIELD`.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        let (field, message) = (field.into(), message.into());
        Self::new(ErrorCode::InvalidArgument, "INVALID_FIELD", format!("{field}: {message}"))
            .field(field, message)
    }

    /// Says that something went wrong that the caller can do nothing about; `cause` is logged, not sent.
    pub fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(ErrorCode::Internal, "INTERNAL", "internal error").caused_by(cause)
    }

    /// Adds a wrong field.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>, message: impl Into<String>) -> Self {
        self.fields.push(FieldViolation { field: field.into(), message: message.into() });
        self
    }

    /// Replaces the reason.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.reason = reason.into();
        self
    }

    /// Replaces the message for the caller.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// Tells the caller when asking again makes sense.
    #[must_use]
    pub fn retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }

    /// Adds a fact that is sent to the caller, e.g. `sqlState`.
    #[must_use]
    pub fn detail(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.details.insert(key.into(), value.into());
        self
    }

    /// Keeps the error behind the failure; it is logged and never sent.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Returns the code.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// Returns the stable reason, e.g. `KEY_TOO_LONG`.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Returns the text for the caller.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns when asking again makes sense, if that is known.
    pub fn retry_delay(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns the wrong fields.
    pub fn fields(&self) -> &[FieldViolation] {
        &self.fields
    }

    /// Returns the facts that are sent to the caller.
    pub fn details(&self) -> &BTreeMap<String, String> {
        &self.details
    }

    /// Returns the error behind the failure.
    pub fn cause(&self) -> Option<&(dyn Error + Send + Sync)> {
        self.cause.as_deref()
    }

    /// Logs the failure with its chain of causes, at the level of its code.
    ///
    /// Call it where the failure is handled, once. Failures with code `Internal` are logged by their conversion into
    /// a [`tonic::Status`] and need no call.
    pub fn log(&self) {
        let (code, reason, message) = (self.code.as_str(), &*self.reason, self.message.as_str());
        let cause = self.cause_chain();
        let cause = cause.as_deref();
        match self.code.level() {
            tracing::Level::ERROR => tracing::error!(code, reason, cause, "{message}"),
            tracing::Level::WARN => tracing::warn!(code, reason, cause, "{message}"),
            tracing::Level::INFO => tracing::info!(code, reason, cause, "{message}"),
            tracing::Level::DEBUG => tracing::debug!(code, reason, cause, "{message}"),
            tracing::Level::TRACE => tracing::trace!(code, reason, cause, "{message}"),
        }
    }

    /// Joins the texts of the causes, outermost first: `"connection failed: timed out"`.
    pub fn cause_chain(&self) -> Option<String> {
        let mut next: Option<&dyn Error> = Some(&**self.cause.as_ref()?);
        let mut text = String::new();
        while let Some(error) = next {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&error.to_string());
            next = error.source();
        }
        Some(text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}
