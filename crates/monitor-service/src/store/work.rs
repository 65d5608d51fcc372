//! What is written and read, statement by statement.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{Changes, RECORDS_MAX, Restored, StoreError, access, tiers};
use crate::alert::Record;

/// Holds the rolled-up points of all series of one target over one step of the finest tier.
#[derive(Debug)]
pub(crate) struct Points {
    /// Start of the step, in seconds since 1970.
    pub at_s: i64,
    /// One per series.
    pub points: Vec<SeriesPoint>,
}

/// Holds one rolled-up point.
#[derive(Debug)]
pub(crate) struct SeriesPoint {
    /// Name of the metric.
    pub metric: Box<str>,
    /// Labels, the target's included, as JSON.
    pub labels: Box<str>,
    /// What happened in the step.
    pub point: tiers::TierPoint,
}

/// Knows the numbers of series.
pub(super) type SeriesIds = HashMap<(Box<str>, Box<str>), i64>;

pub(super) fn change(transaction: &Transaction<'_>, changes: &Changes) -> Result<(), StoreError> {
    let sql = |error| StoreError::Sqlite(error);
    for kept in &changes.alerts {
        let body = json(kept)?;
        transaction
            .prepare_cached("INSERT OR REPLACE INTO alerts (number, body) VALUES (?1, ?2)")
            .and_then(|mut insert| insert.execute(params![signed(kept.alert.number), body]))
            .map_err(sql)?;
    }
    for number in &changes.forgotten {
        transaction.execute("DELETE FROM alerts WHERE number = ?1", [signed(*number)]).map_err(sql)?;
    }
    for record in &changes.records {
        let row = params![signed(record.id), record.alert.id.to_string(), json(record)?];
        transaction
            .execute("INSERT OR IGNORE INTO events (id, alert, body) VALUES (?1, ?2, ?3)", row)
            .map_err(sql)?;
    }
    if !changes.records.is_empty() {
        let oldest = "SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?1";
        let trim = format!("DELETE FROM events WHERE id <= ({oldest})");
        transaction.execute(&trim, [RECORDS_MAX]).map_err(sql)?;
    }
    for delivery in &changes.deliveries {
        let row = params![signed(delivery.record.id), delivery.channel, json(delivery)?];
        transaction
            .execute("INSERT OR IGNORE INTO deliveries (event, channel, body) VALUES (?1, ?2, ?3)", row)
            .map_err(sql)?;
    }
    for (name, rule) in &changes.rules {
        upsert(transaction, "rules", "name", name, rule.as_ref())?;
    }
    for (id, silence) in &changes.silences {
        upsert(transaction, "silences", "id", &id.to_string(), silence.as_ref())?;
    }
    access::change(transaction, changes)
}

pub(super) fn upsert<T: Serialize>(
    transaction: &Transaction<'_>,
    table: &'static str,
    key: &'static str,
    of: &str,
    row: Option<&T>,
) -> Result<(), StoreError> {
    let done = match row {
        Some(row) => {
            let insert = format!("INSERT OR REPLACE INTO {table} ({key}, body) VALUES (?1, ?2)");
            transaction.execute(&insert, params![of, json(row)?])
        }
        None => transaction.execute(&format!("DELETE FROM {table} WHERE {key} = ?1"), [of]),
    };
    done.map(|_| ()).map_err(StoreError::Sqlite)
}

pub(super) fn delivered(transaction: &Transaction<'_>, event: u64, channel: &str) -> Result<(), StoreError> {
    transaction
        .execute("DELETE FROM deliveries WHERE event = ?1 AND channel = ?2", params![signed(event), channel])
        .map(|_| ())
        .map_err(StoreError::Sqlite)
}

/// Finds the series of points, and adds these to the steps that are to be written.
pub(super) fn points(
    transaction: &Transaction<'_>,
    ids: &mut SeriesIds,
    points: &Points,
    steps: &mut tiers::Steps,
) -> Result<(), StoreError> {
    for SeriesPoint { metric, labels, point } in &points.points {
        let series =
            series_id(transaction, ids, (metric, labels), points.at_s).map_err(StoreError::Sqlite)?;
        steps.add(points.at_s, series, *point);
    }
    Ok(())
}

fn series_id(
    transaction: &Transaction<'_>,
    ids: &mut SeriesIds,
    (metric, labels): (&str, &str),
    at_s: i64,
) -> Result<i64, rusqlite::Error> {
    let key = (Box::from(metric), Box::from(labels));
    if let Some(id) = ids.get(&key) {
        return Ok(*id);
    }
    let known: Option<i64> = transaction
        .prepare_cached("SELECT id FROM series WHERE metric = ?1 AND labels = ?2")?
        .query_row(params![metric, labels], |row| row.get(0))
        .optional()?;
    let id = match known {
        Some(id) => id,
        None => {
            transaction
                .prepare_cached("INSERT INTO series (metric, labels, seen_s) VALUES (?1, ?2, ?3)")?
                .execute(params![metric, labels, at_s])?;
            transaction.last_insert_rowid()
        }
    };
    ids.insert(key, id);
    Ok(id)
}

pub(super) fn restore(connection: &Connection) -> Result<Restored, StoreError> {
    // Records wait in memory for watchers that resume; the rest of them stays here.
    let newest = "SELECT body FROM (SELECT id, body FROM events ORDER BY id DESC LIMIT 1000) ORDER BY id";
    Ok(Restored {
        alerts: rows(connection, "SELECT body FROM alerts ORDER BY number")?,
        records: rows(connection, newest)?,
        deliveries: rows(connection, "SELECT body FROM deliveries ORDER BY event")?,
        rules: rows(connection, "SELECT body FROM rules ORDER BY name")?,
        silences: rows(connection, "SELECT body FROM silences")?,
        keys: rows(connection, "SELECT body FROM api_keys ORDER BY name")?,
    })
}

pub(super) fn records(
    connection: &Connection,
    alert: Option<Uuid>,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<Record>, StoreError> {
    let before = before.map_or(i64::MAX, signed);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let of = if alert.is_some() { "alert = ?3 AND" } else { "?3 IS NULL AND" };
    let select = format!("SELECT body FROM events WHERE {of} id < ?1 ORDER BY id DESC LIMIT ?2");
    let mut select = connection.prepare_cached(&select).map_err(StoreError::Sqlite)?;
    let alert = alert.map(|id| id.to_string());
    let bodies = select
        .query_map(params![before, limit, alert], |row| row.get::<_, String>(0))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(StoreError::Sqlite)?;
    bodies.iter().map(|body| serde_json::from_str(body).map_err(StoreError::Row)).collect()
}

/// Reads labels as they were stored.
pub(super) fn labels(json: &str) -> Result<BTreeMap<String, String>, StoreError> {
    serde_json::from_str(json).map_err(StoreError::Row)
}

fn rows<T: DeserializeOwned>(connection: &Connection, select: &str) -> Result<Vec<T>, StoreError> {
    let mut select = connection.prepare(select).map_err(StoreError::Sqlite)?;
    let bodies = select
        .query_map([], |row| row.get::<_, String>(0))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(StoreError::Sqlite)?;
    bodies.iter().map(|body| serde_json::from_str(body).map_err(StoreError::Row)).collect()
}

pub(super) fn json<T: Serialize>(row: &T) -> Result<String, StoreError> {
    serde_json::to_string(row).map_err(StoreError::Row)
}

/// SQLite has no unsigned numbers; ours stay far below.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
