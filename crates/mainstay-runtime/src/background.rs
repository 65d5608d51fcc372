use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::lifecycle::panic_text;

/// Does one round of a background job.
///
/// A round takes no input, may run at any time, and leads to the same state when run twice. The driver never runs two
/// rounds at once; an error or panic is an error of that round, and the next one runs as planned. A closure
/// `move || async move { .. }` is a job too.
pub trait Activate: Send + 'static {
    /// Runs one round. Every await inside that leaves the process has a deadline of its own.
    fn activate(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

impl<F, Fut> Activate for F
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send,
{
    fn activate(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send {
        self()
    }
}

/// When rounds of a background job begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At once, then once per period, each time up to 10 % early or late so that processes do not march in step.
    Every(Duration),
    /// Only when triggered.
    OnTrigger,
    /// Both.
    EveryOrTrigger(Duration),
}

impl Schedule {
    fn period(self) -> Option<Duration> {
        match self {
            Self::Every(period) | Self::EveryOrTrigger(period) => Some(period),
            Self::OnTrigger => None,
        }
    }

    fn listens(self) -> bool {
        !matches!(self, Self::Every(_))
    }
}

/// Starts a round of a background job now, or right after the round under way. Has no effect on [`Schedule::Every`].
#[derive(Clone, Debug)]
pub struct Trigger {
    fired: Arc<Notify>,
}

impl Trigger {
    /// Asks for a round; several requests before it begins are one.
    pub fn fire(&self) {
        self.fired.notify_one();
    }
}

/// What is known of a background job.
#[derive(Clone, Debug, Default)]
pub(crate) struct TaskStatus {
    pub(crate) period: Option<Duration>,
    pub(crate) running: bool,
    pub(crate) activations: u64,
    pub(crate) failures: u64,
    pub(crate) last_started_at: Option<SystemTime>,
    pub(crate) last_duration: Option<Duration>,
    pub(crate) last_error: String,
}

/// Knows all background jobs of the process.
pub(crate) struct Background {
    by_name: Mutex<BTreeMap<Arc<str>, Arc<Mutex<TaskStatus>>>>,
    metrics: BackgroundMetrics,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct BackgroundMetrics {
    pub(crate) runs: Family<Labels, Counter>,
    pub(crate) failures: Family<Labels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Labels {
    task: String,
}

impl Background {
    pub(crate) fn new(metrics: BackgroundMetrics) -> Self {
        Self { by_name: Mutex::default(), metrics }
    }

    /// Adds a job; the driver must be run by somebody who owns it.
    pub(crate) fn add(&self, name: String, schedule: Schedule, clock: Clock) -> (Driver, Trigger) {
        let name: Arc<str> = name.into();
        let status = Arc::new(Mutex::new(TaskStatus { period: schedule.period(), ..TaskStatus::default() }));
        self.by_name.lock().insert(Arc::clone(&name), Arc::clone(&status));
        let labels = Labels { task: name.as_ref().to_owned() };
        let fired = Arc::new(Notify::new());
        let driver = Driver {
            schedule,
            fired: Arc::clone(&fired),
            status,
            clock,
            runs: self.metrics.runs.get_or_create_owned(&labels),
            failures: self.metrics.failures.get_or_create_owned(&labels),
            name,
        };
        (driver, Trigger { fired })
    }

    /// Forgets a job that has ended; a successor of the same name stays.
    pub(crate) fn remove(&self, job: &Job) {
        let mut by_name = self.by_name.lock();
        if by_name.get(&job.name).is_some_and(|present| Arc::ptr_eq(present, &job.status)) {
            by_name.remove(&job.name);
        }
    }

    /// Returns all jobs by name.
    pub(crate) fn snapshot(&self) -> Vec<(String, TaskStatus)> {
        let by_name = self.by_name.lock();
        by_name.iter().map(|(name, status)| (name.as_ref().to_owned(), status.lock().clone())).collect()
    }
}

/// Names one job among all that have the same name one after the other.
pub(crate) struct Job {
    name: Arc<str>,
    status: Arc<Mutex<TaskStatus>>,
}

/// Runs the rounds of one job, one after the other.
pub(crate) struct Driver {
    name: Arc<str>,
    schedule: Schedule,
    fired: Arc<Notify>,
    status: Arc<Mutex<TaskStatus>>,
    clock: Clock,
    runs: Counter,
    failures: Counter,
}

impl Driver {
    pub(crate) fn job(&self) -> Job {
        Job { name: Arc::clone(&self.name), status: Arc::clone(&self.status) }
    }

    /// Runs until `stopping`; the round under way is finished first.
    pub(crate) async fn run<T: Activate>(self, mut task: T, stopping: CancellationToken) {
        let mut due_at = self.schedule.period().map(|_| Instant::now());
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                () = self.fired.notified(), if self.schedule.listens() => {}
                () = until(due_at) => {}
            }
            let started_at = Instant::now();
            self.round(&mut task, started_at).await;
            due_at = self.schedule.period().map(|period| started_at + jittered(period));
        }
    }

    async fn round<T: Activate>(&self, task: &mut T, started_at: Instant) {
        self.runs.inc();
        {
            let mut status = self.status.lock();
            status.running = true;
            status.activations += 1;
            status.last_started_at = Some(self.clock.now());
        }
        // The call itself is inside, since a closure may panic before it returns a future.
        let activation = AssertUnwindSafe(async { task.activate().await }).catch_unwind();
        let error = match activation.await {
            Ok(Ok(())) => String::new(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(panic) => format!("panicked: {}", panic_text(&*panic)),
        };
        let before = {
            let mut status = self.status.lock();
            status.running = false;
            status.last_duration = Some(started_at.elapsed());
            status.failures += u64::from(!error.is_empty());
            std::mem::replace(&mut status.last_error, error.clone())
        };
        self.tell(&before, &error);
    }

    /// Logs the first failure and the recovery, so that a dead backend does not fill the log.
    fn tell(&self, before: &str, error: &str) {
        let task = &*self.name;
        if !error.is_empty() {
            self.failures.inc();
        }
        match (before.is_empty(), error.is_empty()) {
            (true, false) => tracing::warn!(task, error, "background task failed"),
            (false, true) => tracing::info!(task, "background task works again"),
            (false, false) => tracing::debug!(task, error, "background task still fails"),
            (true, true) => {}
        }
    }
}

async fn until(due_at: Option<Instant>) {
    match due_at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn jittered(period: Duration) -> Duration {
    period.mul_f64(rand::random_range(0.9..=1.1))
}

#[cfg(test)]
mod tests;
