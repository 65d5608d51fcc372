use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Answer, Road, Statement,
    read::{End, Raw, Way, is_outdated, put_released, skip, take, undo},
};
use crate::{
    error::{Kind, QueryError, ServerError},
    pool::{Key, ReadLease},
    wire::WireError,
};

/// What became of a read, and when its last row was there.
pub(crate) type Ended = (Result<Answer, QueryError>, Instant);

/// The size that the results of one message may have together.
#[derive(Debug)]
pub(crate) struct Budget {
    limit_bytes: u64,
    taken_bytes: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, taken_bytes: AtomicU64::new(0) }
    }

    /// Returns the result if there is room for it. What has no room takes none, so a smaller one may still have.
    pub(crate) fn admit<T>(&self, n_bytes: u64, result: T) -> Result<T, QueryError> {
        self.hold(n_bytes)?.keep();
        Ok(result)
    }

    /// Takes room for a result that may not be answered yet.
    fn hold(&self, n_bytes: u64) -> Result<Held<'_>, QueryError> {
        let limit_bytes = self.limit_bytes;
        let taken = self.taken_bytes.fetch_add(n_bytes, Ordering::Relaxed);
        if taken.saturating_add(n_bytes) <= limit_bytes {
            return Ok(Held { budget: self, n_bytes });
        }
        self.taken_bytes.fetch_sub(n_bytes, Ordering::Relaxed);
        Err(QueryError::ResultTooLarge { limit_bytes })
    }
}

/// Room that is given back when dropped, since the read is asked again then.
struct Held<'a> {
    budget: &'a Budget,
    n_bytes: u64,
}

impl Held<'_> {
    /// Leaves it taken.
    fn keep(mut self) {
        self.n_bytes = 0;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.budget.taken_bytes.fetch_sub(self.n_bytes, Ordering::Relaxed);
    }
}

/// Runs queries one after the other in one read-only transaction; all of it travels at once.
///
/// The first one that is refused ends the transaction. `ended` has a place for each; one that stays empty must be asked again,
/// because one before it ended the transaction, or because it may be answered elsewhere. What was there when this is dropped,
/// or fails, stays there; the error is that of the connection.
///
/// Each must be [a query](Statement::is_query): nothing else is kept from ending the transaction, and writing in another one.
pub(crate) async fn read_together(
    mut lease: ReadLease,
    road: Road<'_>,
    statements: &[&Statement],
    left: Duration,
    budget: &Budget,
    ended: &mut [Option<Ended>],
) -> Result<(), QueryError> {
    let failed = |error| QueryError::from_postgres(road.node, Kind::Query, error);
    let ways = send(&mut lease, statements, left).map_err(failed)?;
    let n_begin = lease.wire().n_begin(left);
    let mut refused = skip(lease.wire(), n_begin).await.map_err(failed)?.map(|error| (None, error));
    let mut unknown = Vec::new();
    for (index, way) in ways.into_iter().enumerate() {
        if refused.is_some() {
            way.forget(&mut lease);
            continue;
        }
        let statement = statements[index];
        let (raw, goes_on) = match take(lease.wire(), statement).await.map_err(failed)? {
            End::Complete(raw) => (raw, true),
            End::Cut(raw) => (raw, false),
            End::TooLarge => {
                let error = QueryError::ResultTooLarge { limit_bytes: statement.max_bytes };
                ended[index] = Some((Err(error), Instant::now()));
                return Ok(());
            }
            End::Refused(error) => {
                refused = Some((Some((index, way)), error));
                continue;
            }
        };
        match budget.hold(raw.n_bytes) {
            Err(error) => {
                way.forget(&mut lease);
                ended[index] = Some((Err(error), Instant::now()));
            }
            Ok(held) if raw.is_known(lease.wire(), &way).map_err(failed)? => {
                ended[index] = Some(answer(&mut lease, statement, way, raw, held).await.map_err(failed)?);
            }
            Ok(held) => unknown.push((index, way, raw, held)),
        }
        // More is on its way than anybody wants to read: dropped, the connection is closed.
        if !goes_on {
            return Ok(());
        }
    }
    let (in_transaction, not_undone) = lease.wire().finish().await.map_err(failed)?;
    if in_transaction {
        undo(&mut lease, road, statements[0]).await.map_err(failed)?;
    }
    for (index, way, raw, held) in unknown {
        ended[index] = Some(answer(&mut lease, statements[index], way, raw, held).await.map_err(failed)?);
    }
    if let Some((place, error)) = refused {
        let (index, way) = place.map_or((0, Way::Once), |(index, way)| (index, way));
        ended[index] = answer_refused(&mut lease, road, statements[index], way, error);
    } else if not_undone.is_some() {
        lease.close();
        return Ok(());
    }
    lease.keep();
    Ok(())
}

/// Sends all of them, with what begins and ends their transaction.
fn send(lease: &mut ReadLease, statements: &[&Statement], left: Duration) -> Result<Vec<Way>, WireError> {
    let now = Instant::now();
    put_released(lease)?;
    lease.wire().put_begin(left)?;
    let mut ways = Vec::with_capacity(statements.len());
    for statement in statements {
        let way = Way::choose(lease, Key::of(&statement.sql, &statement.params), statement, now);
        way.put(lease.wire(), statement)?;
        ways.push(way);
    }
    lease.wire().put_end()?;
    lease.wire().put_sync();
    Ok(ways)
}

async fn answer(
    lease: &mut ReadLease,
    statement: &Statement,
    way: Way,
    raw: Raw,
    held: Held<'_>,
) -> Result<Ended, WireError> {
    let layout = raw.layout(lease.wire(), &way).await?;
    way.learn(lease, Key::of(&statement.sql, &statement.params), &layout);
    held.keep();
    Ok((raw.into_answer(&layout), Instant::now()))
}

/// Returns what the one that was refused is told; none when it may be answered all the same.
fn answer_refused(
    lease: &mut ReadLease,
    road: Road<'_>,
    statement: &Statement,
    way: Way,
    error: Box<ServerError>,
) -> Option<Ended> {
    let outdated = is_outdated(lease, Key::of(&statement.sql, &statement.params), &way, &error);
    way.forget(lease);
    let error = QueryError::from_postgres(road.node, Kind::Query, WireError::Server(error));
    (!outdated && !error.may_succeed_elsewhere()).then(|| (Err(error), Instant::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_takes_none() {
        let budget = Budget::new(10);
        assert_eq!(budget.admit(6, "first").unwrap(), "first");
        let refused = budget.admit(5, "second").unwrap_err();
        assert!(matches!(refused, QueryError::ResultTooLarge { limit_bytes: 10 }), "{refused:?}");
        assert_eq!(budget.admit(4, "third").unwrap(), "third");
        budget.admit(1, "fourth").unwrap_err();
        budget.admit(0, "empty").unwrap();
        let budget = Budget::new(10);
        drop(budget.hold(10));
        assert_eq!(budget.admit(10, "asked again").unwrap(), "asked again");
    }
}
