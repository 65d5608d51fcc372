use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::error::Kind;

/// Slow statements, and plans that were asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct SlowMetrics {
    statements: Family<OfKind, Counter>,
    plans: Family<Planned, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Planned {
    result: &'static str,
}

impl SlowMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "slow_statements",
            "Statements that took slow_log.after or longer",
            self.statements.clone(),
        );
        registry.register("plans", "Plans asked for, by result", self.plans.clone());
    }

    pub(crate) fn statement(&self, kind: Kind) {
        self.statements.get_or_create(&OfKind { kind }).inc();
    }

    pub(crate) fn plan(&self, ok: bool) {
        self.plans.get_or_create(&Planned { result: if ok { "ok" } else { "failed" } }).inc();
    }
}
