use anyhow::Context as _;

use super::{
    ask::{Asker, Fields},
    catalog::Catalog,
    changes::array,
    ledger::{Difference, DifferenceKind, KeyRange, Sums},
};
use crate::{config::PairConfig, token::Token};

/// The statements that compare rows of one pair.
///
/// Both tables are read in one statement and so in one snapshot: what two statements find differs under writes even
/// where the tables never do. Equal means what the database calls equal: a row's hash is that of its values, so 1.0 and
/// 1.00 do not differ; columns of types that have no hash are compared as text.
pub(super) struct RowSql {
    legacy: String,
    partitioned: String,
    key: String,
    hash: String,
}

/// Which rows are compared.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope<'a> {
    Range(KeyRange),
    Keys(&'a [i64]),
}

/// Named at most for one range.
pub(super) const MAX_NAMED: u32 = 20;

impl RowSql {
    /// Returns `None` when the tables cannot be compared; the catalog says why.
    pub(super) fn of(catalog: &Catalog, pair: &PairConfig) -> Option<Self> {
        if !catalog.is_comparable() {
            return None;
        }
        let column = |column: &super::catalog::Column| {
            let name = quote(&column.name);
            if column.hashable { name } else { format!("{name}::text") }
        };
        let columns: Vec<_> = catalog.columns.iter().map(column).collect();
        Some(Self {
            legacy: quote_table(&pair.legacy),
            partitioned: quote_table(&pair.partitioned),
            key: quote(&pair.key),
            hash: format!("pg_catalog.hash_record_extended(ROW({}), 0)", columns.join(", ")),
        })
    }

    /// Counts and sums up both tables in one range.
    pub(super) async fn sums(
        &self,
        asker: &Asker,
        range: KeyRange,
        after: Option<Token>,
    ) -> anyhow::Result<(Sums, String)> {
        let told = asker.ask_after(after, &self.sums_sql(range)).await.context("cannot compare rows")?;
        let mut row = Fields::of(told.rows.into_iter().next().context("no sums")?);
        let (legacy_rows, partitioned_rows) = (row.count()?, row.count()?);
        let checksums = (row.text()?, row.text()?);
        Ok((Sums { legacy_rows, partitioned_rows, checksums }, told.node))
    }

    fn sums_sql(&self, range: KeyRange) -> String {
        let Self { hash, .. } = self;
        let side = |table: &str, legacy: bool| {
            format!(
                "SELECT {legacy} AS l, {hash} AS h FROM {table} WHERE {}",
                self.within(Scope::Range(range))
            )
        };
        let sum = |of: &str| {
            format!(
                "concat(pg_catalog.bit_xor(h) FILTER (WHERE {of}), '/', pg_catalog.sum(h) FILTER (WHERE {of}))"
            )
        };
        format!(
            "SELECT count(*) FILTER (WHERE l), count(*) FILTER (WHERE NOT l), {}, {} FROM ({} UNION ALL {}) AS rows",
            sum("l"),
            sum("NOT l"),
            side(&self.legacy, true),
            side(&self.partitioned, false)
        )
    }

    /// Names the first rows that differ.
    pub(super) async fn differences(
        &self,
        asker: &Asker,
        scope: Scope<'_>,
        after: Option<Token>,
        most: u32,
    ) -> anyhow::Result<Vec<Difference>> {
        let sql = self.differences_sql(scope, most);
        let told = asker.ask_after(after, &sql).await.context("cannot name the rows that differ")?;
        told.rows.into_iter().map(difference).collect()
    }

    pub(super) fn differences_sql(&self, scope: Scope<'_>, most: u32) -> String {
        let Self { key, hash, .. } = self;
        let side = |table: &str| {
            format!(
                "SELECT {key} AS k, count(*) AS n, pg_catalog.sum({hash}) AS h FROM {table} WHERE {} GROUP BY {key}",
                self.within(scope)
            )
        };
        format!(
            "SELECT k::int8, l.n IS NULL, p.n IS NULL, COALESCE(l.n, 1) > 1 OR COALESCE(p.n, 1) > 1 \
             FROM ({}) AS l FULL JOIN ({}) AS p USING (k) \
             WHERE l.h IS DISTINCT FROM p.h OR l.n IS DISTINCT FROM p.n ORDER BY k LIMIT {most}",
            side(&self.legacy),
            side(&self.partitioned)
        )
    }

    /// Returns the key of the row that is `n_rows` above the beginning of a range.
    pub(super) async fn boundary(
        &self,
        asker: &Asker,
        range: KeyRange,
        n_rows: u64,
    ) -> anyhow::Result<Option<i64>> {
        let Self { key, legacy, .. } = self;
        let sql = format!(
            "SELECT {key}::int8 FROM {legacy} WHERE {} ORDER BY {key} OFFSET {n_rows} LIMIT 1",
            self.within(Scope::Range(range))
        );
        let told = asker.ask(&sql).await.context("cannot divide the keys")?;
        told.rows.into_iter().next().map(|row| Fields::of(row).int()).transpose()
    }

    fn within(&self, scope: Scope<'_>) -> String {
        let Self { key, .. } = self;
        let range = match scope {
            Scope::Range(range) => range,
            Scope::Keys(keys) => return format!("{key} = ANY ({})", array(keys)),
        };
        let from = (range.from > i64::MIN).then(|| format!("{key} >= {}", range.from));
        let below = range.below.map(|below| format!("{key} < {below}"));
        let bounds: Vec<_> = from.into_iter().chain(below).collect();
        if bounds.is_empty() { "true".to_owned() } else { bounds.join(" AND ") }
    }
}

fn difference(row: Vec<crate::sql::Value>) -> anyhow::Result<Difference> {
    let mut row = Fields::of(row);
    let key = row.int()?;
    let kind = match (row.flag()?, row.flag()?, row.flag()?) {
        (true, _, _) => DifferenceKind::Extra,
        (_, true, _) => DifferenceKind::Missing,
        (_, _, true) => DifferenceKind::Duplicated,
        _ => DifferenceKind::Changed,
    };
    Ok(Difference { key, kind })
}

/// Quotes a name that is part of a statement.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes `table` or `schema.table`.
pub(crate) fn quote_table(name: &str) -> String {
    name.split('.').map(quote).collect::<Vec<_>>().join(".")
}

/// Quotes a text that is part of a statement.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}
