//! What speaks the protocol of PostgreSQL: servers, and the console of a PgBouncer.

mod line;
mod pgbouncer;
mod postgres;

use std::time::Duration;

use mainstay_rpc::InvalidTls;
use mainstay_runtime::Clock;
use tokio::time::{Instant, timeout};

use self::line::Line;
use super::figures::Figures;
use super::scrape::late;
use super::{Answer, Miss, Source};
use crate::config::DatastoreConfig;
use crate::roster::Report;

/// Asks one server, or one console.
pub(super) struct Sql {
    line: Line,
    question: Question,
    within: Duration,
}

/// Says what is asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Question {
    /// The statistics of a server.
    Postgres,
    /// SHOW POOLS, STATS and LISTS of a console.
    Pgbouncer,
}

/// Database in whose place a PgBouncer has its console.
const CONSOLE: &str = "pgbouncer";

impl Sql {
    /// Prepares to ask; connects nowhere.
    pub(super) fn try_new(
        address: &str,
        config: &DatastoreConfig,
        question: Question,
    ) -> Result<Self, InvalidTls> {
        let database = match question {
            Question::Postgres => config.database.as_str(),
            Question::Pgbouncer => CONSOLE,
        };
        Ok(Self { line: Line::try_new(address, config, database)?, question, within: config.within })
    }

    async fn look(&mut self) -> Result<(Figures, String), String> {
        match self.question {
            Question::Postgres => postgres::look(&mut self.line).await,
            Question::Pgbouncer => pgbouncer::look(&mut self.line).await,
        }
    }
}

impl Source for Sql {
    async fn ask(&mut self, clock: &Clock) -> Result<Answer, Miss> {
        let started_at = Instant::now();
        let looked = timeout(self.within, self.look()).await;
        let looked = looked.unwrap_or_else(|_| Err(late(self.within)));
        let (figures, version) = looked.map_err(|reason| Miss { reason, ..Miss::default() })?;
        let report = Report::of_stranger(clock.now(), started_at.elapsed(), version, Vec::new());
        Ok(Answer { report, metrics: Ok(figures.into_exposition()) })
    }
}
