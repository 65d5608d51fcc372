use std::io;

use crate::error::ServerError;

/// Why a connection is of no use any more, or was never opened.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("cannot exchange messages with the server")]
    Io(#[from] io::Error),
    #[error("cannot prepare tls")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot log in")]
    Login(#[from] tokio_postgres::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("the server refused")]
    Server(#[source] Box<ServerError>),
    #[error("the server wants to copy rows")]
    Copy,
    #[error("the server does not know type {0}, which it has named")]
    UnknownType(u32),
}

impl WireError {
    /// A message came where it has no place.
    pub(crate) fn out_of_turn() -> Self {
        io::Error::from(io::ErrorKind::InvalidData).into()
    }
}
