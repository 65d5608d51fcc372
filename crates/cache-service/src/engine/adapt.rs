//! What an adaptive namespace is told of its surroundings, now and then.

use std::time::Duration;

use super::{Engine, Policy};
use crate::adaptive::Surroundings;

impl Engine {
    /// Lets every adaptive namespace look at what happened in the time since the last look, and choose.
    pub(crate) fn adapt(&self, elapsed: Duration) {
        let memory = self.memory.figures();
        let memory_fill = memory.bytes as f64 / memory.capacity_bytes.max(1) as f64;
        for (name, namespace) in self.namespaces.all() {
            let Some(adaptive) = &namespace.adaptive else { continue };
            let changed = adaptive.look(Surroundings {
                n_reads: namespace.gets.get(),
                load_cost: namespace.load_cost.get(),
                fill: self.redis_fill(&namespace.policy).unwrap_or(memory_fill),
                ttl: namespace.policy.ttl.as_duration(),
                elapsed,
                now_unix_ms: self.time.unix_ms(),
            });
            if let Some((now, before, reason)) = changed {
                let (now, before) = (now.as_str(), before.as_str());
                tracing::info!(namespace = name, now, before, reason, "adaptive strategy changed");
            }
        }
    }

    /// Returns how full Redis is, where it is what keeps the entries; one without a bound is never full.
    fn redis_fill(&self, policy: &Policy) -> Option<f64> {
        let view = self.redis_of(policy)?.redis().view();
        let field = |name| view.info.get(name).and_then(|text| text.parse::<f64>().ok());
        let bound = field("maxmemory").filter(|bound| *bound > 0.0);
        Some(bound.map_or(0.0, |bound| field("used_memory").unwrap_or(0.0) / bound))
    }
}
