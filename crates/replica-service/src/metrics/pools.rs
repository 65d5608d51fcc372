use std::sync::atomic::Ordering;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{node::ROLES, pool::PoolStatus};

/// Connections by node, and by what they are for; as of the last probe, but the waits.
#[derive(Debug, Clone)]
pub(crate) struct PoolMetrics {
    size: Family<OfPool, Gauge>,
    in_use: Family<OfPool, Gauge>,
    waiting: Family<OfPool, Gauge>,
    created: Family<OfPool, Counter>,
    recycled: Family<OfPool, Counter>,
    errors: Family<OfPool, Counter>,
    timeouts: Family<OfPool, Counter>,
    wait_seconds: Family<OfPool, Histogram>,
}

/// `role` is read or write.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPool {
    node: String,
    role: &'static str,
}

/// From a connection that lies ready to one that is waited for until `pool.wait_within` ends.
const SECONDS: [f64; 11] = [0.000_01, 0.000_05, 0.000_25, 0.001, 0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0];

impl Default for PoolMetrics {
    fn default() -> Self {
        Self {
            size: Family::default(),
            in_use: Family::default(),
            waiting: Family::default(),
            created: Family::default(),
            recycled: Family::default(),
            errors: Family::default(),
            timeouts: Family::default(),
            wait_seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
        }
    }
}

impl PoolMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("pool_size", "Connections open", self.size.clone());
        registry.register("pool_in_use", "Connections that run a statement", self.in_use.clone());
        registry.register("pool_waiting", "Statements that wait for a connection", self.waiting.clone());
        registry.register("pool_created", "Connections opened", self.created.clone());
        registry.register("pool_recycled", "Connections used once more", self.recycled.clone());
        registry.register("pool_errors", "Connections that could not be opened", self.errors.clone());
        registry.register(
            "pool_timeouts",
            "Waits for a connection that ran out of time",
            self.timeouts.clone(),
        );
        registry.register(
            "pool_wait_seconds",
            "From asking for a connection to having it, or to giving up; opening one included",
            self.wait_seconds.clone(),
        );
    }

    /// Gives the histogram of waits for one pool.
    pub(crate) fn wait_seconds(&self, node: &str, role: &'static str) -> Histogram {
        self.wait_seconds.get_or_create(&OfPool { node: node.to_owned(), role }).clone()
    }

    /// Tells nothing more of the pools of a server; the waits of one that is `replaced` are added up with those before.
    pub(super) fn forget(&self, node: &str, replaced: bool) {
        for role in ROLES {
            let label = OfPool { node: node.to_owned(), role };
            for family in [&self.size, &self.in_use, &self.waiting] {
                family.remove(&label);
            }
            for family in [&self.created, &self.recycled, &self.errors, &self.timeouts] {
                family.remove(&label);
            }
            if !replaced {
                self.wait_seconds.remove(&label);
            }
        }
    }

    /// Takes in how the connections of one role are.
    pub(crate) fn tell(&self, node: &str, role: &'static str, status: &PoolStatus) {
        let label = OfPool { node: node.to_owned(), role };
        self.size.get_or_create(&label).set(status.size.into());
        self.in_use.get_or_create(&label).set(status.in_use.into());
        self.waiting.get_or_create(&label).set(status.waiting.into());
        for (family, total) in [
            (&self.created, status.created),
            (&self.recycled, status.recycled),
            (&self.errors, status.errors),
            (&self.timeouts, status.timeouts),
        ] {
            // Probes of several nodes may report at once.
            family.get_or_create(&label).inner().fetch_max(total, Ordering::Relaxed);
        }
    }
}
