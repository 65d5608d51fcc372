//! From each tier into the next coarser one.

use std::ops::Range;

use super::super::StoreError;
use super::head::{Steps, series_at};
use super::tables::{Table, Tables};
use super::{Tier, end_of};

/// Rolls what has become a whole minute, and a whole hour, up; repeating it changes nothing.
pub(in crate::store) fn roll_up(tables: Tables<'_>, now_s: i64) -> Result<(), StoreError> {
    for (from, into) in [(Tier::TenSeconds, Tier::Minute), (Tier::Minute, Tier::Hour)] {
        let width = into.width_s();
        let end = now_s - now_s.rem_euclid(width);
        let begin = end_of(tables, into, end)?.unwrap_or(0);
        if begin < end {
            roll(tables, from, into, begin..end)?;
        }
    }
    Ok(())
}

/// What is rolled up lies in the head still: it is folded only after that.
fn roll(tables: Tables<'_>, from: Tier, into: Tier, range_s: Range<i64>) -> Result<(), StoreError> {
    let width = from.width_s();
    let (mut of, mut gathered) = (range_s.start, Steps::new(into));
    tables.each(Table::Head(from), range_s.start / width..range_s.end / width, |key, points| {
        let at_s = key.time * width;
        let step_s = at_s - at_s.rem_euclid(into.width_s());
        if step_s != of {
            std::mem::replace(&mut gathered, Steps::new(into)).write_anew(tables)?;
            of = step_s;
        }
        for (place, point) in points {
            gathered.add(step_s, series_at(key, place), point);
        }
        Ok(())
    })?;
    gathered.write_anew(tables)
}
