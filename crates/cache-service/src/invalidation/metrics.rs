use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::Event;

/// Upper ends of the buckets, in seconds.
const LAG_BUCKETS: [f64; 10] = [5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.5, 2.0, 10.0];

/// Counts what the invalidation log did here.
#[derive(Debug, Clone)]
pub(crate) struct InvalidationMetrics {
    pub(crate) keys: Counter,
    pub(crate) tags: Counter,
    pub(crate) namespaces: Counter,
    pub(crate) failures: Counter,
    pub(crate) replays: Counter,
    pub(crate) flushes: Counter,
    pub(crate) position: Gauge,
    pub(crate) current: Gauge,
    pub(crate) possibly_stale: Gauge,
    policies: Counter,
    lag: Histogram,
    recent: std::sync::Arc<Mutex<Recent>>,
}

#[derive(Debug, Default)]
struct Recent {
    lags: VecDeque<Duration>,
    second: u64,
    n_this_second: u64,
    n_last_second: u64,
}

/// The last up to 1,000 lags.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) struct Lag {
    pub(crate) mean: Duration,
    pub(crate) p50: Duration,
    pub(crate) p95: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

impl InvalidationMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("mainstay_cache");
        let applied = Family::<KindLabel, Counter>::default();
        let kind = |kind| applied.get_or_create_owned(&KindLabel { kind });
        let metrics = Self {
            keys: kind("key"),
            tags: kind("tag"),
            namespaces: kind("namespace"),
            policies: kind("policy"),
            failures: Counter::default(),
            replays: Counter::default(),
            flushes: Counter::default(),
            position: Gauge::default(),
            current: Gauge::default(),
            possibly_stale: Gauge::default(),
            lag: Histogram::new(LAG_BUCKETS),
            recent: std::sync::Arc::default(),
        };
        registry.register("invalidations", "Changes applied from the log, by kind", applied);
        registry.register(
            "invalidation_failures",
            "Invalidations that Redis did not take",
            metrics.failures.clone(),
        );
        let replays = "Breaks of the connection made good by reading on";
        registry.register("invalidation_replays", replays, metrics.replays.clone());
        let flushes = "Times that memory counted as unproven because changes were missed";
        registry.register("invalidation_flushes", flushes, metrics.flushes.clone());
        let position = "Number of the last change applied";
        registry.register("invalidation_log_position", position, metrics.position.clone());
        registry.register("invalidation_current", "1 while the log is read", metrics.current.clone());
        let stale = "Entries in memory that changes may have been missed for";
        registry.register("entries_possibly_stale", stale, metrics.possibly_stale.clone());
        let lag = "Time from the numbering of a change to its application here";
        registry.register("invalidation_lag_seconds", lag, metrics.lag.clone());
        metrics
    }

    /// Counts a change applied `lag` after it was made.
    pub(super) fn applied(&self, event: &Event, lag: Duration, unix_s: u64) {
        match event {
            Event::Key(_) => &self.keys,
            Event::Tag { .. } => &self.tags,
            Event::Namespace(_) => &self.namespaces,
            Event::Policy(_) => &self.policies,
        }
        .inc();
        self.lag.observe(lag.as_secs_f64());
        let mut recent = self.recent.lock();
        if recent.lags.len() >= 1_000 {
            recent.lags.pop_front();
        }
        recent.lags.push_back(lag);
        recent.roll(unix_s);
        recent.n_this_second += 1;
    }

    pub(crate) fn recent_lag(&self) -> Lag {
        let mut lags: Vec<Duration> = self.recent.lock().lags.iter().copied().collect();
        lags.sort_unstable();
        let n = u32::try_from(lags.len()).unwrap_or(u32::MAX);
        let sum: Duration = lags.iter().sum();
        let percentile = |percent: usize| {
            let rank = (lags.len() * percent).div_ceil(100).max(1);
            lags.get(rank - 1).copied().unwrap_or_default()
        };
        Lag {
            mean: sum.checked_div(n).unwrap_or_default(),
            p50: percentile(50),
            p95: percentile(95),
            p99: percentile(99),
            max: lags.last().copied().unwrap_or_default(),
        }
    }

    /// Returns the changes applied in the last whole second.
    pub(crate) fn per_second(&self, unix_s: u64) -> u64 {
        let mut recent = self.recent.lock();
        recent.roll(unix_s);
        recent.n_last_second
    }
}

impl Recent {
    fn roll(&mut self, unix_s: u64) {
        if unix_s != self.second {
            self.n_last_second = if unix_s == self.second + 1 { self.n_this_second } else { 0 };
            self.n_this_second = 0;
            self.second = unix_s;
        }
    }
}
