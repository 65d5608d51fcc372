//! Each question is answered by one row with one value: JSON, so that a column that a version lacks is simply not there.

/// Version in which checkpoints moved to a view of their own.
pub(super) const CHECKPOINTER_SINCE: u32 = 170_000;

pub(super) const CHECKPOINTER: &str = "SELECT to_json(c)::text FROM (SELECT num_timed, num_requested, restartpoints_timed, \
       restartpoints_req, write_time, sync_time, buffers_written FROM pg_catalog.pg_stat_checkpointer) AS c";

/// Asks for everything that every version has. No table of a user is opened, so nothing waits for a lock on one.
pub(super) fn base(max_tables: u32) -> String {
    format!(
        "SELECT json_build_object(\
           'version', current_setting('server_version_num')::int, \
           'in_recovery', pg_catalog.pg_is_in_recovery(), \
           'database', (SELECT to_json(d) FROM (\
             SELECT d.*, c.confl_tablespace, c.confl_lock, c.confl_snapshot, c.confl_bufferpin, c.confl_deadlock, \
               EXTRACT(EPOCH FROM d.stats_reset)::float8 AS reset_s \
             FROM pg_catalog.pg_stat_database AS d JOIN pg_catalog.pg_stat_database_conflicts AS c USING (datid) \
             WHERE d.datname = current_database()) AS d), \
           'writer', (SELECT to_json(b) FROM pg_catalog.pg_stat_bgwriter AS b), \
           'senders', (SELECT COALESCE(json_agg(s), '[]') FROM (\
             SELECT COALESCE(application_name, '') AS application, COALESCE(host(client_addr), '') AS address, \
               COALESCE(state, '') AS state, COALESCE(sync_state, '') AS sync_state, \
               GREATEST(0, pg_wal_lsn_diff(l, sent_lsn))::int8 AS sent_bytes_behind, \
               GREATEST(0, pg_wal_lsn_diff(l, replay_lsn))::int8 AS replay_bytes_behind, \
               EXTRACT(EPOCH FROM write_lag)::float8 AS write_lag_s, \
               EXTRACT(EPOCH FROM flush_lag)::float8 AS flush_lag_s, \
               EXTRACT(EPOCH FROM replay_lag)::float8 AS replay_lag_s \
             FROM pg_catalog.pg_stat_replication, \
               (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS l) AS log \
             ORDER BY application_name, pid LIMIT 64) AS s), \
           'tables', (SELECT COALESCE(json_agg(t), '[]') FROM (\
             SELECT *, EXTRACT(EPOCH FROM last_vacuum)::float8 AS last_vacuum_s, \
               EXTRACT(EPOCH FROM last_autovacuum)::float8 AS last_autovacuum_s, \
               EXTRACT(EPOCH FROM last_analyze)::float8 AS last_analyze_s, \
               EXTRACT(EPOCH FROM last_autoanalyze)::float8 AS last_autoanalyze_s \
             FROM pg_catalog.pg_stat_user_tables \
             ORDER BY n_live_tup + n_dead_tup DESC, seq_tup_read + COALESCE(idx_tup_fetch, 0) DESC, relid \
             LIMIT {max_tables}) AS t), \
           'n_tables', (SELECT count(*) FROM pg_catalog.pg_stat_user_tables), \
           'statements_in', (SELECT quote_ident(n.nspname) FROM pg_catalog.pg_extension AS e \
             JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'))::text"
    )
}

/// Asks for the statements of this database that took the most time; `schema` is quoted.
pub(super) fn statements(schema: &str, max_statements: u32) -> String {
    format!(
        "SELECT COALESCE(json_agg(s), '[]')::text FROM (\
           SELECT COALESCE(queryid, 0) AS query_id, COALESCE(query, '') AS sql, calls, rows, total_exec_time, \
             mean_exec_time, max_exec_time, shared_blks_hit, shared_blks_read, temp_blks_written \
           FROM {schema}.pg_stat_statements \
           WHERE dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
           ORDER BY total_exec_time DESC, queryid LIMIT {max_statements}) AS s"
    )
}
