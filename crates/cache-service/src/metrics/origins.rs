use std::fmt;
use std::sync::{Arc, Weak};

use mainstay_resilience::breaker::State;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::engine::Engine;

/// Counts what origins are asked. Labels are names from the configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct OriginMetrics {
    calls: Family<CallLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    origin: String,
    op: &'static str,
    outcome: &'static str,
}

impl OriginMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("mainstay_cache");
        let metrics = Self::default();
        registry.register("origin_calls", "Calls of origins, by how they ended", metrics.calls.clone());
        metrics
    }

    pub(crate) fn called(&self, origin: &str, op: &'static str, is_done: bool) {
        let outcome = if is_done { "done" } else { "failed" };
        self.calls.get_or_create(&CallLabels { origin: origin.to_owned(), op, outcome }).inc();
    }
}

/// Reads the breakers of origins at each scrape.
#[derive(Debug)]
pub(crate) struct OriginCollector(Weak<Engine>);

impl OriginCollector {
    pub(crate) fn register(engine: &Arc<Engine>, registry: &mut Registry) {
        let collector = Self(Arc::downgrade(engine));
        registry.sub_registry_with_prefix("mainstay_cache").register_collector(Box::new(collector));
    }
}

impl Collector for OriginCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(engine) = self.0.upgrade() else { return Ok(()) };
        let origins = engine.loads.origins.figures();
        if origins.is_empty() {
            return Ok(());
        }
        let help = "Breaker of an origin, of its best endpoint: 0 closed, 1 half open, 2 open";
        let mut family = encoder.encode_descriptor("origin_breaker_state", help, None, MetricType::Gauge)?;
        for origin in &origins {
            let labels = [("origin", origin.name.as_str())];
            ConstGauge::new(breaker_level(origin.breaker())).encode(family.encode_family(&labels)?)?;
        }
        let help = "Breaker of one endpoint of an origin: 0 closed, 1 half open, 2 open";
        let name = "origin_endpoint_breaker_state";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for origin in &origins {
            for endpoint in &origin.endpoints {
                let labels = [("origin", origin.name.as_str()), ("endpoint", endpoint.endpoint.as_str())];
                ConstGauge::new(breaker_level(endpoint.breaker)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Returns 0 for closed, 1 for half open, 2 for open.
pub(crate) fn breaker_level(state: &str) -> i64 {
    let states = [State::Closed, State::HalfOpen, State::Open];
    states.into_iter().find(|known| known.as_str() == state).unwrap_or(State::Open).level().into()
}
