use mainstay_rpc::ErrorCode;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::ResultLabel;

/// Statements that were called by their names, and texts that were refused because only names are legal.
#[derive(Debug, Clone, Default)]
pub(crate) struct NamedMetrics {
    runs: Family<Ran, Counter>,
    refused: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ran {
    statement: String,
    result: ResultLabel,
}

impl NamedMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "named_statements",
            "Statements called by name, by name and result",
            self.runs.clone(),
        );
        registry.register(
            "texts_refused",
            "Texts of callers who may run named statements only",
            self.refused.clone(),
        );
    }

    /// Counts a call; `name` is one of the configuration.
    pub(crate) fn ran(&self, name: String, error: Option<ErrorCode>) {
        self.runs.get_or_create(&Ran { statement: name, result: ResultLabel(error) }).inc();
    }

    pub(crate) fn refused(&self) {
        self.refused.inc();
    }
}
