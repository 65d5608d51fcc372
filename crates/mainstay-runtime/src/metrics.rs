use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::background::BackgroundMetrics;
use crate::component;

mod process;

/// Holds every metric of the process.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    registry: Arc<RwLock<Registry>>,
}

/// The content type of [`Metrics::render`].
pub(crate) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Metrics {
    /// Hands the registry out for registering.
    pub(crate) fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.registry.write())
    }

    /// Renders all metrics as OpenMetrics 1.0 text.
    pub(crate) fn render(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        prometheus_client::encoding::text::encode(&mut text, &self.registry.read())
            .expect("writing to a string does not fail");
        text
    }
}

/// The metrics of the runtime itself.
#[derive(Clone, Default)]
pub(crate) struct RuntimeMetrics {
    pub(crate) ready: Gauge,
    pub(crate) component_health: Family<component::Labels, Gauge>,
    pub(crate) background: BackgroundMetrics,
    pub(crate) work_panics: Counter,
    pub(crate) spans_exported: Counter,
    pub(crate) spans_lost: Counter,
}

impl RuntimeMetrics {
    pub(crate) fn register(registry: &mut Registry, started_at: SystemTime) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("mainstay");
        registry.register("ready", "Whether the process can serve: 1 or 0", metrics.ready.clone());
        registry.register(
            "component_health",
            "Health of a component: 3 healthy, 2 degraded, 1 unhealthy, 0 unknown",
            metrics.component_health.clone(),
        );
        registry.register(
            "background_runs",
            "Rounds of background tasks begun",
            metrics.background.runs.clone(),
        );
        registry.register(
            "background_failures",
            "Rounds of background tasks that ended with an error",
            metrics.background.failures.clone(),
        );
        registry.register("work_panics", "Short-lived tasks that panicked", metrics.work_panics.clone());
        registry.register(
            "telemetry_spans_exported",
            "Spans accepted by the OTLP endpoint",
            metrics.spans_exported.clone(),
        );
        registry.register(
            "telemetry_spans_lost",
            "Spans the OTLP endpoint did not accept",
            metrics.spans_lost.clone(),
        );
        registry.register_collector(Box::new(process::ProcessCollector::new(started_at)));
        metrics
    }
}
