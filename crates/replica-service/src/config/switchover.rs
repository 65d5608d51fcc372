use std::{collections::BTreeMap, time::Duration};

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// Names a legacy table and its partitioned twin.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairConfig {
    /// `table` or `schema.table`, as it is spelled in the database.
    pub legacy: String,
    pub partitioned: String,
    /// Unique integer column of the legacy table.
    pub key: String,
    /// The column that the twin is partitioned by.
    pub time_column: String,
}

/// Says how the rows of pairs are compared.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParityConfig {
    /// Between two rounds; 100 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub check_every: Duration,
    /// Share of that time for comparing rows; 0.001 to 1. One key range is verified in any case.
    pub duty_cycle: f64,
    /// Rows of one key range, which is one statement; 100 to 1,000,000.
    pub bucket_rows: u64,
    /// For one statement of a check; 100 ms to 10 min.
    #[serde(with = "humantime_serde")]
    pub statement_within: Duration,
    /// Older evidence does not count for readiness; 1 s to 30 days.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// Partitions that must be there ahead of the present one; at most 100.
    pub future_partitions: u32,
}

/// Each pair is a task, a component and a label.
const MAX_PAIRS: usize = 32;

pub(super) fn check(pairs: &BTreeMap<String, PairConfig>, parity: &ParityConfig, problems: &mut Problems) {
    let (ms, day) = (Duration::from_millis(1), Duration::from_hours(24));
    problems.ensure(pairs.len() <= MAX_PAIRS, "switchover", format!("must be at most {MAX_PAIRS} pairs"));
    for (name, pair) in pairs {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
        let named = (1..=32).contains(&name.len()) && name.chars().all(legal);
        problems.ensure(
            named,
            &format!("switchover.{name}"),
            "the name must be 1 to 32 of a-z, 0-9, _ and -",
        );
        for (field, text, parts) in [
            ("legacy", &pair.legacy, 2),
            ("partitioned", &pair.partitioned, 2),
            ("key", &pair.key, 1),
            ("time_column", &pair.time_column, 1),
        ] {
            let key = format!("switchover.{name}.{field}");
            problems.ensure(
                is_name(text, parts),
                &key,
                format!("must be a name of letters, digits, _ and $, is {text:?}"),
            );
        }
    }
    problems.duration("parity.check_every", parity.check_every, ms * 100..=day / 24);
    problems.range("parity.duty_cycle", parity.duty_cycle, 0.001..=1.0);
    problems.range("parity.bucket_rows", parity.bucket_rows, 100..=1_000_000);
    problems.duration("parity.statement_within", parity.statement_within, ms * 100..=ms * 600_000);
    problems.duration("parity.max_age", parity.max_age, ms * 1_000..=day * 30);
    problems.range("parity.future_partitions", parity.future_partitions, 0..=100);
}

/// Such names can stand in a statement.
fn is_name(text: &str, max_parts: usize) -> bool {
    let part = |part: &str| {
        let legal = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
        (1..=63).contains(&part.len()) && part.chars().all(legal)
    };
    text.split('.').count() <= max_parts && text.split('.').all(part)
}

impl Default for ParityConfig {
    fn default() -> Self {
        Self {
            check_every: Duration::from_secs(2),
            duty_cycle: 0.1,
            bucket_rows: 10_000,
            statement_within: Duration::from_secs(10),
            max_age: Duration::from_mins(10),
            future_partitions: 2,
        }
    }
}
