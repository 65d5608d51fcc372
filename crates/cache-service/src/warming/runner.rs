//! Does the runs, one after the other, behind everybody who serves.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::access_log::AccessLog;
use super::lines::{Line, Wanted};
use super::run::{End, Run, Trigger};
use super::source::{Source, SourceError};
use super::{Warming, WarmingError};
use crate::config::{Strategy, WarmSource};
use crate::engine::{Namespace, Set, Warmed};
use crate::entry::Condition;
use crate::error::CacheError;
use crate::origin::Seat;

/// While callers keep Redis or an origin busy, a run looks so often whether they still do.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Of keys that all failed, an origin or Redis that is away is the reason: they are tried again, so often at most.
const TRIES: u32 = 10;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(100);
const TRY_AGAIN_AFTER_MOST: Duration = Duration::from_secs(2);
/// Timers are told by the millisecond.
const WOKEN_WITHIN: Duration = Duration::from_millis(4);
const SLOWEST: u32 = 16;
const WRITE_WITHIN: Duration = Duration::from_secs(5);

/// Takes runs from the queue.
#[derive(Debug)]
pub(super) struct Runner {
    warming: Arc<Warming>,
    log: Option<AccessLog>,
}

/// One run under way.
struct Drive<'a> {
    warming: &'a Warming,
    run: &'a Run,
    namespace: Arc<Namespace>,
    /// When the next keys may begin.
    next_at: Instant,
    /// By what the time for each key is multiplied: more than one while this process has too much to do.
    slowness: u32,
}

impl Runner {
    pub(super) fn new(warming: Arc<Warming>, log: Option<AccessLog>) -> Self {
        Self { warming, log }
    }

    pub(super) async fn run(self, stopping: CancellationToken) -> anyhow::Result<()> {
        let warming = &self.warming;
        tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            () = self.prepare() => {}
        }
        warming.start_all();
        let n_on_start = warming.runs(None).len();
        for _ in 0..n_on_start {
            self.run_next(&stopping).await;
        }
        warming.coverage.all_done();
        loop {
            self.run_next(&stopping).await;
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                () = warming.queued.notified() => {}
            }
            while self.run_next(&stopping).await {}
        }
    }

    /// Waits for what runs on start need, but not for ever, and reads the access log of the last run.
    async fn prepare(&self) {
        let engine = &self.warming.engine;
        let is_there =
            || engine.is_settled() && engine.disk.as_ref().is_none_or(|disk| disk.figures().available);
        let there = async {
            while !is_there() {
                sleep(LOOK_EVERY).await;
            }
        };
        if timeout(self.warming.log_config().ready_within, there).await.is_err() {
            tracing::warn!("redis or the disk is away, the runs on start begin without it");
        }
        if !engine.refresh_policies().await {
            tracing::warn!(
                "run-time policies cannot be read, the runs on start are those of the configuration"
            );
        }
        let (Some(log), Some(recorder)) = (self.log.clone(), engine.insight.recorder()) else { return };
        let read = tokio::task::spawn_blocking(move || log.read());
        match read.await {
            Ok(Ok(read)) => {
                if read.n_damaged > 0 {
                    tracing::warn!(n_lines = read.n_damaged, "lines of the access log are damaged");
                }
                let mut recorder = recorder.lock();
                for (key, n_reads) in &read.keys {
                    // What was read in the run before weighs less than what is read in this one.
                    recorder.add(key, n_reads.div_ceil(2));
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "the access log cannot be read"),
            Err(error) => tracing::warn!(%error, "the access log cannot be read"),
        }
    }

    /// Does the run that is first in the queue; tells whether there was one.
    async fn run_next(&self, stopping: &CancellationToken) -> bool {
        let warming = &self.warming;
        let Some(run) = warming.next() else { return false };
        run.begin(warming.engine.time.unix_ms());
        warming.metrics.running.set(1);
        let end = tokio::select! {
            biased;
            () = stopping.cancelled() => End::Stopped,
            () = run.cancelled.cancelled() => End::Cancelled,
            () = sleep(run.plan.max_time) => End::Time,
            end = drive(warming, &run) => end,
        };
        run.end(end, warming.engine.time.unix_ms());
        warming.metrics.running.set(0);
        warming.metrics.ran(run.trigger.as_str(), end.as_str());
        let figures = run.figures();
        tracing::info!(
            run = run.id,
            namespace = &*run.namespace,
            end = end.as_str(),
            loaded = figures.loaded,
            present = figures.present,
            absent = figures.absent,
            failed = figures.failed,
            refused = figures.refused,
            "warming run ended"
        );
        warming.ended(run);
        true
    }
}

async fn drive(warming: &Warming, run: &Run) -> End {
    let Some(namespace) = warming.engine.namespaces.get(&run.namespace) else {
        run.problem(&WarmingError::UnknownNamespace(run.namespace.to_string()).to_string());
        return End::Failed;
    };
    let mut drive = Drive { warming, run, namespace, next_at: Instant::now(), slowness: 1 };
    let mut end = End::Done;
    for source in &run.plan.sources {
        match drive.source(*source).await {
            Ok(()) => {}
            // The other sources may be fine.
            Err(End::Failed) => end = End::Failed,
            Err(end) => return end,
        }
    }
    end
}

impl Drive<'_> {
    async fn source(&mut self, source: WarmSource) -> Result<(), End> {
        let (warming, run) = (self.warming, self.run);
        let failed = |error: SourceError| {
            run.problem(&format!("{}: {error}", source.as_str()));
            End::Failed
        };
        let (engine, config) = (&warming.engine, warming.log_config());
        let opened = Source::open(source, &run.namespace, &run.plan, engine, config, &self.namespace.policy);
        let mut lines = opened.await.map_err(failed)?;
        while let Some(page) = lines.next(engine).await.map_err(failed)? {
            let wanted = self.checked(source, page);
            for some in wanted.chunks(run.plan.concurrency as usize) {
                self.may_go_on()?;
                self.bring(source, some).await;
            }
        }
        Ok(())
    }

    /// Takes the lines that name a key, and tells of the others.
    fn checked(&self, source: WarmSource, lines: Vec<Line>) -> Vec<Wanted> {
        let has_origin = self.namespace.policy.strategy != Strategy::CacheAside;
        let mut wanted = Vec::with_capacity(lines.len());
        let mut n_refused = 0;
        for Line { number, wanted: line } in lines {
            let line = line.and_then(|line| match line.value {
                Some(_) if has_origin => {
                    Err("must have no value: the values of the namespace come from its origin".to_owned())
                }
                _ => Ok(line),
            });
            match line {
                Ok(line) => wanted.push(line),
                Err(wrong) => {
                    n_refused += 1;
                    self.run.problem(&format!("{} line {number}: {wrong}", source.as_str()));
                }
            }
        }
        self.run.counts.refused.fetch_add(n_refused, Ordering::Relaxed);
        self.warming.metrics.keys(source.as_str(), "refused", n_refused);
        wanted
    }

    /// Ends the run when it has brought as much as it may.
    fn may_go_on(&self) -> Result<(), End> {
        if self.run.counts.bytes.load(Ordering::Relaxed) >= self.run.plan.max_size.as_u64() {
            return Err(End::Bytes);
        }
        let memory = self.warming.engine.memory.figures();
        let most_bytes = memory.capacity_bytes / 100 * u64::from(self.warming.log_config().memory_percent);
        if self.namespace.policy.memory && memory.bytes >= most_bytes {
            return Err(End::Memory);
        }
        Ok(())
    }

    /// Brings some keys in, together. What the origin or Redis did not give is tried again a little later.
    async fn bring(&mut self, source: WarmSource, some: &[Wanted]) {
        let mut wait = TRY_AGAIN_AFTER;
        let mut left: Vec<_> = some.iter().collect();
        for tries_left in (0..TRIES).rev() {
            self.wait_for_calm().await;
            self.pace(left.len()).await;
            let ended = self.try_all(&left).await;
            let mut again = Vec::new();
            for (wanted, ended) in left.into_iter().zip(ended) {
                let may_pass = matches!(&ended, Err(error) if !is_of_the_line(error));
                if may_pass && tries_left > 0 {
                    again.push(wanted);
                } else {
                    self.count(source, wanted, &ended);
                }
            }
            if again.is_empty() {
                return;
            }
            left = again;
            sleep(wait).await;
            wait = (wait * 2).min(TRY_AGAIN_AFTER_MOST);
        }
    }

    async fn try_all(&self, some: &[&Wanted]) -> Vec<Result<Warmed, CacheError>> {
        let engine = &self.warming.engine;
        // Those that have to be loaded are loaded in one call, where the origin can.
        let first = Seat::first();
        let all = some.iter().map(|wanted| {
            let seat = first.another();
            async move {
                match &wanted.value {
                    None => engine.warm(&wanted.key, Some(seat)).await,
                    Some(given) => {
                        drop(seat);
                        engine.warm_with(set_of(wanted, given)).await
                    }
                }
            }
        });
        let all: Vec<_> = all.collect();
        drop(first);
        join_all(all).await
    }

    fn count(&self, source: WarmSource, wanted: &Wanted, ended: &Result<Warmed, CacheError>) {
        let (counts, metrics) = (&self.run.counts, &self.warming.metrics);
        let (count, outcome) = match ended {
            Ok(Warmed::Loaded { bytes }) => {
                counts.bytes.fetch_add(*bytes, Ordering::Relaxed);
                metrics.bytes.inc_by(*bytes);
                (&counts.loaded, "loaded")
            }
            Ok(Warmed::Present) => (&counts.present, "present"),
            Ok(Warmed::Absent) => (&counts.absent, "absent"),
            Err(error) => {
                self.run.problem(&format!("{} key {:?}: {error}", source.as_str(), wanted.key.name()));
                (&counts.failed, "failed")
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
        metrics.keys(source.as_str(), outcome, 1);
        let is_there = matches!(ended, Ok(Warmed::Loaded { .. } | Warmed::Present));
        if is_there && self.run.trigger == Trigger::Start && source == WarmSource::AccessLog {
            self.warming.coverage.covers(wanted.n_reads);
        }
    }

    /// Stands aside as long as callers keep Redis or the origin busy.
    async fn wait_for_calm(&self) {
        let (engine, policy) = (&self.warming.engine, &self.namespace.policy);
        let above = self.warming.log_config().yield_above as usize;
        while engine.is_busy(policy, above) {
            let since = Instant::now();
            sleep(LOOK_EVERY).await;
            let took = since.elapsed();
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            self.run.counts.stood_aside_ms.fetch_add(ms, Ordering::Relaxed);
            self.warming.metrics.stood_aside_seconds.inc_by(took.as_secs_f64());
        }
    }

    /// Waits until so many more keys are within the plan's rate, and slows down while this process is so busy that it is
    /// woken late: then callers wait for the processor too.
    async fn pace(&mut self, n_keys: usize) {
        let is_early = Instant::now() < self.next_at;
        sleep_until(self.next_at).await;
        let is_late = is_early && self.next_at.elapsed() > WOKEN_WITHIN;
        self.slowness = if is_late { (self.slowness * 2).min(SLOWEST) } else { (self.slowness - 1).max(1) };
        let n_keys = u32::try_from(n_keys).unwrap_or(u32::MAX);
        let takes = Duration::from_secs(1) * n_keys * self.slowness / self.run.plan.keys_per_second;
        // Time that was lost is not made up for.
        self.next_at = self.next_at.max(Instant::now()) + takes;
    }
}

/// Tells whether trying again is of no use: the line itself is wrong.
fn is_of_the_line(error: &CacheError) -> bool {
    matches!(error, CacheError::Invalid(_) | CacheError::ValueTooLarge { .. })
}

fn set_of(wanted: &Wanted, given: &super::lines::Given) -> Set {
    Set {
        key: wanted.key.clone(),
        value: given.value.clone(),
        ttl: given.ttl,
        content_type: given.content_type.clone(),
        condition: Condition::Absent,
        tags: given.tags.clone(),
        lease: None,
        fence: None,
        once: None,
    }
}

impl Warming {
    /// Writes the access log every so often, and once more at the end.
    pub(super) async fn keep_log(
        self: Arc<Self>,
        log: AccessLog,
        stopping: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut is_over = false;
        while !is_over {
            is_over = timeout(self.log_config().log_every, stopping.cancelled()).await.is_ok();
            if let Err(error) = self.write_log(&log).await {
                self.metrics.log_failures.inc();
                tracing::warn!(error = format!("{error:#}"), "the access log cannot be written");
            }
        }
        Ok(())
    }

    async fn write_log(self: &Arc<Self>, log: &AccessLog) -> anyhow::Result<()> {
        let (warming, log) = (Arc::clone(self), log.clone());
        let write = tokio::task::spawn_blocking(move || {
            let Some(recorder) = warming.engine.insight.recorder() else { return Ok(0) };
            log.write(recorder, warming.engine.time.unix_ms())
        });
        let n_keys = timeout(WRITE_WITHIN, write).await.context("it takes too long")???;
        self.metrics.log_keys.set(i64::try_from(n_keys).unwrap_or(i64::MAX));
        Ok(())
    }
}
