//! Readiness that waits for warming, for a bounded time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mainstay_runtime::Latch;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Warming;

/// Counts how much of the last run's reads would find their key by now. A process that is not ready is not asked, so this
/// is what its hit ratio can be told by.
#[derive(Debug)]
pub(super) struct Coverage {
    wanted_ratio: f64,
    is_known: AtomicBool,
    n_reads: AtomicU64,
    n_covered: AtomicU64,
    is_all_done: AtomicBool,
    changed: Notify,
    gauge: Gauge<f64, AtomicU64>,
}

impl Coverage {
    pub(super) fn new(wanted_ratio: f64, gauge: Gauge<f64, AtomicU64>) -> Self {
        Self {
            wanted_ratio,
            is_known: AtomicBool::new(false),
            n_reads: AtomicU64::new(0),
            n_covered: AtomicU64::new(0),
            is_all_done: AtomicBool::new(false),
            changed: Notify::new(),
            gauge,
        }
    }

    /// Says how many reads the log tells of.
    pub(super) fn expect(&self, n_reads: u64) {
        self.n_reads.store(n_reads, Ordering::Relaxed);
        self.is_known.store(n_reads > 0, Ordering::Relaxed);
    }

    /// Counts the reads of a key that is there now.
    pub(super) fn covers(&self, n_reads: u64) {
        self.n_covered.fetch_add(n_reads, Ordering::Relaxed);
        if let Some(ratio) = self.ratio() {
            self.gauge.set(ratio);
        }
        self.changed.notify_one();
    }

    /// Says that all runs on start have ended.
    pub(super) fn all_done(&self) {
        self.is_all_done.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    pub(super) fn ratio(&self) -> Option<f64> {
        let is_known = self.is_known.load(Ordering::Relaxed);
        let [covered, all] = [&self.n_covered, &self.n_reads].map(|count| count.load(Ordering::Relaxed));
        // What is read while the log is gone through is counted too.
        is_known.then(|| (covered as f64 / all.max(1) as f64).min(1.0))
    }

    async fn suffices(&self) {
        loop {
            let is_enough = self.ratio().is_some_and(|ratio| ratio >= self.wanted_ratio);
            if is_enough || self.is_all_done.load(Ordering::Relaxed) {
                return;
            }
            self.changed.notified().await;
        }
    }
}

impl Warming {
    pub(super) async fn wait_until_warm(self: Arc<Self>, latch: Latch) -> anyhow::Result<()> {
        if timeout(self.log_config().ready_within, self.coverage.suffices()).await.is_err() {
            let ratio = self.coverage.ratio();
            tracing::warn!(ratio, "warming takes too long, readiness waits for it no longer");
        }
        latch.release();
        Ok(())
    }
}
