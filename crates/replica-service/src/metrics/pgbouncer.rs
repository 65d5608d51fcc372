use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::OfNode;
use crate::probe::PgBouncerFigures;

/// What each `PgBouncer` says of itself; absent while it does not.
#[derive(Debug, Clone, Default)]
pub(crate) struct PgBouncerMetrics {
    clients_active: Family<OfNode, Gauge>,
    clients_waiting: Family<OfNode, Gauge>,
    servers_active: Family<OfNode, Gauge>,
    servers_idle: Family<OfNode, Gauge>,
    clients: Family<OfNode, Gauge>,
    servers: Family<OfNode, Gauge>,
    max_wait: Family<OfNode, Gauge<f64, AtomicU64>>,
    queries: Family<OfNode, Counter>,
    transactions: Family<OfNode, Counter>,
}

impl PgBouncerMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "pgbouncer_clients_active",
            "Clients that a server is linked to",
            self.clients_active.clone(),
        );
        registry.register(
            "pgbouncer_clients_waiting",
            "Clients that wait for a server",
            self.clients_waiting.clone(),
        );
        registry.register(
            "pgbouncer_servers_active",
            "Connections to the server in use",
            self.servers_active.clone(),
        );
        registry.register(
            "pgbouncer_servers_idle",
            "Connections to the server not in use",
            self.servers_idle.clone(),
        );
        registry.register("pgbouncer_clients", "Clients of all databases", self.clients.clone());
        registry.register(
            "pgbouncer_servers",
            "Connections to the servers of all databases",
            self.servers.clone(),
        );
        registry.register(
            "pgbouncer_max_wait_seconds",
            "How long the first waiting client has waited",
            self.max_wait.clone(),
        );
        registry.register("pgbouncer_queries", "Statements, since it started", self.queries.clone());
        registry.register(
            "pgbouncer_transactions",
            "Transactions, since it started",
            self.transactions.clone(),
        );
    }

    /// Tells nothing more of the `PgBouncer` of a node.
    pub(crate) fn forget(&self, node: &str) {
        self.tell(node, None);
        let label = OfNode { node: node.to_owned() };
        self.queries.remove(&label);
        self.transactions.remove(&label);
    }

    /// Takes in what a `PgBouncer` said, or that it said nothing.
    pub(crate) fn tell(&self, node: &str, figures: Option<&PgBouncerFigures>) {
        let label = OfNode { node: node.to_owned() };
        let gauges = [
            (&self.clients_active, figures.map(|figures| figures.clients_active)),
            (&self.clients_waiting, figures.map(|figures| figures.clients_waiting)),
            (&self.servers_active, figures.map(|figures| figures.servers_active)),
            (&self.servers_idle, figures.map(|figures| figures.servers_idle + figures.servers_used)),
            (&self.clients, figures.map(|figures| figures.clients)),
            (&self.servers, figures.map(|figures| figures.servers)),
        ];
        for (family, value) in gauges {
            match value {
                Some(value) => {
                    family.get_or_create(&label).set(i64::try_from(value).unwrap_or(i64::MAX));
                }
                None => {
                    family.remove(&label);
                }
            }
        }
        let Some(figures) = figures else {
            self.max_wait.remove(&label);
            return;
        };
        self.max_wait.get_or_create(&label).set(figures.max_wait_s);
        // Its own counters begin anew when it does.
        self.queries.get_or_create(&label).inner().store(figures.queries, Ordering::Relaxed);
        self.transactions.get_or_create(&label).inner().store(figures.transactions, Ordering::Relaxed);
    }
}
