use std::sync::Arc;

use mainstay_rpc::{ErrorCode, Failure};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use crate::{
    error::QueryError,
    switchover::{Pair, Side},
};

/// A read that names a pair instead of a table: which table it is, is decided for each read.
pub(super) struct Named {
    pair: Arc<Pair>,
    sql: String,
}

/// Stands for the table in the statement.
const PLACEHOLDER: &str = "{table}";

impl Named {
    pub(super) fn of(pairs: &[Arc<Pair>], table: &str, sql: &str) -> Result<Self, Failure> {
        let pair = pairs.iter().find(|pair| pair.name == table).ok_or_else(unknown)?;
        if !sql.contains(PLACEHOLDER) {
            return Err(Failure::invalid("sql", "must contain {table} where the request names one"));
        }
        Ok(Self { pair: Arc::clone(pair), sql: sql.to_owned() })
    }

    /// Runs the read on the table that is its turn, and returns the table with the answer.
    ///
    /// Right after a swap the partitioned table is no longer called as it was: a read that meets this moment goes to the
    /// name that there always is.
    pub(super) async fn read<T, F, Fut>(&self, run: F) -> Result<(T, String), QueryError>
    where
        F: Fn(String) -> Fut,
        Fut: Future<Output = Result<T, QueryError>>,
    {
        let (side, table) = self.pair.choose();
        let begun_at = Instant::now();
        let result = run(self.with(table)).await;
        if let Err(QueryError::Database { source, .. }) = &result
            && source.code == SqlState::UNDEFINED_TABLE
            && side == Side::Partitioned
            && table != self.pair.config.legacy
        {
            let table = &self.pair.config.legacy;
            return run(self.with(table)).await.map(|answer| (answer, table.clone()));
        }
        self.pair.note_read(side, begun_at.elapsed(), result.is_ok());
        result.map(|answer| (answer, table.to_owned()))
    }

    fn with(&self, table: &str) -> String {
        self.sql.replace(PLACEHOLDER, &crate::switchover::quote_table(table))
    }
}

pub(super) fn unknown() -> Failure {
    Failure::new(ErrorCode::NotFound, "PAIR_UNKNOWN", "no pair of this name is configured under switchover")
}
