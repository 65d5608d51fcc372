use std::io;

use proptest::prelude::*;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::*;

#[test]
fn every_code_survives_the_wire_with_all_it_carries() {
    for code in ErrorCode::ALL {
        let sent = Failure::new(code, "SOME_REASON", "it did not work")
            .field("ttl", "must be above zero")
            .field("key", "is too long")
            .detail("sqlState", "23505")
            .retry_after(Duration::from_millis(1_500));
        let status = Status::from(sent);
        assert_eq!(status.code(), code.grpc());

        let read = Failure::from(status);
        assert_eq!(read.code(), code);
        assert_eq!(read.reason(), "SOME_REASON");
        assert_eq!(read.message(), "it did not work");
        assert_eq!(read.retry_delay(), Some(Duration::from_millis(1_500)));
        assert_eq!(read.fields().iter().map(|f| f.field.as_str()).collect::<Vec<_>>(), ["ttl", "key"]);
        assert_eq!(read.details().get("sqlState").map(String::as_str), Some("23505"));
        assert!(read.cause().is_none());
    }
}

#[test]
fn the_cause_stays_inside() {
    let cause = io::Error::other("password authentication failed for user mainstay");
    let status = Status::from(Failure::internal(cause));
    let text = format!("{status:?}");
    assert!(!text.contains("password"), "{text}");
    assert_eq!(status.message(), "internal error");
    assert!(!status.get_error_details().has_bad_request_violations());
}

#[test]
fn a_status_without_details_is_named_after_its_code() {
    let cases = [
        (Status::not_found("no such thing"), ErrorCode::NotFound, "NOT_FOUND"),
        (Status::deadline_exceeded("late"), ErrorCode::DeadlineExceeded, DEADLINE_EXCEEDED),
        (Status::cancelled("gone"), ErrorCode::DeadlineExceeded, DEADLINE_EXCEEDED),
        (Status::unimplemented("no such method"), ErrorCode::Internal, "INTERNAL"),
        (Status::already_exists("taken"), ErrorCode::Conflict, "CONFLICT"),
    ];
    for (status, code, reason) in cases {
        let failure = Failure::from(status);
        assert_eq!((failure.code(), failure.reason()), (code, reason));
    }
}

#[test]
fn a_broken_transport_is_unavailable_and_shows_no_address_to_the_caller() {
    let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "10.0.0.7:4010 refused");
    let mut status = Status::unknown("transport error");
    status.set_source(std::sync::Arc::new(refused));
    let failure = Failure::from(status);
    assert_eq!(failure.code(), ErrorCode::Unavailable);
    assert_eq!(failure.reason(), UPSTREAM_UNAVAILABLE);
    assert!(!failure.message().contains("10.0.0.7"), "{failure}");
    assert_eq!(failure.cause_chain().as_deref(), Some("no answer: 10.0.0.7:4010 refused"));
}

#[test]
fn the_chain_of_causes_is_joined_outermost_first() {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot read")]
    struct Outer(#[source] io::Error);
    let failure = Failure::internal(Outer(io::Error::other("disk on fire")));
    assert_eq!(failure.cause_chain().as_deref(), Some("cannot read: disk on fire"));
    assert_eq!(failure.to_string(), "internal error");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_failure_fits_into_response_headers(
        message in ".{0,3000}",
        fields in prop::collection::vec((".{0,600}", ".{0,600}"), 0..40),
        details in prop::collection::btree_map(".{1,600}", ".{0,600}", 0..40),
    ) {
        let mut failure = Failure::new(ErrorCode::InvalidArgument, "REASON", message.clone());
        for (field, text) in fields {
            failure = failure.field(field, text);
        }
        for (key, value) in details {
            failure = failure.detail(key, value);
        }
        let status = Status::from(failure);
        prop_assert_eq!(status.code(), Code::InvalidArgument);
        let headers = status.into_http::<()>();
        let bytes: usize = headers.headers().iter().map(|(k, v)| k.as_str().len() + v.len() + 32).sum();
        prop_assert!(bytes <= 16 * 1024, "{} bytes of headers", bytes);
        let read = Failure::from(Status::from_header_map(headers.headers()).expect("a status was written"));
        prop_assert!(message.starts_with(read.message()));
        prop_assert_eq!(read.reason(), "REASON");
    }
}
