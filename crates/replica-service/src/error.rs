//! What can go wrong with a statement, and what the caller is told.

use std::{borrow::Cow, time::Duration};

use mainstay_rpc::{ErrorCode, Failure};
use tokio_postgres::error::SqlState;

use crate::{route::Refusal, wire::WireError};

mod server;
mod sqlstate;

pub(crate) use server::ServerError;

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
        source: Option<LinkError>,
    },
    #[error("connection to node {node} broke")]
    Broken {
        node: String,
        #[source]
        source: Option<LinkError>,
    },
    /// The transaction was being committed when the connection broke, or was cancelled.
    #[error("node {node} did not say whether the statement was committed")]
    OutcomeUnknown {
        node: String,
        #[source]
        source: Option<LinkError>,
    },
    #[error("node {node} refused the statement")]
    Database {
        node: String,
        kind: Kind,
        #[source]
        source: Box<ServerError>,
    },
    #[error("the statement needs a protocol that is not spoken here")]
    UnsupportedStatement {
        #[source]
        source: LinkError,
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

/// What either way of talking to a server may come upon: the driver's, for writes, or our own, for reads.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(transparent)]
    Driver(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
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

impl LinkError {
    /// Returns the SQLSTATE that the server said, if it said one.
    fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Driver(error) | Self::Wire(WireError::Login(error)) => error.code(),
            Self::Wire(WireError::Server(error)) => Some(&error.code),
            Self::Wire(_) => None,
        }
    }

    fn server(&self) -> Option<ServerError> {
        match self {
            Self::Driver(error) | Self::Wire(WireError::Login(error)) => error.as_db_error().map(Into::into),
            Self::Wire(WireError::Server(error)) => Some((**error).clone()),
            Self::Wire(_) => None,
        }
    }

    /// Tells whether a message came that belongs to COPY or to replication.
    fn is_of_other_protocol(&self) -> bool {
        match self {
            Self::Driver(error) => !error.is_closed() && std::error::Error::source(error).is_none(),
            Self::Wire(error) => matches!(error, WireError::Copy),
        }
    }
}

impl QueryError {
    /// Sorts an error of a connection.
    pub fn from_postgres(node: &str, kind: Kind, error: impl Into<LinkError>) -> Self {
        let (node, error) = (node.to_owned(), error.into());
        match error.server() {
            Some(server) if server.is_fatal() => Self::Broken { node, source: Some(error) },
            Some(server) => Self::Database { node, kind, source: Box::new(server) },
            None if error.is_of_other_protocol() => Self::UnsupportedStatement { source: error },
            None => Self::Broken { node, source: Some(error) },
        }
    }

    /// Tells whether it may have been committed all the same.
    pub fn leaves_outcome_open(&self) -> bool {
        match self {
            Self::OutcomeUnknown { .. } | Self::Deadline { committing: true, .. } => true,
            Self::Database { source, .. } => sqlstate::leaves_outcome_open(&source.code),
            _ => false,
        }
    }

    /// Tells whether the node, not the statement, is at fault: it counts for the breaker and asks for a probe.
    pub fn blames_node(&self) -> bool {
        match self {
            Self::Connect { source, .. } => !source.as_ref().and_then(LinkError::code).is_some_and(is_full),
            Self::Broken { .. } | Self::OutcomeUnknown { .. } => true,
            _ => false,
        }
    }

    /// Returns the SQLSTATE by which the server kept us from logging in, if it said one.
    pub fn refused_with(&self) -> Option<String> {
        let Self::Connect { source, .. } = self else { return None };
        source.as_ref().and_then(LinkError::code).map(|state| state.code().to_owned())
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
                matches!(source.code, SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED)
                    || is_full(&source.code)
            }
            _ => false,
        }
    }

    /// Tells whether a transaction lost a race and was rolled back: run again, it may succeed.
    pub fn is_lost_race(&self) -> bool {
        let lost = |code: &SqlState| {
            matches!(*code, SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED)
        };
        matches!(self, Self::Database { source, .. } if lost(&source.code))
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
        matches!(self, Self::Database { source, .. } if source.code == SqlState::READ_ONLY_SQL_TRANSACTION)
    }

    /// Tells whether a named statement was lost or met a namesake, as happens behind `PgBouncer`.
    pub fn is_lost_statement(&self) -> bool {
        matches!(self, Self::Database { source, .. } if source.is_of_lost_statement())
    }

    /// Tells whether the same request may be sent once more: nothing of it was done, and the next time may be another.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoFitNode { .. }
            | Self::NoPrimary(_)
            | Self::Breaker { .. }
            | Self::PoolExhausted { .. }
            | Self::Connect { .. }
            | Self::Broken { .. } => true,
            Self::Deadline { committing, .. } => !committing,
            Self::Database { kind, source, .. } => {
                sqlstate::retryable(&source.code) || (!kind.is_read() && self.is_read_only())
            }
            _ => false,
        }
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
            Self::Connect { source, .. } => match source.as_ref().and_then(LinkError::code) {
                Some(code) if is_full(code) => ErrorCode::ResourceExhausted,
                _ => ErrorCode::Unavailable,
            },
            Self::OutcomeUnknown { .. } => ErrorCode::Unavailable,
            Self::PoolExhausted { .. } | Self::ResultTooLarge { .. } | Self::TooManyRows { .. } => {
                ErrorCode::ResourceExhausted
            }
            Self::Database { kind, source, .. }
                if !kind.is_read() && source.code == SqlState::READ_ONLY_SQL_TRANSACTION =>
            {
                ErrorCode::Unavailable
            }
            Self::Database { source, .. } => sqlstate::class(&source.code).0,
            Self::Malformed { .. } => ErrorCode::Internal,
            Self::Deadline { .. } => ErrorCode::DeadlineExceeded,
        }
    }

    /// Returns a word that says what went wrong: what the database said, or else the code.
    pub fn reason(&self) -> String {
        match self {
            Self::Database { source, .. } => sqlstate::class(&source.code).1.to_owned(),
            other => other.code().as_str().to_owned(),
        }
    }

    fn failure(self) -> Failure {
        let outcome = if self.leaves_outcome_open() { "unknown" } else { "not_applied" };
        let retryable = if self.is_retryable() { "true" } else { "false" };
        self.described().detail("outcome", outcome).detail("retryable", retryable)
    }

    fn described(self) -> Failure {
        let (code, text) = (self.code(), self.to_string());
        let second = Duration::from_secs(1);
        match self {
            Self::Invalid { field, message } => Failure::invalid(field, message),
            Self::Token(_) => Failure::new(code, "TOKEN_INVALID", text),
            Self::NoFitNode { refused } => no_fit_node(code, &refused),
            Self::NoPrimary(why) => Failure::new(code, "NO_PRIMARY", format!("there is no primary: {why}"))
                .retry_after(second),
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
                with_cause(Failure::new(code, "CONNECTION_LOST", text), source)
            }
            Self::OutcomeUnknown { source, .. } => {
                with_cause(Failure::new(code, "OUTCOME_UNKNOWN", text), source)
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
            Self::Deadline { .. } => Failure::new(code, mainstay_rpc::DEADLINE_EXCEEDED, text),
        }
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        error.failure()
    }
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

fn database(code: ErrorCode, node: &str, kind: Kind, error: &ServerError) -> Failure {
    let (_, reason) = sqlstate::class(&error.code);
    let smuggled = kind.is_read() && error.code == SqlState::READ_ONLY_SQL_TRANSACTION;
    let moved = !kind.is_read() && error.code == SqlState::READ_ONLY_SQL_TRANSACTION;
    let message = match &error.code {
        _ if smuggled => {
            format!("{}: a read runs read-only, use Execute for statements that write", error.message)
        }
        _ if moved => format!("{}: the primary has changed, try again", error.message),
        code if *code == SqlState::INDETERMINATE_DATATYPE => {
            format!("{}: give the parameter a type, or cast it in the statement", error.message)
        }
        code if *code == SqlState::SYNTAX_ERROR && error.message.contains("multiple commands") => {
            "only one statement is run at a time".to_owned()
        }
        _ => error.message.to_owned(),
    };
    let reason = if moved { "NOT_PRIMARY" } else { reason };
    let mut failure =
        Failure::new(code, reason, message).detail("sqlState", error.code.code()).detail("node", node);
    let position = error.position.map(|position| position.to_string());
    let facts = [
        ("position", position.as_deref()),
        ("constraint", error.constraint.as_deref()),
        ("hint", error.hint.as_deref()),
        ("detail", error.detail.as_deref()),
        ("schema", error.schema.as_deref()),
        ("table", error.table.as_deref()),
        ("column", error.column.as_deref()),
        ("dataType", error.datatype.as_deref()),
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
    let failure = Failure::new(code, "NODE_UNAVAILABLE", message).detail("node", node);
    match refused_with {
        Some(state) => failure.detail("sqlState", state),
        None => failure,
    }
}

fn with_cause(failure: Failure, source: Option<LinkError>) -> Failure {
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
    fn each_failure_says_whether_the_same_may_be_sent_again() {
        let node = || "a".to_owned();
        let within = Duration::from_secs(1);
        for (error, retryable) in [
            (QueryError::Broken { node: node(), source: None }, "true"),
            (QueryError::OutcomeUnknown { node: node(), source: None }, "false"),
            (QueryError::PoolExhausted { node: node() }, "true"),
            (QueryError::NoPrimary(node()), "true"),
            (QueryError::Deadline { within, committing: false }, "true"),
            (QueryError::Deadline { within, committing: true }, "false"),
            (QueryError::ResultTooLarge { limit_bytes: 1 }, "false"),
            (QueryError::Invalid { field: node(), message: node() }, "false"),
        ] {
            let text = format!("{error:?}");
            assert_eq!(Failure::from(error).details()["retryable"], retryable, "{text}");
        }
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
