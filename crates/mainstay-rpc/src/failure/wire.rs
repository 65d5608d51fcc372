//! Failures as gRPC statuses with `google.rpc` details, and back.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{DEADLINE_EXCEEDED, Failure, FieldViolation, UPSTREAM_UNAVAILABLE};
use crate::code::ErrorCode;

/// `ErrorInfo.domain` of every failure of this system.
const DOMAIN: &str = "mainstay";
/// Statuses travel in HTTP/2 headers, which peers refuse above 16 KiB; base64 adds a third.
const MAX_TEXT_BYTES: usize = 640;
const MAX_FIELDS: usize = 10;
const MAX_DETAILS: usize = 16;
const MAX_NAME_BYTES: usize = 64;
const MAX_VALUE_BYTES: usize = 256;

impl From<Failure> for Status {
    /// Sends everything but the cause; texts and lists that are too long for a header are cut.
    fn from(failure: Failure) -> Self {
        if failure.code == ErrorCode::Internal {
            failure.log();
        }
        let metadata: HashMap<String, String> = failure
            .details
            .into_iter()
            .take(MAX_DETAILS)
            .map(|(key, value)| (clip(key, MAX_NAME_BYTES), clip(value, MAX_VALUE_BYTES)))
            .collect();
        let mut details = ErrorDetails::with_error_info(failure.reason, DOMAIN, metadata);
        if failure.retry_after.is_some() {
            details.set_retry_info(failure.retry_after);
        }
        for violation in failure.fields.into_iter().take(MAX_FIELDS) {
            details.add_bad_request_violation(
                clip(violation.field, MAX_NAME_BYTES),
                clip(violation.message, MAX_VALUE_BYTES),
            );
        }
        Self::with_error_details(failure.code.grpc(), clip(failure.message, MAX_TEXT_BYTES), details)
    }
}

impl From<Status> for Failure {
    /// Reads a failure back; a status without details gets the name of its code as the reason.
    fn from(status: Status) -> Self {
        if broke_on_the_way(&status) {
            return Self::new(ErrorCode::Unavailable, UPSTREAM_UNAVAILABLE, "upstream did not answer")
                .caused_by(NoAnswer(status));
        }
        let code = ErrorCode::from_grpc(status.code());
        let details = status.get_error_details();
        let (reason, metadata) = match details.error_info() {
            Some(info) => (info.reason.clone().into(), info.metadata.clone()),
            None if code == ErrorCode::DeadlineExceeded => (DEADLINE_EXCEEDED.into(), HashMap::new()),
            None => (code.as_str().into(), HashMap::new()),
        };
        Self {
            code,
            reason,
            message: status.message().to_owned(),
            cause: None,
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            fields: details.bad_request().map_or_else(Vec::new, |bad| {
                bad.field_violations
                    .iter()
                    .map(|v| FieldViolation { field: v.field.clone(), message: v.description.clone() })
                    .collect()
            }),
            details: metadata.into_iter().collect(),
        }
    }
}

/// Tells whether a status was made on this side of the wire because the transport failed.
///
/// What a peer says has no source; what tonic makes of a broken connection has.
pub(crate) fn broke_on_the_way(status: &Status) -> bool {
    status.source().is_some()
}

/// Tells whether the peer's own code gave this answer, as opposed to something between it and us.
pub(crate) fn answered_by_peer(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN).then_some(info.reason)
}

/// Is the cause of a failure that the transport made up: why no answer came.
#[derive(Debug)]
pub(crate) struct NoAnswer(pub(crate) Status);

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // With a source, the message only repeats it.
        f.write_str(if self.0.source().is_some() { "no answer" } else { self.0.message() })
    }
}

impl Error for NoAnswer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

fn clip(mut text: String, max_bytes: usize) -> String {
    if text.len() > max_bytes {
        text.truncate(text.floor_char_boundary(max_bytes));
    }
    text
}
