//! What a failed attempt means: for the caller, for the endpoint, and for a retry. Pure.

use std::error::Error;

use hyper_util::client::legacy;
use tonic::{Code, Status};

use crate::code::ErrorCode;
use crate::failure::{
    DEADLINE_EXCEEDED, Failure, NoAnswer, UPSTREAM_UNAVAILABLE, answered_by_peer, broke_on_the_way,
};
use crate::server::TOKEN_REFUSED;

/// Judges one failed attempt.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) failure: Failure,
    /// Speaks against the endpoint: it gave no answer of its own. The caller's mistakes never do, and neither does a
    /// service that says in its own words that something behind it is down: it is alive.
    pub(super) against_endpoint: bool,
    pub(super) again: Again,
}

/// Says when the same request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// The answer would be the same, or time is up.
    Never,
    /// It may have been carried out.
    IfIdempotent,
    /// It provably was not carried out.
    Always,
}

impl Verdict {
    pub(super) fn of(upstream: &str, status: Status) -> Self {
        if broke_on_the_way(&status) {
            return Self::broken(upstream, status);
        }
        let reason = answered_by_peer(&status);
        let code = ErrorCode::from_grpc(status.code());
        match (code, reason.as_deref()) {
            (ErrorCode::Unauthenticated, Some(TOKEN_REFUSED)) => Self {
                failure: Failure::new(
                    ErrorCode::Unavailable,
                    "UPSTREAM_REFUSED_TOKEN",
                    format!("{upstream} refuses the service token of this process"),
                ),
                against_endpoint: false,
                again: Again::Never,
            },
            (ErrorCode::Unavailable, None) => Self::broken(upstream, status),
            (ErrorCode::Unavailable, Some(_)) => {
                Self { failure: status.into(), against_endpoint: false, again: Again::IfIdempotent }
            }
            (ErrorCode::DeadlineExceeded, None | Some(DEADLINE_EXCEEDED)) => Self {
                against_endpoint: status.code() == Code::DeadlineExceeded,
                failure: status.into(),
                again: Again::Never,
            },
            _ => Self { failure: status.into(), against_endpoint: false, again: Again::Never },
        }
    }

    fn broken(upstream: &str, status: Status) -> Self {
        let unsent = never_sent(&status);
        let what = if unsent { "cannot be reached" } else { "did not answer" };
        let again = if unsent { Again::Always } else { Again::IfIdempotent };
        let failure =
            Failure::new(ErrorCode::Unavailable, UPSTREAM_UNAVAILABLE, format!("{upstream} {what}"));
        Self { failure: failure.caused_by(NoAnswer(status)), against_endpoint: true, again }
    }
}

/// Tells whether the request provably never reached the peer's code.
///
/// Three proofs count: no connection was made; the request was still in our queue when the connection closed; the
/// peer said by GOAWAY or REFUSED_STREAM that it did not look at it (RFC 9113, 6.8 and 8.7).
fn never_sent(status: &Status) -> bool {
    let mut next = status.source();
    while let Some(error) = next {
        if error.downcast_ref::<legacy::Error>().is_some_and(legacy::Error::is_connect)
            || error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
            || error.downcast_ref::<h2::Error>().is_some_and(refused_by_peer)
        {
            return true;
        }
        next = error.source();
    }
    false
}

fn refused_by_peer(error: &h2::Error) -> bool {
    error.is_remote()
        && ((error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR))
            || (error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)))
}
