//! Points of the series that a question is about, from wherever they lie.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use super::super::{StoreError, work};
use super::head::series_at;
use super::tables::{Key, PART, Table, Tables};
use super::{Tier, TierPoint, rows};

/// Asks for points of a metric from a tier; where that does not reach, from the others.
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

/// A series while its points are gathered.
struct Wanted {
    id: i64,
    series: TierSeries,
    /// Where memory goes on.
    known_from_s: i64,
    /// Up to where points have been found.
    end_s: Option<i64>,
}

/// Rows looked up for one question; what is beyond is left out.
const LOOKUPS_MAX: i64 = 500_000;
/// Series of one metric that one question may find.
const SERIES_MAX: usize = 100;

/// Reads points: of each series from the tier that is asked for, then from coarser ones what was before, where that one was
/// cut short, and from finer ones what is not rolled up yet.
pub(in crate::store) fn read(tables: Tables<'_>, query: &Query) -> Result<Vec<TierSeries>, StoreError> {
    let mut wanted = matching(tables, query)?;
    let mut lookups = LOOKUPS_MAX;
    let to_s = |of: &Wanted, tier: Tier| {
        let begun_s = of.known_from_s.rem_euclid(tier.width_s());
        // Of the finest step in which memory begins both tell: what was before a restart is not in memory.
        let is_shared = tier == Tier::TenSeconds && begun_s > 0;
        let shared_s = if is_shared { tier.width_s() } else { 0 };
        query.to_s.min((of.known_from_s - begun_s).saturating_add(shared_s))
    };
    for tier in Tier::ALL.into_iter().filter(|tier| tier.width_s() >= query.tier.width_s()) {
        let before = |of: &Wanted| {
            let first_s =
                of.series.points.first().map_or(i64::MAX, |(at, _)| at - at.rem_euclid(tier.width_s()));
            query.from_s..first_s.min(to_s(of, tier))
        };
        let found = gather(tables, tier, &wanted_in(&wanted, before), &mut lookups)?;
        for (of, points) in wanted.iter_mut().zip(found) {
            of.prepend(points, tier);
        }
    }
    for tier in Tier::ALL.into_iter().rev().filter(|tier| tier.width_s() < query.tier.width_s()) {
        let after = |of: &Wanted| of.end_s.unwrap_or(query.from_s).max(query.from_s)..to_s(of, tier);
        let found = gather(tables, tier, &wanted_in(&wanted, after), &mut lookups)?;
        for (of, points) in wanted.iter_mut().zip(found) {
            of.append(points, tier);
        }
    }
    Ok(wanted.into_iter().map(|of| of.series).filter(|series| !series.points.is_empty()).collect())
}

impl Wanted {
    fn prepend(&mut self, points: BTreeMap<i64, TierPoint>, tier: Tier) {
        if self.end_s.is_none() {
            self.end_s = points.last_key_value().map(|(at, _)| at + tier.width_s());
        }
        let later = std::mem::replace(&mut self.series.points, points.into_iter().collect());
        self.series.points.extend(later);
    }

    fn append(&mut self, points: BTreeMap<i64, TierPoint>, tier: Tier) {
        if let Some((at, _)) = points.last_key_value() {
            self.end_s = Some(at + tier.width_s());
        }
        self.series.points.extend(points);
    }
}

fn wanted_in(wanted: &[Wanted], range_s: impl Fn(&Wanted) -> Range<i64>) -> Vec<(i64, Range<i64>)> {
    wanted.iter().map(|of| (of.id, range_s(of))).collect()
}

fn matching(tables: Tables<'_>, query: &Query) -> Result<Vec<Wanted>, StoreError> {
    let mut select = tables
        .connection
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
            let label = |name| labels.get(name).cloned().unwrap_or_default();
            let known_from_s = query.known_from_s.get(&(label("service"), label("endpoint")));
            let known_from_s = known_from_s.copied().unwrap_or(i64::MAX);
            let series = TierSeries { labels, points: Vec::new() };
            found.push(Wanted { id, series, known_from_s, end_s: None });
        }
        if found.len() == SERIES_MAX {
            break;
        }
    }
    Ok(found)
}

/// Reads points of a tier, of each of these series in its range.
fn gather(
    tables: Tables<'_>,
    tier: Tier,
    wanted: &[(i64, Range<i64>)],
    lookups: &mut i64,
) -> Result<Vec<BTreeMap<i64, TierPoint>>, StoreError> {
    let mut found = Vec::with_capacity(wanted.len());
    for (series, range_s) in wanted {
        let mut points = BTreeMap::new();
        if *lookups > 0 && !range_s.is_empty() {
            *lookups -= rows::append(tables.connection, tier, *series, range_s.clone(), &mut points)?;
            *lookups -= from_blocks(tables, tier, *series, range_s, &mut points)?;
        }
        found.push(points);
    }
    let parts: BTreeSet<i64> = wanted
        .iter()
        .filter(|(_, range_s)| !range_s.is_empty())
        .map(|(series, _)| series.div_euclid(PART))
        .collect();
    for part in parts {
        from_head(tables, tier, part, wanted, (&mut found, lookups))?;
    }
    Ok(found)
}

fn from_blocks(
    tables: Tables<'_>,
    tier: Tier,
    series: i64,
    range_s: &Range<i64>,
    points: &mut BTreeMap<i64, TierPoint>,
) -> Result<i64, StoreError> {
    let table = Table::Blocks(tier);
    let Some(spans) = reach(tables, table, range_s, tier.span_s())? else { return Ok(0) };
    let n_lookups = spans.end - spans.start;
    for span in spans {
        let begin_s = span * tier.span_s();
        for (place, point) in tables.get(table, Key { time: span, of: series })?.unwrap_or_default() {
            put(points, begin_s + i64::from(place) * tier.width_s(), point, range_s);
        }
    }
    Ok(n_lookups)
}

/// Reads each row of a part once, for all of its series.
fn from_head(
    tables: Tables<'_>,
    tier: Tier,
    part: i64,
    wanted: &[(i64, Range<i64>)],
    (found, lookups): (&mut [BTreeMap<i64, TierPoint>], &mut i64),
) -> Result<(), StoreError> {
    let table = Table::Head(tier);
    let of_part: HashMap<i64, usize> = wanted
        .iter()
        .enumerate()
        .filter(|(_, (series, range_s))| series.div_euclid(PART) == part && !range_s.is_empty())
        .map(|(index, (series, _))| (*series, index))
        .collect();
    let ranges = || of_part.values().map(|index| &wanted[*index].1);
    let begin_s = ranges().map(|range_s| range_s.start).min().unwrap_or(0);
    let end_s = ranges().map(|range_s| range_s.end).max().unwrap_or(0);
    let Some(steps) = reach(tables, table, &(begin_s..end_s), tier.width_s())? else { return Ok(()) };
    for step in steps {
        *lookups -= 1;
        if *lookups <= 0 {
            break;
        }
        let key = Key { time: step, of: part };
        for (place, point) in tables.get(table, key)?.unwrap_or_default() {
            if let Some(index) = of_part.get(&series_at(key, place)) {
                put(&mut found[*index], step * tier.width_s(), point, &wanted[*index].1);
            }
        }
    }
    Ok(())
}

/// Finds the times of a table's rows that a range may touch.
fn reach(
    tables: Tables<'_>,
    table: Table,
    range_s: &Range<i64>,
    unit_s: i64,
) -> Result<Option<Range<i64>>, StoreError> {
    let (Some(oldest), Some(newest)) = (tables.oldest(table)?, tables.newest(table, i64::MAX)?) else {
        return Ok(None);
    };
    let begin = range_s.start.div_euclid(unit_s).max(oldest.time);
    let end = range_s.end.saturating_sub(1).div_euclid(unit_s).min(newest.time) + 1;
    Ok((begin < end).then_some(begin..end))
}

/// Of one step there may be points in a block and in the head, after the clock was set back: the later is in the head.
fn put(points: &mut BTreeMap<i64, TierPoint>, at_s: i64, point: TierPoint, range_s: &Range<i64>) {
    if range_s.contains(&at_s) {
        points.entry(at_s).and_modify(|earlier| earlier.merge(&point)).or_insert(point);
    }
}
