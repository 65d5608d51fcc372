//! The ten ways a request can fail, and what each is called on every border.

use http::StatusCode;
use tonic::Code;
use tracing::Level;

/// Names why a request failed, in the one vocabulary that every service, protocol and log line shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorCode {
    /// The request itself is wrong; sending it again unchanged cannot help.
    InvalidArgument,
    /// Nobody known asks.
    Unauthenticated,
    /// Somebody known asks for what they may not have.
    PermissionDenied,
    /// The thing asked for does not exist.
    NotFound,
    /// Somebody else changed the thing first.
    Conflict,
    /// The system is not in the state the request needs.
    FailedPrecondition,
    /// A limit or a quota is used up; later it may work.
    ResourceExhausted,
    /// The answer did not come in time; whether the work was done is unknown.
    DeadlineExceeded,
    /// A part that is needed does not answer; later it may work.
    Unavailable,
    /// A bug or broken invariant on our side.
    Internal,
}

impl ErrorCode {
    /// Lists all ten, in the order of the table in the crate documentation.
    pub const ALL: [Self; 10] = [
        Self::InvalidArgument,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::NotFound,
        Self::Conflict,
        Self::FailedPrecondition,
        Self::ResourceExhausted,
        Self::DeadlineExceeded,
        Self::Unavailable,
        Self::Internal,
    ];

    /// Returns the name used in answers, logs and metric labels.
    pub const fn as_str(self) -> &'static str {
        self.row().name
    }

    /// Returns the gRPC code it travels as.
    pub const fn grpc(self) -> Code {
        self.row().grpc
    }

    /// Returns the HTTP status it becomes at the edge.
    pub const fn http(self) -> StatusCode {
        self.row().http
    }

    /// Returns the level at which the failure is logged where it is handled.
    pub const fn level(self) -> Level {
        self.row().level
    }

    /// Tells whether the same request may succeed a little later.
    pub const fn retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::ResourceExhausted)
    }

    /// Reads a gRPC code; codes outside the ten are folded into the nearest one, `Ok` and the unknown into `Internal`.
    pub const fn from_grpc(code: Code) -> Self {
        match code {
            Code::InvalidArgument | Code::OutOfRange => Self::InvalidArgument,
            Code::Unauthenticated => Self::Unauthenticated,
            Code::PermissionDenied => Self::PermissionDenied,
            Code::NotFound => Self::NotFound,
            Code::Aborted | Code::AlreadyExists => Self::Conflict,
            Code::FailedPrecondition => Self::FailedPrecondition,
            Code::ResourceExhausted => Self::ResourceExhausted,
            Code::DeadlineExceeded | Code::Cancelled => Self::DeadlineExceeded,
            Code::Unavailable => Self::Unavailable,
            Code::Internal | Code::Unknown | Code::DataLoss | Code::Unimplemented | Code::Ok => {
                Self::Internal
            }
        }
    }

    const fn row(self) -> Row {
        use StatusCode as Http;
        match self {
            Self::InvalidArgument => {
                Row::new("INVALID_ARGUMENT", Code::InvalidArgument, Http::BAD_REQUEST, Level::DEBUG)
            }
            Self::Unauthenticated => {
                Row::new("UNAUTHENTICATED", Code::Unauthenticated, Http::UNAUTHORIZED, Level::INFO)
            }
            Self::PermissionDenied => {
                Row::new("PERMISSION_DENIED", Code::PermissionDenied, Http::FORBIDDEN, Level::INFO)
            }
            Self::NotFound => Row::new("NOT_FOUND", Code::NotFound, Http::NOT_FOUND, Level::DEBUG),
            Self::Conflict => Row::new("CONFLICT", Code::Aborted, Http::CONFLICT, Level::DEBUG),
            Self::FailedPrecondition => Row::new(
                "FAILED_PRECONDITION",
                Code::FailedPrecondition,
                Http::PRECONDITION_FAILED,
                Level::INFO,
            ),
            Self::ResourceExhausted => {
                Row::new("RESOURCE_EXHAUSTED", Code::ResourceExhausted, Http::TOO_MANY_REQUESTS, Level::WARN)
            }
            Self::DeadlineExceeded => {
                Row::new("DEADLINE_EXCEEDED", Code::DeadlineExceeded, Http::GATEWAY_TIMEOUT, Level::WARN)
            }
            Self::Unavailable => {
                Row::new("UNAVAILABLE", Code::Unavailable, Http::SERVICE_UNAVAILABLE, Level::WARN)
            }
            Self::Internal => Row::new("INTERNAL", Code::Internal, Http::INTERNAL_SERVER_ERROR, Level::ERROR),
        }
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

struct Row {
    name: &'static str,
    grpc: Code,
    http: StatusCode,
    level: Level,
}

impl Row {
    const fn new(name: &'static str, grpc: Code, http: StatusCode, level: Level) -> Self {
        Self { name, grpc, http, level }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_to_grpc_and_back_loses_nothing() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_grpc(code.grpc()), code);
        }
    }

    #[test]
    fn no_two_codes_share_a_name_or_an_http_status() {
        for (n, a) in ErrorCode::ALL.into_iter().enumerate() {
            for b in ErrorCode::ALL.into_iter().skip(n + 1) {
                assert_ne!(a.as_str(), b.as_str());
                assert_ne!(a.http(), b.http(), "{a} and {b}");
            }
        }
    }

    #[test]
    fn http_statuses_are_the_promised_ones() {
        let statuses = ErrorCode::ALL.map(|code| code.http().as_u16());
        assert_eq!(statuses, [400, 401, 403, 404, 409, 412, 429, 504, 503, 500]);
    }

    #[test]
    fn every_grpc_code_is_understood() {
        for number in 0..=16 {
            let code = Code::from_i32(number);
            let ours = ErrorCode::from_grpc(code);
            let folded = matches!(
                code,
                Code::Ok
                    | Code::Cancelled
                    | Code::Unknown
                    | Code::AlreadyExists
                    | Code::OutOfRange
                    | Code::Unimplemented
                    | Code::DataLoss
            );
            assert_eq!(ours.grpc() == code, !folded, "{code:?}");
        }
    }
}
