use std::fmt::Write as _;

use anyhow::Context as _;

use super::{
    ask::{Asker, Fields},
    ddl::SCHEMA,
    rows::literal,
};
use crate::{
    lsn::{Lsn, Position},
    route::Prefer,
    token::Token,
};

/// Keys of rows that were changed, as the triggers noted them.
#[derive(Debug)]
pub(super) struct Changes {
    /// Each once.
    pub keys: Vec<i64>,
    /// Transactions below were seen: the next look begins here.
    pub seen_tx: u64,
    /// A node that shows this shows all of the changes.
    pub token: Token,
    /// One transaction changed more than is followed row by row: the look does not come past it.
    pub is_stuck: bool,
}

/// Changes read at once.
const MAX_CHANGES: usize = 10_000;

/// Asks the primary for what was changed by transaction `from_tx` and later, or only for where it is now.
///
/// A transaction that was under way at the last look may have noted something since, so the look begins at the oldest of
/// those: what is returned twice is compared twice. The position is read by the statement after its snapshot was taken,
/// so the log up to it holds the commit of everything in the snapshot.
pub(super) async fn since(asker: &Asker, pair: &str, from_tx: Option<u64>) -> anyhow::Result<Changes> {
    let noted = match from_tx {
        Some(from_tx) => format!(
            "(SELECT key, tx::text AS tx FROM {SCHEMA}.changes AS n WHERE pair = {} AND n.tx >= '{from_tx}'::xid8 \
             ORDER BY n.tx LIMIT {MAX_CHANGES})",
            literal(pair)
        ),
        None => "(SELECT NULL::int8 AS key, NULL::text AS tx)".to_owned(),
    };
    let sql = format!(
        "SELECT pg_snapshot_xmin(pg_current_snapshot())::text, lsn::text, \
           ('x' || substr(pg_walfile_name(lsn), 1, 8))::bit(32)::int, c.key, c.tx \
         FROM (SELECT pg_current_wal_insert_lsn() AS lsn) AS position LEFT JOIN {noted} AS c ON true"
    );
    let rows = asker.ask_of(Prefer::Primary, &sql).await.context("cannot read the changes")?.rows;
    let n_rows = rows.len();
    let (mut keys, mut place, mut last_tx) = (Vec::with_capacity(n_rows), None, None);
    for row in rows {
        let mut row = Fields::of(row);
        let xmin: u64 = row.text()?.parse().context("no transaction number")?;
        let lsn: Lsn = row.text()?.parse().ok().context("no position in the log")?;
        let timeline = u32::try_from(row.int()?).context("no timeline")?;
        place = Some((xmin, Position { timeline, lsn }));
        keys.extend(row.maybe_int()?);
        let tx: Option<u64> = row.maybe_text()?.map(|tx| tx.parse()).transpose()?;
        last_tx = last_tx.max(tx);
    }
    let (xmin, position) = place.context("no answer")?;
    let token = asker.engine.token_of(position).context("the cluster is not known yet")?;
    keys.sort_unstable();
    keys.dedup();
    // More than fit: the last transaction may have noted more than was read.
    let cut_at = last_tx.filter(|_| n_rows >= MAX_CHANGES);
    let seen_tx = cut_at.map_or(xmin, |cut_at| cut_at.min(xmin));
    Ok(Changes { keys, seen_tx, token, is_stuck: cut_at.is_some() && Some(seen_tx) == from_tx })
}

/// Writes keys as an array of SQL.
pub(super) fn array(keys: &[i64]) -> String {
    let mut text = String::from("'{");
    for (n, key) in keys.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{key}");
    }
    text + "}'::int8[]"
}
