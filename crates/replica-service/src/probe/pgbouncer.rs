use std::sync::Arc;

use anyhow::Context as _;
use mainstay_runtime::Activate;
use tokio_postgres::SimpleQueryRow;

use super::Line;
use crate::{node::Node, report::Reports};

/// Asks the console of one `PgBouncer` what it is doing, by its own SHOW commands.
///
/// Its role must be one of `stats_users` there. One that may not ask, or cannot, leaves no figures behind.
pub(crate) struct PgBouncerConsole {
    pub node: Arc<Node>,
    pub reports: Arc<Reports>,
    pub line: Line,
    /// The database whose pools count.
    pub database: String,
}

/// What a `PgBouncer` does for one database: sums over the pools of all users.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct PgBouncerFigures {
    pub clients_active: u64,
    pub clients_waiting: u64,
    pub servers_active: u64,
    pub servers_idle: u64,
    /// Idle, and to be checked before they are used again.
    pub servers_used: u64,
    /// How long the first client in any queue has waited.
    pub max_wait_s: f64,
    pub transactions: u64,
    pub queries: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub query_time_s: f64,
    /// Time that clients have waited for a server.
    pub wait_time_s: f64,
    /// Of all databases.
    pub clients: u64,
    pub servers: u64,
}

impl Activate for PgBouncerConsole {
    async fn activate(&mut self) -> anyhow::Result<()> {
        let asked = self.ask().await;
        let figures = asked.as_ref().ok().copied();
        self.reports.pgbouncer(&self.node, figures.as_ref());
        self.node.set_pgbouncer_figures(figures);
        asked.map(|_| ())
    }
}

impl PgBouncerConsole {
    async fn ask(&mut self) -> anyhow::Result<PgBouncerFigures> {
        let mut figures = PgBouncerFigures::default();
        for row in self.show("SHOW POOLS").await? {
            if row.try_get("database").ok().flatten() == Some(&self.database) {
                figures.add_pool(&row)?;
            }
        }
        for row in self.show("SHOW STATS").await? {
            if row.try_get("database").ok().flatten() == Some(&self.database) {
                figures.add_stats(&row)?;
            }
        }
        for row in self.show("SHOW LISTS").await? {
            match row.try_get("list").ok().flatten() {
                Some("used_clients") => figures.clients = number(&row, "items")?,
                Some("used_servers") => figures.servers = number(&row, "items")?,
                _ => {}
            }
        }
        Ok(figures)
    }

    async fn show(&mut self, command: &str) -> anyhow::Result<Vec<SimpleQueryRow>> {
        self.line.ask_all(command).await.map_err(|why| anyhow::anyhow!("{command}: {why}"))
    }
}

impl PgBouncerFigures {
    fn add_pool(&mut self, row: &SimpleQueryRow) -> anyhow::Result<()> {
        self.clients_active += number(row, "cl_active")?;
        self.clients_waiting += number(row, "cl_waiting")?;
        self.servers_active += number(row, "sv_active")?;
        self.servers_idle += number(row, "sv_idle")?;
        self.servers_used += number(row, "sv_used")?;
        let wait_s = number(row, "maxwait")? as f64 + number(row, "maxwait_us")? as f64 / 1e6;
        self.max_wait_s = self.max_wait_s.max(wait_s);
        Ok(())
    }

    fn add_stats(&mut self, row: &SimpleQueryRow) -> anyhow::Result<()> {
        self.transactions += number(row, "total_xact_count")?;
        self.queries += number(row, "total_query_count")?;
        self.received_bytes += number(row, "total_received")?;
        self.sent_bytes += number(row, "total_sent")?;
        self.query_time_s += number(row, "total_query_time")? as f64 / 1e6;
        self.wait_time_s += number(row, "total_wait_time")? as f64 / 1e6;
        Ok(())
    }
}

fn number(row: &SimpleQueryRow, column: &str) -> anyhow::Result<u64> {
    let text = row.try_get(column).ok().flatten().with_context(|| format!("there is no column {column}"))?;
    text.parse().with_context(|| format!("{column} is {text:?}"))
}
