use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;
use tonic::Request;

use crate::code::ErrorCode;
use crate::failure::{DEADLINE_EXCEEDED, Failure};
use crate::timeout;

/// No request lives longer, whatever its caller asks for.
const LONGEST: Duration = Duration::from_hours(1);

/// Tells a handler when its answer stops being of use.
///
/// It is the caller's `grpc-timeout` or the server's default, and bounds the time until the answer begins; a stream
/// that has begun may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    at: Instant,
    within: Duration,
}

impl Deadline {
    /// Starts a deadline now.
    pub fn within(within: Duration) -> Self {
        let within = within.min(LONGEST);
        Self { at: Instant::now() + within, within }
    }

    /// Returns the deadline of a request that came through the stack.
    pub fn of<T>(request: &Request<T>) -> Option<Self> {
        request.extensions().get().copied()
    }

    /// Returns when it is.
    pub fn at(&self) -> Instant {
        self.at
    }

    /// Returns the time left; zero once it has passed.
    pub fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    pub(super) fn of_request(headers: &HeaderMap, default: Duration) -> Self {
        Self::within(timeout::read(headers).unwrap_or(default))
    }

    pub(super) fn missed(&self) -> Failure {
        let message = format!("the answer was not ready within {:?}", self.within);
        Failure::new(ErrorCode::DeadlineExceeded, DEADLINE_EXCEEDED, message)
    }
}
