//! The tables.

use rusqlite::Connection;

use super::access;

/// Version of the tables below; a file of another version is put aside.
pub(super) const VERSION: i64 = 1;

/// Rolled-up points are appended in the order of time, so that writing touches few pages whatever the number of
/// series; `min`, `max` and `mean` are NULL where they equal `last`.
const TABLES: &str = "
CREATE TABLE alerts (number INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE events (id INTEGER PRIMARY KEY, alert TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX events_of_alert ON events (alert, id);
CREATE TABLE deliveries (event INTEGER NOT NULL, channel TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (event, channel));
CREATE TABLE rules (name TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE silences (id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE series (id INTEGER PRIMARY KEY, metric TEXT NOT NULL, labels TEXT NOT NULL, UNIQUE (metric, labels));
CREATE TABLE tier_10s (at INTEGER, series INTEGER, n INTEGER, min REAL, max REAL, mean REAL, last REAL, PRIMARY KEY (at, series)) WITHOUT ROWID;
CREATE TABLE tier_1m (at INTEGER, series INTEGER, n INTEGER, min REAL, max REAL, mean REAL, last REAL, PRIMARY KEY (at, series)) WITHOUT ROWID;
CREATE TABLE tier_1h (at INTEGER, series INTEGER, n INTEGER, min REAL, max REAL, mean REAL, last REAL, PRIMARY KEY (at, series)) WITHOUT ROWID;
";

/// Sets the connection up and makes the tables of a new file.
pub(super) fn prepare(connection: &mut Connection) -> Result<(), rusqlite::Error> {
    // In a new file pages that are freed can be given back; of an older one they are used again.
    connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL;")?;
    // WAL: a killed process leaves whole transactions or none. FULL: so does a machine that loses power.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 16777216;",
    )?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version != VERSION {
        let transaction = connection.transaction()?;
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()?;
    }
    connection.execute_batch(access::TABLES)
}
