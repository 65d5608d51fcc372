use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prometheus_client::metrics::counter::Counter;

use crate::component::Component;
use crate::metrics::RuntimeMetrics;

/// Sends spans through another exporter and tells how it goes, which the SDK keeps to itself.
#[derive(Debug)]
pub(super) struct WatchedExporter<E> {
    inner: E,
    component: Component,
    exported: Counter,
    lost: Counter,
}

impl<E> WatchedExporter<E> {
    pub(super) fn new(inner: E, component: Component, metrics: &RuntimeMetrics) -> Self {
        let (exported, lost) = (metrics.spans_exported.clone(), metrics.spans_lost.clone());
        Self { inner, component, exported, lost }
    }
}

impl<E: SpanExporter> SpanExporter for WatchedExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let n_spans = batch.len() as u64;
        let result = self.inner.export(batch).await;
        match &result {
            Ok(()) => {
                self.exported.inc_by(n_spans);
                self.component.healthy("accepts spans");
            }
            Err(error) => {
                self.lost.inc_by(n_spans);
                self.component.unhealthy(error.to_string());
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
