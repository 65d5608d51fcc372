use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::report::WELL;

const SECONDS: [f64; 14] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Counts what the server side does: `mainstay_rpc_*`.
#[derive(Clone, Debug)]
pub struct ServerMetrics {
    pub(super) requests: Family<RequestLabels, Counter>,
    pub(super) request_seconds: Family<MethodLabels, Histogram, fn() -> Histogram>,
    pub(super) in_flight: Gauge,
    pub(super) shed: Counter,
    pub(crate) connections: Family<ListenerLabels, Gauge>,
    pub(crate) connections_refused: Family<ListenerLabels, Counter>,
    certificate_reads: Family<ReadLabels, Counter>,
}

/// What is counted of one method when all is well; to find it by its labels costs more than to count.
#[derive(Debug)]
pub(super) struct WellMetrics {
    pub(super) requests: Counter,
    pub(super) request_seconds: Histogram,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) method: &'static str,
    pub(super) code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct MethodLabels {
    pub(super) method: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ListenerLabels {
    pub(crate) listener: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReadLabels {
    listener: &'static str,
    outcome: &'static str,
}

impl ServerMetrics {
    /// Finds what is counted of a method when all is well.
    pub(super) fn well(&self, method: &'static str) -> WellMetrics {
        WellMetrics {
            requests: self.requests.get_or_create_owned(&RequestLabels { method, code: WELL }),
            request_seconds: self.request_seconds.get_or_create_owned(&MethodLabels { method }),
        }
    }

    /// Counts a certificate that was replaced, or could not be read again.
    pub(crate) fn certificate_read(&self, listener: &'static str, outcome: &'static str) {
        self.certificate_reads.get_or_create(&ReadLabels { listener, outcome }).inc();
    }

    /// Creates the metrics and names them in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let rpc = registry.sub_registry_with_prefix("mainstay_rpc");
        rpc.register("requests", "gRPC requests answered, by result", metrics.requests.clone());
        rpc.register(
            "request_seconds",
            "Time until the answer to a gRPC request began",
            metrics.request_seconds.clone(),
        );
        rpc.register("in_flight", "gRPC requests being handled", metrics.in_flight.clone());
        rpc.register("shed", "gRPC requests refused because too many were in flight", metrics.shed.clone());
        rpc.register("connections", "Open connections", metrics.connections.clone());
        rpc.register(
            "connections_refused",
            "Connections closed at once because too many were open",
            metrics.connections_refused.clone(),
        );
        rpc.register(
            "certificate_reads",
            "Certificates replaced while the port was served, or not readable",
            metrics.certificate_reads.clone(),
        );
        metrics
    }
}

impl Default for ServerMetrics {
    /// Creates metrics that nobody reads.
    fn default() -> Self {
        Self {
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            in_flight: Gauge::default(),
            shed: Counter::default(),
            connections: Family::default(),
            connections_refused: Family::default(),
            certificate_reads: Family::default(),
        }
    }
}
