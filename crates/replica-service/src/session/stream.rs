use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;

use super::{
    Column, Road, Statement,
    read::{self, Layout},
};
use crate::{
    engine::Served,
    error::{Kind, QueryError, ServerError},
    pool::ReadLease,
    sql::Value,
    wire::{Event, Text, Wire, WireError},
};

/// Part of the answer to a read.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// In the first chunk only.
    pub served: Option<Served>,
    /// In the first chunk only.
    pub columns: Arc<[Column]>,
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
/// Only as much is read from the socket as is asked for, so memory is bounded by the chunks, and by `max_bytes` of the
/// statement for a single row. When the caller is gone, or a limit is reached, the lease is dropped and with it the rest of
/// the statement. The columns are asked for first: a type that must be looked up could not be while rows come.
pub(crate) async fn stream(
    mut lease: ReadLease,
    road: Road<'_>,
    statement: &Statement,
    limits: StreamLimits,
    left: Duration,
    (served, sink): (Served, &Sink),
) -> Result<u64, QueryError> {
    let failed = |error| QueryError::from_postgres(road.node, Kind::Stream, error);
    let begun = begin(&mut lease, road, statement, left).await.map_err(failed)?;
    let ended = match begun {
        Ok(layout) => {
            send_rows(lease.wire(), road, (layout, statement.max_bytes), limits, served, sink).await
        }
        Err(refused) => Err(failed(WireError::Server(refused))),
    };
    match ended {
        Ok(Ended::All(end)) => {
            let (in_transaction, refused) = lease.wire().finish().await.map_err(failed)?;
            if in_transaction || refused.is_some() {
                lease.close();
            } else {
                read::give_back(lease, road, statement);
            }
            let rows_total = end.rows_total;
            sink.send(end).await;
            Ok(rows_total)
        }
        Ok(Ended::Early(rows_total)) => Ok(rows_total),
        Err(refused @ QueryError::Database { .. }) => {
            lease.wire().settle().await;
            read::undo(&mut lease, road, statement).await.map_err(failed)?;
            read::give_back(lease, road, statement);
            Err(refused)
        }
        Err(error) => Err(error),
    }
}

/// Begins a transaction, finds out how to read the rows of the statement, and sends it with the end of its transaction.
async fn begin(
    lease: &mut ReadLease,
    road: Road<'_>,
    statement: &Statement,
    left: Duration,
) -> Result<Result<Layout, Box<ServerError>>, WireError> {
    read::put_released(lease)?;
    let wire = lease.wire();
    wire.put_begin(left)?;
    wire.put_question(&statement.sql, &statement.params)?;
    wire.put_sync();
    let (mut described, mut refused) = (None, None);
    loop {
        match wire.next().await? {
            Event::Columns(columns) => described = Some(columns),
            Event::Refused(error) => refused = Some(error),
            Event::Ready { .. } => break,
            Event::Done | Event::Row(_) | Event::LongRow => {}
        }
    }
    if let Some(refused) = refused {
        return Ok(Err(refused));
    }
    let layout = match &described {
        Some(described) => Layout::find(wire, described).await?,
        None => Layout::default(),
    };
    wire.put(Text::Once(&statement.sql), &statement.params, false)?;
    read::put_end(wire, road, statement)?;
    Ok(Ok(layout))
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
    wire: &mut Wire,
    road: Road<'_>,
    (layout, most_row_bytes): (Layout, u64),
    limits: StreamLimits,
    served: Served,
    sink: &Sink,
) -> Result<Ended, QueryError> {
    let failed = |error| QueryError::from_postgres(road.node, Kind::Stream, error);
    let columns = Arc::clone(&layout.columns);
    let mut chunk = Chunk { served: Some(served), columns, ..Chunk::default() };
    let (mut bytes_total, mut chunk_bytes) = (0, 0);
    loop {
        let row = match wire.next_within(most_row_bytes).await.map_err(failed)? {
            Event::Row(row) => row,
            Event::LongRow => return Err(QueryError::ResultTooLarge { limit_bytes: most_row_bytes }),
            Event::Done => break,
            Event::Refused(refused) => return Err(failed(WireError::Server(refused))),
            Event::Columns(_) | Event::Ready { .. } => return Err(failed(WireError::out_of_turn())),
        };
        let n_bytes = row.buffer().len() as u64;
        if chunk.rows_total >= limits.max_rows || bytes_total + n_bytes > limits.max_bytes {
            (chunk.last, chunk.truncated) = (true, true);
            let rows_total = chunk.rows_total;
            sink.send(chunk).await;
            return Ok(Ended::Early(rows_total));
        }
        chunk.rows.push(layout.read(&row)?);
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
