//! What goes wrong, for callers: one code and one reason each.

use mainstay_rpc::{ErrorCode, Failure};

use crate::alert::{AcknowledgeError, InvalidAcknowledgement};
use crate::monitor::{DeleteError, PutError};
use crate::notify::DeliveryError;
use crate::series::InvalidRange;
use crate::store::StoreError;

pub(super) fn not_acknowledged(error: PutError<AcknowledgeError>) -> Failure {
    let error = match error {
        PutError::Refused(error) => error,
        PutError::NotStored(error) => return not_stored(error),
    };
    let (code, reason) = match error {
        AcknowledgeError::NotFound => (ErrorCode::NotFound, "ALERT_NOT_FOUND"),
        AcknowledgeError::Changed(_) => (ErrorCode::Conflict, "VERSION_MISMATCH"),
        AcknowledgeError::AlreadyResolved => (ErrorCode::Conflict, "ALERT_ALREADY_RESOLVED"),
    };
    Failure::new(code, reason, error.to_string())
}

pub(super) fn invalid_range(error: &InvalidRange) -> Failure {
    Failure::invalid(error.field(), error.to_string())
}

pub(super) fn invalid_acknowledgement(error: &InvalidAcknowledgement) -> Failure {
    Failure::invalid(error.field(), error.to_string())
}

/// Something to set or remove, under a name: `what` is e.g. "RULE".
pub(super) fn not_put(error: PutError<DeleteError>, what: &str) -> Failure {
    match error {
        PutError::Refused(error @ DeleteError::NotFound) => {
            Failure::new(ErrorCode::NotFound, format!("{what}_NOT_FOUND"), error.to_string())
        }
        PutError::Refused(error @ DeleteError::TooMany) => {
            Failure::new(ErrorCode::ResourceExhausted, format!("TOO_MANY_{what}S"), error.to_string())
        }
        PutError::NotStored(error) => not_stored(error),
    }
}

/// The caller is told that it holds but would not survive a restart: asking again does no harm.
fn not_stored(error: StoreError) -> Failure {
    Failure::new(ErrorCode::Unavailable, "NOT_STORED", "it holds, but is not stored yet").caused_by(error)
}

pub(super) fn not_read(error: StoreError) -> Failure {
    Failure::new(ErrorCode::Unavailable, "STORE_UNAVAILABLE", "the store does not answer").caused_by(error)
}

pub(super) fn no_channel() -> Failure {
    Failure::new(ErrorCode::NotFound, "CHANNEL_NOT_FOUND", "there is no channel of that name")
}

pub(super) fn not_delivered(error: &DeliveryError) -> Failure {
    Failure::new(ErrorCode::Unavailable, "DELIVERY_FAILED", error.reason())
}
