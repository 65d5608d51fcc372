use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counts what warming does.
#[derive(Debug, Clone, Default)]
pub(crate) struct WarmingMetrics {
    runs: Family<RunLabels, Counter>,
    keys: Family<KeyLabels, Counter>,
    pub(crate) bytes: Counter,
    pub(crate) stood_aside_seconds: Counter<f64, AtomicU64>,
    pub(crate) running: Gauge,
    pub(crate) expected_hit_ratio: Gauge<f64, AtomicU64>,
    pub(crate) log_keys: Gauge,
    pub(crate) log_failures: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RunLabels {
    trigger: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyLabels {
    source: &'static str,
    outcome: &'static str,
}

impl WarmingMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("mainstay_cache");
        let metrics = Self::default();
        registry.register(
            "warming_runs",
            "Warming runs that ended, by what began and what ended them",
            metrics.runs.clone(),
        );
        registry.register(
            "warming_keys",
            "Keys that were to be brought in, by where they stood and how they ended",
            metrics.keys.clone(),
        );
        registry.register(
            "warming_bytes",
            "Keys and values that warming brought, in bytes",
            metrics.bytes.clone(),
        );
        registry.register(
            "warming_stood_aside_seconds",
            "Time that warming stood aside for callers",
            metrics.stood_aside_seconds.clone(),
        );
        registry.register("warming_running", "Warming runs under way", metrics.running.clone());
        registry.register(
            "warming_expected_hit_ratio",
            "Part of the reads of the last run whose keys the runs on start have brought",
            metrics.expected_hit_ratio.clone(),
        );
        registry.register("access_log_keys", "Keys that the access log has", metrics.log_keys.clone());
        registry.register(
            "access_log_failures",
            "Times that the access log could not be written",
            metrics.log_failures.clone(),
        );
        metrics
    }

    pub(crate) fn ran(&self, trigger: &'static str, outcome: &'static str) {
        self.runs.get_or_create(&RunLabels { trigger, outcome }).inc();
    }

    pub(crate) fn keys(&self, source: &'static str, outcome: &'static str, n_keys: u64) {
        if n_keys > 0 {
            self.keys.get_or_create(&KeyLabels { source, outcome }).inc_by(n_keys);
        }
    }
}
