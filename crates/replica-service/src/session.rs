//! One statement on one connection: the transaction around it, its rows, its limits.

use std::{sync::Arc, time::Duration};

use tokio_postgres::types::Type;

use crate::{
    error::QueryError,
    sql::{Value, decode::Decoder, param::Param},
};

mod leftovers;
pub(crate) mod plan;
pub(crate) mod read;
mod stopwatch;
pub(crate) mod stream;
pub(crate) mod together;
pub(crate) mod transaction;
pub(crate) mod write;

use leftovers::{may_leave_statements, may_write_and_leave_statements};
pub(crate) use stopwatch::Stopwatch;

/// A statement with everything that bounds it.
#[derive(Debug)]
pub(crate) struct Statement {
    pub sql: String,
    pub params: Vec<Param>,
    pub max_rows: u32,
    pub max_bytes: u64,
    pub stopwatch: Stopwatch,
}

impl Statement {
    /// Tells whether it surely is a query: it neither begins nor ends a transaction, and leaves no prepared statement.
    pub(crate) fn is_query(&self) -> bool {
        !may_leave_statements(&self.sql)
    }

    /// Tells whether it may leave a prepared statement in the session, though it is a write.
    fn may_leave_statements(&self) -> bool {
        may_write_and_leave_statements(&self.sql)
    }
}

/// What a statement answered.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub columns: Arc<[Column]>,
    pub rows: Vec<Vec<Value>>,
    pub truncated: bool,
    pub n_affected: u64,
    /// Size of the rows as PostgreSQL sent them.
    pub n_bytes: u64,
}

impl Answer {
    /// Returns the rows that came back, or else those that were changed.
    pub(crate) fn n_rows(&self) -> u64 {
        if self.rows.is_empty() { self.n_affected } else { self.rows.len() as u64 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub name: String,
    pub ty: Type,
}

impl Column {
    /// Reads a value; `decoder` is that of its type, if there is one.
    fn read(&self, decoder: Option<Decoder>, raw: Option<&[u8]>) -> Result<Value, QueryError> {
        let decoder = decoder.ok_or_else(|| self.unsupported())?;
        raw.map_or(Ok(Value::Null), |raw| decoder.read(raw).map_err(|_| self.malformed()))
    }

    fn unsupported(&self) -> QueryError {
        QueryError::UnsupportedType { column: self.name.clone(), ty: crate::sql::types::name_of(&self.ty) }
    }

    fn malformed(&self) -> QueryError {
        QueryError::Malformed { column: self.name.clone(), ty: self.ty.name().to_owned() }
    }
}

/// What is needed to know about the node to talk to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Road<'a> {
    pub node: &'a str,
    pub pgbouncer: bool,
}

/// Undoes what a statement that was refused has left: settings by rollback, advisory locks by name.
const UNDO: &str = "ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all()";
/// What no rollback takes back, where the connection cannot be closed to the same end.
const DEALLOCATE: &str = "DEALLOCATE ALL";
/// In one message: the next one may meet another server connection.
const UNDO_AND_DEALLOCATE: &str = "ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all(); DEALLOCATE ALL";
/// The database gives up this much before the caller does, so that the connection stays usable.
pub(crate) const MARGIN: Duration = Duration::from_millis(20);

/// Returns how long the database may take where the caller waits for `left`.
pub(crate) fn timeout_ms(left: Duration) -> u128 {
    left.saturating_sub(MARGIN).as_millis().clamp(1, i32::MAX as u128)
}
