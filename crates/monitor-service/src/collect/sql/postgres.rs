//! The statistics of a server.

use tokio_postgres::SimpleQueryRow;

use super::super::figures::Figures;
use super::line::Line;

/// Every figure is a row: its metric, the name and value of its label, and the figure; `version` is no figure. Functions that
/// are illegal in one of the two roles stand behind a CASE. Nothing here reads a table of users or measures files.
const QUESTION: &str = "\
WITH r AS (SELECT pg_catalog.pg_is_in_recovery() AS standby), \
a AS (SELECT * FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend') \
SELECT 'version' AS metric, '' AS label, '' AS of, current_setting('server_version') AS value \
UNION ALL SELECT 'postgres_is_primary', '', '', (NOT standby)::int::text FROM r \
UNION ALL SELECT 'postgres_start_time_seconds', '', '', EXTRACT(EPOCH FROM pg_postmaster_start_time())::text \
UNION ALL SELECT 'postgres_max_connections', '', '', current_setting('max_connections') \
UNION ALL SELECT 'postgres_connections', 'state', COALESCE(state, 'unknown'), count(*)::text FROM a GROUP BY 3 \
UNION ALL SELECT 'postgres_connections_used_ratio', '', '', \
  (count(*)::float8 / current_setting('max_connections')::float8)::text FROM a \
UNION ALL SELECT 'postgres_longest_transaction_seconds', '', '', \
  COALESCE(max(EXTRACT(EPOCH FROM clock_timestamp() - xact_start)), 0)::text FROM a WHERE pid <> pg_backend_pid() \
UNION ALL SELECT 'postgres_waiting_for_locks', '', '', count(*)::text FROM a WHERE wait_event_type = 'Lock' \
UNION ALL SELECT metric, 'database', datname::text, value::text FROM pg_catalog.pg_stat_database, LATERAL (VALUES \
    ('postgres_commits_total', xact_commit::float8), ('postgres_rollbacks_total', xact_rollback), \
    ('postgres_blocks_read_total', blks_read), ('postgres_blocks_hit_total', blks_hit), \
    ('postgres_rows_returned_total', tup_returned), ('postgres_rows_fetched_total', tup_fetched), \
    ('postgres_rows_inserted_total', tup_inserted), ('postgres_rows_updated_total', tup_updated), \
    ('postgres_rows_deleted_total', tup_deleted), ('postgres_deadlocks_total', deadlocks), \
    ('postgres_conflicts_total', conflicts), ('postgres_temporary_bytes_total', temp_bytes) \
  ) AS figure (metric, value) WHERE datname IS NOT NULL AND datname NOT LIKE 'template%' \
UNION ALL SELECT 'postgres_transaction_age_ratio', 'database', datname::text, \
  (age(datfrozenxid)::float8 / 2147483648)::text FROM pg_catalog.pg_database \
UNION ALL SELECT 'postgres_replica_lag_bytes', 'replica', application_name || '@' || COALESCE(host(client_addr), 'local'), \
  CASE WHEN standby THEN NULL ELSE pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::text END \
  FROM pg_catalog.pg_stat_replication, r \
UNION ALL SELECT 'postgres_slot_retained_bytes', 'slot', slot_name::text, \
  CASE WHEN standby THEN NULL ELSE pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::text END \
  FROM pg_catalog.pg_replication_slots, r \
UNION ALL SELECT 'postgres_replication_link_up', '', '', \
  CASE WHEN standby THEN (SELECT count(*) FROM pg_catalog.pg_stat_wal_receiver)::text END FROM r \
UNION ALL SELECT 'postgres_replay_delay_seconds', '', '', CASE WHEN NOT standby THEN NULL \
  WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN '0' \
  ELSE EXTRACT(EPOCH FROM clock_timestamp() - pg_last_xact_replay_timestamp())::text END FROM r \
UNION ALL SELECT 'postgres_archive_failures_total', '', '', failed_count::text FROM pg_catalog.pg_stat_archiver";

/// Asks once; returns the figures and the version.
pub(super) async fn look(line: &mut Line) -> Result<(Figures, String), String> {
    let (mut figures, mut version) = (Figures::default(), String::new());
    for row in line.ask(QUESTION).await? {
        let text = |column: &str| row_text(&row, column);
        let (metric, label, of) = (text("metric"), text("label"), text("of"));
        let value = text("value");
        match (metric, value.parse::<f64>()) {
            ("version", _) => version = value.to_owned(),
            (_, Err(_)) => {}
            (metric, Ok(value)) if label.is_empty() => figures.add(metric, value),
            (metric, Ok(value)) => figures.add_of(metric, &[(label, of)], value),
        }
    }
    Ok((figures, version))
}

/// NULL is an empty text: there is no such figure then.
fn row_text<'r>(row: &'r SimpleQueryRow, column: &str) -> &'r str {
    row.try_get(column).ok().flatten().unwrap_or_default()
}
