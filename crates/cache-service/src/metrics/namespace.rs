use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::LastLayer;
use crate::adaptive::Behaviour;
use crate::engine::{Engine, Namespace};
use crate::layer::disk::HeldOnDisk;
use crate::layer::memory::PoolFigures;
use crate::layer::redis::InRedis;

/// Reads at each scrape what each namespace does and what memory holds of it. Namespaces are bounded where they are
/// counted.
#[derive(Debug)]
pub(crate) struct NamespaceCollector(Weak<Engine>);

impl NamespaceCollector {
    pub(crate) fn register(engine: &Arc<Engine>, registry: &mut Registry) {
        let collector = Self(Arc::downgrade(engine));
        registry.sub_registry_with_prefix("mainstay_cache").register_collector(Box::new(collector));
    }
}

impl Collector for NamespaceCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(engine) = self.0.upgrade() else { return Ok(()) };
        let namespaces = engine.namespaces.all();
        let help = "Reads answered with an entry, by namespace and layer";
        let mut family = encoder.encode_descriptor("namespace_hits", help, None, MetricType::Counter)?;
        for (name, used) in &namespaces {
            for (layer, word) in LastLayer::WITH_ENTRIES {
                let labels = [("namespace", name.as_str()), ("layer", word)];
                ConstCounter::new(used.hits_in(layer).get()).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Reads answered with an entry past its time, by namespace and layer";
        let mut family = encoder.encode_descriptor("namespace_stale", help, None, MetricType::Counter)?;
        for (name, used) in &namespaces {
            for (layer, word) in LastLayer::WITH_ENTRIES {
                let labels = [("namespace", name.as_str()), ("layer", word)];
                ConstCounter::new(used.stale_in(layer).get()).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Reads for which a layer was asked and which it did not answer, by namespace and layer";
        let mut family = encoder.encode_descriptor("namespace_misses", help, None, MetricType::Counter)?;
        for (name, used) in &namespaces {
            for (layer, word) in LastLayer::ASKED {
                let labels = [("namespace", name.as_str()), ("layer", word)];
                ConstCounter::new(used.misses_in(layer).get()).encode(family.encode_family(&labels)?)?;
            }
        }
        for (metric, help, value) in [
            (
                "namespace_gets",
                "Reads answered, by namespace",
                (|used| used.gets.get()) as fn(&Namespace) -> u64,
            ),
            ("namespace_sets", "Writes that were stored, by namespace", |used| used.sets.get()),
        ] {
            let mut family = encoder.encode_descriptor(metric, help, None, MetricType::Counter)?;
            for (name, used) in &namespaces {
                let labels = [("namespace", name.as_str())];
                ConstCounter::new(value(used)).encode(family.encode_family(&labels)?)?;
            }
        }
        encode_adaptive(&mut encoder, &namespaces)?;
        let held = engine.memory.figures_by_namespace();
        let mut gauge = |metric, help, value: fn(&PoolFigures) -> u64| -> fmt::Result {
            let mut family = encoder.encode_descriptor(metric, help, None, MetricType::Gauge)?;
            for (name, figures) in &held {
                let gauge = ConstGauge::new(i64::try_from(value(figures)).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(&[("namespace", name.as_str())])?)?;
            }
            Ok(())
        };
        gauge("namespace_l1_entries", "Entries in memory, by namespace", |figures| figures.entries)?;
        gauge("namespace_l1_bytes", "Bytes in memory, by namespace", |figures| figures.bytes)?;
        let help = "Entries that left memory for want of room, by namespace";
        let mut family =
            encoder.encode_descriptor("namespace_l1_evicted", help, None, MetricType::Counter)?;
        for (name, figures) in &held {
            let labels = [("namespace", name.as_str())];
            ConstCounter::new(figures.evictions).encode(family.encode_family(&labels)?)?;
        }
        if let Some(redis) = &engine.redis {
            encode_redis(&mut encoder, &namespaces, &redis.census().figures())?;
        }
        engine.disk.as_ref().map_or(Ok(()), |disk| encode_disk(&mut encoder, &disk.figures_by_namespace()))
    }
}

fn encode_redis(
    encoder: &mut DescriptorEncoder<'_>,
    namespaces: &[(String, Arc<Namespace>)],
    found: &HashMap<String, InRedis>,
) -> Result<(), fmt::Error> {
    let mut gauge = |metric, help, value: fn(&InRedis) -> u64| -> fmt::Result {
        let mut family = encoder.encode_descriptor(metric, help, None, MetricType::Gauge)?;
        for (name, _) in namespaces {
            let found = found.get(name).copied().unwrap_or_default();
            let gauge = ConstGauge::new(i64::try_from(value(&found)).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&[("namespace", name.as_str())])?)?;
        }
        Ok(())
    };
    let help = "Entries in Redis, of all nodes, estimated from a sample of its keys, by namespace";
    gauge("namespace_l2_entries", help, |found| found.entries)?;
    let help = "Bytes of their keys and values, without what Redis adds, estimated from the same sample, by namespace";
    gauge("namespace_l2_bytes", help, |found| found.bytes)
}

fn encode_disk(encoder: &mut DescriptorEncoder<'_>, held: &[(String, HeldOnDisk)]) -> Result<(), fmt::Error> {
    let mut gauge = |metric, help, value: fn(&HeldOnDisk) -> u64| -> fmt::Result {
        let mut family = encoder.encode_descriptor(metric, help, None, MetricType::Gauge)?;
        for (name, figures) in held {
            let gauge = ConstGauge::new(i64::try_from(value(figures)).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&[("namespace", name.as_str())])?)?;
        }
        Ok(())
    };
    gauge("namespace_l3_entries", "Entries on disk, by namespace", |figures| figures.entries)?;
    gauge("namespace_l3_bytes", "Bytes of their records, by namespace", |figures| figures.bytes)?;
    let help = "Entries that left the disk with its oldest file, by namespace";
    let mut family = encoder.encode_descriptor("namespace_l3_evicted", help, None, MetricType::Counter)?;
    for (name, figures) in held {
        let labels = [("namespace", name.as_str())];
        ConstCounter::new(figures.evictions).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn encode_adaptive(
    encoder: &mut DescriptorEncoder<'_>,
    namespaces: &[(String, Arc<Namespace>)],
) -> Result<(), fmt::Error> {
    let adaptive = || namespaces.iter().filter_map(|(name, used)| Some((name, used.adaptive.as_ref()?)));
    if adaptive().next().is_none() {
        return Ok(());
    }
    let help = "1 for what an adaptive namespace does at present, by namespace and strategy";
    let mut family = encoder.encode_descriptor("adaptive_choice", help, None, MetricType::Gauge)?;
    for (name, adaptive) in adaptive() {
        for behaviour in Behaviour::ALL {
            let labels = [("namespace", name.as_str()), ("strategy", behaviour.as_str())];
            let is_chosen = i64::from(adaptive.chosen() == behaviour);
            ConstGauge::new(is_chosen).encode(family.encode_family(&labels)?)?;
        }
    }
    let help = "What each strategy would have cost an adaptive namespace, in seconds of origin and of waiting readers a \
                second, by namespace and strategy";
    let mut family = encoder.encode_descriptor("adaptive_estimated_cost", help, None, MetricType::Gauge)?;
    for (name, adaptive) in adaptive() {
        for estimate in adaptive.report().iter().flat_map(|report| &report.estimates) {
            let labels = [("namespace", name.as_str()), ("strategy", estimate.behaviour.as_str())];
            ConstGauge::new(estimate.cost).encode(family.encode_family(&labels)?)?;
        }
    }
    let help = "Changes of mind of an adaptive namespace, by namespace";
    let mut family = encoder.encode_descriptor("adaptive_switches", help, None, MetricType::Counter)?;
    for (name, adaptive) in adaptive() {
        let labels = [("namespace", name.as_str())];
        ConstCounter::new(adaptive.n_switches()).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
