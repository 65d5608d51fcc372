//! The one table from SQLSTATE to code and reason.

use mainstay_rpc::ErrorCode::{self, *};
use tokio_postgres::error::SqlState;

/// Returns the code and the stable reason for an error of the database: a whole state first, else its class.
pub(super) fn class(state: &SqlState) -> (ErrorCode, &'static str) {
    let code = state.code();
    exact(code).unwrap_or_else(|| by_class(code.get(..2).unwrap_or("")))
}

/// Tells whether the same statement, sent again, may succeed.
pub(super) fn retryable(state: &SqlState) -> bool {
    let (code, _) = class(state);
    // A statement that the database stopped was rolled back, like one that we stopped; of 40003 nobody knows.
    (code.retryable() && !leaves_outcome_open(state))
        || matches!(state.code(), "40001" | "40P01" | "55P03" | "57014")
}

/// Tells whether the database itself does not know what became of a transaction.
pub(super) fn leaves_outcome_open(state: &SqlState) -> bool {
    state.code() == "40003"
}

fn exact(state: &str) -> Option<(ErrorCode, &'static str)> {
    Some(match state {
        "08P01" => (InvalidArgument, "PARAMETER_MISMATCH"),
        "23502" => (FailedPrecondition, "NOT_NULL_VIOLATION"),
        "23503" => (FailedPrecondition, "FOREIGN_KEY_VIOLATION"),
        "23505" => (Conflict, "UNIQUE_VIOLATION"),
        "23514" => (FailedPrecondition, "CHECK_VIOLATION"),
        "23P01" => (Conflict, "EXCLUSION_VIOLATION"),
        "25006" => (FailedPrecondition, "READ_ONLY"),
        "25P03" => (DeadlineExceeded, "IDLE_IN_TRANSACTION_TIMEOUT"),
        "26000" | "42P05" => (Unavailable, "PREPARED_STATEMENT_LOST"),
        "3D000" | "3F000" => (NotFound, "NOT_FOUND"),
        "40001" => (Conflict, "SERIALIZATION_FAILURE"),
        "40P01" => (Conflict, "DEADLOCK"),
        "40003" => (Unavailable, "OUTCOME_UNKNOWN"),
        "42501" => (PermissionDenied, "INSUFFICIENT_PRIVILEGE"),
        "42601" => (InvalidArgument, "SYNTAX_ERROR"),
        "42703" => (InvalidArgument, "UNDEFINED_COLUMN"),
        "42883" => (InvalidArgument, "UNDEFINED_FUNCTION"),
        "42P01" => (NotFound, "UNDEFINED_TABLE"),
        "42P02" => (InvalidArgument, "UNDEFINED_PARAMETER"),
        "42P18" => (InvalidArgument, "INDETERMINATE_TYPE"),
        "55P03" => (Conflict, "LOCK_NOT_AVAILABLE"),
        "57014" => (DeadlineExceeded, "STATEMENT_TIMEOUT"),
        "P0001" => (FailedPrecondition, "RAISED"),
        _ => return None,
    })
}

fn by_class(class: &str) -> (ErrorCode, &'static str) {
    match class {
        "08" | "57" => (Unavailable, "CONNECTION_LOST"),
        "0A" => (InvalidArgument, "NOT_SUPPORTED"),
        "21" | "22" | "42" => (InvalidArgument, "INVALID_STATEMENT"),
        "23" | "44" => (FailedPrecondition, "CONSTRAINT_VIOLATION"),
        "24" | "25" | "2B" | "2D" | "3B" | "55" => (FailedPrecondition, "WRONG_STATE"),
        "28" => (Internal, "LOGIN_REFUSED"),
        "34" | "26" => (InvalidArgument, "INVALID_NAME"),
        "40" => (Conflict, "ROLLED_BACK"),
        "53" => (ResourceExhausted, "DATABASE_FULL"),
        "54" => (InvalidArgument, "PROGRAM_LIMIT"),
        "P0" => (FailedPrecondition, "RAISED"),
        _ => (Internal, "DATABASE_ERROR"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_map_to_the_codes_that_say_what_the_caller_can_do() {
        for (state, code, retryable_state) in [
            ("08006", Unavailable, true),
            ("08P01", InvalidArgument, false),
            ("0A000", InvalidArgument, false),
            ("22P02", InvalidArgument, false),
            ("23505", Conflict, false),
            ("23503", FailedPrecondition, false),
            ("25006", FailedPrecondition, false),
            ("28P01", Internal, false),
            ("40001", Conflict, true),
            ("40P01", Conflict, true),
            ("42501", PermissionDenied, false),
            ("42601", InvalidArgument, false),
            ("42P01", NotFound, false),
            ("42804", InvalidArgument, false),
            ("53300", ResourceExhausted, true),
            ("54000", InvalidArgument, false),
            ("55P03", Conflict, true),
            ("40003", Unavailable, false),
            ("57014", DeadlineExceeded, true),
            ("57P01", Unavailable, true),
            ("P0001", FailedPrecondition, false),
            ("P0002", FailedPrecondition, false),
            ("XX000", Internal, false),
            ("ABCDE", Internal, false),
        ] {
            let state = SqlState::from_code(state);
            assert_eq!((class(&state).0, retryable(&state)), (code, retryable_state), "{}", state.code());
        }
    }
}
