use serde::Deserialize;

/// One reading of one server. Fields are named as the views name them, where they do.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Figures {
    /// As 150004.
    pub version: u32,
    pub in_recovery: bool,
    pub database: Database,
    pub writer: Writer,
    pub senders: Vec<Sender>,
    pub tables: Vec<Table>,
    pub n_tables: u64,
    /// Schema of the extension, quoted.
    pub(super) statements_in: Option<String>,
    /// Or why there are none.
    #[serde(skip, default = "not_asked")]
    pub statements: Result<Vec<Statement>, String>,
}

fn not_asked() -> Result<Vec<Statement>, String> {
    Err("not read yet".to_owned())
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Database {
    pub numbackends: u64,
    pub xact_commit: u64,
    pub xact_rollback: u64,
    pub blks_read: u64,
    pub blks_hit: u64,
    pub tup_returned: u64,
    pub tup_fetched: u64,
    pub tup_inserted: u64,
    pub tup_updated: u64,
    pub tup_deleted: u64,
    pub temp_files: u64,
    pub temp_bytes: u64,
    pub deadlocks: u64,
    pub conflicts: u64,
    pub confl_tablespace: u64,
    pub confl_lock: u64,
    pub confl_snapshot: u64,
    pub confl_bufferpin: u64,
    pub confl_deadlock: u64,
    pub reset_s: Option<f64>,
}

/// `pg_stat_bgwriter`: up to version 16 checkpoints are told here, later by the checkpointer itself.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Writer {
    checkpoints_timed: Option<u64>,
    checkpoints_req: Option<u64>,
    checkpoint_write_time: Option<f64>,
    checkpoint_sync_time: Option<f64>,
    buffers_checkpoint: Option<u64>,
    pub buffers_clean: u64,
    pub maxwritten_clean: u64,
    pub buffers_backend: Option<u64>,
    pub buffers_alloc: u64,
    #[serde(skip)]
    pub(super) checkpointer: Option<Checkpointer>,
}

/// `pg_stat_checkpointer`, from version 17 on.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(super) struct Checkpointer {
    num_timed: u64,
    num_requested: u64,
    restartpoints_timed: u64,
    restartpoints_req: u64,
    write_time: f64,
    sync_time: f64,
    buffers_written: u64,
}

/// What checkpoints came to, in whichever view.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Checkpoints {
    pub timed: u64,
    pub requested: u64,
    pub restartpoints: Option<(u64, u64)>,
    pub write_s: f64,
    pub sync_s: f64,
    pub buffers: u64,
}

impl Writer {
    pub(crate) fn checkpoints(&self) -> Checkpoints {
        let seconds = |ms: f64| ms / 1_000.0;
        match self.checkpointer {
            Some(told) => Checkpoints {
                timed: told.num_timed,
                requested: told.num_requested,
                restartpoints: Some((told.restartpoints_timed, told.restartpoints_req)),
                write_s: seconds(told.write_time),
                sync_s: seconds(told.sync_time),
                buffers: told.buffers_written,
            },
            None => Checkpoints {
                timed: self.checkpoints_timed.unwrap_or_default(),
                requested: self.checkpoints_req.unwrap_or_default(),
                restartpoints: None,
                write_s: seconds(self.checkpoint_write_time.unwrap_or_default()),
                sync_s: seconds(self.checkpoint_sync_time.unwrap_or_default()),
                buffers: self.buffers_checkpoint.unwrap_or_default(),
            },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Sender {
    pub application: String,
    pub address: String,
    pub state: String,
    pub sync_state: String,
    pub sent_bytes_behind: Option<u64>,
    pub replay_bytes_behind: Option<u64>,
    pub write_lag_s: Option<f64>,
    pub flush_lag_s: Option<f64>,
    pub replay_lag_s: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Table {
    pub schemaname: String,
    pub relname: String,
    pub seq_scan: u64,
    pub seq_tup_read: u64,
    /// `None` without an index.
    pub idx_scan: Option<u64>,
    pub n_tup_ins: u64,
    pub n_tup_upd: u64,
    pub n_tup_hot_upd: u64,
    pub n_tup_del: u64,
    pub n_live_tup: u64,
    pub n_dead_tup: u64,
    pub last_vacuum_s: Option<f64>,
    pub last_autovacuum_s: Option<f64>,
    pub last_analyze_s: Option<f64>,
    pub last_autoanalyze_s: Option<f64>,
    pub autovacuum_count: u64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Statement {
    pub query_id: i64,
    pub sql: String,
    pub calls: u64,
    pub rows: u64,
    pub total_exec_time: f64,
    pub mean_exec_time: f64,
    pub max_exec_time: f64,
    pub shared_blks_hit: u64,
    pub shared_blks_read: u64,
    pub temp_blks_written: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As version 15 answers.
    const OLD: &str = r#"{"checkpoints_timed": 7, "checkpoints_req": 2, "checkpoint_write_time": 1500, "checkpoint_sync_time": 250,
        "buffers_checkpoint": 90, "buffers_clean": 1, "maxwritten_clean": 0, "buffers_backend": 5, "buffers_backend_fsync": 0,
        "buffers_alloc": 44, "stats_reset": "2026-01-01T00:00:00+00:00"}"#;
    /// As version 17 answers.
    const NEW: &str =
        r#"{"buffers_clean": 1, "maxwritten_clean": 0, "buffers_alloc": 44, "stats_reset": null}"#;
    const CHECKPOINTER: &str = r#"{"num_timed": 7, "num_requested": 2, "restartpoints_timed": 3, "restartpoints_req": 1,
        "write_time": 1500, "sync_time": 250, "buffers_written": 90}"#;

    #[test]
    fn checkpoints_are_the_same_in_whichever_view_they_are_told() {
        let old: Writer = serde_json::from_str(OLD).unwrap();
        let told = Checkpoints {
            timed: 7,
            requested: 2,
            restartpoints: None,
            write_s: 1.5,
            sync_s: 0.25,
            buffers: 90,
        };
        assert_eq!((old.checkpoints(), old.buffers_backend), (told, Some(5)));
        let checkpointer = Some(serde_json::from_str(CHECKPOINTER).unwrap());
        let new = Writer { checkpointer, ..serde_json::from_str(NEW).unwrap() };
        assert_eq!(new.checkpoints(), Checkpoints { restartpoints: Some((3, 1)), ..told });
        assert_eq!((new.buffers_backend, new.buffers_clean, new.buffers_alloc), (None, 1, 44));
    }
}
