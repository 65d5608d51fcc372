//! What survives a restart, in one SQLite file.
//!
//! Memory is what the monitor works with; the store follows it. Writes are queued and committed in order by one task,
//! many in one transaction; whoever promises durability waits for the commit. Without a path the same tables are held in
//! memory, and nothing survives.

mod access;
mod copies;
mod open;
mod schema;
mod size;
mod tiers;
mod work;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::access::{ApiKey, ChangeFilter, RecordedChange};
use crate::alert::{Kept, Record};
use crate::metrics::MonitorMetrics;
use crate::notify::Delivery;
use crate::rule::{Rule, StoreTrouble};
use crate::silence::Silence;

pub(crate) use copies::Copies;
pub(crate) use open::{Opened, open};
use tiers::Tables;
pub(crate) use tiers::{Query as TierQuery, Retention, Tier, TierPoint, TierSeries};
pub(crate) use work::{Points, SeriesPoint};
pub(crate) use writer::{Surroundings, Writer};

/// Queues writes and asks questions. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    work_tx: mpsc::Sender<Work>,
    resync: Arc<AtomicBool>,
    rekey: Arc<AtomicBool>,
    trouble: Arc<Mutex<Option<StoreTrouble>>>,
    metrics: MonitorMetrics,
}

/// Says what can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// More is written than the disk takes, or the monitor is shutting down.
    #[error("the store takes no more work now")]
    Busy,
    /// It did not commit, or answer, in time.
    #[error("the store did not answer in time")]
    Late,
    /// SQLite says no: disk full, no permission, damaged.
    #[error("the store failed")]
    Sqlite(#[source] rusqlite::Error),
    /// The file cannot be put aside or made.
    #[error("the store's file cannot be handled")]
    File(#[source] std::io::Error),
    /// A row is not what was stored.
    #[error("a stored row cannot be read")]
    Row(#[source] serde_json::Error),
}

/// Holds what one evaluation, or one call of an operator, changes; committed as a whole.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Alerts to store, as they are now.
    pub alerts: Vec<Kept>,
    /// Numbers of alerts that are forgotten.
    pub forgotten: Vec<u64>,
    /// What happened.
    pub records: Vec<Record>,
    /// Who is to be told.
    pub deliveries: Vec<Delivery>,
    /// Rules set at run time, or removed.
    pub rules: Vec<(String, Option<Rule>)>,
    /// Silences made, or ended.
    pub silences: Vec<(uuid::Uuid, Option<Silence>)>,
    /// API keys made, changed or removed.
    pub keys: Vec<(String, Option<ApiKey>)>,
    /// What was changed through edges.
    pub recorded: Vec<RecordedChange>,
}

/// Holds what an earlier process stored.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// Oldest first.
    pub alerts: Vec<Kept>,
    /// The newest ones, oldest first.
    pub records: Vec<Record>,
    /// Not yet delivered, oldest first.
    pub deliveries: Vec<Delivery>,
    /// Set at run time.
    pub rules: Vec<Rule>,
    /// Ended ones too.
    pub silences: Vec<Silence>,
    /// API keys.
    pub keys: Vec<ApiKey>,
}

impl Changes {
    /// Tells whether there is nothing to store.
    pub(crate) fn is_empty(&self) -> bool {
        self.alerts.is_empty()
            && self.forgotten.is_empty()
            && self.records.is_empty()
            && self.deliveries.is_empty()
            && self.rules.is_empty()
            && self.silences.is_empty()
            && self.keys.is_empty()
            && self.recorded.is_empty()
    }
}

enum Work {
    Change(Changes, Option<oneshot::Sender<Result<(), StoreError>>>),
    Delivered(u64, String),
    Points(Points),
    Read(Read),
}

/// A question, with the way its answer goes.
type Read = Box<dyn FnOnce(&Connection) + Send>;

/// Writes and questions that may wait.
const QUEUE: usize = 4_096;
/// Time for a commit or an answer.
const WITHIN: Duration = Duration::from_secs(2);
/// Events kept.
const RECORDS_MAX: i64 = 10_000;

impl Store {
    fn new(metrics: MonitorMetrics) -> (Self, mpsc::Receiver<Work>) {
        let (work_tx, work_rx) = mpsc::channel(QUEUE);
        (
            Self { work_tx, resync: Arc::default(), rekey: Arc::default(), trouble: Arc::default(), metrics },
            work_rx,
        )
    }

    /// Queues changes, in order; when there is no room, all alerts are stored anew as soon as there is.
    pub(crate) fn queue(&self, changes: Changes) {
        if self.work_tx.try_send(Work::Change(changes, None)).is_err() {
            self.metrics.store_dropped();
            self.resync.store(true, Ordering::Relaxed);
        }
    }

    /// Queues changes and returns what tells when they are committed.
    pub(crate) fn commit(&self, changes: Changes) -> Commit {
        let (done_tx, done_rx) = oneshot::channel();
        let queued = self.work_tx.try_send(Work::Change(changes, Some(done_tx))).is_ok();
        Commit { done_rx: queued.then_some(done_rx) }
    }

    /// Notes that a delivery arrived, or is given up.
    pub(crate) fn delivered(&self, event: u64, channel: &str) {
        if self.work_tx.try_send(Work::Delivered(event, channel.to_owned())).is_err() {
            // It is sent again after a restart: at least once.
            self.metrics.store_dropped();
        }
    }

    /// Queues rolled-up points; they are dropped when there is no room.
    pub(crate) fn points(&self, points: Points) {
        if self.work_tx.try_send(Work::Points(points)).is_err() {
            self.metrics.store_dropped();
        }
    }

    /// Asks a question.
    pub(crate) async fn read<T, F>(&self, ask: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer_tx, answer_rx) = oneshot::channel();
        let read = Box::new(move |connection: &Connection| {
            // Nobody waits any more: fine.
            let _ = answer_tx.send(ask(connection));
        });
        self.work_tx.try_send(Work::Read(read)).map_err(|_| StoreError::Busy)?;
        let answer = tokio::time::timeout(WITHIN, answer_rx).await.map_err(|_| StoreError::Late)?;
        answer.map_err(|_| StoreError::Busy)?
    }

    /// Lists what happened to alerts, newest first.
    pub(crate) async fn records(
        &self,
        alert: Option<uuid::Uuid>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.read(move |connection| work::records(connection, alert, before, limit)).await
    }

    /// Lists recorded changes, newest first, each with its number.
    pub(crate) async fn recorded(
        &self,
        filter: ChangeFilter,
    ) -> Result<Vec<(u64, RecordedChange)>, StoreError> {
        self.read(move |connection| access::recorded(connection, &filter)).await
    }

    /// Reads rolled-up points; see [`tiers::read`].
    pub(crate) async fn tier_points(&self, query: TierQuery) -> Result<Vec<TierSeries>, StoreError> {
        let metrics = self.metrics.clone();
        self.read(move |connection| tiers::read(Tables { connection, metrics: &metrics }, &query)).await
    }

    /// Tells, once, that all alerts have to be stored anew.
    pub(crate) fn take_resync(&self) -> bool {
        self.resync.swap(false, Ordering::Relaxed)
    }

    /// Tells what is wrong with it.
    pub(crate) fn trouble(&self) -> Option<StoreTrouble> {
        self.trouble.lock().clone()
    }

    fn troubled(&self, reason: Option<String>, now: SystemTime) {
        let mut trouble = self.trouble.lock();
        *trouble = reason.map(|reason| {
            let since = trouble.as_ref().map_or(now, |before| before.since);
            StoreTrouble { since, reason }
        });
    }

    /// Tells, once, that the file was begun anew and knows no API keys.
    pub(crate) fn take_rekey(&self) -> bool {
        self.rekey.swap(false, Ordering::Relaxed)
    }
}

/// Waits for a commit.
#[derive(Debug)]
pub(crate) struct Commit {
    done_rx: Option<oneshot::Receiver<Result<(), StoreError>>>,
}

impl Commit {
    /// Returns when what was queued is durable.
    pub(crate) async fn done(self) -> Result<(), StoreError> {
        let done_rx = self.done_rx.ok_or(StoreError::Busy)?;
        let done = tokio::time::timeout(WITHIN, done_rx).await.map_err(|_| StoreError::Late)?;
        done.map_err(|_| StoreError::Busy)?
    }
}

fn unix_ms(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
