use std::{collections::BTreeMap, time::Duration};

use bytesize::ByteSize;
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

/// Bounds what the steps of a switchover may take.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StepsConfig {
    /// For each lock of a table, while others wait behind it; 1 ms to 10 s.
    #[serde(with = "humantime_serde")]
    pub lock_within: Duration,
    /// Tries of a step whose locks others hold; 1 to 1,000.
    pub lock_attempts: u32,
    /// For each statement of a step; 100 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub statement_within: Duration,
    /// Rows copied in one transaction, at most; 10 to 100,000.
    pub batch_rows: u64,
    /// How long such a transaction should take: batches shrink and grow to it; 1 ms to 10 s.
    #[serde(with = "humantime_serde")]
    pub batch_within: Duration,
    /// Share of the time in which rows are copied or verified; 0.01 to 1.
    pub duty_cycle: f64,
    /// Key ranges verified at once; 1 to 16.
    pub workers: u32,
    /// Copying and verifying wait while a replica is staler than this; 100 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub max_lag: Duration,
    /// The same for what it has not replayed.
    pub max_lag_bytes: ByteSize,
}

/// Says what the partitioned table must prove before it gets a larger share of the reads, and when it loses it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdvanceConfig {
    /// Reads of a table at one share that count as evidence, of the last minute or, where there are fewer, the last ones; 1 to 1,000.
    pub min_reads: u32,
    /// How long each share is held; at most 7 days.
    #[serde(with = "humantime_serde")]
    pub hold: Duration,
    /// Share of failed reads that it may have more than the legacy table; 0 to 1.
    pub max_error_ratio: f64,
    /// How many times as long its reads may take, at the 95th percentile; 1 to 100.
    pub max_latency_ratio: f64,
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

pub(super) fn check_steps(steps: &StepsConfig, advance: &AdvanceConfig, problems: &mut Problems) {
    let (ms, hour) = (Duration::from_millis(1), Duration::from_hours(1));
    problems.duration("steps.lock_within", steps.lock_within, ms..=ms * 10_000);
    problems.range("steps.lock_attempts", steps.lock_attempts, 1..=1_000);
    problems.duration("steps.statement_within", steps.statement_within, ms * 100..=hour);
    problems.range("steps.batch_rows", steps.batch_rows, 10..=100_000);
    problems.duration("steps.batch_within", steps.batch_within, ms..=ms * 10_000);
    problems.range("steps.duty_cycle", steps.duty_cycle, 0.01..=1.0);
    problems.range("steps.workers", steps.workers, 1..=16);
    problems.duration("steps.max_lag", steps.max_lag, ms * 100..=hour);
    problems.range("advance.min_reads", advance.min_reads, 1..=1_000);
    problems.duration("advance.hold", advance.hold, Duration::ZERO..=hour * 24 * 7);
    problems.range("advance.max_error_ratio", advance.max_error_ratio, 0.0..=1.0);
    problems.range("advance.max_latency_ratio", advance.max_latency_ratio, 1.0..=100.0);
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
            check_every: Duration::from_secs(1),
            duty_cycle: 0.1,
            bucket_rows: 10_000,
            statement_within: Duration::from_secs(10),
            max_age: Duration::from_mins(10),
            future_partitions: 2,
        }
    }
}

impl Default for StepsConfig {
    fn default() -> Self {
        Self {
            lock_within: Duration::from_millis(250),
            lock_attempts: 10,
            statement_within: Duration::from_secs(10),
            batch_rows: 2_000,
            batch_within: Duration::from_millis(100),
            duty_cycle: 0.5,
            workers: 2,
            max_lag: Duration::from_secs(5),
            max_lag_bytes: ByteSize::mib(64),
        }
    }
}

impl Default for AdvanceConfig {
    fn default() -> Self {
        Self { min_reads: 100, hold: Duration::from_secs(30), max_error_ratio: 0.01, max_latency_ratio: 2.0 }
    }
}
