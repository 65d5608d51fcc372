//! Where packed points lie, statement by statement.
//!
//! Each tier has a head and blocks. In its head lie packs of many series at one step, as they come: one row for each step and
//! each [`PART`] of the series. In its blocks lie packs of one series over [`Tier::span_s`]. Both are keyed by time first, so
//! that writing appends and forgetting cuts off.

use std::ops::Range;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::super::StoreError;
use super::pack::{self, pack, unpack};
use super::{Tier, TierPoint};
use crate::metrics::MonitorMetrics;

/// Series that share a row of a head.
pub(super) const PART: i64 = 128;

/// The tables of all tiers, and who is told of what in them cannot be read.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Tables<'c> {
    pub(in crate::store) connection: &'c Connection,
    pub(in crate::store) metrics: &'c MonitorMetrics,
}

/// One table of packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Head(Tier),
    Blocks(Tier),
}

/// Names a row: a step and a part of the series in a head, a span and a series in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) time: i64,
    pub(super) of: i64,
}

/// Steps and spans are far below, whatever the clock says.
const TIME_MAX: i64 = i32::MAX as i64;

/// Points by their places in a pack.
pub(super) type Places = Vec<(u32, TierPoint)>;

impl Key {
    /// One number, time first.
    fn row(self) -> i64 {
        begin(self.time) | self.of & 0xffff_ffff
    }

    fn of_row(row: i64) -> Self {
        Self { time: row >> 32, of: row & 0xffff_ffff }
    }
}

/// Returns where the rows of a time begin.
fn begin(time: i64) -> i64 {
    time.clamp(0, TIME_MAX) << 32
}

impl Table {
    pub(in crate::store) fn name(self) -> String {
        match self {
            Self::Head(tier) => format!("head_{}", tier.name()),
            Self::Blocks(tier) => format!("blocks_{}", tier.name()),
        }
    }

    fn tier(self) -> Tier {
        match self {
            Self::Head(tier) | Self::Blocks(tier) => tier,
        }
    }
}

impl Tables<'_> {
    /// Reads a row. One that is damaged is told, counted, and as good as none.
    pub(super) fn get(self, table: Table, key: Key) -> Result<Option<Places>, StoreError> {
        let select = format!("SELECT body FROM {} WHERE key = ?1", table.name());
        let mut select = self.connection.prepare_cached(&select).map_err(StoreError::Sqlite)?;
        let body: Option<Vec<u8>> =
            select.query_row([key.row()], |row| row.get(0)).optional().map_err(StoreError::Sqlite)?;
        Ok(body.and_then(|body| self.read(table, key, &body)))
    }

    /// Reads the rows of a stretch of time, oldest first.
    pub(super) fn each(
        self,
        table: Table,
        time: Range<i64>,
        mut each: impl FnMut(Key, Places) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let select =
            format!("SELECT key, body FROM {} WHERE key >= ?1 AND key < ?2 ORDER BY key", table.name());
        let mut select = self.connection.prepare_cached(&select).map_err(StoreError::Sqlite)?;
        let mut rows = select.query([begin(time.start), begin(time.end)]).map_err(StoreError::Sqlite)?;
        while let Some(row) = rows.next().map_err(StoreError::Sqlite)? {
            let key = row.get(0).map(Key::of_row).map_err(StoreError::Sqlite)?;
            let body = row.get_ref(1).and_then(|body| Ok(body.as_blob()?)).map_err(StoreError::Sqlite)?;
            if let Some(points) = self.read(table, key, body) {
                each(key, points)?;
            }
        }
        Ok(())
    }

    fn read(self, table: Table, key: Key, body: &[u8]) -> Option<Places> {
        let points = unpack(body);
        if let Err(error) = &points {
            let Key { time, of } = key;
            tracing::warn!(
                error = error as &dyn std::error::Error,
                table = table.name(),
                time,
                of,
                "stored history is damaged"
            );
            self.metrics.store_damaged(table.tier());
        }
        points.ok()
    }

    /// Writes a row, in place of what it was; returns its bytes.
    pub(super) fn put(
        self,
        table: Table,
        key: Key,
        points: &[(u32, TierPoint)],
    ) -> Result<usize, StoreError> {
        let body = pack(points);
        let insert = format!("INSERT OR REPLACE INTO {} (key, body) VALUES (?1, ?2)", table.name());
        let mut insert = self.connection.prepare_cached(&insert).map_err(StoreError::Sqlite)?;
        insert.execute(params![key.row(), body]).map_err(StoreError::Sqlite)?;
        Ok(body.len())
    }

    /// Adds points to a row: of a place that has one already, both are one.
    pub(super) fn add(self, table: Table, key: Key, points: Places) -> Result<usize, StoreError> {
        let points = match self.get(table, key)? {
            Some(earlier) => merged(earlier, points),
            None => points,
        };
        self.put(table, key, &points)
    }

    pub(super) fn remove(self, table: Table, key: Key) -> Result<(), StoreError> {
        let delete = format!("DELETE FROM {} WHERE key = ?1", table.name());
        let mut delete = self.connection.prepare_cached(&delete).map_err(StoreError::Sqlite)?;
        delete.execute([key.row()]).map(|_| ()).map_err(StoreError::Sqlite)
    }

    /// Removes all rows before a time.
    pub(super) fn remove_before(self, table: Table, time: i64) -> Result<(), StoreError> {
        let delete = format!("DELETE FROM {} WHERE key < ?1", table.name());
        self.connection.execute(&delete, [begin(time)]).map(|_| ()).map_err(StoreError::Sqlite)
    }

    /// Removes some of the oldest rows before a time; returns how many points those had.
    pub(super) fn remove_oldest(self, table: Table, before: i64, n_rows: i64) -> Result<usize, StoreError> {
        let name = table.name();
        let select = format!("SELECT key, body FROM {name} WHERE key < ?1 ORDER BY key LIMIT ?2");
        let mut select = self.connection.prepare_cached(&select).map_err(StoreError::Sqlite)?;
        let rows = select.query_map([begin(before), n_rows], |row| {
            Ok((row.get::<_, i64>(0)?, pack::count(row.get_ref(1)?.as_blob()?)))
        });
        let rows: Vec<(i64, usize)> = rows.and_then(Iterator::collect).map_err(StoreError::Sqlite)?;
        let Some((newest, _)) = rows.last() else { return Ok(0) };
        let delete = format!("DELETE FROM {name} WHERE key <= ?1");
        self.connection.execute(&delete, [newest]).map_err(StoreError::Sqlite)?;
        // A row whose points cannot be counted is gone as well.
        Ok(rows.iter().map(|(_, n_points)| *n_points.max(&1)).sum())
    }

    /// Finds the oldest row.
    pub(super) fn oldest(self, table: Table) -> Result<Option<Key>, StoreError> {
        self.one(&format!("SELECT min(key) FROM {}", table.name()), [])
    }

    /// Finds the newest row before a time.
    pub(super) fn newest(self, table: Table, before: i64) -> Result<Option<Key>, StoreError> {
        self.one(&format!("SELECT max(key) FROM {} WHERE key < ?1", table.name()), [begin(before)])
    }

    fn one(self, select: &str, of: impl rusqlite::Params) -> Result<Option<Key>, StoreError> {
        let mut select = self.connection.prepare_cached(select).map_err(StoreError::Sqlite)?;
        let row: Option<i64> = select.query_row(of, |row| row.get(0)).map_err(StoreError::Sqlite)?;
        Ok(row.map(Key::of_row))
    }
}

/// Joins points by their places, the later ones behind the earlier ones.
fn merged(earlier: Places, later: Places) -> Places {
    let mut all: std::collections::BTreeMap<u32, TierPoint> = earlier.into_iter().collect();
    for (place, point) in later {
        all.entry(place).and_modify(|earlier| earlier.merge(&point)).or_insert(point);
    }
    all.into_iter().collect()
}
