//! Steps as they come, each with all series that were sampled in it.

use std::collections::BTreeMap;

use super::super::StoreError;
use super::tables::{Key, PART, Places, Table, Tables};
use super::{Tier, TierPoint};

/// Gathers points of one tier, to be written row by row.
#[derive(Debug)]
pub(in crate::store) struct Steps {
    tier: Tier,
    rows: BTreeMap<Key, BTreeMap<u32, TierPoint>>,
}

impl Steps {
    pub(in crate::store) fn new(tier: Tier) -> Self {
        Self { tier, rows: BTreeMap::new() }
    }

    /// Adds a point of a series; one of the same step goes on.
    pub(in crate::store) fn add(&mut self, at_s: i64, series: i64, point: TierPoint) {
        let key = Key { time: at_s.div_euclid(self.tier.width_s()), of: series.div_euclid(PART) };
        let place = series.rem_euclid(PART) as u32;
        let row = self.rows.entry(key).or_default();
        row.entry(place).and_modify(|earlier| earlier.merge(&point)).or_insert(point);
    }

    /// Writes what was gathered; a step that was begun before a restart goes on where it stopped.
    pub(in crate::store) fn write(self, tables: Tables<'_>) -> Result<(), StoreError> {
        for (key, points) in self.rows {
            tables.add(Table::Head(self.tier), key, points.into_iter().collect())?;
        }
        Ok(())
    }

    /// Writes what was gathered in place of what was there.
    pub(super) fn write_anew(self, tables: Tables<'_>) -> Result<(), StoreError> {
        for (key, points) in self.rows {
            let points: Places = points.into_iter().collect();
            tables.put(Table::Head(self.tier), key, &points)?;
        }
        Ok(())
    }
}

/// Returns the series that a place in a row of a head belongs to.
pub(super) fn series_at(key: Key, place: u32) -> i64 {
    key.of * PART + i64::from(place)
}
