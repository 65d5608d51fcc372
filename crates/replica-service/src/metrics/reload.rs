use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::reload::Outcome;

/// Which configuration is followed, and how often it was read again.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReloadMetrics {
    pub generation: Gauge,
    needs_restart: Gauge,
    reloads: Family<Ended, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    outcome: &'static str,
}

impl ReloadMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "config_generation",
            "Configurations followed since the start",
            self.generation.clone(),
        );
        registry.register(
            "config_needs_restart",
            "Keys that have changed and wait for a restart",
            self.needs_restart.clone(),
        );
        registry.register(
            "config_reloads",
            "Times that the configuration was read again, by outcome",
            self.reloads.clone(),
        );
        for outcome in [Outcome::Applied, Outcome::Unchanged, Outcome::Refused] {
            drop(self.reloads.get_or_create(&Ended { outcome: outcome.as_str() }));
        }
    }

    pub(crate) fn told(&self, outcome: Outcome, generation: u64, n_waiting: usize) {
        self.reloads.get_or_create(&Ended { outcome: outcome.as_str() }).inc();
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.needs_restart.set(i64::try_from(n_waiting).unwrap_or(i64::MAX));
    }
}
