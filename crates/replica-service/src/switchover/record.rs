use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{ddl::SCHEMA, rows::literal, step_error::StepError, work::Work};
use crate::config::PairConfig;

/// How far a pair is, as its row in the primary's database says; every process of the service reads the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub stage: Stage,
    pub job: Option<Job>,
    pub read_percent: u32,
    pub backfilled: bool,
    /// Keys of the backfill: all above `from`, up to and with `end`; those up to `at` are done.
    pub backfill: Option<Span>,
    pub rows_copied: u64,
    /// Keys below are verified; `None` for none.
    pub verify_at: Option<i64>,
    /// Transactions below were seen when the verification began.
    pub verify_tx: Option<u64>,
    /// What a node must show to be asked by the verification.
    pub verify_token: String,
    pub rows_verified: u64,
    pub rows_repaired: u64,
    pub verified_at: Option<SystemTime>,
    /// As `verify_tx`, of the last verification that ended.
    pub verified_tx: Option<u64>,
    pub stepped_back: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub from: i64,
    pub at: i64,
    pub end: i64,
}

/// Which table is written, and whether the other one follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    #[default]
    None,
    DualWrite,
    Swapped,
    Finished,
}

/// What runs in the background, for as long as it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    Backfill,
    Verify,
}

/// One line of what was done.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub at: SystemTime,
    pub step: String,
    pub actor: String,
    pub outcome: String,
    pub detail: String,
}

/// What is written into the journal; who and how comes with it.
pub(super) struct Note<'a> {
    pub step: &'a str,
    pub actor: &'a str,
    pub outcome: &'a str,
    pub detail: &'a str,
}

const COLUMNS: &str = "stage, job, read_percent, backfilled, backfill_from, backfill_at, backfill_end, rows_copied, \
    verify_at, verify_tx, verify_token, rows_verified, rows_repaired, \
    (EXTRACT(EPOCH FROM verified_at) * 1000)::int8, verified_tx, stepped_back";
const DETAIL_BYTES: usize = 2_000;

impl Record {
    /// Reads the record; a pair that nobody has touched yet has the default one.
    pub(super) async fn read(work: &Work, pair: &str) -> Result<Self, StepError> {
        Ok(Self::find(work, pair, "").await?.unwrap_or_default())
    }

    /// Reads the record, and keeps everybody else from changing it until the transaction ends.
    pub(super) async fn lock(work: &Work, pair: &str) -> Result<Self, StepError> {
        let missing = || StepError::refused("no triggers are installed yet: install-triggers comes first");
        Self::find(work, pair, "FOR UPDATE").await?.ok_or_else(missing)
    }

    /// As [`lock`](Self::lock), and makes the record if there is none.
    pub(super) async fn make(work: &Work, pair: &str, config: &PairConfig) -> Result<Self, StepError> {
        let PairConfig { legacy, partitioned, .. } = config;
        let sql = format!(
            "INSERT INTO {SCHEMA}.pairs (name, legacy, partitioned) VALUES ({}, {}, {}) ON CONFLICT DO NOTHING",
            literal(pair),
            literal(legacy),
            literal(partitioned)
        );
        work.run("make the record of the pair", &sql).await?;
        let named = work
            .row(
                "read the record",
                &format!("SELECT legacy, partitioned FROM {SCHEMA}.pairs WHERE name = {}", literal(pair)),
            )
            .await?;
        let known = [Some(legacy.clone()), Some(partitioned.clone())];
        if named != known {
            let [was, twin] = [0, 1].map(|n| named.get(n).cloned().flatten().unwrap_or_default());
            return Err(StepError::refused(format!(
                "the pair {pair} is that of {was} and {twin} in the database"
            )));
        }
        Self::lock(work, pair).await
    }

    async fn find(work: &Work, pair: &str, lock: &str) -> Result<Option<Self>, StepError> {
        let there = format!("SELECT to_regclass('{SCHEMA}.pairs') IS NOT NULL");
        if work.row("look for the records", &there).await? != [Some("t".to_owned())] {
            return Ok(None);
        }
        let sql = format!("SELECT {COLUMNS} FROM {SCHEMA}.pairs WHERE name = {} {lock}", literal(pair));
        let rows = work.rows("read the record", &sql).await?;
        let read = |row: Vec<_>| Self::of(&row).ok_or(StepError::Unreadable { doing: "read the record" });
        rows.into_iter().next().map(read).transpose()
    }

    fn of(row: &[Option<String>]) -> Option<Self> {
        fn number<T: std::str::FromStr>(text: Option<&String>) -> Option<T> {
            text.and_then(|text| text.parse().ok())
        }
        let at = |n: usize| row.get(n).and_then(Option::as_ref);
        let span = (number(at(4)), number(at(5)), number(at(6)));
        Some(Self {
            stage: Stage::of(at(0)?)?,
            job: Job::of(at(1)?),
            read_percent: number(at(2))?,
            backfilled: at(3)? == "t",
            backfill: match span {
                (Some(from), Some(at), Some(end)) => Some(Span { from, at, end }),
                _ => None,
            },
            rows_copied: number(at(7))?,
            verify_at: number(at(8)),
            verify_tx: number(at(9)),
            verify_token: at(10)?.clone(),
            rows_verified: number(at(11))?,
            rows_repaired: number(at(12))?,
            verified_at: number(at(13)).map(|ms| UNIX_EPOCH + Duration::from_millis(ms)),
            verified_tx: number(at(14)),
            stepped_back: at(15)?.clone(),
        })
    }

    /// Of the keys of the backfill, 0 to 1.
    pub(crate) fn backfill_progress(&self) -> f64 {
        match self.backfill {
            _ if self.backfilled => 1.0,
            Some(Span { from, at, end }) if end > from => {
                (at.abs_diff(from)) as f64 / end.abs_diff(from) as f64
            }
            _ => 0.0,
        }
    }
}

/// Changes columns of the record.
pub(super) async fn update(work: &Work, pair: &str, set: &str) -> Result<(), StepError> {
    let sql = format!("UPDATE {SCHEMA}.pairs SET {set} WHERE name = {}", literal(pair));
    work.run("update the record", &sql).await
}

/// Writes one line into the journal.
pub(super) async fn note(work: &Work, pair: &str, note: &Note<'_>) -> Result<(), StepError> {
    let mut end = note.detail.len().min(DETAIL_BYTES);
    while !note.detail.is_char_boundary(end) {
        end -= 1;
    }
    let values = [pair, note.step, note.actor, note.outcome, &note.detail[..end]]
        .map(|text| literal(&text.replace('\0', "")));
    let sql = format!(
        "INSERT INTO {SCHEMA}.journal (pair, step, actor, outcome, detail) VALUES ({})",
        values.join(", ")
    );
    work.run("write the journal", &sql).await
}

/// Reads the newest lines.
pub(super) async fn journal(work: &Work, pair: &str, n_lines: u32) -> Result<Vec<Entry>, StepError> {
    let there = format!("SELECT to_regclass('{SCHEMA}.journal') IS NOT NULL");
    if work.row("look for the journal", &there).await? != [Some("t".to_owned())] {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT (EXTRACT(EPOCH FROM at) * 1000)::int8, step, actor, outcome, detail FROM {SCHEMA}.journal \
         WHERE pair = {} ORDER BY id DESC LIMIT {n_lines}",
        literal(pair)
    );
    let rows = work.rows("read the journal", &sql).await?;
    let entry = |row: Vec<Option<String>>| {
        let mut texts = row.into_iter().map(Option::unwrap_or_default);
        let mut text = || texts.next().unwrap_or_default();
        let ms = text().parse().unwrap_or(0);
        Entry {
            at: UNIX_EPOCH + Duration::from_millis(ms),
            step: text(),
            actor: text(),
            outcome: text(),
            detail: text(),
        }
    };
    Ok(rows.into_iter().map(entry).collect())
}

impl Stage {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::DualWrite => "dual_write",
            Self::Swapped => "swapped",
            Self::Finished => "finished",
        }
    }

    fn of(text: &str) -> Option<Self> {
        [Self::None, Self::DualWrite, Self::Swapped, Self::Finished]
            .into_iter()
            .find(|stage| stage.as_str() == text)
    }

    /// Tells whether the partitioned table has the name.
    pub(crate) const fn is_swapped(self) -> bool {
        matches!(self, Self::Swapped | Self::Finished)
    }

    /// Tells whether one table follows the other.
    pub(crate) const fn is_mirrored(self) -> bool {
        matches!(self, Self::DualWrite | Self::Swapped)
    }
}

impl Job {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Backfill => "backfill",
            Self::Verify => "verify",
        }
    }

    fn of(text: &str) -> Option<Self> {
        [Self::Backfill, Self::Verify].into_iter().find(|job| job.as_str() == text)
    }
}
