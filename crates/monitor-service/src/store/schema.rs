//! The tables.

use rusqlite::Connection;

use super::access;

/// Version of the tables below; a file of a version not known here is put aside.
pub(super) const VERSION: i64 = 2;

const TABLES: &str = "
CREATE TABLE alerts (number INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE events (id INTEGER PRIMARY KEY, alert TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX events_of_alert ON events (alert, id);
CREATE TABLE deliveries (event INTEGER NOT NULL, channel TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (event, channel));
CREATE TABLE rules (name TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE silences (id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE series (id INTEGER PRIMARY KEY, metric TEXT NOT NULL, labels TEXT NOT NULL, seen_s INTEGER NOT NULL, UNIQUE (metric, labels));
";

/// Version 1 knew points as rows: tables `tier_10s`, `tier_1m` and `tier_1h`, which are emptied little by little.
const FROM_1: &str = "
ALTER TABLE series ADD COLUMN seen_s INTEGER NOT NULL DEFAULT 0;
UPDATE series SET seen_s = max(
  coalesce((SELECT max(at) FROM tier_10s), 0), coalesce((SELECT max(at) FROM tier_1m), 0), coalesce((SELECT max(at) FROM tier_1h), 0));
";

/// Rolled-up points, packed: what a key and a body are is said in `tiers`.
const PACKED: &str = "
CREATE TABLE head_10s (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE head_1m (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE head_1h (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE blocks_10s (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE blocks_1m (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE blocks_1h (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
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
        // Of a later version the tables are there, so making them fails.
        transaction.execute_batch(if version == 1 { FROM_1 } else { TABLES })?;
        transaction.execute_batch(PACKED)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()?;
    }
    connection.execute_batch(access::TABLES)
}
