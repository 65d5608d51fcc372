use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::time::Instant;

use crate::{
    engine::{Engine, Read, Until},
    route::Prefer,
    session::{Statement, Stopwatch},
    sql::Value,
    token::Token,
};

/// Asks the database through the router, like any reader, but on behalf of nobody.
pub(super) struct Asker {
    pub engine: Arc<Engine>,
    pub within: Duration,
    pub prefer: Prefer,
}

/// Rows and the node that answered.
pub(super) struct Told {
    pub rows: Vec<Vec<Value>>,
    pub node: String,
}

const MAX_ROWS: u32 = 20_000;
const MAX_BYTES: u64 = 16 << 20;

impl Asker {
    /// Asks the node that it prefers.
    pub(super) async fn ask(&self, sql: &str) -> anyhow::Result<Told> {
        self.ask_of(self.prefer, sql).await
    }

    pub(super) async fn ask_of(&self, prefer: Prefer, sql: &str) -> anyhow::Result<Told> {
        self.send(prefer, None, sql).await
    }

    /// Asks a node that shows what a token stands for.
    pub(super) async fn ask_after(&self, after: Option<Token>, sql: &str) -> anyhow::Result<Told> {
        self.send(self.prefer, after, sql).await
    }

    async fn send(&self, prefer: Prefer, after: Option<Token>, sql: &str) -> anyhow::Result<Told> {
        let statement = Statement {
            sql: sql.to_owned(),
            params: Vec::new(),
            max_rows: MAX_ROWS,
            max_bytes: MAX_BYTES,
            stopwatch: Stopwatch::default(),
        };
        let until = Until { at: Instant::now() + self.within, within: self.within };
        let read = Read {
            statement,
            max_staleness: None,
            max_lag_bytes: None,
            after,
            written: None,
            prefer,
            zone: String::new(),
            until,
        };
        let answered = self.engine.ask(read).await.map_err(|error| {
            let text = error.to_string();
            match error {
                crate::error::QueryError::Database { source, .. } => anyhow::anyhow!("{source}"),
                _ => anyhow::anyhow!(text),
            }
        })?;
        Ok(Told { rows: answered.answer.rows, node: answered.served.node.to_string() })
    }
}

/// Reads the columns of one row, one after the other.
pub(super) struct Fields(std::vec::IntoIter<Value>);

impl Fields {
    pub(super) fn of(row: Vec<Value>) -> Self {
        Self(row.into_iter())
    }

    fn next(&mut self) -> anyhow::Result<Value> {
        self.0.next().context("a column is missing")
    }

    pub(super) fn text(&mut self) -> anyhow::Result<String> {
        self.maybe_text()?.context("a text is missing")
    }

    pub(super) fn maybe_text(&mut self) -> anyhow::Result<Option<String>> {
        match self.next()? {
            Value::Text(text) | Value::Numeric(text) => Ok(Some(text)),
            Value::Null => Ok(None),
            other => anyhow::bail!("{other:?} is no text"),
        }
    }

    pub(super) fn int(&mut self) -> anyhow::Result<i64> {
        self.maybe_int()?.context("a number is missing")
    }

    pub(super) fn maybe_int(&mut self) -> anyhow::Result<Option<i64>> {
        match self.next()? {
            Value::Int(number) => Ok(Some(number)),
            Value::Null => Ok(None),
            other => anyhow::bail!("{other:?} is no number"),
        }
    }

    pub(super) fn flag(&mut self) -> anyhow::Result<bool> {
        match self.next()? {
            Value::Bool(flag) => Ok(flag),
            other => anyhow::bail!("{other:?} is no boolean"),
        }
    }

    pub(super) fn count(&mut self) -> anyhow::Result<u64> {
        Ok(u64::try_from(self.int()?).unwrap_or(0))
    }
}
