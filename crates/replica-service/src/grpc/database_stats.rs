use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mainstay_proto::replica::v1::{
    DatabaseCounters, DatabaseStatsRequest, DatabaseStatsResponse, ReplicationSender, ServerStatement,
    ServerStats as WireStats, TableCounters, WriterCounters,
    database_stats_service_server::DatabaseStatsService,
};
use mainstay_rpc::{ErrorCode, Failure, Reply, Request, Response};
use prost_types::Timestamp;

use super::tell;
use crate::{
    fleet::Fleet,
    insight::Shape,
    server_stats::{Database, Figures, Reading, Sender, ServerStats, Statement, Table, Writer},
};

/// Tells what the servers themselves count.
pub(crate) struct StatsDoor {
    fleet: Arc<Fleet>,
    stats: Arc<ServerStats>,
}

impl StatsDoor {
    pub(crate) fn new(fleet: Arc<Fleet>, stats: Arc<ServerStats>) -> Self {
        Self { fleet, stats }
    }
}

#[tonic::async_trait]
impl DatabaseStatsService for StatsDoor {
    async fn database_stats(&self, request: Request<DatabaseStatsRequest>) -> Reply<DatabaseStatsResponse> {
        let wanted = &request.get_ref().node;
        let topology = self.fleet.topology();
        let nodes: Vec<_> = topology
            .nodes()
            .filter(|node| wanted.is_empty() || **wanted == *node.name)
            .map(|node| server(&node.name, self.stats.of(&node.name)))
            .collect();
        if nodes.is_empty() {
            let text = "no node of this name is configured";
            return Err(tell(Failure::new(ErrorCode::NotFound, "NODE_UNKNOWN", text)));
        }
        let every = self.stats.every().and_then(|every| every.try_into().ok());
        Ok(Response::new(DatabaseStatsResponse { nodes, every }))
    }
}

fn server(name: &str, reading: Reading) -> WireStats {
    let failure = reading.failure.unwrap_or_default();
    let Some((read_at, figures)) = reading.figures else {
        return WireStats { node: name.to_owned(), failure, ..WireStats::default() };
    };
    let Figures { in_recovery, database, writer, senders, tables, n_tables, statements, .. } = &*figures;
    let (statements, statements_missing) = match statements {
        Ok(statements) => (statements.iter().map(statement).collect(), String::new()),
        Err(why) => (Vec::new(), why.clone()),
    };
    WireStats {
        node: name.to_owned(),
        read_at: Some(read_at.into()),
        failure,
        in_recovery: *in_recovery,
        database: Some(counters(database)),
        writer: Some(writer_counters(writer)),
        senders: senders.iter().map(sender).collect(),
        tables: tables.iter().map(table).collect(),
        tables_total: *n_tables,
        statements,
        statements_missing,
    }
}

fn counters(database: &Database) -> DatabaseCounters {
    DatabaseCounters {
        connections: database.numbackends,
        commits: database.xact_commit,
        rollbacks: database.xact_rollback,
        blocks_read: database.blks_read,
        blocks_hit: database.blks_hit,
        rows_returned: database.tup_returned,
        rows_fetched: database.tup_fetched,
        rows_inserted: database.tup_inserted,
        rows_updated: database.tup_updated,
        rows_deleted: database.tup_deleted,
        temp_files: database.temp_files,
        temp_bytes: database.temp_bytes,
        deadlocks: database.deadlocks,
        conflicts: database.conflicts,
        conflicts_tablespace: database.confl_tablespace,
        conflicts_lock: database.confl_lock,
        conflicts_snapshot: database.confl_snapshot,
        conflicts_buffer_pin: database.confl_bufferpin,
        conflicts_deadlock: database.confl_deadlock,
        reset_at: instant(database.reset_s),
    }
}

fn writer_counters(writer: &Writer) -> WriterCounters {
    let checkpoints = writer.checkpoints();
    let restartpoints = checkpoints.restartpoints;
    WriterCounters {
        checkpoints_timed: checkpoints.timed,
        checkpoints_requested: checkpoints.requested,
        restartpoints_timed: restartpoints.map(|(timed, _)| timed),
        restartpoints_requested: restartpoints.map(|(_, requested)| requested),
        write_seconds: checkpoints.write_s,
        sync_seconds: checkpoints.sync_s,
        buffers_checkpoint: checkpoints.buffers,
        buffers_clean: writer.buffers_clean,
        max_written_clean: writer.maxwritten_clean,
        buffers_backend: writer.buffers_backend,
        buffers_allocated: writer.buffers_alloc,
    }
}

fn sender(sender: &Sender) -> ReplicationSender {
    ReplicationSender {
        application: sender.application.clone(),
        address: sender.address.clone(),
        state: sender.state.clone(),
        sync_state: sender.sync_state.clone(),
        sent_bytes_behind: sender.sent_bytes_behind,
        replay_bytes_behind: sender.replay_bytes_behind,
        write_lag: span(sender.write_lag_s),
        flush_lag: span(sender.flush_lag_s),
        replay_lag: span(sender.replay_lag_s),
    }
}

fn table(table: &Table) -> TableCounters {
    TableCounters {
        schema: table.schemaname.clone(),
        table: table.relname.clone(),
        sequential_scans: table.seq_scan,
        rows_by_sequential_scans: table.seq_tup_read,
        index_scans: table.idx_scan,
        rows_inserted: table.n_tup_ins,
        rows_updated: table.n_tup_upd,
        rows_updated_hot: table.n_tup_hot_upd,
        rows_deleted: table.n_tup_del,
        live_rows: table.n_live_tup,
        dead_rows: table.n_dead_tup,
        last_vacuum: instant(table.last_vacuum_s),
        last_autovacuum: instant(table.last_autovacuum_s),
        last_analyze: instant(table.last_analyze_s),
        last_autoanalyze: instant(table.last_autoanalyze_s),
        autovacuums: table.autovacuum_count,
    }
}

/// Literals are left out once more: the server keeps them in statements that it does not plan, as ALTER ROLE.
fn statement(statement: &Statement) -> ServerStatement {
    let shape = Shape::of(&statement.sql);
    ServerStatement {
        query_id: statement.query_id,
        fingerprint: format!("{:016x}", shape.fingerprint),
        sql: shape.sql,
        calls: statement.calls,
        rows: statement.rows,
        seconds_total: statement.total_exec_time / 1_000.0,
        seconds_mean: statement.mean_exec_time / 1_000.0,
        seconds_max: statement.max_exec_time / 1_000.0,
        blocks_hit: statement.shared_blks_hit,
        blocks_read: statement.shared_blks_read,
        temp_blocks_written: statement.temp_blks_written,
    }
}

fn instant(seconds: Option<f64>) -> Option<Timestamp> {
    let since = Duration::try_from_secs_f64(seconds?).ok()?;
    UNIX_EPOCH.checked_add(since).map(|at: SystemTime| at.into())
}

fn span(seconds: Option<f64>) -> Option<prost_types::Duration> {
    Duration::try_from_secs_f64(seconds?).ok()?.try_into().ok()
}
