use std::{
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_postgres::RowStream;

use super::{Answer, Column, Road, Statement, begin_read, columns, decode, end_read, with_columns};
use crate::{
    engine::Served,
    error::{Kind, QueryError},
    pool::Lease,
    sql::Value,
};

/// Part of the answer to a read.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// In the first chunk only.
    pub served: Option<Served>,
    /// In the first chunk only.
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Value>>,
    pub last: bool,
    pub truncated: bool,
    /// Rows sent up to and with this chunk.
    pub rows_total: u64,
}

/// Where chunks go. It holds few, so a caller who is slow to take them slows the database down.
pub(crate) struct Sink {
    chunks_tx: mpsc::Sender<Result<Chunk, QueryError>>,
    begun: AtomicBool,
}

/// What ends a stream early.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamLimits {
    pub max_rows: u64,
    pub max_bytes: u64,
}

/// Chunks that wait for the caller to take them.
pub(crate) const WAITING_CHUNKS: usize = 2;
const CHUNK_ROWS: usize = 1_000;
const CHUNK_BYTES: u64 = 256 << 10;

/// Runs one read and sends its rows in chunks; returns how many rows there were.
///
/// The driver reads from the socket only what is asked for, so memory is bounded by the chunks. When the caller is
/// gone, or a limit is reached, the lease is dropped and with it the rest of the statement.
pub(crate) async fn stream(
    lease: Lease,
    road: Road<'_>,
    statement: &Statement,
    limits: StreamLimits,
    left: Duration,
    (served, sink): (Served, &Sink),
) -> Result<u64, QueryError> {
    let client = lease.client();
    let failed = |error| QueryError::from_postgres(road.node, Kind::Stream, error);
    client.batch_execute(&begin_read(left)).await.map_err(failed)?;
    let params = statement.params.iter().map(|param| (param, param.ty.clone()));
    let ended = match client.query_typed_raw(&statement.sql, params).await {
        Ok(rows) => send_rows(rows, road, limits, served, sink).await,
        Err(error) => Err(failed(error)),
    };
    let mut end = match ended {
        Ok(Ended::All(end)) => end,
        Ok(Ended::Early(rows_total)) => return Ok(rows_total),
        Err(refused @ QueryError::Database { .. }) => {
            end_read(lease, road, &statement.sql).await.map_err(failed)?;
            return Err(refused);
        }
        Err(error) => return Err(error),
    };
    if end.served.is_some() {
        let (answer, _) = with_columns(client, statement, Answer::default()).await.map_err(failed)?;
        end.columns = answer.columns;
    }
    end_read(lease, road, &statement.sql).await.map_err(failed)?;
    let rows_total = end.rows_total;
    sink.send(end).await;
    Ok(rows_total)
}

impl Sink {
    pub(crate) fn new(chunks_tx: mpsc::Sender<Result<Chunk, QueryError>>) -> Self {
        Self { chunks_tx, begun: AtomicBool::new(false) }
    }

    /// Tells whether anything was sent.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Waits until the caller is gone.
    pub(crate) async fn closed(&self) {
        self.chunks_tx.closed().await;
    }

    /// Ends the stream with an error.
    pub(crate) async fn fail(&self, error: QueryError) {
        // A caller that is gone needs no reason.
        let _ = self.chunks_tx.send(Err(error)).await;
    }

    /// Returns `false` when the caller is gone.
    async fn send(&self, chunk: Chunk) -> bool {
        self.begun.store(true, Ordering::Relaxed);
        self.chunks_tx.send(Ok(chunk)).await.is_ok()
    }
}

enum Ended {
    /// All rows were read; this is the last chunk, not sent yet.
    All(Chunk),
    /// The caller is gone or has its limit; the statement may still run.
    Early(u64),
}

async fn send_rows(
    rows: RowStream,
    road: Road<'_>,
    limits: StreamLimits,
    served: Served,
    sink: &Sink,
) -> Result<Ended, QueryError> {
    let mut rows = pin!(rows);
    let mut chunk = Chunk { served: Some(served), ..Chunk::default() };
    let (mut described, mut decoders) = (Vec::new(), Vec::new());
    let (mut bytes_total, mut chunk_bytes) = (0, 0);
    while let Some(row) = rows.next().await {
        let row = row.map_err(|error| QueryError::from_postgres(road.node, Kind::Stream, error))?;
        let n_bytes = row.raw_size_bytes() as u64;
        if chunk.rows_total >= limits.max_rows || bytes_total + n_bytes > limits.max_bytes {
            (chunk.last, chunk.truncated) = (true, true);
            let rows_total = chunk.rows_total;
            sink.send(chunk).await;
            return Ok(Ended::Early(rows_total));
        }
        if described.is_empty() {
            described = columns(row.columns());
            decoders = described.iter().map(Column::decoder).collect::<Result<_, _>>()?;
            chunk.columns.clone_from(&described);
        }
        chunk.rows.push(decode(&row, &described, &decoders)?);
        chunk.rows_total += 1;
        bytes_total += n_bytes;
        chunk_bytes += n_bytes;
        if chunk.rows.len() >= CHUNK_ROWS || chunk_bytes >= CHUNK_BYTES {
            let next = Chunk { rows_total: chunk.rows_total, ..Chunk::default() };
            let full = std::mem::replace(&mut chunk, next);
            chunk_bytes = 0;
            if !sink.send(full).await {
                return Ok(Ended::Early(chunk.rows_total));
            }
        }
    }
    chunk.last = true;
    Ok(Ended::All(chunk))
}
