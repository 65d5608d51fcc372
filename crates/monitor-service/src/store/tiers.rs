//! Rolled-up history: 10 s, 1 min, 1 h, with peaks kept.
//!
//! Points come into the head of the finest tier ([`Steps`]), are rolled up into the heads of the coarser ones ([`roll_up`]),
//! and are folded into blocks, a series each ([`fold()`]). Each of these is one transaction or a part of one, so there is no
//! moment at which a point is in two places or in none.

mod bits;
mod decimals;
mod fold;
mod head;
mod pack;
mod read;
mod roll;
mod rows;
mod tables;
mod varint;

use std::time::Duration;

use super::StoreError;
pub(super) use fold::fold;
pub(super) use head::Steps;
pub(super) use read::read;
pub(crate) use read::{Query, TierSeries};
pub(super) use roll::roll_up;
pub(super) use rows::take_over;
pub(super) use tables::Tables;
use tables::{Key, Table};

/// Names a tier by its width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Steps of 10 s.
    TenSeconds,
    /// Steps of a minute.
    Minute,
    /// Steps of an hour.
    Hour,
}

/// Says how far back each tier reaches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    /// Of steps of 10 s.
    pub ten_seconds: Duration,
    /// Of steps of a minute.
    pub minute: Duration,
    /// Of steps of an hour.
    pub hour: Duration,
}

/// Sums up the samples of one step of a tier.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TierPoint {
    /// Samples in it.
    pub n: i64,
    /// Smallest.
    pub min: f64,
    /// Greatest.
    pub max: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Newest.
    pub last: f64,
}

/// Steps that a block holds at most: 40 minutes, four hours, ten days. More would not be packed better by much, and would have
/// to stay in the head for longer.
const STEPS: i64 = 240;
/// Rows of blocks, and of a head, removed at a time when there is too much.
const REMOVED: i64 = 100;

impl Tier {
    /// Lists them, finest first.
    pub(crate) const ALL: [Self; 3] = [Self::TenSeconds, Self::Minute, Self::Hour];

    /// Returns the width of its steps in seconds.
    pub(crate) fn width_s(self) -> i64 {
        match self {
            Self::TenSeconds => 10,
            Self::Minute => 60,
            Self::Hour => 3_600,
        }
    }

    /// Returns what it is called in tables and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TenSeconds => "10s",
            Self::Minute => "1m",
            Self::Hour => "1h",
        }
    }

    /// Returns the one that this one is rolled up into.
    fn coarser(self) -> Option<Self> {
        match self {
            Self::TenSeconds => Some(Self::Minute),
            Self::Minute => Some(Self::Hour),
            Self::Hour => None,
        }
    }

    /// Returns how many steps a block spans.
    fn steps(self) -> i64 {
        STEPS
    }

    /// Returns the time that a block spans, in seconds.
    fn span_s(self) -> i64 {
        self.steps() * self.width_s()
    }

    /// Chooses the coarsest tier that is fine enough for a step, or a coarser one if only that reaches back far enough.
    pub(crate) fn for_step(step: Duration, age: Duration, retention: &Retention) -> Self {
        let step_s = i64::try_from(step.as_secs()).unwrap_or(i64::MAX);
        let fine_enough = Self::ALL.into_iter().rev().find(|tier| tier.width_s() <= step_s);
        let wanted = fine_enough.unwrap_or(Self::TenSeconds);
        let reaching = Self::ALL.into_iter().filter(|tier| tier.width_s() >= wanted.width_s());
        reaching.into_iter().find(|tier| retention.of(*tier) >= age).unwrap_or(Self::Hour)
    }
}

impl Retention {
    fn of(&self, tier: Tier) -> Duration {
        match tier {
            Tier::TenSeconds => self.ten_seconds,
            Tier::Minute => self.minute,
            Tier::Hour => self.hour,
        }
    }
}

impl TierPoint {
    /// Has no samples.
    const NONE: Self = Self { n: 0, min: 0.0, max: 0.0, mean: 0.0, last: 0.0 };

    fn merge(&mut self, later: &Self) {
        let n = self.n + later.n;
        let share = later.n as f64 / n as f64;
        *self = Self {
            n,
            min: self.min.min(later.min),
            max: self.max.max(later.max),
            mean: self.mean * (1.0 - share) + later.mean * share,
            last: later.last,
        };
    }
}

/// Forgets what is older than each tier reaches, blocks as a whole, and series without a point.
pub(super) fn expire(tables: Tables<'_>, retention: &Retention, now_s: i64) -> Result<(), StoreError> {
    for tier in Tier::ALL {
        let oldest_s = now_s - i64::try_from(retention.of(tier).as_secs()).unwrap_or(i64::MAX);
        tables.remove_before(Table::Head(tier), oldest_s.div_euclid(tier.width_s()))?;
        tables.remove_before(Table::Blocks(tier), oldest_s.div_euclid(tier.span_s()))?;
        rows::remove_before(tables.connection, tier, oldest_s)?;
    }
    // A block lives until its youngest point is too old.
    let reach_s = i64::try_from(retention.of(Tier::Hour).as_secs()).unwrap_or(i64::MAX);
    let unseen_s = now_s - reach_s - Tier::Hour.span_s();
    let forget = tables.connection.execute("DELETE FROM series WHERE seen_s < ?1", [unseen_s]);
    forget.map(|_| ()).map_err(StoreError::Sqlite)
}

/// Removes some of the oldest points of a tier that are rolled up already; returns how many.
pub(super) fn remove_oldest(tables: Tables<'_>, tier: Tier) -> Result<usize, StoreError> {
    let rolled_until_s = match tier.coarser() {
        Some(coarser) => end_of(tables, coarser, i64::MAX)?.unwrap_or(0),
        None => i64::MAX,
    };
    let n_rows = rows::remove_oldest(tables.connection, tier, rolled_until_s, REMOVED * STEPS)?;
    if n_rows > 0 {
        return Ok(n_rows);
    }
    let n_folded =
        tables.remove_oldest(Table::Blocks(tier), rolled_until_s.div_euclid(tier.span_s()), REMOVED)?;
    if n_folded > 0 {
        return Ok(n_folded);
    }
    tables.remove_oldest(Table::Head(tier), rolled_until_s.div_euclid(tier.width_s()), REMOVED)
}

/// Finds where a tier ends, as far as it does so before a moment.
fn end_of(tables: Tables<'_>, tier: Tier, before_s: i64) -> Result<Option<i64>, StoreError> {
    let (width, span) = (tier.width_s(), tier.span_s());
    let head = tables.newest(Table::Head(tier), before_s.div_euclid(width))?;
    let packed = match head {
        Some(Key { time, .. }) => Some((time + 1) * width),
        // Only where history was cut down to its blocks.
        None => tables
            .newest(Table::Blocks(tier), before_s.div_euclid(span))?
            .map(|Key { time, .. }| (time + 1) * span),
    };
    let rows = rows::newest(tables.connection, tier, before_s)?.map(|at| at + width);
    Ok(packed.max(rows))
}

#[cfg(test)]
mod tests;
