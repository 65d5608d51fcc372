//! One statement on one connection: the transaction around it, its rows, its limits.

use std::{
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, future};
use tokio_postgres::{Client, Row, RowStream, SimpleQueryMessage, types::Type};

use crate::{
    error::{Kind, QueryError},
    lsn::{Lsn, Position},
    pool::Lease,
    sql::{
        Value,
        decode::{Decoder, Raw},
        param::Param,
    },
};

pub(crate) mod plan;
mod stopwatch;
pub(crate) mod stream;
pub(crate) mod transaction;

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

/// What a statement answered.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub columns: Vec<Column>,
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

/// What is needed to know about the node to talk to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Road<'a> {
    pub node: &'a str,
    pub pgbouncer: bool,
    pub is_primary: bool,
}

/// How a statement ended on the wire.
enum End {
    /// All of it was read.
    Complete(Answer),
    /// The database refused it; the connection is in order.
    Refused(QueryError),
    /// Enough was read; more is on its way.
    Cut(Answer),
    /// It cannot go on; more may be on its way.
    Broken(QueryError),
}

/// A read undoes even what read-only transactions may leave behind: settings by rollback, advisory locks by name.
const END_READ: &str = "ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all()";
/// One message, so that behind `PgBouncer` too the position is read in the session that committed, after the commit.
const COMMIT: &str = "COMMIT; \
    SELECT l, pg_catalog.substr(pg_catalog.pg_walfile_name(l), 1, 8) \
    FROM (SELECT pg_catalog.pg_current_wal_insert_lsn() AS l) AS position; \
    CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
    SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES";
/// The database gives up this much before the caller does, so that the connection stays usable.
const MARGIN: Duration = Duration::from_millis(20);
/// Rows beyond the limit that are read and dropped rather than to lose the connection.
const DRAINED_ROWS: u32 = 1_000;
const DRAIN_WITHIN: Duration = Duration::from_millis(20);

/// Runs one read in a read-only transaction of its own.
///
/// Directly, all of it travels at once and costs one round trip. Behind `PgBouncer` the end is sent after the rows:
/// a column of a type unknown to the driver makes it ask the catalog, which must happen in the same transaction. A
/// read on a primary behind `PgBouncer` waits for its BEGIN too, because nothing else there forbids a write.
pub(crate) async fn read(
    lease: Lease,
    road: Road<'_>,
    statement: &Statement,
    left: Duration,
) -> Result<Answer, QueryError> {
    let begin_sql = format!("BEGIN READ ONLY; SET LOCAL statement_timeout = {}", timeout_ms(left));
    let client = lease.client();
    let failed = |error| QueryError::from_postgres(road.node, Kind::Query, error);
    let end = if road.pgbouncer {
        if road.is_primary {
            client.batch_execute(&begin_sql).await.map_err(failed)?;
            body(client, road, Kind::Query, statement).await
        } else {
            let (begun, end) =
                future::join(client.batch_execute(&begin_sql), body(client, road, Kind::Query, statement))
                    .await;
            begun.map_err(failed).map_or_else(End::Broken, |()| end)
        }
    } else {
        return read_at_once(lease, road, statement, &begin_sql).await;
    };
    let answer = match end {
        End::Complete(answer) => Ok(with_columns(client, statement, answer).await.map_err(failed)?),
        End::Refused(error) => Err(error),
        End::Cut(answer) => return Ok(answer),
        End::Broken(error) => return Err(error),
    };
    client.batch_execute(END_READ).await.map_err(failed)?;
    lease.keep();
    answer
}

async fn read_at_once(
    lease: Lease,
    road: Road<'_>,
    statement: &Statement,
    begin_sql: &str,
) -> Result<Answer, QueryError> {
    let client = lease.client();
    let failed = |error| QueryError::from_postgres(road.node, Kind::Query, error);
    // Polled in this order, so sent in this order. A statement that does not end in order ends the wait for the rest.
    let begun = client.batch_execute(begin_sql).map(Ok);
    let body = body(client, road, Kind::Query, statement).map(|end| match end {
        End::Complete(_) | End::Refused(_) => Ok(end),
        End::Cut(_) | End::Broken(_) => Err(end),
    });
    let ended = client.batch_execute(END_READ).map(Ok);
    let answer = match future::try_join3(begun, body, ended).await {
        Ok((begun, end, ended)) => {
            begun.map_err(failed)?;
            ended.map_err(failed)?;
            match end {
                End::Complete(answer) | End::Cut(answer) => Ok(answer),
                End::Refused(error) | End::Broken(error) => Err(error),
            }
        }
        Err(End::Complete(answer) | End::Cut(answer)) => return Ok(answer),
        Err(End::Refused(error) | End::Broken(error)) => return Err(error),
    };
    let answer = match answer {
        Ok(answer) => Ok(with_columns(client, statement, answer).await.map_err(failed)?),
        Err(error) => Err(error),
    };
    lease.keep();
    answer
}

/// Runs one write in a transaction of its own, and returns where its commit ended in the log.
///
/// `committing` is set before the COMMIT is sent: from then on, and only then, a lost connection leaves the outcome
/// open. The statement is never sent twice.
///
/// Directly, BEGIN and statement travel together. A cancel request may hit the BEGIN alone; the statement then runs
/// without a transaction, and fails because sessions are read-only where nothing else is said. Behind `PgBouncer`
/// nothing says so, and the statement waits for its BEGIN.
pub(crate) async fn write(
    lease: Lease,
    road: Road<'_>,
    statement: &Statement,
    left: Duration,
    committing: &AtomicBool,
) -> Result<(Answer, Option<Position>), QueryError> {
    let begin_sql = format!("BEGIN READ WRITE; SET LOCAL statement_timeout = {}", timeout_ms(left));
    let client = lease.client();
    let failed = |error| QueryError::from_postgres(road.node, Kind::Execute, error);
    let (begun, end) = if road.pgbouncer {
        match client.batch_execute(&begin_sql).await {
            Ok(()) => (Ok(()), body(client, road, Kind::Execute, statement).await),
            Err(error) => return refuse_begin(lease, failed(error)).await,
        }
    } else {
        future::join(client.batch_execute(&begin_sql), body(client, road, Kind::Execute, statement)).await
    };
    let answer = match (begun, end) {
        (Ok(()), End::Complete(answer)) => answer,
        // Without its BEGIN the statement ran on its own; of what read-only allows, some may be left behind.
        (Err(source), End::Complete(_)) => {
            return Err(QueryError::OutcomeUnknown { node: road.node.to_owned(), source: Some(source) });
        }
        (Err(refused), End::Refused(_)) => return refuse_begin(lease, failed(refused)).await,
        (Err(source), End::Cut(_) | End::Broken(_)) => return Err(failed(source)),
        (Ok(()), End::Refused(error)) => return end_write(lease, error).await,
        (Ok(()), End::Broken(error)) => return Err(error),
        (Ok(()), End::Cut(_)) => return Err(QueryError::TooManyRows { limit_rows: statement.max_rows }),
    };
    committing.store(true, Ordering::Relaxed);
    let position = transaction::finish(lease, road, Kind::Execute, committing).await?;
    Ok((answer, position))
}

/// Nothing was begun, so nothing was done: the statement had no leave to write.
async fn refuse_begin<T>(lease: Lease, error: QueryError) -> Result<T, QueryError> {
    match error {
        refused @ QueryError::Database { .. } => end_write(lease, refused).await,
        other => Err(other),
    }
}

async fn end_write<T>(lease: Lease, error: QueryError) -> Result<T, QueryError> {
    if lease.client().batch_execute(END_READ).await.is_ok() {
        lease.keep();
    } else {
        lease.close();
    }
    Err(error)
}

enum Commit {
    Done { position: Option<Position>, clean: bool },
    Failed(tokio_postgres::Error),
}

async fn commit(client: &Client) -> Commit {
    let mut messages = match client.simple_query_raw(COMMIT).await {
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
async fn body(client: &Client, road: Road<'_>, kind: Kind, statement: &Statement) -> End {
    let params = statement.params.iter().map(|param| (param, param.ty.clone()));
    let ended = match client.query_typed_raw(&statement.sql, params).await {
        Ok(rows) => collect(rows, kind, statement).await,
        Err(error) => Err(Trouble::Postgres(error)),
    };
    match ended {
        Ok((answer, true)) => End::Complete(answer),
        Ok((answer, false)) => End::Cut(answer),
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

/// Reads rows up to the limits; `true` when the statement has ended.
async fn collect(rows: RowStream, kind: Kind, statement: &Statement) -> Result<(Answer, bool), Trouble> {
    let mut rows = pin!(rows);
    let mut answer = Answer::default();
    let mut decoders = Vec::new();
    while let Some(row) = rows.next().await {
        let row = row.map_err(Trouble::Postgres)?;
        if answer.rows.len() >= statement.max_rows as usize {
            answer.truncated = true;
            let ended = kind.is_read() && drain(rows).await;
            return Ok((answer, ended));
        }
        answer.n_bytes += row.raw_size_bytes() as u64;
        if answer.n_bytes > statement.max_bytes {
            return Err(Trouble::Ours(QueryError::ResultTooLarge { limit_bytes: statement.max_bytes }));
        }
        if answer.rows.is_empty() {
            answer.columns = columns(row.columns());
            decoders = answer
                .columns
                .iter()
                .map(Column::decoder)
                .collect::<Result<_, _>>()
                .map_err(Trouble::Ours)?;
        }
        answer.rows.push(decode(&row, &answer.columns, &decoders).map_err(Trouble::Ours)?);
    }
    answer.n_affected = rows.rows_affected().unwrap_or(0);
    Ok((answer, true))
}

/// Reads and drops a short rest; `true` when that was all of it.
async fn drain(mut rows: std::pin::Pin<&mut RowStream>) -> bool {
    let rest = async {
        for _ in 0..DRAINED_ROWS {
            match rows.next().await {
                None => return true,
                Some(Ok(_)) => {}
                Some(Err(_)) => return false,
            }
        }
        false
    };
    tokio::time::timeout(DRAIN_WITHIN, rest).await.unwrap_or(false)
}

/// The driver tells the columns with the first row only; without one they are asked for.
async fn with_columns(
    client: &Client,
    statement: &Statement,
    mut answer: Answer,
) -> Result<Answer, tokio_postgres::Error> {
    if answer.rows.is_empty() && !answer.truncated {
        let types: Vec<_> = statement.params.iter().map(|param| param.ty.clone()).collect();
        answer.columns = columns(client.prepare_typed(&statement.sql, &types).await?.columns());
    }
    Ok(answer)
}

fn columns(columns: &[tokio_postgres::Column]) -> Vec<Column> {
    let column = |column: &tokio_postgres::Column| Column {
        name: column.name().to_owned(),
        ty: column.type_().clone(),
    };
    columns.iter().map(column).collect()
}

fn decode(row: &Row, columns: &[Column], decoders: &[Decoder]) -> Result<Vec<Value>, QueryError> {
    let value = |(index, (column, decoder)): (usize, (&Column, &Decoder))| {
        let malformed =
            || QueryError::Malformed { column: column.name.clone(), ty: column.ty.name().to_owned() };
        match row.try_get::<_, Option<Raw<'_>>>(index) {
            Ok(Some(Raw(raw))) => decoder.read(raw).map_err(|_| malformed()),
            Ok(None) => Ok(Value::Null),
            Err(_) => Err(malformed()),
        }
    };
    columns.iter().zip(decoders).enumerate().map(value).collect()
}

impl Column {
    fn decoder(&self) -> Result<Decoder, QueryError> {
        let unsupported = || QueryError::UnsupportedType {
            column: self.name.clone(),
            ty: crate::sql::types::name_of(&self.ty),
        };
        Decoder::of(&self.ty).ok_or_else(unsupported)
    }
}

fn timeout_ms(left: Duration) -> u128 {
    left.saturating_sub(MARGIN).as_millis().clamp(1, i32::MAX as u128)
}
