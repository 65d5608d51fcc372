//! What callers must know of a status beyond the ten codes.

use tonic::{Code, Status};

/// Tells whether the other side has no such method: an older version, or one that leaves it out.
pub fn is_unimplemented(status: &Status) -> bool {
    status.code() == Code::Unimplemented
}

/// Tells whether the answer was larger than this client takes.
pub fn is_answer_too_large(status: &Status) -> bool {
    status.code() == Code::OutOfRange
}
