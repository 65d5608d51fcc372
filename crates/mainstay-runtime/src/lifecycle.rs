use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Owns every task of the process, and the two tokens that end them: soft (take no new work) and hard (drop all).
pub(crate) struct Lifecycle {
    soft: CancellationToken,
    hard: CancellationToken,
    crashed: CancellationToken,
    tasks: TaskTracker,
    named: Mutex<BTreeMap<u64, Cow<'static, str>>>,
    n_spawned: AtomicU64,
    work_panics: Counter,
}

impl Lifecycle {
    pub(crate) fn new(work_panics: Counter) -> Arc<Self> {
        Arc::new(Self {
            soft: CancellationToken::new(),
            hard: CancellationToken::new(),
            crashed: CancellationToken::new(),
            tasks: TaskTracker::new(),
            named: Mutex::default(),
            n_spawned: AtomicU64::new(0),
            work_panics,
        })
    }

    pub(crate) fn stopping(&self) -> CancellationToken {
        self.soft.clone()
    }

    pub(crate) fn aborting(&self) -> CancellationToken {
        self.hard.clone()
    }

    /// Is cancelled once a named task has failed.
    pub(crate) fn crashed(&self) -> &CancellationToken {
        &self.crashed
    }

    /// Runs a long-lived task. Its error or panic is a crash of the process.
    pub(crate) fn spawn<F>(self: &Arc<Self>, name: impl Into<Cow<'static, str>>, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let lifecycle = Arc::clone(self);
        let name = name.into();
        let running = Running::new(lifecycle, name.clone());
        self.tasks.spawn(async move {
            let lifecycle = &running.lifecycle;
            // Boxed: a task may be large, and select would copy it into its own frame.
            let task = AssertUnwindSafe(Box::pin(task)).catch_unwind();
            let outcome = tokio::select! {
                biased;
                outcome = task => outcome,
                () = lifecycle.hard.cancelled() => return,
            };
            match outcome {
                Ok(Ok(())) => tracing::debug!(task = &*name, "task ended"),
                Ok(Err(error)) => lifecycle.crash(&name, &format!("{error:#}")),
                Err(panic) => lifecycle.crash(&name, &format!("panicked: {}", panic_text(&*panic))),
            }
        });
    }

    /// Runs a piece of work whose failure harms nobody else.
    pub(crate) fn spawn_work<F>(self: &Arc<Self>, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (hard, panics) = (self.hard.clone(), self.work_panics.clone());
        self.tasks.spawn(async move {
            let work = AssertUnwindSafe(task).catch_unwind();
            let outcome = tokio::select! {
                biased;
                outcome = work => outcome,
                () = hard.cancelled() => return,
            };
            if let Err(panic) = outcome {
                panics.inc();
                tracing::error!(panic = panic_text(&*panic), "a piece of work panicked");
            }
        });
    }

    /// Asks every task to end, waits up to `grace`, then drops what is left. `hurry` cuts every wait short.
    pub(crate) async fn stop(&self, grace: Duration, hurry: &CancellationToken) {
        self.soft.cancel();
        self.tasks.close();
        tokio::select! {
            biased;
            () = self.tasks.wait() => return,
            () = hurry.cancelled() => tracing::warn!(unfinished = self.unfinished(), "dropping what is in flight"),
            () = tokio::time::sleep(grace) => {
                tracing::warn!(unfinished = self.unfinished(), grace = ?grace, "grace is over, dropping what is in flight");
            }
        }
        self.hard.cancel();
        // A dropped task ends at its next await; one that blocks its thread never gets there.
        if tokio::time::timeout(Duration::from_secs(1), self.tasks.wait()).await.is_err() {
            tracing::error!(unfinished = self.unfinished(), "tasks did not end when dropped");
        }
    }

    fn crash(&self, task: &str, error: &str) {
        tracing::error!(task, error, "task failed, stopping the process");
        self.crashed.cancel();
    }

    fn unfinished(&self) -> String {
        let named: Vec<_> = self.named.lock().values().cloned().collect();
        let others = self.tasks.len().saturating_sub(named.len());
        format!("{} and {others} unnamed", named.join(", "))
    }
}

/// Lists a named task for as long as it runs.
struct Running {
    id: u64,
    lifecycle: Arc<Lifecycle>,
}

impl Running {
    fn new(lifecycle: Arc<Lifecycle>, name: Cow<'static, str>) -> Self {
        let id = lifecycle.n_spawned.fetch_add(1, Ordering::Relaxed);
        lifecycle.named.lock().insert(id, name);
        Self { id, lifecycle }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.lifecycle.named.lock().remove(&self.id);
    }
}

/// Returns what a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("not a text")
}

#[cfg(test)]
mod tests;
