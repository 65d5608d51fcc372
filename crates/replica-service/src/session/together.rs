use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::time::Instant;
use tokio_postgres::{SimpleQueryStream, Statement as Prepared};

use super::{
    Answer, END_READ, End, Road, Statement, begin_read, body, columns, settle, settle::Settling, with_columns,
};
use crate::{
    error::{Kind, QueryError},
    pool::{Key, Lease},
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
        let limit_bytes = self.limit_bytes;
        let taken = self.taken_bytes.fetch_add(n_bytes, Ordering::Relaxed);
        if taken.saturating_add(n_bytes) <= limit_bytes {
            return Ok(result);
        }
        self.taken_bytes.fetch_sub(n_bytes, Ordering::Relaxed);
        Err(QueryError::ResultTooLarge { limit_bytes })
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
    mut lease: Lease,
    road: Road<'_>,
    statements: &[&Statement],
    left: Duration,
    budget: &Budget,
    ended: &mut [Option<Ended>],
) -> Result<(), QueryError> {
    let (prepared, learns) = find_kept(&mut lease, statements);
    let sent = send_and_read(&lease, road, statements, &prepared, left, budget, ended).await?;
    // Without an end more is on its way than anybody wants to read: dropped, the connection is closed.
    let Some((end, refused)) = sent else { return Ok(()) };
    if let Some((index, error)) = refused {
        let was_kept = prepared[index].is_some();
        ended[index] = answer_refused(&mut lease, statements[index], was_kept, error);
    }
    let settling = Settling::ending(lease, end, false);
    learns.into_iter().fold(settling, |settling, statement| settling.learning(true, statement)).detach();
    Ok(())
}

fn find_kept<'a>(
    lease: &mut Lease,
    statements: &[&'a Statement],
) -> (Vec<Option<Prepared>>, Vec<&'a Statement>) {
    let (now, mut learns) = (Instant::now(), Vec::<&Statement>::new());
    let mut find = |statement: &&'a Statement| {
        let key = Key::of(&statement.sql, &statement.params);
        let found = lease.kept().find(key, now);
        if found.is_some() {
            lease.kept_metrics().used.inc();
        } else if lease.kept().wants(key) && !learns.iter().any(|known| known.sql == statement.sql) {
            learns.push(statement);
        }
        found
    };
    let prepared = statements.iter().map(&mut find).collect();
    (prepared, learns)
}

/// The end that is on its way, and the read that was refused.
type Sent = (SimpleQueryStream, Option<(usize, QueryError)>);

/// Returns none when the connection is not to be used again.
async fn send_and_read(
    lease: &Lease,
    road: Road<'_>,
    statements: &[&Statement],
    prepared: &[Option<Prepared>],
    left: Duration,
    budget: &Budget,
    ended: &mut [Option<Ended>],
) -> Result<Option<Sent>, QueryError> {
    let failed = |error| QueryError::from_postgres(road.node, Kind::Query, error);
    let client = lease.client();
    let begun = client.simple_query_raw(&begin_read(left)).await.map_err(failed)?;
    let mut bodies = Vec::with_capacity(statements.len());
    for (statement, prepared) in statements.iter().zip(prepared) {
        let mut body = Box::pin(body(client, road, Kind::Query, statement, prepared.as_ref()));
        // The first look sends it.
        let early = body.as_mut().now_or_never();
        bodies.push((body, early));
    }
    let end = client.simple_query_raw(END_READ).await.map_err(failed)?;
    settle::all(begun).await.map_err(failed)?;
    let (mut refused, mut nameless) = (None, Vec::new());
    for (index, (body, early)) in bodies.into_iter().enumerate() {
        let read = match early {
            Some(read) => read,
            None => body.await,
        };
        let (result, goes_on) = match read {
            End::Complete(answer) => (Ok(answer), true),
            End::Cut(answer) => (Ok(answer), false),
            End::Refused(error) => {
                refused = Some((index, error));
                break;
            }
            End::Broken(error @ QueryError::Broken { .. }) => return Err(error),
            End::Broken(error) => (Err(error), false),
        };
        let (result, at) = (result.and_then(|answer| budget.admit(answer.n_bytes, answer)), Instant::now());
        ended[index] = match (result, &prepared[index]) {
            (Ok(mut answer), Some(prepared)) if answer.rows.is_empty() => {
                answer.columns = columns(prepared.columns());
                Some((Ok(answer), at))
            }
            (Ok(answer), None) if answer.rows.is_empty() => {
                nameless.push((index, answer, at));
                None
            }
            (result, _) => Some((result, at)),
        };
        if !goes_on {
            return Ok(None);
        }
    }
    for (index, answer, at) in nameless {
        let (answer, _) = with_columns(client, statements[index], answer).await.map_err(failed)?;
        ended[index] = Some((Ok(answer), at));
    }
    Ok(Some((end, refused)))
}

/// Returns what the one that was refused is told; none when it may be answered all the same.
fn answer_refused(
    lease: &mut Lease,
    statement: &Statement,
    was_kept: bool,
    error: QueryError,
) -> Option<Ended> {
    let key = Key::of(&statement.sql, &statement.params);
    if was_kept && error.is_of_outdated_statement(key.is_inferred()) {
        lease.kept_metrics().outdated.inc();
        if error.is_lost_statement() {
            lease.kept().clear()
        } else {
            lease.kept().forget(key)
        }
        return None;
    }
    (!error.may_succeed_elsewhere()).then(|| (Err(error), Instant::now()))
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
    }
}
