use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;

use super::step_error::StepError;
use crate::{engine::Engine, pool::WriteLease};

/// One transaction on the primary, past any `PgBouncer`; dropped without [`commit`](Self::commit) it is undone.
pub(super) struct Work {
    lease: WriteLease,
    within: Duration,
}

/// What a transaction may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For each lock; others wait behind it for as long.
    pub lock_within: Duration,
    /// For each statement.
    pub within: Duration,
}

/// The server gives up first, so that the connection is told.
const MARGIN: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_mins(10);

impl Work {
    pub(super) async fn begin(engine: &Engine, patience: Patience) -> Result<Self, StepError> {
        let lease = engine.primary()?.direct_writes().lease().await?;
        let work = Self { lease, within: patience.within + MARGIN };
        let sql = format!(
            "BEGIN READ WRITE; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}",
            patience.lock_within.as_millis().max(1),
            patience.within.as_millis().max(1)
        );
        work.run("begin a transaction", &sql).await?;
        Ok(work)
    }

    /// Runs statements without rows.
    pub(super) async fn run(&self, doing: &'static str, sql: &str) -> Result<(), StepError> {
        self.bounded(doing, self.lease.client().batch_execute(sql)).await
    }

    /// Runs a statement that may take long, and that nobody waits for.
    pub(super) async fn run_long(&self, doing: &'static str, sql: &str) -> Result<(), StepError> {
        self.run(doing, &format!("SET LOCAL statement_timeout = {}", LONG.as_millis())).await?;
        match timeout(LONG + MARGIN, self.lease.client().batch_execute(sql)).await {
            Ok(result) => result.map_err(|source| StepError::of(doing, source)),
            Err(_) => Err(StepError::Deadline { doing, within: LONG }),
        }
    }

    /// Runs one statement and returns its rows as texts.
    pub(super) async fn rows(
        &self,
        doing: &'static str,
        sql: &str,
    ) -> Result<Vec<Vec<Option<String>>>, StepError> {
        let messages = self.bounded(doing, self.lease.client().simple_query(sql)).await?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|index| row.get(index).map(str::to_owned)).collect())
            }
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// Runs one statement that answers with one row.
    pub(super) async fn row(&self, doing: &'static str, sql: &str) -> Result<Vec<Option<String>>, StepError> {
        self.rows(doing, sql).await?.into_iter().next().ok_or(StepError::Unreadable { doing })
    }

    /// Returns the first column of every row; NULL is left out.
    pub(super) async fn texts(&self, doing: &'static str, sql: &str) -> Result<Vec<String>, StepError> {
        Ok(self.rows(doing, sql).await?.into_iter().filter_map(|row| row.into_iter().next()?).collect())
    }

    pub(super) async fn commit(self) -> Result<(), StepError> {
        self.run("commit", "COMMIT").await?;
        self.lease.keep();
        Ok(())
    }

    async fn bounded<T>(
        &self,
        doing: &'static str,
        run: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StepError> {
        match timeout(self.within, run).await {
            Ok(result) => result.map_err(|source| StepError::of(doing, source)),
            Err(_) => Err(StepError::Deadline { doing, within: self.within }),
        }
    }
}
