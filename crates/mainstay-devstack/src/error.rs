//! What can go wrong while a stack starts, runs or stops.

use std::{io, path::PathBuf};

use crate::{programs::MissingPrograms, wait::TimedOut};

/// Names the step that failed; the cause is the source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    MissingPrograms(#[from] MissingPrograms),
    #[error("port {port} is taken; {wanted_by} wants it (free it, or start without fixed ports)")]
    PortTaken { port: u16, wanted_by: String },
    #[error("no free port found between {first} and {last}")]
    NoFreePort { first: u16, last: u16 },
    #[error("directory {} is in use by a running stack", dir.display())]
    DirInUse { dir: PathBuf },
    #[error("directory {} holds files that no devstack has written; choose an empty one", dir.display())]
    DirNotOurs { dir: PathBuf },
    #[error("directory {} cannot be entered by the user that runs PostgreSQL: {} is closed to others", dir.display(), closed.display())]
    DirClosed { dir: PathBuf, closed: PathBuf },
    #[error("{step}")]
    Io {
        step: String,
        #[source]
        source: io::Error,
    },
    #[error("{step}: {program} ended with {status}: {output}")]
    Command { step: String, program: String, status: String, output: String },
    #[error("{name} ended with {status} before it was ready; end of its log:\n{log}")]
    Exited { name: String, status: String, log: String },
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    #[error("{step}")]
    Sql {
        step: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("{step}: {answer}")]
    Redis { step: String, answer: String },
    #[error("{name} is not part of this stack")]
    NotPartOfStack { name: String },
    #[error("{name} is not running")]
    NotRunning { name: String },
    #[error(
        "we are root, PostgreSQL and PgBouncer refuse to be, and there is no user postgres or nobody to drop to"
    )]
    NoUnprivilegedUser,
    #[error("left over after the clean-up of {}: {left}", dir.display())]
    LeftOver { dir: PathBuf, left: String },
}

impl Error {
    /// Wraps an I/O error with the step that failed; for `map_err`.
    pub(crate) fn io(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Io { step, source }
    }

    /// Wraps an SQL error with the step that failed; for `map_err`.
    pub(crate) fn sql(step: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let step = step.into();
        move |source| Self::Sql { step, source }
    }
}

/// Writes an error and all its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
