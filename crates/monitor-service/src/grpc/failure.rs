//! What goes wrong, for callers: one code and one reason each.

use mainstay_rpc::{ErrorCode, Failure};

use crate::alert::{AcknowledgeError, InvalidAcknowledgement};
use crate::series::InvalidRange;

pub(super) fn not_acknowledged(error: AcknowledgeError) -> Failure {
    let (code, reason) = match error {
        AcknowledgeError::NotFound => (ErrorCode::NotFound, "ALERT_NOT_FOUND"),
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
