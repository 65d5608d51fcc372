//! The one task that writes.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use mainstay_runtime::{Clock, Component};
use rusqlite::Connection;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::open::{connect, is_damage, load, reason, set_aside};
use super::tiers::{self, Steps, Tables, Tier};
use super::work::{self, SeriesIds};
use super::{Read, Retention, Store, StoreError, Work, size, unix_ms};
use crate::config::StoreConfig;
use crate::metrics::MonitorMetrics;
use crate::notify::Outbox;

/// Commits what is queued, many at a time, and keeps what could not be committed for later.
pub(crate) struct Writer {
    config: StoreConfig,
    desk: Option<Box<Desk>>,
    work_rx: mpsc::Receiver<Work>,
    store: Store,
    /// What went wrong once and stays worth knowing.
    trouble: Option<String>,
}

/// What works on the connection, on a thread where it may block.
struct Desk {
    connection: Connection,
    ids: SeriesIds,
    /// Not committed yet, oldest first.
    backlog: VecDeque<Work>,
    retention: Retention,
    /// Bytes that may be used; none: as many as there are.
    max_size: Option<u64>,
    metrics: MonitorMetrics,
    rolled_minute: i64,
    expired_hour: i64,
    /// History went before its time when it was last looked at.
    is_cut_short: bool,
}

/// What the writer needs of its surroundings.
pub(crate) struct Surroundings {
    /// Tells the time.
    pub clock: Clock,
    /// Tells how the store is.
    pub component: Component,
    /// Where committed deliveries go.
    pub outbox: Outbox,
    /// Ends the task, after a last commit.
    pub stopping: CancellationToken,
}

/// Writes in one transaction.
const BATCH: usize = 512;
/// Writes kept while nothing can be committed; the oldest go.
const BACKLOG_MAX: usize = 4_096;
const RETRY_EVERY: Duration = Duration::from_secs(1);

impl Writer {
    pub(super) fn new(
        config: StoreConfig,
        connection: Connection,
        work_rx: mpsc::Receiver<Work>,
        store: &Store,
        trouble: Option<String>,
    ) -> Self {
        let desk = Desk {
            connection,
            ids: SeriesIds::default(),
            backlog: VecDeque::new(),
            retention: config.retention(),
            max_size: config.max_size(),
            metrics: store.metrics.clone(),
            rolled_minute: 0,
            expired_hour: 0,
            is_cut_short: false,
        };
        Self { config, desk: Some(Box::new(desk)), work_rx, store: store.clone(), trouble }
    }

    /// Commits until told to stop, and then what is still queued.
    pub(crate) async fn run(mut self, around: Surroundings) -> anyhow::Result<()> {
        self.tell(&around, None);
        let mut retry = tokio::time::interval(RETRY_EVERY);
        loop {
            let mut batch = Vec::new();
            let stop = tokio::select! {
                biased;
                _ = self.work_rx.recv_many(&mut batch, BATCH) => batch.is_empty(),
                () = around.stopping.cancelled(), if !self.work_rx.is_closed() => {
                    self.work_rx.close();
                    continue;
                }
                _ = retry.tick() => false,
            };
            if stop {
                return Ok(());
            }
            self.commit(batch, &around).await?;
        }
    }

    async fn commit(&mut self, batch: Vec<Work>, around: &Surroundings) -> anyhow::Result<()> {
        let mut desk = self.desk.take().context("the desk was lost")?;
        if batch.is_empty() && desk.backlog.is_empty() {
            self.desk = Some(desk);
            return Ok(());
        }
        let (now, outbox) = (around.clock.now(), around.outbox.clone());
        let committed = tokio::task::spawn_blocking(move || {
            let done = desk.handle(batch, now, &outbox);
            (desk, done)
        });
        let (mut desk, done) = committed.await.context("the writing thread")?;
        if let Err(error) = &done {
            self.store.metrics.store_failed();
            if is_damage(error) {
                self.begin_anew(&mut desk, now, error);
            }
        }
        self.desk = Some(desk);
        self.tell(around, done.as_ref().err());
        Ok(())
    }

    /// Puts a file that broke under way aside; all alerts are stored anew.
    fn begin_anew(&mut self, desk: &mut Desk, now: SystemTime, error: &StoreError) {
        tracing::error!(error = error as &dyn std::error::Error, "store is damaged");
        let aside =
            if self.config.is_memory() { Ok(None) } else { set_aside(&self.config.path, now).map(Some) };
        let opened = aside.and_then(|kept_at| {
            let opened =
                if kept_at.is_some() { connect(&self.config.path) } else { Connection::open_in_memory() };
            load(opened).map(|(connection, _)| (kept_at, connection))
        });
        if let Ok((kept_at, connection)) = opened {
            desk.connection = connection;
            desk.ids.clear();
            let kept_at = kept_at.unwrap_or_default();
            self.trouble = Some(format!("damaged file kept as {}; began anew", kept_at.display()));
            self.store.resync.store(true, std::sync::atomic::Ordering::Relaxed);
            self.store.rekey.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn tell(&self, around: &Surroundings, error: Option<&StoreError>) {
        let failing =
            error.map(|error| format!("what happens is not stored, a restart loses it: {}", reason(error)));
        self.store.troubled(failing.or_else(|| self.trouble.clone()), around.clock.now());
        let component = &around.component;
        match (error, &self.trouble) {
            (Some(error), _) => component.unhealthy(format!("not stored: {}", reason(error))),
            (None, Some(trouble)) => component.unhealthy(trouble.clone()),
            (None, None) if self.config.is_memory() => {
                component.healthy("in memory only: nothing survives a restart (store.path is empty)");
            }
            (None, None) => {
                let path = self.config.path.display();
                let is_cut_short = self.desk.as_ref().is_some_and(|desk| desk.is_cut_short);
                let short = if is_cut_short { "; history goes before its time (store.max_size)" } else { "" };
                component.healthy(format!("{path}{short}"));
            }
        }
    }
}

impl Desk {
    /// Commits the backlog and the batch, then answers questions.
    fn handle(&mut self, batch: Vec<Work>, now: SystemTime, outbox: &Outbox) -> Result<(), StoreError> {
        let reads = self.take(batch);
        let done = self.write(now);
        match &done {
            Ok(()) => self.release(outbox),
            // Alerts are told all the same: a full disk must not keep the night quiet.
            Err(error) => self.release_uncommitted(outbox, error),
        }
        reads.into_iter().for_each(|read| read(&self.connection));
        done
    }

    /// Puts writes behind those that wait, and returns the questions.
    fn take(&mut self, batch: Vec<Work>) -> Vec<Read> {
        let mut reads = Vec::new();
        for work in batch {
            match work {
                Work::Read(read) => reads.push(read),
                // Whoever waits for a change has an answer now or never.
                other => self.backlog.push_back(other),
            }
        }
        while self.backlog.len() > BACKLOG_MAX {
            self.backlog.pop_front();
        }
        reads
    }

    fn write(&mut self, now: SystemTime) -> Result<(), StoreError> {
        let now_s = unix_ms(now) / 1000;
        let transaction = self.connection.transaction().map_err(StoreError::Sqlite)?;
        let tables = Tables { connection: &transaction, metrics: &self.metrics };
        let mut steps = Steps::new(Tier::TenSeconds);
        for work in &self.backlog {
            match work {
                Work::Change(changes, _) => work::change(&transaction, changes)?,
                Work::Delivered(event, channel) => work::delivered(&transaction, *event, channel)?,
                Work::Points(points) => work::points(&transaction, &mut self.ids, points, &mut steps)?,
                Work::Read(_) => {}
            }
        }
        let rolls = self.backlog.iter().any(|work| matches!(work, Work::Points(_)));
        if rolls {
            // What an earlier version stored comes first: a step that was begun then goes on.
            self.metrics.store_moved(tiers::take_over(tables)?);
            steps.write(tables)?;
        }
        let (minute, hour) = (now_s / 60, now_s / 3_600);
        // Ten seconds of grace: the last step of a minute arrives after its end.
        let settled = now_s - 15;
        if rolls && minute != self.rolled_minute && now_s % 60 >= 15 {
            tiers::roll_up(tables, settled)?;
            self.rolled_minute = minute;
            self.is_cut_short = false;
            if let Some(max) = self.max_size {
                let n_gone = size::trim(tables, max)?;
                self.is_cut_short = n_gone > 0;
                self.metrics.store_trimmed(n_gone);
            }
        }
        if rolls {
            tiers::fold(tables)?;
        }
        let expires = rolls && hour != self.expired_hour;
        if expires {
            tiers::expire(tables, &self.retention, now_s)?;
            self.expired_hour = hour;
        }
        let committed = transaction.commit().map_err(StoreError::Sqlite);
        if expires {
            // Series may have gone.
            self.ids.clear();
        }
        if rolls && committed.is_ok() {
            self.measure()?;
        }
        committed
    }

    fn measure(&self) -> Result<(), StoreError> {
        if let Some(max) = self.max_size {
            size::give_back(&self.connection, max)?;
        }
        self.metrics.store_size(size::measure(&self.connection)?.used);
        Ok(())
    }

    fn release(&mut self, outbox: &Outbox) {
        for work in self.backlog.drain(..) {
            if let Work::Change(changes, waiting) = work {
                outbox.extend(changes.deliveries);
                waiting.map(|waiting| waiting.send(Ok(())));
            }
        }
    }

    fn release_uncommitted(&mut self, outbox: &Outbox, error: &StoreError) {
        // Numbers of series given in a transaction that was rolled back mean nothing.
        self.ids.clear();
        self.backlog.retain(|work| !matches!(work, Work::Points(_)));
        for work in &mut self.backlog {
            if let Work::Change(changes, waiting) = work {
                outbox.extend(std::mem::take(&mut changes.deliveries));
                let told = error_again(error);
                waiting.take().map(|waiting| waiting.send(Err(told)));
            }
        }
    }
}

/// The error for one of several that wait; the log has the first.
fn error_again(error: &StoreError) -> StoreError {
    StoreError::File(std::io::Error::other(reason(error)))
}

#[cfg(test)]
impl Writer {
    /// Commits at most `n` of the writes that wait, as the task does, and hands over what they tell if it `lives_on`.
    pub(crate) fn commit_some(&mut self, n: usize, now: SystemTime, outbox: &Outbox, lives_on: bool) {
        let batch = std::iter::from_fn(|| self.work_rx.try_recv().ok()).take(n).collect();
        let desk = self.desk.as_mut().expect("nobody else works at it");
        desk.take(batch);
        desk.write(now).expect("the disk takes it");
        if lives_on {
            desk.release(outbox);
        }
    }
}
