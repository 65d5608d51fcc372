use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::OutcomeLabels;

/// Upper bounds of both histograms, in seconds.
const BACKEND_SECONDS: [f64; 10] = [0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

/// What is counted of the application behind the gateway.
#[derive(Clone, Debug)]
pub(crate) struct BackendFigures {
    seconds: Histogram,
    calls: Family<OutcomeLabels, Counter>,
    hooks: Family<HookLabels, Counter>,
    hook_seconds: Family<HookNameLabels, Histogram, fn() -> Histogram>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HookLabels {
    hook: &'static str,
    /// `ok`, `denied`, `failed` or `refused`.
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HookNameLabels {
    hook: &'static str,
}

impl Default for BackendFigures {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BACKEND_SECONDS);
        Self {
            seconds: histogram(),
            calls: Family::default(),
            hooks: Family::default(),
            hook_seconds: Family::new_with_constructor(histogram),
        }
    }
}

impl BackendFigures {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("backend_seconds", "Time for the backend to answer", self.seconds.clone());
        registry.register("backend_calls", "Calls of clients to the backend", self.calls.clone());
        registry.register("hooks", "Questions that the backend decides", self.hooks.clone());
        registry.register("hook_seconds", "Time for the backend to decide", self.hook_seconds.clone());
    }

    /// Notes how long the backend took to answer a call.
    pub(crate) fn took(&self, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
    }

    /// Counts a call of a client to the backend: `ok`, `error` (of the application), `failed` or `refused`.
    pub(crate) fn answered(&self, outcome: &'static str) {
        self.calls.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// Counts a question that the backend was to decide.
    pub(crate) fn hook_answered(&self, hook: &'static str, outcome: &'static str) {
        self.hooks.get_or_create(&HookLabels { hook, outcome }).inc();
    }

    /// Notes how long the backend took to decide.
    pub(crate) fn hook_took(&self, hook: &'static str, took: Duration) {
        self.hook_seconds.get_or_create(&HookNameLabels { hook }).observe(took.as_secs_f64());
    }
}
