use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Answer, Road, Statement, timeout_ms,
    write::{After, Commit, End, body, commit, end_write, refuse_begin},
};
use crate::{
    error::{Kind, QueryError},
    lsn::Position,
    pool::WriteLease,
};

/// How much a transaction sees of others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Isolation {
    #[default]
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

/// How far a transaction has come; read by whoever gives up on it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// A COMMIT is on its way: a lost connection leaves the outcome open.
    pub committing: AtomicBool,
    /// Number of the statement that runs.
    pub statement: AtomicUsize,
}

/// What each statement answered, and how long it took.
pub(crate) type Answers = Vec<(Answer, Duration)>;

impl Isolation {
    const fn as_sql(self) -> &'static str {
        match self {
            Self::ReadCommitted => "READ COMMITTED",
            Self::RepeatableRead => "REPEATABLE READ",
            Self::Serializable => "SERIALIZABLE",
        }
    }
}

/// Runs statements one after the other in one transaction, and returns where its commit ended in the log.
///
/// The first refused statement undoes all. `max_bytes` of the first statement bounds all results together.
pub(crate) async fn transaction(
    lease: WriteLease,
    road: Road<'_>,
    statements: &[Statement],
    isolation: Isolation,
    left: Duration,
    progress: &Progress,
) -> Result<(Answers, Option<Position>), QueryError> {
    let (client, after) = (lease.client(), After::of(road, statements));
    let failed = |error| QueryError::from_postgres(road.node, Kind::Transaction, error);
    let begin_sql = format!(
        "BEGIN ISOLATION LEVEL {} READ WRITE; SET LOCAL statement_timeout = {}",
        isolation.as_sql(),
        timeout_ms(left)
    );
    if let Err(error) = client.batch_execute(&begin_sql).await {
        return refuse_begin(lease, after, failed(error)).await;
    }
    let (mut answers, mut n_bytes) = (Vec::with_capacity(statements.len()), 0);
    for (number, statement) in statements.iter().enumerate() {
        progress.statement.store(number, Ordering::Relaxed);
        let begun_at = Instant::now();
        let answer = match body(client, road, Kind::Transaction, statement).await {
            End::Complete(answer) => answer,
            End::Refused(error) => return end_write(lease, after, error).await,
            End::Broken(error) => return Err(error),
        };
        n_bytes += answer.n_bytes;
        if n_bytes > statement.max_bytes {
            return end_write(lease, after, QueryError::ResultTooLarge { limit_bytes: statement.max_bytes })
                .await;
        }
        answers.push((answer, begun_at.elapsed()));
    }
    progress.statement.store(statements.len(), Ordering::Relaxed);
    progress.committing.store(true, Ordering::Relaxed);
    let position = finish(lease, road, Kind::Transaction, after, &progress.committing).await?;
    Ok((answers, position))
}

/// Commits; only a lost connection leaves the outcome open.
pub(super) async fn finish(
    lease: WriteLease,
    road: Road<'_>,
    kind: Kind,
    after: After,
    committing: &AtomicBool,
) -> Result<Option<Position>, QueryError> {
    match commit(lease.client(), after).await {
        Commit::Done { position, clean: true } => {
            after.end(lease);
            Ok(position)
        }
        Commit::Done { position, clean: false } => {
            lease.close();
            Ok(position)
        }
        Commit::Failed(source) => match QueryError::from_postgres(road.node, kind, source) {
            refused @ QueryError::Database { .. } => {
                committing.store(false, Ordering::Relaxed);
                end_write(lease, after, refused).await
            }
            QueryError::Broken { node, source } => Err(QueryError::OutcomeUnknown { node, source }),
            other => Err(other),
        },
    }
}
