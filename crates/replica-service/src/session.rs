//! One statement on one connection: the transaction around it, its rows, its limits.

use std::{
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, future};
use tokio::time::Instant;
use tokio_postgres::{Client, Row, RowStream, SimpleQueryMessage, Statement as Prepared, types::Type};

use crate::{
    error::{Kind, QueryError},
    lsn::{Lsn, Position},
    pool::{Key, Lease},
    sql::{
        Value,
        decode::{Decoder, Raw},
        param::Param,
    },
};

mod leftovers;
pub(crate) mod plan;
mod settle;
mod stopwatch;
pub(crate) mod stream;
pub(crate) mod together;
pub(crate) mod transaction;

use leftovers::may_leave_statements;
use settle::Settling;
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

    fn types(&self) -> Vec<Type> {
        self.params.iter().map(|param| param.ty.clone()).collect()
    }
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
/// What no rollback takes back, where the connection cannot be closed to the same end.
const END_READ_AND_STATEMENTS: &str = "ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all(); DEALLOCATE ALL";
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
    if !road.pgbouncer {
        return read_at_once(lease, road, statement, left).await;
    }
    let begin_sql = begin_read(left);
    let client = lease.client();
    let failed = |error| QueryError::from_postgres(road.node, Kind::Query, error);
    let end = if road.is_primary {
        client.batch_execute(&begin_sql).await.map_err(failed)?;
        body(client, road, Kind::Query, statement, None).await
    } else {
        let body = body(client, road, Kind::Query, statement, None);
        let (begun, end) = future::join(client.batch_execute(&begin_sql), body).await;
        begun.map_err(failed).map_or_else(End::Broken, |()| end)
    };
    let answer = match end {
        End::Complete(answer) => Ok(with_columns(client, statement, answer).await.map_err(failed)?.0),
        End::Refused(error) => Err(error),
        End::Cut(answer) => return Ok(answer),
        End::Broken(error) => return Err(error),
    };
    end_read(lease, road, &statement.sql).await.map_err(failed)?;
    answer
}

/// Ends the transaction of a read, and gives the connection back without anything that the read has left in it.
async fn end_read(lease: Lease, road: Road<'_>, sql: &str) -> Result<(), tokio_postgres::Error> {
    let is_clean = !may_leave_statements(sql);
    let end = if is_clean || !road.pgbouncer { END_READ } else { END_READ_AND_STATEMENTS };
    lease.client().batch_execute(end).await?;
    if is_clean || road.pgbouncer {
        lease.keep();
    } else {
        lease.close();
    }
    Ok(())
}

/// A statement that the connection keeps prepared is neither read nor planned again by the database. When it turns out not
/// to fit the tables any more, it is run once more as it would be without.
async fn read_at_once(
    mut lease: Lease,
    road: Road<'_>,
    statement: &Statement,
    left: Duration,
) -> Result<Answer, QueryError> {
    let begun_at = Instant::now();
    let key = Key::of(&statement.sql, &statement.params);
    let Some(prepared) = lease.kept().find(key, begun_at) else {
        let learns = lease.kept().wants(key) && !may_leave_statements(&statement.sql);
        let (answer, settling) = pipeline(lease, road, statement, left, None).await?;
        settling.learning(learns, statement).detach();
        return answer;
    };
    lease.kept_metrics().used.inc();
    let (answer, settling) = pipeline(lease, road, statement, left, Some(&prepared)).await?;
    let outdated = |error: &QueryError| error.is_of_outdated_statement(key.is_inferred());
    let Some(refused) = answer.as_ref().err().filter(|error| outdated(error)) else {
        settling.detach();
        return answer;
    };
    let is_lost = refused.is_lost_statement();
    let failed = |error| QueryError::from_postgres(road.node, Kind::Query, error);
    let mut lease = settling.wait().await.map_err(failed)?;
    lease.kept_metrics().outdated.inc();
    // Who deallocates one of ours has deallocated all.
    if is_lost {
        lease.kept().clear()
    } else {
        lease.kept().forget(key)
    }
    let left = left.saturating_sub(begun_at.elapsed());
    let (answer, settling) = pipeline(lease, road, statement, left, None).await?;
    settling.detach();
    answer
}

/// Sends a read with its BEGIN and its end, and waits for its rows; the end arrives behind them.
///
/// The outer error is one after which the connection is not used again.
async fn pipeline(
    lease: Lease,
    road: Road<'_>,
    statement: &Statement,
    left: Duration,
    prepared: Option<&Prepared>,
) -> Result<(Result<Answer, QueryError>, Settling), QueryError> {
    let failed = |error| QueryError::from_postgres(road.node, Kind::Query, error);
    let client = lease.client();
    let begun = client.simple_query_raw(&begin_read(left)).await.map_err(failed)?;
    let (end, ended) = {
        let mut body = pin!(body(client, road, Kind::Query, statement, prepared));
        // The first look sends it.
        let early = body.as_mut().now_or_never();
        let ended = client.simple_query_raw(END_READ).await.map_err(failed)?;
        let end = match early {
            Some(end) => end,
            None => body.await,
        };
        (end, ended)
    };
    let answer = match end {
        End::Complete(answer) => Ok(answer),
        End::Refused(error) => Err(error),
        // What is still on its way ends with the connection.
        End::Cut(answer) => return Ok((Ok(answer), Settling::cut(lease))),
        End::Broken(error) => return Err(error),
    };
    settle::all(begun).await.map_err(failed)?;
    let (answer, described) = match (answer, prepared) {
        (Ok(mut answer), Some(prepared)) => {
            if answer.rows.is_empty() {
                answer.columns = columns(prepared.columns());
            }
            (Ok(answer), None)
        }
        (Ok(answer), None) => {
            let (answer, described) = with_columns(client, statement, answer).await.map_err(failed)?;
            (Ok(answer), described)
        }
        (Err(error), _) => (Err(error), None),
    };
    Ok((answer, Settling::new(lease, ended, &statement.sql, described)))
}

fn begin_read(left: Duration) -> String {
    format!("BEGIN READ ONLY; SET LOCAL statement_timeout = {}", timeout_ms(left))
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
            Ok(()) => (Ok(()), body(client, road, Kind::Execute, statement, None).await),
            Err(error) => return refuse_begin(lease, failed(error)).await,
        }
    } else {
        future::join(client.batch_execute(&begin_sql), body(client, road, Kind::Execute, statement, None))
            .await
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

/// Sends the statement and reads its rows; without `prepared` nothing of it is kept in the server.
async fn body(
    client: &Client,
    road: Road<'_>,
    kind: Kind,
    statement: &Statement,
    prepared: Option<&Prepared>,
) -> End {
    let sent = match prepared {
        Some(prepared) => client.query_raw(prepared, &statement.params).await,
        None => {
            let params = statement.params.iter().map(|param| (param, param.ty.clone()));
            client.query_typed_raw(&statement.sql, params).await
        }
    };
    let ended = match sent {
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

/// The driver tells the columns with the first row only; without one they are asked for, by preparing the statement.
async fn with_columns(
    client: &Client,
    statement: &Statement,
    mut answer: Answer,
) -> Result<(Answer, Option<Prepared>), tokio_postgres::Error> {
    if !answer.rows.is_empty() || answer.truncated {
        return Ok((answer, None));
    }
    let prepared = client.prepare_typed(&statement.sql, &statement.types()).await?;
    answer.columns = columns(prepared.columns());
    Ok((answer, Some(prepared)))
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
