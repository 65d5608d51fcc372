//! What the paths of partitions answer.

use std::collections::BTreeMap;

use mainstay_proto::replica::v1 as wire;
use serde::Serialize;
use utoipa::ToSchema;

use crate::routes::words::{rfc3339, seconds};

/// Every pair of tables, and whether reads and writes could be switched over.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PartitionMetrics {
    tables: Vec<TablePair>,
    switchover_readiness: SwitchoverReadiness,
}

/// The pairs in a few figures.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PartitionFigures {
    /// True when there is at least one pair and every pair is ready.
    ready: bool,
    tables: Vec<PairFigures>,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PairFigures {
    name: String,
    legacy_rows: u64,
    partitioned_rows: u64,
    delta: i64,
    parity: &'static str,
    partitions: u32,
    missing_future: usize,
    ready: bool,
}

/// A legacy table and its partitioned twin.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TablePair {
    name: String,
    legacy: String,
    partitioned: String,
    key: String,
    time_column: String,
    legacy_rows: u64,
    partitioned_rows: u64,
    /// Rows of the legacy table less those of the partitioned one.
    delta: i64,
    /// False while the counts are estimates of the database.
    counts_exact: bool,
    parity: Option<Parity>,
    partitions: u32,
    gaps: Vec<TimeRange>,
    missing_future: Vec<TimeRange>,
    triggers: Vec<Trigger>,
    /// Null until the primary was asked twice, and while it does not answer.
    legacy_writes: Option<Writes>,
    partitioned_writes: Option<Writes>,
    ready: bool,
    inspected_at: Option<String>,
    /// Why the last check failed; null when it did not.
    failure: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Parity {
    /// `equal`, `different` or `unknown`.
    verdict: &'static str,
    buckets: u32,
    buckets_verified: u32,
    buckets_mismatched: u32,
    oldest_age_seconds: Option<f64>,
    rows_compared: u64,
    rows_per_second: f64,
    differences: Vec<Difference>,
    /// Who was asked last.
    node: String,
}

#[derive(Serialize, ToSchema)]
struct Difference {
    key: i64,
    /// `missing`, `extra` or `changed` in the partitioned table, `duplicated` in either.
    kind: String,
}

/// Rows written, as the primary counts them, those that were rolled back too; since the service watches the pair.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Writes {
    inserted: u64,
    updated: u64,
    deleted: u64,
    /// Of all three, over the last minute.
    per_second: f64,
}

#[derive(Serialize, ToSchema)]
struct TimeRange {
    from: Option<String>,
    to: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Trigger {
    name: String,
    function: String,
    on_insert: bool,
    on_update: bool,
    on_delete: bool,
    enabled: bool,
}

/// True when every check of every pair passes.
#[derive(Serialize, ToSchema)]
struct SwitchoverReadiness {
    ready: bool,
    /// By the name of the pair.
    tables: BTreeMap<String, PairReadiness>,
}

#[derive(Serialize, ToSchema)]
struct PairReadiness {
    ready: bool,
    checks: Vec<Check>,
}

#[derive(Serialize, ToSchema)]
struct Check {
    name: String,
    /// `pass`, `fail` or `unknown`.
    state: &'static str,
    reason: String,
}

/// Every table of every pair.
#[derive(Serialize, ToSchema)]
pub(crate) struct TableStats {
    tables: Vec<PairTables>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PairTables {
    name: String,
    legacy: Option<Table>,
    /// In the order of their bounds, the default partition last.
    partitions: Vec<Table>,
    missing_future: Vec<TimeRange>,
    inspected_at: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Table {
    name: String,
    /// Table, indexes and TOAST.
    bytes: u64,
    /// Estimate of the database; null before the first ANALYZE.
    rows: Option<u64>,
    dead_rows: Option<u64>,
    from: Option<String>,
    to: Option<String>,
    is_default: bool,
}

impl From<wire::PartitionMetricsResponse> for PartitionMetrics {
    fn from(answer: wire::PartitionMetricsResponse) -> Self {
        let readiness = |pair: &wire::PartitionPair| {
            let checks = pair.checks.iter().cloned().map(Check::from).collect();
            (pair.name.clone(), PairReadiness { ready: pair.ready, checks })
        };
        Self {
            switchover_readiness: SwitchoverReadiness {
                ready: answer.ready,
                tables: answer.pairs.iter().map(readiness).collect(),
            },
            tables: answer.pairs.into_iter().map(TablePair::from).collect(),
        }
    }
}

impl From<wire::PartitionMetricsResponse> for PartitionFigures {
    fn from(answer: wire::PartitionMetricsResponse) -> Self {
        let figures = |pair: wire::PartitionPair| PairFigures {
            parity: verdict(pair.parity.as_ref()),
            name: pair.name,
            legacy_rows: pair.legacy_rows,
            partitioned_rows: pair.partitioned_rows,
            delta: pair.delta,
            partitions: pair.partitions,
            missing_future: pair.missing_future.len(),
            ready: pair.ready,
        };
        Self { ready: answer.ready, tables: answer.pairs.into_iter().map(figures).collect() }
    }
}

impl From<wire::PartitionPair> for TablePair {
    fn from(pair: wire::PartitionPair) -> Self {
        Self {
            name: pair.name,
            legacy: pair.legacy,
            partitioned: pair.partitioned,
            key: pair.key,
            time_column: pair.time_column,
            legacy_rows: pair.legacy_rows,
            partitioned_rows: pair.partitioned_rows,
            delta: pair.delta,
            counts_exact: pair.counts_exact,
            parity: pair.parity.map(Parity::from),
            partitions: pair.partitions,
            gaps: ranges(pair.gaps),
            missing_future: ranges(pair.missing_future),
            triggers: pair.triggers.into_iter().map(Trigger::from).collect(),
            legacy_writes: pair.legacy_writes.map(Writes::from),
            partitioned_writes: pair.partitioned_writes.map(Writes::from),
            ready: pair.ready,
            inspected_at: rfc3339(pair.inspected_at),
            failure: Some(pair.failure).filter(|failure| !failure.is_empty()),
        }
    }
}

impl From<wire::Parity> for Parity {
    fn from(parity: wire::Parity) -> Self {
        Self {
            verdict: verdict(Some(&parity)),
            buckets: parity.buckets,
            buckets_verified: parity.buckets_verified,
            buckets_mismatched: parity.buckets_mismatched,
            oldest_age_seconds: seconds(parity.oldest_age),
            rows_compared: parity.rows_compared,
            rows_per_second: parity.rows_per_second,
            differences: parity
                .differences
                .into_iter()
                .map(|found| Difference { key: found.key, kind: found.kind })
                .collect(),
            node: parity.node,
        }
    }
}

impl From<wire::TableWrites> for Writes {
    fn from(writes: wire::TableWrites) -> Self {
        let wire::TableWrites { inserted, updated, deleted, per_second } = writes;
        Self { inserted, updated, deleted, per_second }
    }
}

impl From<wire::DualWriteTrigger> for Trigger {
    fn from(trigger: wire::DualWriteTrigger) -> Self {
        Self {
            name: trigger.name,
            function: trigger.function,
            on_insert: trigger.on_insert,
            on_update: trigger.on_update,
            on_delete: trigger.on_delete,
            enabled: trigger.enabled,
        }
    }
}

impl From<wire::ReadinessCheck> for Check {
    fn from(check: wire::ReadinessCheck) -> Self {
        let state = match check.state() {
            wire::CheckState::CheckPass => "pass",
            wire::CheckState::CheckFail => "fail",
            wire::CheckState::CheckUnknown | wire::CheckState::Unspecified => "unknown",
        };
        Self { state, name: check.name, reason: check.reason }
    }
}

impl From<wire::PartitionTableStatsResponse> for TableStats {
    fn from(answer: wire::PartitionTableStatsResponse) -> Self {
        let tables = |pair: wire::PairTables| PairTables {
            name: pair.name,
            legacy: pair.legacy.map(Table::from),
            partitions: pair.partitions.into_iter().map(Table::from).collect(),
            missing_future: ranges(pair.missing_future),
            inspected_at: rfc3339(pair.inspected_at),
        };
        Self { tables: answer.pairs.into_iter().map(tables).collect() }
    }
}

impl From<wire::TableStats> for Table {
    fn from(table: wire::TableStats) -> Self {
        Self {
            name: table.name,
            bytes: table.bytes,
            rows: table.rows,
            dead_rows: table.dead_rows,
            from: rfc3339(table.from),
            to: rfc3339(table.to),
            is_default: table.is_default,
        }
    }
}

fn verdict(parity: Option<&wire::Parity>) -> &'static str {
    match parity.map(wire::Parity::verdict) {
        Some(wire::ParityVerdict::ParityEqual) => "equal",
        Some(wire::ParityVerdict::ParityDifferent) => "different",
        Some(wire::ParityVerdict::ParityUnknown | wire::ParityVerdict::Unspecified) | None => "unknown",
    }
}

fn ranges(ranges: Vec<wire::TimeRange>) -> Vec<TimeRange> {
    let range = |range: wire::TimeRange| TimeRange { from: rfc3339(range.from), to: rfc3339(range.to) };
    ranges.into_iter().map(range).collect()
}
