//! Points as version 1 of the store has them: a row each. They are read where they lie, and moved into heads little by
//! little, from where they are folded as all others.

use std::collections::BTreeMap;
use std::ops::Range;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::super::StoreError;
use super::head::Steps;
use super::tables::Tables;
use super::{Tier, TierPoint, end_of};

/// Rows moved in one transaction, about: others wait for it.
const MOVED_MAX: i64 = if cfg!(test) { 300 } else { 20_000 };

/// Tells whether there are any left of a tier.
fn exist(connection: &Connection, tier: Tier) -> Result<bool, rusqlite::Error> {
    let select = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1";
    connection.prepare_cached(select)?.exists([table(tier)])
}

fn table(tier: Tier) -> String {
    format!("tier_{}", tier.name())
}

/// Moves what is not rolled up yet, for rolling up looks into the head only, and some of the oldest; returns how many.
pub(in crate::store) fn take_over(tables: Tables<'_>) -> Result<usize, StoreError> {
    let mut n_moved = 0;
    for tier in Tier::ALL {
        if !exist(tables.connection, tier).map_err(StoreError::Sqlite)? {
            continue;
        }
        if let Some(coarser) = tier.coarser() {
            let rolled_until_s = end_of(tables, coarser, i64::MAX)?.unwrap_or(0);
            n_moved += move_of(tables, tier, rolled_until_s, i64::MAX)?;
        }
        if n_moved < MOVED_MAX as usize && exist(tables.connection, tier).map_err(StoreError::Sqlite)? {
            n_moved += move_of(tables, tier, i64::MIN, MOVED_MAX)?;
        }
    }
    Ok(n_moved)
}

fn move_of(tables: Tables<'_>, tier: Tier, from_s: i64, n_max: i64) -> Result<usize, StoreError> {
    let table = table(tier);
    let select = format!("{SELECT} FROM {table} WHERE at >= ?1 ORDER BY at, series LIMIT ?2");
    let mut select = tables.connection.prepare(&select).map_err(StoreError::Sqlite)?;
    let mut rows = select.query([from_s, n_max]).map_err(StoreError::Sqlite)?;
    let (mut steps, mut last, mut n_moved) = (Steps::new(tier), None, 0);
    while let Some(row) = rows.next().map_err(StoreError::Sqlite)? {
        let (at, series, point) = of_row(row).map_err(StoreError::Sqlite)?;
        steps.add(at, series, point);
        last = Some((at, series));
        n_moved += 1;
    }
    steps.write(tables)?;
    if let Some((at, series)) = last {
        let delete = format!("DELETE FROM {table} WHERE at >= ?1 AND (at, series) <= (?2, ?3)");
        tables.connection.execute(&delete, params![from_s, at, series]).map_err(StoreError::Sqlite)?;
    }
    drop(rows);
    drop(select);
    drop_empty(tables.connection, tier)?;
    Ok(n_moved)
}

fn drop_empty(connection: &Connection, tier: Tier) -> Result<(), StoreError> {
    let table = table(tier);
    let is_empty = !connection
        .prepare(&format!("SELECT 1 FROM {table} LIMIT 1"))
        .and_then(|mut any| any.exists([]))
        .map_err(StoreError::Sqlite)?;
    if is_empty {
        connection.execute(&format!("DROP TABLE {table}"), []).map_err(StoreError::Sqlite)?;
        tracing::info!(table, "all points of an earlier version were moved");
    }
    Ok(())
}

/// Finds the oldest row.
pub(super) fn oldest(connection: &Connection, tier: Tier) -> Result<Option<i64>, StoreError> {
    at(connection, tier, "min(at)", i64::MAX)
}

/// Finds the newest row before a moment.
pub(super) fn newest(connection: &Connection, tier: Tier, before_s: i64) -> Result<Option<i64>, StoreError> {
    at(connection, tier, "max(at)", before_s)
}

fn at(connection: &Connection, tier: Tier, which: &str, before_s: i64) -> Result<Option<i64>, StoreError> {
    let find = || -> Result<Option<i64>, rusqlite::Error> {
        if !exist(connection, tier)? {
            return Ok(None);
        }
        let select = format!("SELECT {which} FROM {} WHERE at < ?1", table(tier));
        connection.query_row(&select, [before_s], |row| row.get(0))
    };
    find().map_err(StoreError::Sqlite)
}

/// Reads points of a series step by step, since rows lie in the order of time; returns how many look-ups that took.
pub(super) fn append(
    connection: &Connection,
    tier: Tier,
    series: i64,
    range_s: Range<i64>,
    points: &mut BTreeMap<i64, TierPoint>,
) -> Result<i64, StoreError> {
    let (Some(oldest), Some(newest)) = (oldest(connection, tier)?, newest(connection, tier, i64::MAX)?)
    else {
        return Ok(0);
    };
    let width = tier.width_s();
    let begin = range_s.start.max(oldest).div_euclid(width) * width;
    let mut find = || -> Result<i64, rusqlite::Error> {
        let select = format!("{SELECT} FROM {} WHERE at = ?1 AND series = ?2", table(tier));
        let mut select = connection.prepare_cached(&select)?;
        let mut n_lookups = 0;
        let mut at = if begin < range_s.start { begin + width } else { begin };
        while at < range_s.end.min(newest + 1) {
            if let Some((at, _, point)) = select.query_row(params![at, series], of_row).optional()? {
                points.insert(at, point);
            }
            n_lookups += 1;
            at += width;
        }
        Ok(n_lookups)
    };
    find().map_err(StoreError::Sqlite)
}

/// Removes some of the oldest before a moment; returns how many.
pub(super) fn remove_oldest(
    connection: &Connection,
    tier: Tier,
    before_s: i64,
    n: i64,
) -> Result<usize, StoreError> {
    if !exist(connection, tier).map_err(StoreError::Sqlite)? {
        return Ok(0);
    }
    let table = table(tier);
    let delete = format!(
        "DELETE FROM {table} WHERE (at, series) IN
         (SELECT at, series FROM {table} WHERE at < ?1 ORDER BY at, series LIMIT ?2)"
    );
    let n_gone = connection.execute(&delete, params![before_s, n]).map_err(StoreError::Sqlite)?;
    drop_empty(connection, tier)?;
    Ok(n_gone)
}

/// Removes all before a moment.
pub(super) fn remove_before(connection: &Connection, tier: Tier, before_s: i64) -> Result<(), StoreError> {
    remove_oldest(connection, tier, before_s, i64::MAX).map(|_| ())
}

/// What equals `last` is not stored.
const SELECT: &str =
    "SELECT at, series, n, coalesce(min, last), coalesce(max, last), coalesce(mean, last), last";

fn of_row(row: &rusqlite::Row<'_>) -> Result<(i64, i64, TierPoint), rusqlite::Error> {
    let point = TierPoint {
        n: row.get(2)?,
        min: row.get(3)?,
        max: row.get(4)?,
        mean: row.get(5)?,
        last: row.get(6)?,
    };
    Ok((row.get(0)?, row.get(1)?, point))
}
