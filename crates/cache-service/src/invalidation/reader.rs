use std::sync::Arc;
use std::time::Duration;

use mainstay_resilience::backoff::Backoff;
use mainstay_runtime::{Component, ComponentKind, Context};
use tokio_util::sync::CancellationToken;

use super::cursor::{Cursor, Step};
use super::{Event, Invalidation, LogEntry};
use crate::config::RedisConfig;
use crate::engine::Engine;
use crate::key::Key;
use crate::redis::{LogLink, Partition, Redis, RedisError};

/// Reads the log of changes of a partition and applies it to memory.
///
/// It has a connection of its own, on which it always waits for the next entries. An answer, also an empty one, proves
/// that nothing else had happened when it was asked for. After a break it reads on where it was; if that place is gone,
/// an epoch ends.
pub(crate) struct Reader {
    engine: Arc<Engine>,
    redis: Arc<Redis>,
    partition: Partition,
    config: RedisConfig,
    cx: Context,
    component: Component,
    cursor: Cursor,
    n_entries_read: u64,
    /// Run-time policies, which lie in the first partition, may have changed and were not read since.
    policies_due: bool,
}

const ENTRIES_AT_ONCE: usize = 1_000;
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LAST: Duration = Duration::from_millis(500);

impl Reader {
    /// Makes one for each partition.
    pub(crate) fn all(
        engine: &Arc<Engine>,
        redis: &Arc<Redis>,
        config: &RedisConfig,
        cx: &Context,
    ) -> Vec<Self> {
        let component = cx.component("invalidation", ComponentKind::Internal, false);
        let reader = |partition| Self {
            engine: Arc::clone(engine),
            redis: Arc::clone(redis),
            partition,
            config: config.clone(),
            cx: cx.clone(),
            component: component.clone(),
            cursor: Cursor::default(),
            n_entries_read: 0,
            policies_due: true,
        };
        redis.partitions().map(reader).collect()
    }

    /// Runs until the service stops.
    pub(crate) async fn run(mut self, stopping: CancellationToken) -> anyhow::Result<()> {
        let mut backoff =
            Backoff::try_new(RETRY_FIRST, RETRY_LAST).expect("both are above zero and in order");
        let ended = stopping.clone();
        let work = async {
            loop {
                let before = self.n_entries_read;
                let error = match self.follow(&mut backoff).await {
                    Ok(()) => "the primary moved".to_owned(),
                    Err(error) => error.in_full(),
                };
                tracing::debug!(error, read = self.n_entries_read - before, "invalidation log interrupted");
                self.report(&error);
                tokio::time::sleep(backoff.next(rand::random())).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = ended.cancelled() => {}
        }
        Ok(())
    }

    /// Reads on one connection until it fails or leads to another server than commands do.
    async fn follow(&mut self, backoff: &mut Backoff) -> Result<(), RedisError> {
        let Some(link) = self.redis.open_log(self.partition, &self.config, &self.cx).await? else {
            return Err(RedisError::NotConnected);
        };
        self.resume(&link).await?;
        let wait = self.wait();
        while self.redis.part(self.partition).primary().as_ref() == Some(link.address()) {
            let asked_at = self.engine.time.now();
            let entries = link.read_after(self.cursor.position(), wait, ENTRIES_AT_ONCE).await?;
            let at_end = entries.len() < ENTRIES_AT_ONCE;
            for entry in entries {
                self.apply(&entry);
            }
            if self.policies_due && self.partition == Partition::FIRST {
                self.policies_due = !self.engine.refresh_policies().await;
            }
            if at_end {
                self.invalidation().proven_at(self.partition, asked_at);
                backoff.reset();
                self.report("");
            }
        }
        Ok(())
    }

    /// Finds the place where it was, or starts anew at the end.
    async fn resume(&mut self, link: &LogLink) -> Result<(), RedisError> {
        let position = self.cursor.position();
        if position != 0 && link.has(position).await? {
            self.invalidation().metrics.replays.inc();
            return Ok(());
        }
        let end = link.end().await?;
        if position != 0 && position != end {
            self.missed(position, end);
        }
        // Also at the start: what was loaded until now may have changed before `end`.
        self.invalidation().end_epoch();
        self.cursor.jump_to(end);
        self.invalidation().read_to(self.partition, end);
        self.policies_due = true;
        Ok(())
    }

    fn missed(&self, position: u64, next: u64) {
        self.invalidation().metrics.flushes.inc();
        tracing::warn!(position, next, "changes are missing in the invalidation log, memory is unproven");
    }

    fn apply(&mut self, entry: &LogEntry) {
        let position = self.cursor.position();
        if self.cursor.step(entry) == Step::Gap {
            self.missed(position, entry.previous);
            self.invalidation().end_epoch();
            self.policies_due = true;
        }
        self.n_entries_read += 1;
        self.engine.versions.see(entry.position);
        match &entry.event {
            Event::Key(name) => {
                if let Some(key) = Key::from_text(name) {
                    self.engine.memory.remove_older(&key, entry.position);
                    self.engine.forget_older_on_disk(&key, entry.position);
                    self.engine.hot.changed(&key);
                }
            }
            Event::Tag { namespace, tag } => {
                self.invalidation().raise_tag(namespace, tag, entry.position);
                self.engine.hot.changed_in(namespace);
            }
            Event::Namespace(namespace) => {
                self.invalidation().raise_namespace(namespace, entry.position);
                self.engine.hot.changed_in(namespace);
            }
            Event::Policy(_) => self.policies_due = true,
        }
        let now_unix_ms = self.engine.time.unix_ms();
        let lag = Duration::from_millis(now_unix_ms.saturating_sub(entry.at_unix_ms));
        let invalidation = self.invalidation();
        invalidation.read_to(self.partition, entry.position);
        invalidation.metrics.applied(&entry.event, lag, now_unix_ms / 1_000);
    }

    fn invalidation(&self) -> &Invalidation {
        &self.engine.invalidation
    }

    /// Returns how long to wait for entries: short enough to prove memory in time.
    fn wait(&self) -> Duration {
        (self.invalidation().current_for / 4).min(Duration::from_millis(500))
    }

    fn report(&self, trouble: &str) {
        let invalidation = self.invalidation();
        let is_current = invalidation.is_current(self.engine.time.now());
        let metrics = &invalidation.metrics;
        metrics.position.set(i64::try_from(invalidation.position()).unwrap_or(i64::MAX));
        metrics.current.set(is_current.into());
        let n_entries = if is_current { 0 } else { self.engine.memory.figures().entries };
        metrics.possibly_stale.set(i64::try_from(n_entries).unwrap_or(i64::MAX));
        let component = &self.component;
        component.latency(metrics.recent_lag().mean);
        component.attribute("position", invalidation.position().to_string());
        component.attribute("replays", metrics.replays.get().to_string());
        component.attribute("flushes", metrics.flushes.get().to_string());
        if is_current {
            component.healthy("changes of other nodes are applied as they come");
        } else if !trouble.is_empty() {
            component.degraded(format!("memory is checked with redis: {trouble}"));
        }
    }
}
