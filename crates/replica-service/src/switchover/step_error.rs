use std::time::Duration;

use mainstay_rpc::{ErrorCode, Failure};
use tokio_postgres::error::SqlState;

use crate::error::QueryError;

/// Why a step was not taken; what it had begun is undone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error(transparent)]
    Query(#[from] QueryError),
    /// Everything that stands in the way, each in words.
    #[error("{}", .0.join("; "))]
    Refused(Vec<String>),
    /// Others hold the tables, or the record of the pair.
    #[error("the tables are locked by others")]
    Busy,
    #[error("cannot {doing}")]
    Database {
        doing: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("could not {doing} within {within:?}")]
    Deadline { doing: &'static str, within: Duration },
    #[error("cannot read the answer to: {doing}")]
    Unreadable { doing: &'static str },
    /// A question that goes through the router failed.
    #[error("{0:#}")]
    Asked(#[from] anyhow::Error),
}

impl StepError {
    pub(super) fn refused(why: impl Into<String>) -> Self {
        Self::Refused(vec![why.into()])
    }

    pub(super) fn of(doing: &'static str, source: tokio_postgres::Error) -> Self {
        match source.code() {
            Some(code)
                if *code == SqlState::LOCK_NOT_AVAILABLE || *code == SqlState::T_R_DEADLOCK_DETECTED =>
            {
                Self::Busy
            }
            _ => Self::Database { doing, source },
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Busy)
    }

    /// Says all of it in one line, with what the database said.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Database { source, .. } => match source.as_db_error() {
                Some(error) => format!("{self}: {} (SQLSTATE {})", error.message(), error.code().code()),
                None => format!("{self}: {source}"),
            },
            Self::Query(QueryError::Database { source, .. }) => source.message.clone(),
            _ => self.to_string(),
        }
    }
}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Self {
        let text = error.told();
        match error {
            StepError::Query(error) => error.into(),
            StepError::Refused(_) => Self::new(ErrorCode::FailedPrecondition, "STEP_REFUSED", text),
            StepError::Busy => {
                Self::new(ErrorCode::Conflict, "TABLES_BUSY", text).retry_after(Duration::from_secs(1))
            }
            StepError::Database { source, .. } => {
                Self::new(ErrorCode::FailedPrecondition, "STEP_FAILED", text).caused_by(source)
            }
            StepError::Deadline { .. } => Self::new(ErrorCode::DeadlineExceeded, "STEP_FAILED", text),
            StepError::Unreadable { .. } => Self::internal(text),
            StepError::Asked(_) => Self::new(ErrorCode::Unavailable, "STEP_FAILED", text),
        }
    }
}
