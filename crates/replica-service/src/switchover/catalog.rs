use anyhow::Context as _;

use super::{
    ask::{Asker, Fields},
    record::Stage,
    rows::quote_table,
    tables::{bare, named_at},
    written::Counts,
};
use crate::{config::PairConfig, route::Prefer};

/// What the database says about the two tables of a pair.
#[derive(Debug, Clone, Default)]
pub(crate) struct Catalog {
    pub legacy: Option<Table>,
    /// The parent itself; its size is that of nothing.
    pub partitioned: Option<Table>,
    /// `RANGE (occurred_at)`; empty when the table is not partitioned.
    pub partition_key: String,
    /// In order of their bounds, the default partition last.
    pub partitions: Vec<Table>,
    pub gaps: Vec<Range>,
    pub missing_future: Vec<Range>,
    /// Of both tables, in the order of the legacy one.
    pub columns: Vec<Column>,
    pub key: Option<Key>,
    pub triggers: Vec<Trigger>,
    /// What follows the legacy table by its identity and cannot be made to follow the name.
    pub dependents: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub oid: i64,
    pub name: String,
    pub is_partitioned: bool,
    pub bytes: u64,
    /// Estimate; `None` before the first ANALYZE.
    pub rows: Option<u64>,
    pub dead_rows: Option<u64>,
    /// Rows written since the primary's statistics were last reset.
    pub written: Option<Counts>,
    pub bounds: Option<Range>,
    pub is_default: bool,
}

/// Seconds since 1970; `to` is outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub from_s: i64,
    pub to_s: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub name: String,
    /// In words, why it is not the same in both tables.
    pub problem: Option<String>,
    /// Its type has a hash of its own.
    pub hashable: bool,
}

/// The key column of the legacy table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    pub is_integer: bool,
    pub is_unique: bool,
    pub is_never_null: bool,
    /// The partitioned table has an index that begins with it.
    pub is_indexed_in_partitions: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Trigger {
    pub name: String,
    pub function: String,
    pub on_insert: bool,
    pub on_update: bool,
    pub on_delete: bool,
    pub enabled: bool,
}

/// Missing future partitions told at most.
const MAX_FUTURE: u32 = 100;
/// Without the oid of its table `pg_get_expr` opens none: see [`add_sizes`].
const BOUNDS: &str =
    r"regexp_match(pg_get_expr(c.relpartbound, 0), '^FOR VALUES FROM \(''([^'']*)''\) TO \(''([^'']*)''\)$')";

/// Asks for everything; what depends on a table that is not there stays empty.
pub(super) async fn inspect(
    asker: &Asker,
    pair: &PairConfig,
    stage: Stage,
    n_future: u32,
) -> anyhow::Result<Catalog> {
    let pair = &named_at(stage, pair);
    let mut catalog = Catalog::default();
    tables(asker, pair, &mut catalog).await.context("cannot read the tables")?;
    let (Some(legacy), Some(partitioned)) = (&catalog.legacy, &catalog.partitioned) else {
        return Ok(catalog);
    };
    let (legacy, partitioned) = (legacy.oid, partitioned.oid);
    catalog.columns = columns(asker, legacy, partitioned).await.context("cannot read the columns")?;
    catalog.key = key(asker, legacy, partitioned, &pair.key).await.context("cannot read the indexes")?;
    let (source, target) =
        if stage.is_swapped() { (partitioned, &pair.legacy) } else { (legacy, &pair.partitioned) };
    catalog.triggers = triggers(asker, source, target).await.context("cannot read the triggers")?;
    catalog.dependents = dependents(asker, legacy).await.context("cannot read the dependents")?;
    let by_time = catalog.is_partitioned_by(&pair.time_column);
    catalog.partitions =
        partitions(asker, partitioned, by_time).await.context("cannot read the partitions")?;
    catalog.gaps = gaps(&catalog.partitions);
    if by_time {
        catalog.missing_future =
            future(asker, partitioned, n_future).await.context("cannot read the bounds")?;
    }
    add_sizes(asker, &mut catalog).await.context("cannot read the sizes")?;
    add_statistics(asker, &mut catalog).await;
    Ok(catalog)
}

impl Catalog {
    /// Tells whether rows can be compared at all.
    pub(super) fn is_comparable(&self) -> bool {
        let columns_fit =
            !self.columns.is_empty() && self.columns.iter().all(|column| column.problem.is_none());
        columns_fit && self.key.is_some_and(|key| key.is_integer && key.is_unique && key.is_never_null)
    }

    /// Tells whether the partitioned table is one, by ranges of `column`.
    pub(super) fn is_partitioned_by(&self, column: &str) -> bool {
        let named = self.partition_key.strip_prefix("RANGE (").and_then(|rest| rest.strip_suffix(')'));
        named.is_some_and(|named| named.trim_matches('"') == column)
    }
}

async fn tables(asker: &Asker, pair: &PairConfig, catalog: &mut Catalog) -> anyhow::Result<()> {
    let sql = format!(
        "SELECT t.legacy, c.oid::int8, c.relname::text, c.relkind = 'p', c.reltuples::int8, \
           COALESCE(pg_get_partkeydef(c.oid), '') \
         FROM (VALUES (true, to_regclass('{}')), (false, to_regclass('{}'))) AS t(legacy, oid) \
         JOIN pg_class AS c ON c.oid = t.oid",
        quote_table(&pair.legacy),
        quote_table(&pair.partitioned)
    );
    for row in asker.ask(&sql).await?.rows {
        let mut row = Fields::of(row);
        let legacy = row.flag()?;
        let table = Table {
            oid: row.int()?,
            name: row.text()?,
            is_partitioned: row.flag()?,
            bytes: 0,
            rows: u64::try_from(row.int()?).ok(),
            dead_rows: None,
            written: None,
            bounds: None,
            is_default: false,
        };
        if legacy {
            catalog.legacy = Some(table);
        } else {
            catalog.partitioned = Some(table);
            catalog.partition_key = row.text()?;
        }
    }
    Ok(())
}

async fn columns(asker: &Asker, legacy: i64, partitioned: i64) -> anyhow::Result<Vec<Column>> {
    let side = |oid| {
        format!(
            "SELECT attname, attnum, atttypid, attnotnull, format_type(atttypid, atttypmod) AS ty FROM pg_attribute \
             WHERE attrelid = {oid} AND attnum > 0 AND NOT attisdropped"
        )
    };
    let sql = format!(
        "SELECT attname::text, l.ty, p.ty, l.attnotnull IS NOT DISTINCT FROM p.attnotnull, \
           EXISTS (SELECT FROM pg_opclass AS o JOIN pg_am AS a ON a.oid = o.opcmethod \
             WHERE a.amname = 'hash' AND o.opcdefault AND o.opcintype = l.atttypid) \
         FROM ({}) AS l FULL JOIN ({}) AS p USING (attname) ORDER BY l.attnum NULLS LAST, p.attnum",
        side(legacy),
        side(partitioned)
    );
    let column = |row| {
        let mut row = Fields::of(row);
        let name = row.text()?;
        let problem = match (row.maybe_text()?, row.maybe_text()?, row.flag()?) {
            (Some(_), None, _) => Some(format!("{name} is not in the partitioned table")),
            (None, _, _) => Some(format!("{name} is not in the legacy table")),
            (Some(legacy), Some(partitioned), _) if legacy != partitioned => {
                Some(format!("{name} is {legacy} here and {partitioned} there"))
            }
            (_, _, false) => Some(format!("{name} may be null in one of them only")),
            _ => None,
        };
        Ok(Column { name, problem, hashable: row.flag()? })
    };
    asker.ask(&sql).await?.rows.into_iter().map(column).collect()
}

async fn key(asker: &Asker, legacy: i64, partitioned: i64, key: &str) -> anyhow::Result<Option<Key>> {
    let sql = format!(
        "SELECT a.atttypid IN (20, 21, 23), a.attnotnull, \
           EXISTS (SELECT FROM pg_index WHERE indrelid = {legacy} AND indisunique AND indisvalid \
             AND indpred IS NULL AND indnkeyatts = 1 AND indkey[0] = a.attnum), \
           EXISTS (SELECT FROM pg_index AS i JOIN pg_attribute AS b ON b.attrelid = i.indrelid AND b.attnum = i.indkey[0] \
             WHERE i.indrelid = {partitioned} AND i.indisvalid AND b.attname = '{key}') \
         FROM pg_attribute AS a WHERE a.attrelid = {legacy} AND a.attname = '{key}' AND NOT a.attisdropped"
    );
    let key = |row| {
        let mut row = Fields::of(row);
        anyhow::Ok(Key {
            is_integer: row.flag()?,
            is_never_null: row.flag()?,
            is_unique: row.flag()?,
            is_indexed_in_partitions: row.flag()?,
        })
    };
    asker.ask(&sql).await?.rows.into_iter().next().map(key).transpose()
}

/// Row triggers of the table that is written whose function names the other one; bits of `tgtype` as in `pg_trigger.h`.
async fn triggers(asker: &Asker, source: i64, target: &str) -> anyhow::Result<Vec<Trigger>> {
    let name = bare(target);
    let sql = format!(
        "SELECT t.tgname::text, f.proname::text, t.tgtype::int4 & 4 > 0, t.tgtype::int4 & 16 > 0, \
           t.tgtype::int4 & 8 > 0, t.tgenabled IN ('O', 'A') \
         FROM pg_trigger AS t JOIN pg_proc AS f ON f.oid = t.tgfoid \
         WHERE t.tgrelid = {source} AND NOT t.tgisinternal AND t.tgtype::int4 & 1 > 0 \
           AND f.prosrc ~ '\\m{name}\\M' ORDER BY 1"
    );
    let trigger = |row| {
        let mut row = Fields::of(row);
        Ok(Trigger {
            name: row.text()?,
            function: row.text()?,
            on_insert: row.flag()?,
            on_update: row.flag()?,
            on_delete: row.flag()?,
            enabled: row.flag()?,
        })
    };
    asker.ask(&sql).await?.rows.into_iter().map(trigger).collect()
}

async fn dependents(asker: &Asker, legacy: i64) -> anyhow::Result<Vec<String>> {
    let sql = format!(
        "SELECT 'foreign key ' || conname || ' of ' || conrelid::regclass::text FROM pg_constraint \
           WHERE confrelid = {legacy} AND contype = 'f' \
         UNION \
         SELECT 'materialized view ' || c.oid::regclass::text FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid \
           JOIN pg_class AS c ON c.oid = r.ev_class AND c.relkind = 'm' \
           WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass \
             AND d.refobjid = {legacy} AND r.ev_class <> {legacy} \
         ORDER BY 1"
    );
    asker.ask(&sql).await?.rows.into_iter().map(|row| Fields::of(row).text()).collect()
}

async fn partitions(asker: &Asker, parent: i64, by_time: bool) -> anyhow::Result<Vec<Table>> {
    let bound = |n: u8| {
        if by_time {
            format!(
                "CASE WHEN isfinite((m)[{n}]::timestamptz) THEN EXTRACT(EPOCH FROM (m)[{n}]::timestamptz)::int8 END"
            )
        } else {
            "NULL::int8".to_owned()
        }
    };
    let sql = format!(
        "SELECT oid::int8, relname::text, relkind = 'p', reltuples::int8, is_default, {} AS from_s, {} AS to_s \
         FROM (SELECT c.*, {BOUNDS} AS m, pg_get_expr(c.relpartbound, 0) = 'DEFAULT' AS is_default \
           FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = {parent}) AS p \
         ORDER BY is_default, from_s NULLS FIRST, relname",
        bound(1),
        bound(2)
    );
    let table = |row| {
        let mut row = Fields::of(row);
        Ok(Table {
            oid: row.int()?,
            name: row.text()?,
            is_partitioned: row.flag()?,
            bytes: 0,
            rows: u64::try_from(row.int()?).ok(),
            dead_rows: None,
            written: None,
            is_default: row.flag()?,
            bounds: row.maybe_int()?.zip(row.maybe_int()?).map(|(from_s, to_s)| Range { from_s, to_s }),
        })
    };
    asker.ask(&sql).await?.rows.into_iter().map(table).collect()
}

/// Steps on from the last partition by its own length, so that months stay months.
async fn future(asker: &Asker, parent: i64, n_future: u32) -> anyhow::Result<Vec<Range>> {
    let sql = format!(
        "WITH bounds AS (SELECT {BOUNDS} AS m, pg_get_expr(c.relpartbound, 0) AS text \
             FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = {parent}), \
           last AS (SELECT (m)[2]::timestamptz AS t, age((m)[2]::timestamptz, (m)[1]::timestamptz) AS step \
             FROM bounds WHERE m IS NOT NULL ORDER BY 1 DESC LIMIT 1) \
         SELECT EXTRACT(EPOCH FROM g)::int8, EXTRACT(EPOCH FROM g + step)::int8 \
         FROM last, generate_series(t, now() + step * {n_future}, step) AS g \
         WHERE NOT EXISTS (SELECT FROM bounds WHERE text LIKE '%TO (MAXVALUE)') ORDER BY 1 LIMIT {MAX_FUTURE}"
    );
    let range = |row| {
        let mut row = Fields::of(row);
        Ok(Range { from_s: row.int()?, to_s: row.int()? })
    };
    asker.ask(&sql).await?.rows.into_iter().map(range).collect()
}

/// Asks for sizes in a statement that reads no catalog.
///
/// A size opens its table, and on a replica waits while the replay of a swap, or of any DDL, holds it locked. A statement
/// that waits so in the middle of a scan holds its place on a page of the catalog; replay that must clean this very page
/// waits for the statement, and both for ever: from version 15 on PostgreSQL often notices only after
/// `max_standby_streaming_delay`.
async fn add_sizes(asker: &Asker, catalog: &mut Catalog) -> anyhow::Result<()> {
    let tables = catalog.partitions.iter().chain(&catalog.legacy).chain(&catalog.partitioned);
    let oids: Vec<_> = tables.map(|table| table.oid.to_string()).collect();
    let sql = format!(
        "SELECT oid, COALESCE(pg_total_relation_size(oid::oid), 0) FROM unnest('{{{}}}'::int8[]) AS t(oid)",
        oids.join(",")
    );
    for row in asker.ask(&sql).await?.rows {
        let mut row = Fields::of(row);
        let (oid, bytes) = (row.int()?, row.count()?);
        let tables = catalog.partitions.iter_mut().chain(&mut catalog.legacy).chain(&mut catalog.partitioned);
        tables.filter(|table| table.oid == oid).for_each(|table| table.bytes = bytes);
    }
    Ok(())
}

/// Adds what only the primary counts; without one it stays unknown.
async fn add_statistics(asker: &Asker, catalog: &mut Catalog) {
    let tables = || catalog.partitions.iter().chain(&catalog.legacy);
    let oids: Vec<_> = tables().map(|table| table.oid.to_string()).collect();
    let sql = format!(
        "SELECT relid::int8, n_dead_tup, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_all_tables WHERE relid IN ({})",
        oids.join(", ")
    );
    let Ok(told) = asker.ask_of(Prefer::Primary, &sql).await else { return };
    for row in told.rows {
        let mut row = Fields::of(row);
        let (Ok(oid), Ok(n_dead)) = (row.int(), row.count()) else { continue };
        let (Ok(inserted), Ok(updated), Ok(deleted)) = (row.count(), row.count(), row.count()) else {
            continue;
        };
        let mut tables = catalog.partitions.iter_mut().chain(&mut catalog.legacy);
        if let Some(table) = tables.find(|table| table.oid == oid) {
            table.dead_rows = Some(n_dead);
            table.written = Some(Counts { inserted, updated, deleted });
        }
    }
}

/// Returns the times between two partitions that none covers.
fn gaps(partitions: &[Table]) -> Vec<Range> {
    let mut bounds: Vec<_> = partitions.iter().filter_map(|table| table.bounds).collect();
    bounds.sort_unstable_by_key(|range| range.from_s);
    let between = bounds.windows(2).map(|pair| Range { from_s: pair[0].to_s, to_s: pair[1].from_s });
    between.filter(|range| range.from_s < range.to_s).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::switchover) fn table(name: &str, bounds: Option<(i64, i64)>) -> Table {
        Table {
            oid: 1,
            name: name.to_owned(),
            is_partitioned: false,
            bytes: 8_192,
            rows: Some(1),
            dead_rows: None,
            written: None,
            bounds: bounds.map(|(from_s, to_s)| Range { from_s, to_s }),
            is_default: bounds.is_none(),
        }
    }

    #[test]
    fn times_that_no_partition_covers_are_gaps() {
        let tables = |bounds: &[(i64, i64)]| bounds.iter().map(|b| table("p", Some(*b))).collect::<Vec<_>>();
        assert_eq!(gaps(&tables(&[(0, 10), (10, 20)])), []);
        assert_eq!(
            gaps(&tables(&[(15, 20), (0, 10), (30, 40)])),
            [Range { from_s: 10, to_s: 15 }, Range { from_s: 20, to_s: 30 }]
        );
        assert_eq!(gaps(&[table("d", None)]), []);
    }

    #[test]
    fn the_partition_key_must_be_the_time_column() {
        let by = |key: &str| Catalog { partition_key: key.to_owned(), ..Catalog::default() };
        assert!(by("RANGE (at)").is_partitioned_by("at") && by("RANGE (\"At\")").is_partitioned_by("At"));
        assert!(!by("RANGE (at, id)").is_partitioned_by("at") && !by("LIST (at)").is_partitioned_by("at"));
    }
}
