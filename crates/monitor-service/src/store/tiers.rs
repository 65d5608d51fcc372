//! Rolled-up history: 10 s, 1 min, 1 h, with peaks kept.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{StoreError, work};

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

/// Asks for points of a metric: from a tier as far as it reaches, then from the finer ones.
#[derive(Debug)]
pub(crate) struct Query {
    /// Name of the metric.
    pub metric: String,
    /// Labels a series must have.
    pub labels: BTreeMap<String, String>,
    /// First second.
    pub from_s: i64,
    /// Second after the last.
    pub to_s: i64,
    /// The tier to begin with.
    pub tier: Tier,
    /// From when on memory knows better, by the labels of a target.
    pub known_from_s: HashMap<(String, String), i64>,
}

/// Holds the points of one series.
#[derive(Debug)]
pub(crate) struct TierSeries {
    /// Labels, the target's included.
    pub labels: BTreeMap<String, String>,
    /// Oldest first: the second a step begins, and what happened in it.
    pub points: Vec<(i64, TierPoint)>,
}

/// Adds a point; one that is there already goes on.
pub(super) const INSERT_FINEST: &str = "
INSERT INTO tier_10s (at, series, n, min, max, mean, last) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
ON CONFLICT (at, series) DO UPDATE SET
  min = min(coalesce(min, last), coalesce(excluded.min, excluded.last)),
  max = max(coalesce(max, last), coalesce(excluded.max, excluded.last)),
  mean = (coalesce(mean, last) * n + coalesce(excluded.mean, excluded.last) * excluded.n) / (n + excluded.n),
  last = excluded.last,
  n = n + excluded.n";
/// Single points looked up for one question; what is beyond is left out.
const LOOKUPS_MAX: i64 = 500_000;
/// Series of one metric that one question may find.
const SERIES_MAX: usize = 100;

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

    /// Returns the one that this one is rolled up into.
    pub(super) fn coarser(self) -> Option<Self> {
        match self {
            Self::TenSeconds => Some(Self::Minute),
            Self::Minute => Some(Self::Hour),
            Self::Hour => None,
        }
    }

    pub(super) fn table(self) -> &'static str {
        match self {
            Self::TenSeconds => "tier_10s",
            Self::Minute => "tier_1m",
            Self::Hour => "tier_1h",
        }
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
    /// Returns min, max and mean, none where it equals `last`: that saves most of the room.
    pub(super) fn distinct(&self) -> [Option<f64>; 3] {
        [self.min, self.max, self.mean]
            .map(|figure| (figure.to_bits() != self.last.to_bits()).then_some(figure))
    }

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

/// Rolls what has become a whole minute, and a whole hour, up; repeating it changes nothing.
pub(super) fn roll_up(transaction: &Transaction<'_>, now_s: i64) -> Result<(), StoreError> {
    for (from, into) in [(Tier::TenSeconds, Tier::Minute), (Tier::Minute, Tier::Hour)] {
        let width = into.width_s();
        let newest: Option<i64> = transaction
            .query_row(&format!("SELECT max(at) FROM {}", into.table()), [], |row| row.get(0))
            .map_err(StoreError::Sqlite)?;
        let begin = newest.map_or(0, |at| at + width);
        let end = now_s - now_s.rem_euclid(width);
        if begin < end {
            roll(transaction, from, into, begin..end).map_err(StoreError::Sqlite)?;
        }
    }
    Ok(())
}

fn roll(
    transaction: &Transaction<'_>,
    from: Tier,
    into: Tier,
    range: std::ops::Range<i64>,
) -> Result<(), rusqlite::Error> {
    let select =
        format!("{} FROM {} WHERE at >= ?1 AND at < ?2 ORDER BY at, series", SELECT_POINT, from.table());
    let insert = format!("INSERT OR REPLACE INTO {} VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)", into.table());
    let (mut select, mut insert) =
        (transaction.prepare_cached(&select)?, transaction.prepare_cached(&insert)?);
    let mut step: Option<i64> = None;
    let mut gathered: BTreeMap<i64, TierPoint> = BTreeMap::new();
    let mut write = |at: i64, gathered: &mut BTreeMap<i64, TierPoint>| -> Result<(), rusqlite::Error> {
        for (series, point) in std::mem::take(gathered) {
            let [min, max, mean] = point.distinct();
            insert.execute(params![at, series, point.n, min, max, mean, point.last])?;
        }
        Ok(())
    };
    let mut rows = select.query(params![range.start, range.end])?;
    while let Some(row) = rows.next()? {
        let (at, series, point) = point_of(row)?;
        let of = at - at.rem_euclid(into.width_s());
        if let Some(before) = step.filter(|before| *before != of) {
            write(before, &mut gathered)?;
        }
        step = Some(of);
        gathered.entry(series).and_modify(|earlier| earlier.merge(&point)).or_insert(point);
    }
    step.map_or(Ok(()), |at| write(at, &mut gathered))
}

/// Forgets what is older than each tier reaches, and series without a point.
pub(super) fn expire(
    transaction: &Transaction<'_>,
    retention: &Retention,
    now_s: i64,
) -> Result<(), StoreError> {
    for tier in Tier::ALL {
        let oldest = now_s - i64::try_from(retention.of(tier).as_secs()).unwrap_or(i64::MAX);
        let delete = format!("DELETE FROM {} WHERE at < ?1", tier.table());
        transaction.execute(&delete, [oldest]).map_err(StoreError::Sqlite)?;
    }
    let unused = "DELETE FROM series WHERE id NOT IN (SELECT series FROM tier_1h)
        AND id NOT IN (SELECT series FROM tier_1m) AND id NOT IN (SELECT series FROM tier_10s)";
    transaction.execute(unused, []).map(|_| ()).map_err(StoreError::Sqlite)
}

/// Reads points, tier by tier: where the coarse one ends the finer one goes on. Where the tier that is asked for was
/// cut short, coarser ones tell what was before.
pub(super) fn read(connection: &Connection, query: &Query) -> Result<Vec<TierSeries>, StoreError> {
    let mut found = matching(connection, query)?;
    let mut lookups = LOOKUPS_MAX;
    let mut from_s = query.from_s;
    for tier in Tier::ALL.into_iter().rev() {
        let Some(end_s) = end_of(connection, tier)? else { continue };
        let end_s = match begin_of_finer(connection, tier, query.tier)? {
            Some(begin_s) => end_s.min(begin_s - begin_s.rem_euclid(tier.width_s())),
            None => end_s,
        };
        for (id, series) in &mut found {
            let to_s = query.to_s.min(end_s).min(query.known_from_s(series, tier));
            lookups -= append(connection, tier, *id, from_s..to_s, lookups, &mut series.points)
                .map_err(StoreError::Sqlite)?;
        }
        from_s = from_s.max(end_s);
    }
    Ok(found.into_iter().map(|(_, series)| series).filter(|series| !series.points.is_empty()).collect())
}

impl Query {
    /// A step of which memory knows a part is left to memory.
    fn known_from_s(&self, series: &TierSeries, tier: Tier) -> i64 {
        let label = |name| series.labels.get(name).cloned().unwrap_or_default();
        let known = self.known_from_s.get(&(label("service"), label("endpoint")));
        known.map_or(i64::MAX, |from| from - from.rem_euclid(tier.width_s()))
    }
}

fn matching(connection: &Connection, query: &Query) -> Result<Vec<(i64, TierSeries)>, StoreError> {
    let mut select = connection
        .prepare_cached("SELECT id, labels FROM series WHERE metric = ?1 ORDER BY labels")
        .map_err(StoreError::Sqlite)?;
    let rows = select
        .query_map([&query.metric], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(StoreError::Sqlite)?;
    let mut found = Vec::new();
    for (id, labels) in rows {
        let labels = work::labels(&labels)?;
        if crate::series::has_labels(&labels, &query.labels) {
            found.push((id, TierSeries { labels, points: Vec::new() }));
        }
        if found.len() == SERIES_MAX {
            break;
        }
    }
    Ok(found)
}

/// Finds where the tiers begin that are finer than `tier`, but no finer than what is asked for.
fn begin_of_finer(connection: &Connection, tier: Tier, asked: Tier) -> Result<Option<i64>, StoreError> {
    let mut begin_s: Option<i64> = None;
    let widths = asked.width_s()..tier.width_s();
    for finer in Tier::ALL.into_iter().filter(|finer| widths.contains(&finer.width_s())) {
        let select = format!("SELECT min(at) FROM {}", finer.table());
        let oldest: Option<i64> =
            connection.query_row(&select, [], |row| row.get(0)).map_err(StoreError::Sqlite)?;
        begin_s = begin_s.into_iter().chain(oldest).min();
    }
    Ok(begin_s)
}

pub(super) fn end_of(connection: &Connection, tier: Tier) -> Result<Option<i64>, StoreError> {
    let newest: Option<Option<i64>> = connection
        .query_row(&format!("SELECT max(at) FROM {}", tier.table()), [], |row| row.get(0))
        .optional()
        .map_err(StoreError::Sqlite)?;
    Ok(newest.flatten().map(|at| at + tier.width_s()))
}

/// Looks up step by step, since rows lie in the order of time; returns how many look-ups that took.
fn append(
    connection: &Connection,
    tier: Tier,
    series: i64,
    range_s: std::ops::Range<i64>,
    lookups_max: i64,
    points: &mut Vec<(i64, TierPoint)>,
) -> Result<i64, rusqlite::Error> {
    let width = tier.width_s();
    let oldest: Option<i64> =
        connection.query_row(&format!("SELECT min(at) FROM {}", tier.table()), [], |row| row.get(0))?;
    let first = range_s.start.max(oldest.unwrap_or(i64::MAX).min(range_s.end)).div_euclid(width) * width;
    let select = format!("{SELECT_POINT} FROM {} WHERE at = ?1 AND series = ?2", tier.table());
    let mut select = connection.prepare_cached(&select)?;
    let mut lookups = 0;
    let mut at = if first < range_s.start { first + width } else { first };
    while at < range_s.end && lookups < lookups_max {
        if let Some((at, _, point)) = select.query_row(params![at, series], point_of).optional()? {
            points.push((at, point));
        }
        lookups += 1;
        at += width;
    }
    Ok(lookups)
}

const SELECT_POINT: &str =
    "SELECT at, series, n, coalesce(min, last), coalesce(max, last), coalesce(mean, last), last";

fn point_of(row: &rusqlite::Row<'_>) -> Result<(i64, i64, TierPoint), rusqlite::Error> {
    let point = TierPoint {
        n: row.get(2)?,
        min: row.get(3)?,
        max: row.get(4)?,
        mean: row.get(5)?,
        last: row.get(6)?,
    };
    Ok((row.get(0)?, row.get(1)?, point))
}
