use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::layer::memory::{Memory, PoolFigures};

/// Reads at each scrape what memory holds by eviction policy.
#[derive(Debug)]
pub(crate) struct EvictionCollector(Arc<Memory>);

impl EvictionCollector {
    pub(crate) fn register(memory: Arc<Memory>, registry: &mut Registry) {
        registry.sub_registry_with_prefix("mainstay_cache").register_collector(Box::new(Self(memory)));
    }
}

impl Collector for EvictionCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let figures = self.0.figures_by_eviction();
        let mut gauge = |name, help, value: fn(&PoolFigures) -> u64| -> fmt::Result {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (eviction, figures) in &figures {
                let gauge = ConstGauge::new(i64::try_from(value(figures)).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(&[("eviction", eviction.as_str())])?)?;
            }
            Ok(())
        };
        gauge("l1_eviction_entries", "Entries in memory, by eviction policy", |figures| figures.entries)?;
        gauge("l1_eviction_bytes", "Bytes in memory, by eviction policy", |figures| figures.bytes)?;
        let help = "Entries that left memory for want of room, by eviction policy";
        let mut family = encoder.encode_descriptor("l1_evicted", help, None, MetricType::Counter)?;
        for (eviction, figures) in &figures {
            let counter = ConstCounter::new(figures.evictions);
            counter.encode(family.encode_family(&[("eviction", eviction.as_str())])?)?;
        }
        Ok(())
    }
}
