use std::fmt;
use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::layer::disk::Disk;

/// Reads the state of L3 at each scrape.
#[derive(Debug)]
pub(crate) struct DiskCollector(Weak<Disk>);

impl DiskCollector {
    pub(crate) fn register(disk: &Arc<Disk>, registry: &mut Registry) {
        let collector = Self(Arc::downgrade(disk));
        registry.sub_registry_with_prefix("mainstay_cache").register_collector(Box::new(collector));
    }
}

impl Collector for DiskCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(disk) = self.0.upgrade() else { return Ok(()) };
        let figures = disk.figures();
        let mut gauge = |name: &str, help: &str, value: u64| -> fmt::Result {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge("l3_available", "1 when the directory is open and can be written", figures.available.into())?;
        gauge("l3_bytes", "Bytes of files on disk", figures.bytes)?;
        gauge("l3_capacity_bytes", "Bound of l3_bytes", figures.capacity_bytes)?;
        gauge("l3_entries", "Entries on disk", figures.entries)?;
        let mut counter = |name: &str, help: &str, value: u64| -> fmt::Result {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
        };
        counter("l3_dropped", "Writes to disk given up", figures.dropped)?;
        counter("l3_damaged", "Records and segments on disk discarded as damaged", figures.damaged)
    }
}
