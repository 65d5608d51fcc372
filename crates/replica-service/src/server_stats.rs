//! What the servers themselves count: their `pg_stat` views, read once in a while.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::anyhow;
use mainstay_runtime::{Activate, Context};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{config::StatsConfig, metrics::DatabaseMetrics, node::Node, probe::Line, topology::Topology};

mod figures;
mod question;

pub(crate) use figures::{Database, Figures, Sender, Statement, Table, Writer};

/// Keeps the last reading of each server.
pub(crate) struct ServerStats {
    config: StatsConfig,
    /// By name: one server takes the place of another under the same name.
    readings: Mutex<BTreeMap<Arc<str>, Reading>>,
    metrics: DatabaseMetrics,
}

/// What was read of one server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    /// The last one that went well.
    pub figures: Option<(SystemTime, Arc<Figures>)>,
    /// Why the last one did not go well.
    pub failure: Option<String>,
}

impl ServerStats {
    pub(crate) fn new(config: &StatsConfig, metrics: &DatabaseMetrics) -> Arc<Self> {
        Arc::new(Self { config: config.clone(), readings: Mutex::default(), metrics: metrics.clone() })
    }

    /// Returns the time between two readings; `None` where nothing is read.
    pub(crate) fn every(&self) -> Option<Duration> {
        (!self.config.every.is_zero()).then_some(self.config.every)
    }

    /// Returns how long one question may take.
    pub(crate) fn within(&self) -> Duration {
        self.config.within
    }

    /// Returns what was last read of a server.
    pub(crate) fn of(&self, name: &str) -> Reading {
        self.readings.lock().get(name).cloned().unwrap_or_default()
    }

    /// Forgets the servers that are configured no more.
    pub(crate) fn follow(&self, topology: &Topology) {
        self.readings.lock().retain(|name, _| {
            let stays = topology.named(name).is_some();
            if !stays {
                self.metrics.forget(name);
            }
            stays
        });
    }

    fn keep(&self, name: &Arc<str>, at: SystemTime, read: Result<Figures, String>) {
        let mut readings = self.readings.lock();
        let reading = readings.entry(Arc::clone(name)).or_default();
        match read {
            Ok(figures) => {
                self.metrics.tell(name, &figures);
                *reading = Reading { figures: Some((at, Arc::new(figures))), failure: None };
            }
            Err(failure) => reading.failure = Some(failure),
        }
    }
}

/// Reads one server, over a connection of its own and past any `PgBouncer`.
pub(crate) struct StatsReader {
    pub node: Arc<Node>,
    pub line: Line,
    pub stats: Arc<ServerStats>,
    pub cx: Context,
    /// The node is read no more.
    pub over: CancellationToken,
}

impl Activate for StatsReader {
    async fn activate(&mut self) -> anyhow::Result<()> {
        let read = self.read().await;
        let failed = read.as_ref().err().cloned();
        if !self.over.is_cancelled() {
            self.stats.keep(&self.node.name, self.cx.clock().now(), read);
        }
        failed.map_or(Ok(()), |failure| Err(anyhow!(failure)))
    }
}

impl StatsReader {
    async fn read(&mut self) -> Result<Figures, String> {
        let StatsConfig { max_tables, max_statements, .. } = self.stats.config;
        let mut figures: Figures = self.ask(&question::base(max_tables)).await?;
        if figures.version >= question::CHECKPOINTER_SINCE {
            figures.writer.checkpointer = Some(self.ask(question::CHECKPOINTER).await?);
        }
        figures.statements = match &figures.statements_in {
            None => Err("the extension pg_stat_statements is not installed in this database".to_owned()),
            // Not loaded, or not to be read: the rest is worth telling all the same.
            Some(schema) => self.ask(&question::statements(schema, max_statements)).await,
        };
        Ok(figures)
    }

    async fn ask<T: serde::de::DeserializeOwned>(&mut self, question: &str) -> Result<T, String> {
        let row = self.line.ask(question).await?.ok_or("no row was answered")?;
        let text = row.try_get(0).map_err(|error| error.to_string())?.unwrap_or("null");
        serde_json::from_str(text).map_err(|error| format!("unreadable answer: {error}"))
    }
}
