use std::{
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, future};
use tokio_postgres::{Client, Row, RowStream, SimpleQueryMessage};

use super::{
    Answer, Column, DEALLOCATE, Road, Statement, UNDO, UNDO_AND_DEALLOCATE, timeout_ms, transaction,
};
use crate::{
    error::{Kind, LinkError, QueryError},
    lsn::{Lsn, Position},
    pool::WriteLease,
    sql::{
        Value,
        decode::{Decoder, Raw},
    },
};

/// How a statement ended on the wire.
pub(super) enum End {
    /// All of it was read.
    Complete(Answer),
    /// The database refused it; the connection is in order.
    Refused(QueryError),
    /// It cannot go on; more may be on its way.
    Broken(QueryError),
}

/// What becomes of a connection when its transaction has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Keep,
    /// Kept, when all prepared statements are gone from the server behind the pooler.
    Deallocate,
    Close,
}

impl After {
    /// Says it for the statements of the transaction.
    pub(super) fn of(road: Road<'_>, statements: &[Statement]) -> Self {
        if !statements.iter().any(Statement::may_leave_statements) {
            Self::Keep
        } else if road.pgbouncer {
            Self::Deallocate
        } else {
            Self::Close
        }
    }

    /// Gives back a connection that is in order, or closes it.
    pub(super) fn end(self, lease: WriteLease) {
        match self {
            Self::Keep | Self::Deallocate => lease.keep(),
            Self::Close => lease.close(),
        }
    }
}

/// One message, so that behind `PgBouncer` too the position is read in the session that committed, after the commit.
const COMMIT: &str = "COMMIT; \
    SELECT l, pg_catalog.substr(pg_catalog.pg_walfile_name(l), 1, 8) \
    FROM (SELECT pg_catalog.pg_current_wal_insert_lsn() AS l) AS position; \
    CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
    SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES";

/// Runs one write in a transaction of its own, and returns where its commit ended in the log.
///
/// `committing` is set before the COMMIT is sent: from then on, and only then, a lost connection leaves the outcome
/// open. The statement is never sent twice.
///
/// Directly, BEGIN and statement travel together. A cancel request may hit the BEGIN alone; the statement then runs
/// without a transaction, and fails because sessions are read-only where nothing else is said. Behind `PgBouncer`
/// nothing says so, and the statement waits for its BEGIN.
pub(crate) async fn write(
    lease: WriteLease,
    road: Road<'_>,
    statement: &Statement,
    left: Duration,
    committing: &AtomicBool,
) -> Result<(Answer, Option<Position>), QueryError> {
    let begin_sql = format!("BEGIN READ WRITE; SET LOCAL statement_timeout = {}", timeout_ms(left));
    let (client, after) = (lease.client(), After::of(road, std::slice::from_ref(statement)));
    let failed = |error| QueryError::from_postgres(road.node, Kind::Execute, error);
    let (begun, end) = if road.pgbouncer {
        match client.batch_execute(&begin_sql).await {
            Ok(()) => (Ok(()), body(client, road, Kind::Execute, statement).await),
            Err(error) => return refuse_begin(lease, after, failed(error)).await,
        }
    } else {
        future::join(client.batch_execute(&begin_sql), body(client, road, Kind::Execute, statement)).await
    };
    let answer = match (begun, end) {
        (Ok(()), End::Complete(answer)) => answer,
        // Without its BEGIN the statement ran on its own; of what read-only allows, some may be left behind.
        (Err(source), End::Complete(_)) => {
            return Err(QueryError::OutcomeUnknown {
                node: road.node.to_owned(),
                source: Some(LinkError::Driver(source)),
            });
        }
        (Err(refused), End::Refused(_)) => return refuse_begin(lease, after, failed(refused)).await,
        (Err(source), End::Broken(_)) => return Err(failed(source)),
        (Ok(()), End::Refused(error)) => return end_write(lease, after, error).await,
        (Ok(()), End::Broken(error)) => return Err(error),
    };
    committing.store(true, Ordering::Relaxed);
    let position = transaction::finish(lease, road, Kind::Execute, after, committing).await?;
    Ok((answer, position))
}

/// Nothing was begun, so nothing was done: the statement had no leave to write.
pub(super) async fn refuse_begin<T>(
    lease: WriteLease,
    after: After,
    error: QueryError,
) -> Result<T, QueryError> {
    match error {
        refused @ QueryError::Database { .. } => end_write(lease, after, refused).await,
        other => Err(other),
    }
}

pub(super) async fn end_write<T>(
    lease: WriteLease,
    after: After,
    error: QueryError,
) -> Result<T, QueryError> {
    let undo = if after == After::Deallocate { UNDO_AND_DEALLOCATE } else { UNDO };
    if lease.client().batch_execute(undo).await.is_ok() {
        after.end(lease);
    } else {
        lease.close();
    }
    Err(error)
}

pub(super) enum Commit {
    Done { position: Option<Position>, clean: bool },
    Failed(tokio_postgres::Error),
}

pub(super) async fn commit(client: &Client, after: After) -> Commit {
    let and_deallocate;
    let message = if after == After::Deallocate {
        and_deallocate = format!("{COMMIT}; {DEALLOCATE}");
        &and_deallocate
    } else {
        COMMIT
    };
    let mut messages = match client.simple_query_raw(message).await {
        Ok(messages) => pin!(messages),
        Err(error) => return Commit::Failed(error),
    };
    let (mut committed, mut position) = (false, None);
    loop {
        match messages.try_next().await {
            Ok(Some(SimpleQueryMessage::CommandComplete(_))) => committed = true,
            Ok(Some(SimpleQueryMessage::Row(row))) if position.is_none() => {
                let lsn = row.get(0).and_then(|text| text.parse::<Lsn>().ok());
                let timeline = row.get(1).and_then(|text| u32::from_str_radix(text, 16).ok());
                position = timeline.zip(lsn).map(|(timeline, lsn)| Position { timeline, lsn });
            }
            Ok(Some(_)) => {}
            Ok(None) => return Commit::Done { position, clean: true },
            Err(error) if committed => {
                tracing::warn!(%error, "connection closed: not clean after a commit");
                return Commit::Done { position, clean: false };
            }
            Err(error) => return Commit::Failed(error),
        }
    }
}

/// Sends the statement and reads its rows; nothing of it is kept in the server.
pub(super) async fn body(client: &Client, road: Road<'_>, kind: Kind, statement: &Statement) -> End {
    let params = statement.params.iter().map(|param| (param, param.ty.clone()));
    let ended = match client.query_typed_raw(&statement.sql, params).await {
        Ok(rows) => collect(rows, statement).await,
        Err(error) => Err(Trouble::Postgres(error)),
    };
    match ended {
        Ok(answer) => End::Complete(answer),
        Err(Trouble::Postgres(error)) => match QueryError::from_postgres(road.node, kind, error) {
            refused @ QueryError::Database { .. } => End::Refused(refused),
            error => End::Broken(error),
        },
        Err(Trouble::Ours(error)) => End::Broken(error),
    }
}

enum Trouble {
    Postgres(tokio_postgres::Error),
    Ours(QueryError),
}

/// Reads all rows, which must be within the limits: what is not read was not agreed to.
async fn collect(rows: RowStream, statement: &Statement) -> Result<Answer, Trouble> {
    let mut rows = pin!(rows);
    let mut answer = Answer::default();
    let mut decoders = Vec::new();
    while let Some(row) = rows.next().await {
        let row = row.map_err(Trouble::Postgres)?;
        if answer.rows.len() >= statement.max_rows as usize {
            return Err(Trouble::Ours(QueryError::TooManyRows { limit_rows: statement.max_rows }));
        }
        answer.n_bytes += row.raw_size_bytes() as u64;
        if answer.n_bytes > statement.max_bytes {
            return Err(Trouble::Ours(QueryError::ResultTooLarge { limit_bytes: statement.max_bytes }));
        }
        if answer.rows.is_empty() {
            answer.columns = row.columns().iter().map(Column::of).collect();
            decoders = answer.columns.iter().map(|column| Decoder::of(&column.ty)).collect();
        }
        answer.rows.push(decode(&row, &answer.columns, &decoders).map_err(Trouble::Ours)?);
    }
    answer.n_affected = rows.rows_affected().unwrap_or(0);
    Ok(answer)
}

fn decode(row: &Row, columns: &[Column], decoders: &[Option<Decoder>]) -> Result<Vec<Value>, QueryError> {
    let value = |(index, (column, decoder)): (usize, (&Column, &Option<Decoder>))| {
        let raw = row.try_get::<_, Option<Raw<'_>>>(index).map_err(|_| column.malformed())?;
        column.read(*decoder, raw.map(|Raw(raw)| raw))
    };
    columns.iter().zip(decoders).enumerate().map(value).collect()
}

impl Column {
    fn of(column: &tokio_postgres::Column) -> Self {
        Self { name: column.name().to_owned(), ty: column.type_().clone() }
    }
}
