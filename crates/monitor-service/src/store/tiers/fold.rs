//! From the head to blocks: once a span is over, and rolled up, each series gets one block for it.

use std::collections::BTreeMap;

use rusqlite::params;

use super::super::StoreError;
use super::tables::{Key, Places, Table, Tables};
use super::{Tier, end_of, head, rows};

/// Parts of the series folded in one transaction, of each tier: others wait for it. The rest follows with the next ones.
const FOLDS_MAX: usize = 8;

/// Folds what has become a whole span. A transaction has all of a fold or nothing, and who repeats it finds nothing to do.
pub(in crate::store) fn fold(tables: Tables<'_>) -> Result<(), StoreError> {
    for tier in Tier::ALL {
        for _ in 0..FOLDS_MAX {
            match ripe(tables, tier)? {
                Some(row) => fold_part(tables, tier, row)?,
                None => break,
            }
        }
    }
    Ok(())
}

/// Finds the oldest row of the head, if its span is over.
fn ripe(tables: Tables<'_>, tier: Tier) -> Result<Option<Key>, StoreError> {
    let Some(oldest) = tables.oldest(Table::Head(tier))? else { return Ok(None) };
    let end_s = (span_of(tier, oldest) + 1) * tier.span_s();
    // The newest steps stay in the head, so that it always tells how far the tier reaches.
    let goes_on = tables.newest(Table::Head(tier), i64::MAX)?;
    let goes_on = goes_on.is_some_and(|newest| newest.time * tier.width_s() >= end_s);
    let is_rolled_up = match tier.coarser() {
        Some(coarser) => end_of(tables, coarser, i64::MAX)?.is_some_and(|rolled_s| rolled_s >= end_s),
        None => true,
    };
    let is_whole = rows::oldest(tables.connection, tier)?.is_none_or(|at| at >= end_s);
    Ok((goes_on && is_rolled_up && is_whole).then_some(oldest))
}

fn span_of(tier: Tier, row: Key) -> i64 {
    (row.time * tier.width_s()).div_euclid(tier.span_s())
}

/// Folds the span of a row for all series that share it.
fn fold_part(tables: Tables<'_>, tier: Tier, row: Key) -> Result<(), StoreError> {
    let span = span_of(tier, row);
    let first = span * tier.steps();
    let mut gathered: BTreeMap<i64, Places> = BTreeMap::new();
    for step in first..first + tier.steps() {
        let key = Key { time: step, of: row.of };
        for (place, point) in tables.get(Table::Head(tier), key)?.unwrap_or_default() {
            gathered.entry(head::series_at(key, place)).or_default().push(((step - first) as u32, point));
        }
        tables.remove(Table::Head(tier), key)?;
    }
    let mut seen = tables
        .connection
        .prepare_cached("UPDATE series SET seen_s = ?2 WHERE id = ?1 AND seen_s < ?2")
        .map_err(StoreError::Sqlite)?;
    for (series, points) in gathered {
        let n_points = points.len();
        // After the clock was set back there may be a block already.
        let n_bytes = tables.add(Table::Blocks(tier), Key { time: span, of: series }, points)?;
        tables.metrics.store_folded(tier, n_points, n_bytes);
        seen.execute(params![series, (span + 1) * tier.span_s()]).map_err(StoreError::Sqlite)?;
    }
    Ok(())
}
