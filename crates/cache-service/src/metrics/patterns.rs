use std::fmt;
use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::engine::Engine;
use crate::insight::PatternFigures;

/// Tells at each scrape what the last count of memory found of the patterns with most bytes.
#[derive(Debug)]
pub(crate) struct PatternCollector {
    engine: Weak<Engine>,
    most: usize,
}

impl PatternCollector {
    pub(crate) fn register(engine: &Arc<Engine>, most: u32, registry: &mut Registry) {
        let collector = Self { engine: Arc::downgrade(engine), most: most as usize };
        registry.sub_registry_with_prefix("mainstay_cache").register_collector(Box::new(collector));
    }
}

impl Collector for PatternCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(engine) = self.engine.upgrade() else { return Ok(()) };
        let found = engine.insight.last_patterns();
        let shown = &found[..found.len().min(self.most)];
        let help = "Keys in memory, by namespace and pattern, as last counted";
        encode(&mut encoder, shown, "key_pattern_keys", help, |figures| gauge(figures.keys))?;
        let help = "Bytes of their keys and values, by namespace and pattern, as last counted";
        encode(&mut encoder, shown, "key_pattern_bytes", help, |figures| gauge(figures.bytes))?;
        let help = "Mean of what is left of their ttl, in seconds, by namespace and pattern, as last counted";
        encode(&mut encoder, shown, "key_pattern_mean_ttl_seconds", help, |figures| {
            ConstGauge::new(figures.mean_ttl.as_secs_f64())
        })?;
        let help = "Reads answered with an entry, estimated from a sample, by namespace and pattern, as last counted";
        encode(&mut encoder, shown, "key_pattern_hits", help, |figures| ConstCounter::new(figures.hits))
    }
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

fn encode<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    shown: &[PatternFigures],
    metric: &str,
    help: &str,
    value: impl Fn(&PatternFigures) -> M,
) -> Result<(), fmt::Error> {
    let [first, ..] = shown else { return Ok(()) };
    let mut family = encoder.encode_descriptor(metric, help, None, value(first).metric_type())?;
    for figures in shown {
        let labels = [("namespace", figures.namespace.as_str()), ("pattern", figures.pattern.as_str())];
        value(figures).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
