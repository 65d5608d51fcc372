//! What can go wrong with a statement, and what the caller is told.

use std::{borrow::Cow, time::Duration};

use mainstay_rpc::{ErrorCode, Failure};
use tokio_postgres::error::{DbError, ErrorPosition, Severity, SqlState};

use crate::route::Refusal;

mod sqlstate;

/// Why a statement has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error("invalid {field}: {message}")]
    Invalid { field: String, message: String },
    #[error("token refused: {0}")]
    Token(Cow<'static, str>),
    #[error("no node may answer this read")]
    NoFitNode { refused: Vec<(String, Refusal)> },
    #[error("there is no primary: {0}")]
    NoPrimary(String),
    #[error("breaker of node {node} is open")]
    Breaker {
        node: String,
        retry_after: Duration,
        /// The SQLSTATE by which the node last refused us.
        refused_with: Option<String>,
    },
    #[error("all connections of node {node} are busy")]
    PoolExhausted { node: String },
    #[error("cannot connect to node {node}")]
    Connect {
        node: String,
        #[source]
        source: Option<tokio_postgres::Error>,
    },
    #[error("connection to node {node} broke")]
    Broken {
        node: String,
        #[source]
        source: Option<tokio_postgres::Error>,
    },
    /// The transaction was being committed when the connection broke, or was cancelled.
    #[error("node {node} did not say whether the statement was committed")]
    OutcomeUnknown {
        node: String,
        #[source]
        source: Option<tokio_postgres::Error>,
    },
    #[error("node {node} refused the statement")]
    Database {
        node: String,
        kind: Kind,
        #[source]
        source: Box<DbError>,
    },
    #[error("the statement needs a protocol that is not spoken here")]
    UnsupportedStatement {
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("column {column} has type {ty}, which cannot be read")]
    UnsupportedType { column: String, ty: String },
    #[error("column {column} of type {ty} came in a form that cannot be read")]
    Malformed { column: String, ty: String },
    #[error("the result is larger than {limit_bytes} bytes")]
    ResultTooLarge { limit_bytes: u64 },
    #[error("the result has more than {limit_rows} rows")]
    TooManyRows { limit_rows: u32 },
    #[error("no answer within {} ms", within.as_millis())]
    Deadline {
        within: Duration,
        /// A commit was on its way, so its outcome is open.
        committing: bool,
    },
}

/// What a statement was meant to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Query,
    Stream,
    Execute,
    Transaction,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Stream => "stream",
            Self::Execute => "execute",
            Self::Transaction => "transaction",
        }
    }

    /// Tells whether it was meant to change nothing.
    pub const fn is_read(self) -> bool {
        matches!(self, Self::Query | Self::Stream)
    }
}

impl QueryError {
    /// Sorts an error of the driver.
    pub fn from_postgres(node: &str, kind: Kind, error: tokio_postgres::Error) -> Self {
        let node = node.to_owned();
        match error.as_db_error() {
            Some(db) if is_fatal(db) => Self::Broken { node, source: Some(error) },
            Some(db) => Self::Database { node, kind, source: Box::new(db.clone()) },
            None if error.is_closed() || std::error::Error::source(&error).is_some() => {
                Self::Broken { node, source: Some(error) }
            }
            // The driver met a message that belongs to COPY or to replication.
            None => Self::UnsupportedStatement { source: error },
        }
    }

    /// Tells whether it may have been committed all the same.
    pub fn leaves_outcome_open(&self) -> bool {
        matches!(self, Self::OutcomeUnknown { .. } | Self::Deadline { committing: true, .. })
    }

    /// Tells whether the node, not the statement, is at fault: it counts for the breaker and asks for a probe.
    pub fn blames_node(&self) -> bool {
        match self {
            Self::Connect { source, .. } => {
                !source.as_ref().and_then(tokio_postgres::Error::code).is_some_and(is_full)
            }
            Self::Broken { .. } | Self::OutcomeUnknown { .. } => true,
            _ => false,
        }
    }

    /// Returns the SQLSTATE by which the server kept us from logging in, if it said one.
    pub fn refused_with(&self) -> Option<String> {
        let Self::Connect { source, .. } = self else { return None };
        source.as_ref().and_then(tokio_postgres::Error::code).map(|state| state.code().to_owned())
    }

    /// Tells whether a read may succeed on another node, or on the same one with another connection.
    pub fn may_succeed_elsewhere(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Broken { .. }
            | Self::Breaker { .. }
            | Self::PoolExhausted { .. } => true,
            // A replica cancels reads that stand in the way of replay.
            Self::Database { source, .. } => {
                matches!(
                    *source.code(),
                    SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED
                ) || is_full(source.code())
            }
            _ => false,
        }
    }

    /// Tells whether a transaction lost a race and was rolled back: run again, it may succeed.
    pub fn is_lost_race(&self) -> bool {
        let lost = |code: &SqlState| {
            matches!(*code, SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED)
        };
        matches!(self, Self::Database { source, .. } if lost(source.code()))
    }

    /// Tells whether the statement never reached the node.
    pub fn is_not_sent(&self) -> bool {
        match self {
            Self::Breaker { .. } => true,
            Self::Connect { .. } => self.blames_node(),
            _ => false,
        }
    }

    /// Tells whether it is one statement of a transaction that is at fault, rather than the way to the node.
    pub fn blames_statement(&self) -> bool {
        matches!(
            self,
            Self::Database { .. }
                | Self::UnsupportedStatement { .. }
                | Self::UnsupportedType { .. }
                | Self::Malformed { .. }
                | Self::ResultTooLarge { .. }
                | Self::TooManyRows { .. }
        )
    }

    /// Tells whether the node says that it is no primary (any more).
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Database { source, .. } if *source.code() == SqlState::READ_ONLY_SQL_TRANSACTION)
    }

    /// Tells whether a named statement was lost or met a namesake, as happens behind `PgBouncer`.
    pub fn is_lost_statement(&self) -> bool {
        let lost = |code: &SqlState| {
            matches!(*code, SqlState::INVALID_SQL_STATEMENT_NAME | SqlState::DUPLICATE_PSTATEMENT)
        };
        matches!(self, Self::Database { source, .. } if lost(source.code()))
    }

    /// Tells whether a statement that was prepared earlier may be refused only because it was: the tables are others now, or
    /// the server has lost it. `inferred` where the database chose types for parameters then.
    pub fn is_of_outdated_statement(&self, inferred: bool) -> bool {
        let Self::Database { source, .. } = self else { return false };
        let state = source.code();
        *state == SqlState::FEATURE_NOT_SUPPORTED
            || self.is_lost_statement()
            || state.code().starts_with("42")
            || (inferred && state.code().starts_with("22"))
    }

    /// Returns the code that crosses the border; the whole table is in `error/sqlstate.rs`.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid { .. }
            | Self::Token(_)
            | Self::UnsupportedStatement { .. }
            | Self::UnsupportedType { .. } => ErrorCode::InvalidArgument,
            Self::NoFitNode { refused } if is_freshness(refused) => ErrorCode::FailedPrecondition,
            Self::NoFitNode { .. } | Self::NoPrimary(_) | Self::Breaker { .. } | Self::Broken { .. } => {
                ErrorCode::Unavailable
            }
            // Whatever keeps us from logging in, the caller has no part in it.
            Self::Connect { source, .. } => match source.as_ref().and_then(tokio_postgres::Error::code) {
                Some(code) if is_full(code) => ErrorCode::ResourceExhausted,
                _ => ErrorCode::Unavailable,
            },
            Self::OutcomeUnknown { .. } => ErrorCode::Unavailable,
            Self::PoolExhausted { .. } | Self::ResultTooLarge { .. } | Self::TooManyRows { .. } => {
                ErrorCode::ResourceExhausted
            }
            Self::Database { kind, source, .. }
                if !kind.is_read() && *source.code() == SqlState::READ_ONLY_SQL_TRANSACTION =>
            {
                ErrorCode::Unavailable
            }
            Self::Database { source, .. } => sqlstate::class(source.code()).0,
            Self::Malformed { .. } => ErrorCode::Internal,
            Self::Deadline { .. } => ErrorCode::DeadlineExceeded,
        }
    }

    /// Returns a word that says what went wrong: what the database said, or else the code.
    pub fn reason(&self) -> String {
        match self {
            Self::Database { source, .. } => sqlstate::class(source.code()).1.to_owned(),
            other => other.code().as_str().to_owned(),
        }
    }

    fn failure(self) -> Failure {
        let (code, text) = (self.code(), self.to_string());
        let second = Duration::from_secs(1);
        match self {
            Self::Invalid { field, message } => Failure::invalid(field, message),
            Self::Token(_) => Failure::new(code, "TOKEN_INVALID", text),
            Self::NoFitNode { refused } => no_fit_node(code, &refused),
            Self::NoPrimary(why) => Failure::new(code, "NO_PRIMARY", format!("there is no primary: {why}"))
                .retry_after(second)
                .detail("outcome", "not_applied"),
            Self::Breaker { node, retry_after, refused_with } => {
                node_unavailable(code, &node, text, refused_with).retry_after(retry_after)
            }
            Self::PoolExhausted { .. } => Failure::new(code, "POOL_EXHAUSTED", text).retry_after(second),
            Self::Connect { ref node, .. } => {
                let failure = node_unavailable(code, node, text, self.refused_with()).retry_after(second);
                let Self::Connect { source, .. } = self else { return failure };
                with_cause(failure, source)
            }
            Self::Broken { source, .. } => {
                with_cause(Failure::new(code, "CONNECTION_LOST", text), source).detail("outcome", "not_applied")
            }
            Self::OutcomeUnknown { source, .. } => {
                with_cause(Failure::new(code, "OUTCOME_UNKNOWN", text), source).detail("outcome", "unknown")
            }
            Self::Database { node, kind, source } => database(code, &node, kind, &source),
            Self::UnsupportedStatement { source } => Failure::new(
                code,
                "UNSUPPORTED_STATEMENT",
                "this statement cannot be run here: COPY and replication commands have no rows to answer with",
            )
            .caused_by(source),
            Self::UnsupportedType { .. } => {
                Failure::new(code, "UNSUPPORTED_TYPE", format!("{text}: cast it in the statement, e.g. to text"))
            }
            Self::Malformed { .. } => Failure::internal(text),
            Self::ResultTooLarge { .. } => Failure::new(code, "RESULT_TOO_LARGE", text),
            Self::TooManyRows { .. } => Failure::new(code, "TOO_MANY_ROWS", text),
            Self::Deadline { committing, .. } => Failure::new(code, mainstay_rpc::DEADLINE_EXCEEDED, text)
                .detail("outcome", if committing { "unknown" } else { "not_applied" }),
        }
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        error.failure()
    }
}

/// A connection that says FATAL is over. `PgBouncer` says it with 08P01, the server's own 08P01 is a plain error.
fn is_fatal(error: &DbError) -> bool {
    matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
        || error.severity() == "FATAL"
        || matches!(
            *error.code(),
            SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::CANNOT_CONNECT_NOW
        )
        || (error.code().code().starts_with("08") && *error.code() != SqlState::PROTOCOL_VIOLATION)
}

fn is_full(code: &SqlState) -> bool {
    code.code().starts_with("53")
}

/// Tells whether the nodes could answer if only they, or the bound, were other than they are.
fn is_freshness(refused: &[(String, Refusal)]) -> bool {
    let fresh = |refusal: &Refusal| {
        matches!(
            refusal,
            Refusal::TooStale
                | Refusal::TooManyBytes
                | Refusal::TokenNotReplayed
                | Refusal::StalenessUnproven
        )
    };
    refused.iter().any(|(_, refusal)| fresh(refusal))
}

fn no_fit_node(code: ErrorCode, refused: &[(String, Refusal)]) -> Failure {
    let (reason, message) = if is_freshness(refused) {
        (
            "NO_REPLICA_CAUGHT_UP",
            "no replica is fresh enough for this read, and the primary does not answer it",
        )
    } else {
        ("NO_FIT_NODE", "no node can answer reads now")
    };
    let failure = Failure::new(code, reason, message).retry_after(Duration::from_secs(1));
    refused
        .iter()
        .fold(failure, |failure, (node, refusal)| failure.detail(format!("node.{node}"), refusal.to_string()))
}

fn database(code: ErrorCode, node: &str, kind: Kind, error: &DbError) -> Failure {
    let (_, reason) = sqlstate::class(error.code());
    let smuggled = kind.is_read() && *error.code() == SqlState::READ_ONLY_SQL_TRANSACTION;
    let moved = !kind.is_read() && *error.code() == SqlState::READ_ONLY_SQL_TRANSACTION;
    let message = match error.code() {
        _ if smuggled => {
            format!("{}: a read runs read-only, use Execute for statements that write", error.message())
        }
        _ if moved => format!("{}: the primary has changed, try again", error.message()),
        code if *code == SqlState::INDETERMINATE_DATATYPE => {
            format!("{}: give the parameter a type, or cast it in the statement", error.message())
        }
        code if *code == SqlState::SYNTAX_ERROR && error.message().contains("multiple commands") => {
            "only one statement is run at a time".to_owned()
        }
        _ => error.message().to_owned(),
    };
    let reason = if moved { "NOT_PRIMARY" } else { reason };
    let mut failure = Failure::new(code, reason, message)
        .detail("sqlState", error.code().code())
        .detail("node", node)
        .detail("retryable", if sqlstate::retryable(error.code()) || moved { "true" } else { "false" })
        .detail("outcome", "not_applied");
    let position = match error.position() {
        Some(ErrorPosition::Original(position)) => Some(position.to_string()),
        _ => None,
    };
    let facts = [
        ("position", position.as_deref()),
        ("constraint", error.constraint()),
        ("hint", error.hint()),
        ("detail", error.detail()),
        ("schema", error.schema()),
        ("table", error.table()),
        ("column", error.column()),
        ("dataType", error.datatype()),
    ];
    for (key, value) in facts {
        if let Some(value) = value {
            failure = failure.detail(key, value);
        }
    }
    if matches!(code, ErrorCode::Unavailable | ErrorCode::ResourceExhausted) {
        failure = failure.retry_after(Duration::from_secs(1));
    }
    failure
}

/// Says by which code a server refuses us; its words may name roles and addresses, and go to the log.
fn node_unavailable(code: ErrorCode, node: &str, text: String, refused_with: Option<String>) -> Failure {
    let message = match &refused_with {
        Some(state) => format!("{text}: it refuses with SQLSTATE {state}"),
        None => text,
    };
    let failure =
        Failure::new(code, "NODE_UNAVAILABLE", message).detail("node", node).detail("outcome", "not_applied");
    match refused_with {
        Some(state) => failure.detail("sqlState", state),
        None => failure,
    }
}

fn with_cause(failure: Failure, source: Option<tokio_postgres::Error>) -> Failure {
    match source {
        Some(source) => failure.caused_by(source),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_for_freshness_is_a_precondition_and_any_other_is_an_outage() {
        let refused = |refusal| QueryError::NoFitNode { refused: vec![("a".to_owned(), refusal)] };
        assert_eq!(refused(Refusal::TooStale).code(), ErrorCode::FailedPrecondition);
        assert_eq!(refused(Refusal::Down).code(), ErrorCode::Unavailable);
        let failure = Failure::from(refused(Refusal::Down));
        assert_eq!(failure.details()["node.a"], "down");
        assert_eq!(failure.reason(), "NO_FIT_NODE");
    }

    #[test]
    fn only_the_node_s_own_faults_count_for_the_breaker() {
        let broken = QueryError::Broken { node: "a".to_owned(), source: None };
        let busy = QueryError::PoolExhausted { node: "a".to_owned() };
        assert!(broken.blames_node() && broken.may_succeed_elsewhere());
        assert!(!busy.blames_node() && busy.may_succeed_elsewhere());
        assert!(!QueryError::ResultTooLarge { limit_bytes: 1 }.may_succeed_elsewhere());
    }
}
