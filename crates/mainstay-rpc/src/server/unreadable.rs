//! Requests that cannot be read: tonic calls that a fault of the server.

use http::HeaderMap;
use tonic::{Code, Status};

use crate::code::ErrorCode;
use crate::failure::Failure;

/// How the decoder of messages begins what it says (`prost::DecodeError`).
const BEGINS: &str = "failed to decode Protobuf message: ";

/// Returns what to tell a caller whose message could not be read, if that is what `status` says: that it is his mistake,
/// and which field it is in.
pub fn unreadable(status: &Status) -> Option<Failure> {
    // What a service says itself comes with details.
    let is_of_decoder = status.code() == Code::Internal && status.details().is_empty();
    let why = status.message().strip_prefix(BEGINS).filter(|_| is_of_decoder)?;
    Some(match field_and_fault(why) {
        (field, fault) if !field.is_empty() => Failure::invalid(field, fault),
        _ => Failure::new(
            ErrorCode::InvalidArgument,
            "UNREADABLE_MESSAGE",
            format!("the message is none of this method: {why}"),
        ),
    })
}

/// The same of an answer that has nothing but a status.
pub(super) fn of_answer(headers: &HeaderMap) -> Option<Failure> {
    headers.get(Status::GRPC_STATUS)?;
    unreadable(&Status::from_header_map(headers)?)
}

/// Takes `Value.kind: Query.params: fault` apart, which names the innermost message first: `params.kind` and the fault.
fn field_and_fault(why: &str) -> (String, &str) {
    let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let (mut fields, mut fault) = (Vec::new(), why);
    while let Some((place, rest)) = fault.split_once(": ")
        && let Some((message, field)) = place.split_once('.')
        && is_name(message)
        && is_name(field)
    {
        fields.push(field);
        fault = rest;
    }
    fields.reverse();
    (fields.join("."), fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(why: &str) -> Status {
        Status::internal(format!("{BEGINS}{why}"))
    }

    #[test]
    fn a_fault_in_a_field_names_the_field() {
        let failure =
            unreadable(&status("QueryRequest.sql: invalid string value: data is not UTF-8 encoded")).unwrap();
        assert_eq!((failure.code(), failure.reason()), (ErrorCode::InvalidArgument, "INVALID_FIELD"));
        let field = &failure.fields()[0];
        assert_eq!(
            (&*field.field, &*field.message),
            ("sql", "invalid string value: data is not UTF-8 encoded")
        );
        let nested = "Query.sql: Batched.read: Batch.queries: invalid string value: no";
        assert_eq!(field_and_fault(nested), ("queries.read.sql".to_owned(), "invalid string value: no"));
    }

    #[test]
    fn a_fault_of_the_whole_message_says_so() {
        for why in ["buffer underflow", "invalid wire type: Varint (expected LengthDelimited)"] {
            let failure = unreadable(&status(why)).unwrap();
            assert_eq!(
                (failure.code(), failure.reason()),
                (ErrorCode::InvalidArgument, "UNREADABLE_MESSAGE")
            );
            assert!(failure.message().ends_with(why));
        }
    }

    #[test]
    fn other_faults_stay_what_they_are() {
        assert!(unreadable(&Status::internal("failed to decode the entry")).is_none());
        assert!(unreadable(&Status::invalid_argument(format!("{BEGINS}buffer underflow"))).is_none());
        let own: Status = Failure::internal(format!("{BEGINS}of another service")).into();
        assert!(unreadable(&own).is_none());
    }
}
