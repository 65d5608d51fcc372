use std::sync::atomic::Ordering;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::OfNode;
use crate::server_stats::Figures;

/// What each server counts for the database of the service; its own counters begin anew when they are reset.
#[derive(Debug, Clone, Default)]
pub(crate) struct DatabaseMetrics {
    connections: Family<OfNode, Gauge>,
    dead_rows: Family<OfNode, Gauge>,
    counters: Counters,
}

/// In the order of [`NAMES`].
#[derive(Debug, Clone, Default)]
struct Counters([Family<OfNode, Counter>; NAMES.len()]);

const NAMES: [(&str, &str); 10] = [
    ("database_commits", "Transactions committed, by the server's own count"),
    ("database_rollbacks", "Transactions rolled back, by the server's own count"),
    ("database_blocks_read", "Blocks not found in shared buffers"),
    ("database_blocks_hit", "Blocks found in shared buffers"),
    ("database_temp_bytes", "Bytes written to temporary files"),
    ("database_deadlocks", "Deadlocks found"),
    ("database_conflicts", "Statements of a replica that replay has ended"),
    ("database_checkpoints_timed", "Checkpoints that were due"),
    ("database_checkpoints_requested", "Checkpoints that were asked for, by full WAL for one"),
    ("database_checkpoint_buffers", "Buffers written by checkpoints"),
];

impl DatabaseMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "database_connections",
            "Connections to the database, everybody's",
            self.connections.clone(),
        );
        registry.register(
            "database_dead_rows",
            "Dead rows of the largest tables, by estimate",
            self.dead_rows.clone(),
        );
        for ((name, help), family) in NAMES.iter().zip(&self.counters.0) {
            registry.register(*name, *help, family.clone());
        }
    }

    /// Takes in one reading.
    pub(crate) fn tell(&self, node: &str, figures: &Figures) {
        let label = OfNode { node: node.to_owned() };
        let (database, checkpoints) = (&figures.database, figures.writer.checkpoints());
        let dead: u64 = figures.tables.iter().map(|table| table.n_dead_tup).sum();
        for (gauge, value) in [(&self.connections, database.numbackends), (&self.dead_rows, dead)] {
            gauge.get_or_create(&label).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        let told = [
            database.xact_commit,
            database.xact_rollback,
            database.blks_read,
            database.blks_hit,
            database.temp_bytes,
            database.deadlocks,
            database.conflicts,
            checkpoints.timed,
            checkpoints.requested,
            checkpoints.buffers,
        ];
        for (family, value) in self.counters.0.iter().zip(told) {
            family.get_or_create(&label).inner().store(value, Ordering::Relaxed);
        }
    }

    /// Tells nothing more of a server.
    pub(crate) fn forget(&self, node: &str) {
        let label = OfNode { node: node.to_owned() };
        self.connections.remove(&label);
        self.dead_rows.remove(&label);
        for family in &self.counters.0 {
            family.remove(&label);
        }
    }
}
