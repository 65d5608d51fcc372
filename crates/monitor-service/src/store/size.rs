//! How large the store is, and what goes first when it is too large.

use std::ops::ControlFlow;

use rusqlite::Connection;

use super::StoreError;
use super::tiers::{self, Tables, Tier};

/// Says how large a store is, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// Of what is in it.
    pub(super) used: u64,
    /// Of the file, with what was freed and not given back.
    pub(super) whole: u64,
}

/// Points removed in one transaction at most: others wait for it. The rest goes with the next ones.
const CUT_MAX: usize = 200_000;
/// Pages given back to the file system at a time: 8 MiB.
const PAGES_MAX: i64 = 2_048;

/// Measures.
pub(super) fn measure(connection: &Connection) -> Result<Size, StoreError> {
    let pragma = |name: &str| {
        let figure: Result<i64, _> = connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0));
        figure.map(i64::unsigned_abs).map_err(StoreError::Sqlite)
    };
    let (page, n_pages, n_free) = (pragma("page_size")?, pragma("page_count")?, pragma("freelist_count")?);
    Ok(Size { used: n_pages.saturating_sub(n_free) * page, whole: n_pages * page })
}

/// Removes history while more than `max` bytes are used: the oldest points of the finest tier, then of the next. What is
/// not yet rolled up stays, and so does all that is no history. Returns how many points went.
pub(super) fn trim(tables: Tables<'_>, max: u64) -> Result<usize, StoreError> {
    let mut n_gone = 0;
    for tier in Tier::ALL {
        let cut = || -> Result<ControlFlow<(), usize>, StoreError> {
            if measure(tables.connection)?.used <= max {
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(tiers::remove_oldest(tables, tier)?))
        };
        loop {
            match cut()? {
                ControlFlow::Break(()) => return Ok(n_gone),
                ControlFlow::Continue(0) => break,
                ControlFlow::Continue(n) => n_gone += n,
            }
            if n_gone >= CUT_MAX {
                return Ok(n_gone);
            }
        }
    }
    Ok(n_gone)
}

/// Gives back what was freed, where the file was made so that it can be, while the whole of it is larger than `max`.
pub(super) fn give_back(connection: &Connection, max: u64) -> Result<(), StoreError> {
    let size = measure(connection)?;
    if size.whole <= max || size.whole == size.used {
        return Ok(());
    }
    connection.pragma(None, "incremental_vacuum", PAGES_MAX, |_| Ok(())).map_err(StoreError::Sqlite)
}
