//! Opening the file, whatever state it is in.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::Connection;

use super::{Restored, Store, StoreError, Writer, schema, work};
use crate::config::StoreConfig;
use crate::metrics::MonitorMetrics;

/// Holds an open store, and what it remembers.
pub(crate) struct Opened {
    /// For everybody who writes or asks.
    pub store: Store,
    /// To be run as a task.
    pub writer: Writer,
    /// What an earlier process stored.
    pub restored: Restored,
}

/// Opens the store. What cannot be opened is put aside, or replaced by memory; the writer tells so.
pub(crate) fn open(
    config: &StoreConfig,
    metrics: MonitorMetrics,
    now: SystemTime,
) -> Result<Opened, StoreError> {
    let mut trouble = None;
    let (connection, restored) = if config.is_memory() {
        load(Connection::open_in_memory())?
    } else {
        open_file(&config.path, now, &mut trouble)?
    };
    let (store, work_rx) = Store::new(metrics);
    let writer = Writer::new(config.clone(), connection, work_rx, &store, trouble);
    Ok(Opened { store, writer, restored })
}

fn open_file(
    path: &Path,
    now: SystemTime,
    trouble: &mut Option<String>,
) -> Result<(Connection, Restored), StoreError> {
    let error = match load(connect(path)) {
        Ok(opened) => return Ok(opened),
        Err(error) => error,
    };
    tracing::error!(error = &error as &dyn std::error::Error, path = %path.display(), "store cannot be read");
    if is_damage(&error)
        && let Ok(kept_at) = set_aside(path, now)
    {
        *trouble = Some(format!("damaged file kept as {}; began anew", kept_at.display()));
        if let Ok(opened) = load(connect(path)) {
            return Ok(opened);
        }
    }
    *trouble =
        Some(format!("{} cannot be used, nothing survives a restart: {}", path.display(), reason(&error)));
    load(Connection::open_in_memory())
}

/// Opens a file and makes its folder where it is missing.
pub(super) fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        // If it cannot be made, opening the file fails and says why.
        let _ = std::fs::create_dir_all(folder);
    }
    Connection::open(path)
}

pub(super) fn load(
    connection: Result<Connection, rusqlite::Error>,
) -> Result<(Connection, Restored), StoreError> {
    let mut connection = connection.map_err(StoreError::Sqlite)?;
    schema::prepare(&mut connection).map_err(StoreError::Sqlite)?;
    let restored = work::restore(&connection)?;
    Ok((connection, restored))
}

/// Tells whether the file is of no use, rather than out of reach.
pub(super) fn is_damage(error: &StoreError) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, Unknown};
    match error {
        StoreError::Sqlite(error) => {
            matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase | Unknown))
        }
        StoreError::Row(_) => true,
        StoreError::Busy | StoreError::Late | StoreError::File(_) => false,
    }
}

/// Renames a damaged file, with its log, so that somebody can look at it.
pub(super) fn set_aside(path: &Path, now: SystemTime) -> Result<PathBuf, StoreError> {
    let seconds = super::unix_ms(now) / 1000;
    let with = |suffix: &str| {
        let mut name = OsString::from(path);
        name.push(suffix);
        PathBuf::from(name)
    };
    let kept_at = with(&format!(".damaged-{seconds}"));
    std::fs::rename(path, &kept_at).map_err(StoreError::File)?;
    for log in ["-wal", "-shm"] {
        // Absent after a clean end.
        let _ = std::fs::rename(with(log), with(&format!(".damaged-{seconds}{log}")));
    }
    Ok(kept_at)
}

pub(super) fn reason(error: &StoreError) -> String {
    use std::error::Error as _;
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}
