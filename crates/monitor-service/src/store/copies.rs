//! Copies of the file that are whole at any moment: what a backup takes, for the file itself changes while it is read.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mainstay_runtime::{Activate, Clock};
use rusqlite::{Connection, OpenFlags};

use super::StoreError;
use crate::metrics::MonitorMetrics;

/// Copies the store once per activation.
pub(crate) struct Copies {
    /// The file that is copied.
    pub from: PathBuf,
    /// Where the copy lies; replaced as a whole.
    pub to: PathBuf,
    pub clock: Clock,
    pub metrics: MonitorMetrics,
}

impl Activate for Copies {
    async fn activate(&mut self) -> anyhow::Result<()> {
        let (from, to) = (self.from.clone(), self.to.clone());
        let copied =
            tokio::task::spawn_blocking(move || copy(&from, &to)).await.context("the copying thread");
        match copied
            .and_then(|copied| copied.with_context(|| format!("copy the store to {}", self.to.display())))
        {
            Ok(()) => self.metrics.store_copied(self.clock.now()),
            Err(error) => {
                self.metrics.store_copy_failed();
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Reads the file on a connection of its own, in one transaction: the writer is not held up, and an earlier copy stays
/// until the new one is on disk.
fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    if let Some(folder) = to.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(StoreError::File)?;
    }
    let mut partial = OsString::from(to);
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(StoreError::File(error)),
        _ => {}
    }
    let connection =
        Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(StoreError::Sqlite)?;
    // Written as a new file, so what was deleted takes no room in it.
    connection.execute("VACUUM INTO ?1", [partial.to_string_lossy()]).map_err(StoreError::Sqlite)?;
    let whole = std::fs::File::open(&partial).map_err(StoreError::File)?;
    whole.sync_all().map_err(StoreError::File)?;
    std::fs::rename(&partial, to).map_err(StoreError::File)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_is_whole_while_the_file_is_written_and_replaces_an_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a.db"), folder.path().join("copies/a.db"));
        let writer = Connection::open(&from).unwrap();
        writer.pragma_update(None, "journal_mode", "wal").unwrap();
        writer.execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (1)").unwrap();
        let count = |path: &Path| -> i64 {
            Connection::open(path).unwrap().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
        };
        copy(&from, &to).unwrap();
        assert_eq!(count(&to), 1);
        writer.execute_batch("INSERT INTO t VALUES (2); BEGIN IMMEDIATE; INSERT INTO t VALUES (3)").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(count(&to), 2, "what is not committed is not in the copy");
    }

    #[test]
    fn copy_that_fails_leaves_the_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a.db"), folder.path().join("b.db"));
        std::fs::write(&to, "older").unwrap();
        copy(&from, &to).unwrap_err();
        std::fs::write(&from, "no database, and long enough to be looked at as one").unwrap();
        copy(&from, &to).unwrap_err();
        assert_eq!(std::fs::read_to_string(&to).unwrap(), "older");
    }
}
