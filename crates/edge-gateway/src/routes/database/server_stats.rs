//! What the PostgreSQL servers count themselves.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use mainstay_proto::replica::v1 as wire;
use mainstay_proto::replica::v1::DatabaseStatsRequest;
use mainstay_proto::replica::v1::database_stats_service_client::DatabaseStatsServiceClient;
use mainstay_rpc::{Call, Lane};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::body::{Params, Who};
use crate::error::Problem;
use crate::routes::words::{rfc3339, seconds};
use crate::state::App;

type Client = DatabaseStatsServiceClient<Lane>;

const STATS: &str = "mainstay.replica.v1.DatabaseStatsService/DatabaseStats";

/// Which servers are wanted.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StatsFilter {
    /// Name of a node as it is configured; all where it is left out.
    #[serde(default)]
    node: String,
}

/// What the servers count, as replica-service last read it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DatabaseStatistics {
    nodes: Vec<ServerStatistics>,
    /// Between two readings; null while nothing is read.
    every_seconds: Option<f64>,
}

/// Of one server. Counters are since its statistics were reset last; a replica counts what it does itself.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ServerStatistics {
    node: String,
    /// Null before the first reading.
    read_at: Option<String>,
    /// Why the last reading failed; absent when it did not. What was read before stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    in_recovery: bool,
    database: Option<DatabaseCounters>,
    writer: Option<WriterCounters>,
    /// Those who take its log.
    senders: Vec<ReplicationSender>,
    /// The largest.
    tables: Vec<TableCounters>,
    tables_total: u64,
    /// Those that took the most time, of `pg_stat_statements`.
    statements: Vec<ServerStatement>,
    /// Why there are none; absent where the extension is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    statements_missing: Option<String>,
}

/// Of `pg_stat_database` and `pg_stat_database_conflicts`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DatabaseCounters {
    connections: u64,
    commits: u64,
    rollbacks: u64,
    blocks_read: u64,
    /// Found in shared buffers.
    blocks_hit: u64,
    rows_returned: u64,
    rows_fetched: u64,
    rows_inserted: u64,
    rows_updated: u64,
    rows_deleted: u64,
    temp_files: u64,
    temp_bytes: u64,
    deadlocks: u64,
    /// Statements of a replica that replay has ended, and by what.
    conflicts: u64,
    conflicts_tablespace: u64,
    conflicts_lock: u64,
    conflicts_snapshot: u64,
    conflicts_buffer_pin: u64,
    conflicts_deadlock: u64,
    reset_at: Option<String>,
}

/// Of `pg_stat_bgwriter`, and from version 17 on of `pg_stat_checkpointer`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct WriterCounters {
    checkpoints_timed: u64,
    checkpoints_requested: u64,
    /// From version 17 on.
    restartpoints_timed: Option<u64>,
    restartpoints_requested: Option<u64>,
    write_seconds: f64,
    sync_seconds: f64,
    buffers_checkpoint: u64,
    buffers_clean: u64,
    max_written_clean: u64,
    /// Up to version 16.
    buffers_backend: Option<u64>,
    buffers_allocated: u64,
}

/// A row of `pg_stat_replication`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ReplicationSender {
    application: String,
    address: String,
    state: String,
    sync_state: String,
    sent_bytes_behind: Option<u64>,
    replay_bytes_behind: Option<u64>,
    write_lag_seconds: Option<f64>,
    flush_lag_seconds: Option<f64>,
    replay_lag_seconds: Option<f64>,
}

/// Of `pg_stat_user_tables`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TableCounters {
    schema: String,
    table: String,
    sequential_scans: u64,
    rows_by_sequential_scans: u64,
    /// Null for a table without an index.
    index_scans: Option<u64>,
    rows_inserted: u64,
    rows_updated: u64,
    rows_updated_hot: u64,
    rows_deleted: u64,
    /// Estimates; a replica does not keep them.
    live_rows: u64,
    dead_rows: u64,
    last_vacuum: Option<String>,
    last_autovacuum: Option<String>,
    last_analyze: Option<String>,
    last_autoanalyze: Option<String>,
    autovacuums: u64,
}

/// Of `pg_stat_statements`, whoever sent it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ServerStatement {
    /// The number that the server knows it by, as a text: it may be larger than JavaScript can count.
    query_id: String,
    fingerprint: String,
    /// With `?` for each literal.
    sql: String,
    calls: u64,
    rows: u64,
    seconds_total: f64,
    seconds_mean: f64,
    seconds_max: f64,
    blocks_hit: u64,
    blocks_read: u64,
    temp_blocks_written: u64,
}

/// What the servers count: transactions, buffers, conflicts, checkpoints, replication, tables, statements.
#[utoipa::path(get, path = "/database/statistics", tag = "database", params(StatsFilter), responses(
    (status = 200, description = "per node, as last read", body = DatabaseStatistics),
    (status = 404, description = "there is no such node"),
))]
pub(crate) async fn server_stats(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(filter): Params<StatsFilter>,
) -> Result<Answer<DatabaseStatistics>, Problem> {
    let request = DatabaseStatsRequest { node: filter.node };
    let send = async |mut client: Client, request| client.database_stats(request).await;
    let told = app.upstreams.database_stats(Call::read(STATS).by(caller), request, send).await?;
    Ok(Answer(DatabaseStatistics {
        nodes: told.nodes.into_iter().map(Into::into).collect(),
        every_seconds: seconds(told.every),
    }))
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

impl From<wire::ServerStats> for ServerStatistics {
    fn from(stats: wire::ServerStats) -> Self {
        Self {
            node: stats.node,
            read_at: rfc3339(stats.read_at),
            failure: some(stats.failure),
            in_recovery: stats.in_recovery,
            database: stats.database.map(Into::into),
            writer: stats.writer.map(Into::into),
            senders: stats.senders.into_iter().map(Into::into).collect(),
            tables: stats.tables.into_iter().map(Into::into).collect(),
            tables_total: stats.tables_total,
            statements: stats.statements.into_iter().map(Into::into).collect(),
            statements_missing: some(stats.statements_missing),
        }
    }
}

impl From<wire::DatabaseCounters> for DatabaseCounters {
    fn from(told: wire::DatabaseCounters) -> Self {
        Self {
            connections: told.connections,
            commits: told.commits,
            rollbacks: told.rollbacks,
            blocks_read: told.blocks_read,
            blocks_hit: told.blocks_hit,
            rows_returned: told.rows_returned,
            rows_fetched: told.rows_fetched,
            rows_inserted: told.rows_inserted,
            rows_updated: told.rows_updated,
            rows_deleted: told.rows_deleted,
            temp_files: told.temp_files,
            temp_bytes: told.temp_bytes,
            deadlocks: told.deadlocks,
            conflicts: told.conflicts,
            conflicts_tablespace: told.conflicts_tablespace,
            conflicts_lock: told.conflicts_lock,
            conflicts_snapshot: told.conflicts_snapshot,
            conflicts_buffer_pin: told.conflicts_buffer_pin,
            conflicts_deadlock: told.conflicts_deadlock,
            reset_at: rfc3339(told.reset_at),
        }
    }
}

impl From<wire::WriterCounters> for WriterCounters {
    fn from(told: wire::WriterCounters) -> Self {
        Self {
            checkpoints_timed: told.checkpoints_timed,
            checkpoints_requested: told.checkpoints_requested,
            restartpoints_timed: told.restartpoints_timed,
            restartpoints_requested: told.restartpoints_requested,
            write_seconds: told.write_seconds,
            sync_seconds: told.sync_seconds,
            buffers_checkpoint: told.buffers_checkpoint,
            buffers_clean: told.buffers_clean,
            max_written_clean: told.max_written_clean,
            buffers_backend: told.buffers_backend,
            buffers_allocated: told.buffers_allocated,
        }
    }
}

impl From<wire::ReplicationSender> for ReplicationSender {
    fn from(told: wire::ReplicationSender) -> Self {
        Self {
            application: told.application,
            address: told.address,
            state: told.state,
            sync_state: told.sync_state,
            sent_bytes_behind: told.sent_bytes_behind,
            replay_bytes_behind: told.replay_bytes_behind,
            write_lag_seconds: seconds(told.write_lag),
            flush_lag_seconds: seconds(told.flush_lag),
            replay_lag_seconds: seconds(told.replay_lag),
        }
    }
}

impl From<wire::TableCounters> for TableCounters {
    fn from(told: wire::TableCounters) -> Self {
        Self {
            schema: told.schema,
            table: told.table,
            sequential_scans: told.sequential_scans,
            rows_by_sequential_scans: told.rows_by_sequential_scans,
            index_scans: told.index_scans,
            rows_inserted: told.rows_inserted,
            rows_updated: told.rows_updated,
            rows_updated_hot: told.rows_updated_hot,
            rows_deleted: told.rows_deleted,
            live_rows: told.live_rows,
            dead_rows: told.dead_rows,
            last_vacuum: rfc3339(told.last_vacuum),
            last_autovacuum: rfc3339(told.last_autovacuum),
            last_analyze: rfc3339(told.last_analyze),
            last_autoanalyze: rfc3339(told.last_autoanalyze),
            autovacuums: told.autovacuums,
        }
    }
}

impl From<wire::ServerStatement> for ServerStatement {
    fn from(told: wire::ServerStatement) -> Self {
        Self {
            query_id: told.query_id.to_string(),
            fingerprint: told.fingerprint,
            sql: told.sql,
            calls: told.calls,
            rows: told.rows,
            seconds_total: told.seconds_total,
            seconds_mean: told.seconds_mean,
            seconds_max: told.seconds_max,
            blocks_hit: told.blocks_hit,
            blocks_read: told.blocks_read,
            temp_blocks_written: told.temp_blocks_written,
        }
    }
}
