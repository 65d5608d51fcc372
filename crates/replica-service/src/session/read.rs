//! Reads: a read-only transaction, one message there and one back.

use std::{sync::Arc, time::Duration};

use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::{DataRowBody, RowDescriptionBody};
use tokio::time::{Instant, timeout};

use super::{Answer, Column, DEALLOCATE, Road, Statement, UNDO, UNDO_AND_DEALLOCATE};
use crate::{
    error::{Kind, QueryError, ServerError},
    pool::{Key, Named, ReadLease},
    sql::{Value, decode::Decoder},
    wire::{Event, Text, Wire, WireError},
};

/// Rows beyond the limit that are read and dropped rather than to lose the connection.
const DRAINED_ROWS: u32 = 1_000;
const DRAIN_WITHIN: Duration = Duration::from_millis(20);

/// How the rows of a statement are read.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    pub columns: Arc<[Column]>,
    /// `None` where values cannot be read; that matters only when there are any.
    decoders: Box<[Option<Decoder>]>,
}

/// How a statement is named to the server.
pub(super) enum Way {
    Once,
    /// It is prepared on the way, to be kept under this name.
    Learned(Arc<str>),
    Kept(Named),
}

/// What a statement answered, as it came.
#[derive(Default)]
pub(super) struct Raw {
    described: Option<RowDescriptionBody>,
    rows: Vec<DataRowBody>,
    truncated: bool,
    pub n_bytes: u64,
}

/// How a statement ended.
pub(super) enum End {
    Complete(Raw),
    /// Enough was read; more is on its way.
    Cut(Raw),
    /// Its rows are more than is allowed; more are on their way.
    TooLarge,
    Refused(Box<ServerError>),
}

/// Runs one read in a read-only transaction of its own; costs one round trip.
///
/// A statement that the connection keeps prepared is neither read nor planned again by the database. When it turns out not
/// to fit the tables any more, it is run once more as it would be without.
pub(crate) async fn read(
    mut lease: ReadLease,
    road: Road<'_>,
    statement: &Statement,
    left: Duration,
) -> Result<Answer, QueryError> {
    let begun_at = Instant::now();
    let failed = |error: WireError| QueryError::from_postgres(road.node, Kind::Query, error);
    let key = Key::of(&statement.sql, &statement.params);
    let mut way = Way::choose(&mut lease, key, statement, begun_at);
    let (mut end, mut is_undone) = exchange(&mut lease, road, statement, &way, left).await.map_err(failed)?;
    if let End::Refused(refused) = &end
        && is_outdated(&mut lease, key, &way, refused)
    {
        undo(&mut lease, road, statement).await.map_err(failed)?;
        way = Way::Once;
        let left = left.saturating_sub(begun_at.elapsed());
        (end, is_undone) = exchange(&mut lease, road, statement, &way, left).await.map_err(failed)?;
    }
    match end {
        End::Complete(raw) => {
            if !is_undone {
                undo(&mut lease, road, statement).await.map_err(failed)?;
            }
            let layout = raw.layout(lease.wire(), &way).await.map_err(failed)?;
            way.learn(&mut lease, key, &layout);
            if is_undone {
                give_back(lease, road, statement);
            } else {
                tracing::debug!(
                    node = road.node,
                    "connection closed: what a read left was not undone at once"
                );
                lease.close();
            }
            raw.into_answer(&layout)
        }
        // Nothing more is asked of a connection that has so much to say.
        End::Cut(raw) => {
            if !raw.is_known(lease.wire(), &way).map_err(failed)? {
                lease.interrupt().await;
                undo(&mut lease, road, statement).await.map_err(failed)?;
            }
            let layout = raw.layout(lease.wire(), &way).await.map_err(failed)?;
            raw.into_answer(&layout)
        }
        End::TooLarge => Err(QueryError::ResultTooLarge { limit_bytes: statement.max_bytes }),
        End::Refused(refused) => {
            way.forget(&mut lease);
            undo(&mut lease, road, statement).await.map_err(failed)?;
            give_back(lease, road, statement);
            Err(failed(WireError::Server(refused)))
        }
    }
}

/// Sends a statement with its transaction, and reads what it answers; tells whether all was undone that was to be.
async fn exchange(
    lease: &mut ReadLease,
    road: Road<'_>,
    statement: &Statement,
    way: &Way,
    left: Duration,
) -> Result<(End, bool), WireError> {
    put_released(lease)?;
    let wire = lease.wire();
    wire.put_begin(left)?;
    way.put(wire, statement)?;
    put_end(wire, road, statement)?;
    if let Some(refused) = skip(wire, wire.n_begin(left)).await? {
        wire.finish().await?;
        return Ok((End::Refused(refused), false));
    }
    let end = take(wire, statement).await?;
    let is_undone = match end {
        End::Complete(_) | End::Refused(_) => matches!(wire.finish().await?, (false, None)),
        End::Cut(_) | End::TooLarge => false,
    };
    Ok((end, is_undone))
}

/// Ends what travels together so that nothing of the statement is left, but for what closing the connection ends.
pub(super) fn put_end(wire: &mut Wire, road: Road<'_>, statement: &Statement) -> Result<(), WireError> {
    wire.put_end()?;
    if road.pgbouncer && !statement.is_query() {
        wire.put(Text::Once(DEALLOCATE), &[], false)?;
    }
    wire.put_sync();
    Ok(())
}

/// Reads what the statements answer that begin a transaction; returns why it was not begun.
pub(super) async fn skip(
    wire: &mut Wire,
    n_statements: usize,
) -> Result<Option<Box<ServerError>>, WireError> {
    let mut n_done = 0;
    while n_done < n_statements {
        match wire.next().await? {
            Event::Done => n_done += 1,
            Event::Refused(refused) => return Ok(Some(refused)),
            Event::Columns(_) | Event::Row(_) | Event::LongRow | Event::Ready { .. } => {
                return Err(WireError::out_of_turn());
            }
        }
    }
    Ok(None)
}

/// Reads what one statement answers, up to its limits.
pub(super) async fn take(wire: &mut Wire, statement: &Statement) -> Result<End, WireError> {
    let mut raw = Raw::default();
    loop {
        match wire.next_within(statement.max_bytes.saturating_sub(raw.n_bytes)).await? {
            Event::Columns(described) => raw.described = Some(described),
            Event::Row(_) | Event::LongRow if raw.rows.len() >= statement.max_rows as usize => {
                raw.truncated = true;
                let ended =
                    timeout(DRAIN_WITHIN, drain(wire, statement.max_bytes)).await.unwrap_or(Ok(false))?;
                return Ok(if ended { End::Complete(raw) } else { End::Cut(raw) });
            }
            Event::Row(row) => {
                raw.n_bytes += row.buffer().len() as u64;
                if raw.n_bytes > statement.max_bytes {
                    return Ok(End::TooLarge);
                }
                raw.rows.push(row);
            }
            Event::LongRow => return Ok(End::TooLarge),
            Event::Done => return Ok(End::Complete(raw)),
            Event::Refused(refused) => return Ok(End::Refused(refused)),
            Event::Ready { .. } => return Err(WireError::out_of_turn()),
        }
    }
}

/// Reads and drops a short rest; `true` when that was all of it.
async fn drain(wire: &mut Wire, most_bytes: u64) -> Result<bool, WireError> {
    for _ in 0..DRAINED_ROWS {
        match wire.next_within(most_bytes).await? {
            Event::Row(_) => {}
            event => return Ok(matches!(event, Event::Done)),
        }
    }
    Ok(false)
}

/// Undoes what a refused read has left.
pub(super) async fn undo(
    lease: &mut ReadLease,
    road: Road<'_>,
    statement: &Statement,
) -> Result<(), WireError> {
    let deallocates = road.pgbouncer && !statement.is_query();
    lease.wire().simple(if deallocates { UNDO_AND_DEALLOCATE } else { UNDO }).await.map(drop)
}

/// Gives a connection back on which nothing runs, or closes it where the statement may have left something.
pub(super) fn give_back(lease: ReadLease, road: Road<'_>, statement: &Statement) {
    if road.pgbouncer || statement.is_query() {
        lease.keep();
    } else {
        lease.close();
    }
}

/// Lets the server forget what is kept no more; travels with the next statement.
pub(super) fn put_released(lease: &mut ReadLease) -> Result<(), WireError> {
    let released = lease.kept().take_released();
    released.iter().try_for_each(|name| lease.wire().put_close(name))
}

/// Tells whether a statement was refused only for being prepared earlier, and forgets that it was.
pub(super) fn is_outdated(lease: &mut ReadLease, key: Key<'_>, way: &Way, refused: &ServerError) -> bool {
    let is_lost = refused.is_of_lost_statement();
    let outdated = match way {
        Way::Kept(_) => refused.is_of_outdated_statement(key.is_inferred()),
        Way::Once | Way::Learned(_) => is_lost && lease.wire().has_commands(),
    };
    if !outdated {
        return false;
    }
    lease.kept_metrics().outdated.inc();
    if is_lost {
        // Who deallocates one of ours has deallocated all.
        lease.kept().clear();
        lease.wire().forget_commands();
    } else {
        lease.kept().forget(key);
    }
    true
}

impl Way {
    /// A statement that was asked twice is prepared on its way.
    pub(super) fn choose(lease: &mut ReadLease, key: Key<'_>, statement: &Statement, now: Instant) -> Self {
        if let Some(named) = lease.kept().find(key, now) {
            lease.kept_metrics().used.inc();
            return Self::Kept(named);
        }
        if lease.kept().wants(key) && statement.is_query() {
            return Self::Learned(lease.wire().new_name());
        }
        Self::Once
    }

    pub(super) fn put(&self, wire: &mut Wire, statement: &Statement) -> Result<(), WireError> {
        let (sql, params) = (&*statement.sql, &*statement.params);
        match self {
            Self::Once => wire.put(Text::Once(sql), params, true),
            Self::Learned(name) => wire.put(Text::Kept { name, sql }, params, true),
            Self::Kept(named) => wire.put(Text::Named(&named.name), params, false),
        }
    }

    /// Keeps what was prepared on the way.
    pub(super) fn learn(self, lease: &mut ReadLease, key: Key<'_>, layout: &Arc<Layout>) {
        let Self::Learned(name) = self else { return };
        let metrics = lease.kept_metrics().clone();
        metrics.prepared.inc();
        let named = Named { name, layout: Arc::clone(layout) };
        if lease.kept().keep(key, named, Instant::now()) {
            metrics.evicted.inc();
        }
    }

    /// Notes that what was prepared on the way is not wanted.
    pub(super) fn forget(self, lease: &mut ReadLease) {
        if let Self::Learned(name) = self {
            lease.kept().release(name);
        }
    }
}

impl Raw {
    /// Tells whether the types of all columns are known.
    pub(super) fn is_known(&self, wire: &Wire, way: &Way) -> Result<bool, WireError> {
        match (way, &self.described) {
            (Way::Kept(_), _) | (_, None) => Ok(true),
            (_, Some(described)) => Ok(wire.columns(described)?.is_some()),
        }
    }

    /// Finds out how to read the rows; asks the database where a type is not known, and then nothing must be under way.
    pub(super) async fn layout(&self, wire: &mut Wire, way: &Way) -> Result<Arc<Layout>, WireError> {
        match (way, &self.described) {
            (Way::Kept(named), _) => Ok(Arc::clone(&named.layout)),
            (_, None) => Ok(Arc::default()),
            (_, Some(described)) => Layout::find(wire, described).await.map(Arc::new),
        }
    }

    pub(super) fn into_answer(self, layout: &Layout) -> Result<Answer, QueryError> {
        let rows = self.rows.into_iter().map(|row| layout.read(&row)).collect::<Result<_, _>>()?;
        Ok(Answer {
            columns: Arc::clone(&layout.columns),
            rows,
            truncated: self.truncated,
            n_affected: 0,
            n_bytes: self.n_bytes,
        })
    }
}

impl Layout {
    /// Asks the database where a type is not known; then nothing must be under way.
    pub(super) async fn find(wire: &mut Wire, described: &RowDescriptionBody) -> Result<Self, WireError> {
        let columns = match wire.columns(described)? {
            Some(columns) => columns,
            None => wire.look_up(described).await?,
        };
        let decoders = columns.iter().map(|column| Decoder::of(&column.ty)).collect();
        Ok(Self { columns: columns.into(), decoders })
    }

    /// Decodes one row.
    pub(super) fn read(&self, row: &DataRowBody) -> Result<Vec<Value>, QueryError> {
        let mut ranges = row.ranges();
        let mut values = Vec::with_capacity(self.columns.len());
        for (column, decoder) in self.columns.iter().zip(&*self.decoders) {
            let range = ranges.next().ok().flatten().ok_or_else(|| column.malformed())?;
            values.push(column.read(*decoder, range.map(|range| &row.buffer()[range]))?);
        }
        Ok(values)
    }
}
