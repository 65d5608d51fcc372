use std::sync::Arc;

use mainstay_proto::replica::v1::{
    CheckState, DualWriteTrigger, PairTables, Parity, ParityVerdict, PartitionMetricsRequest,
    PartitionMetricsResponse, PartitionPair, PartitionTableStatsRequest, PartitionTableStatsResponse,
    ReadinessCheck, RowDifference, TableStats, TableWrites, TimeRange,
    partition_service_server::PartitionService,
};
use mainstay_rpc::{Reply, Request, Response, Status};

use super::{named::unknown, tell};
use crate::switchover::{Catalog, Check, Pair, Range, Standing, State, Table, Verdict, View, Writes};

/// Tells what the background checks of the configured pairs have found.
pub(crate) struct PartitionDoor {
    pairs: Vec<Arc<Pair>>,
}

impl PartitionDoor {
    pub(crate) fn new(pairs: Vec<Arc<Pair>>) -> Self {
        Self { pairs }
    }

    fn wanted(&self, name: &str) -> Result<Vec<&Pair>, Status> {
        let wanted: Vec<_> = self
            .pairs
            .iter()
            .filter(|pair| name.is_empty() || pair.name == name)
            .map(|pair| &**pair)
            .collect();
        if wanted.is_empty() && !name.is_empty() {
            return Err(tell(unknown()));
        }
        Ok(wanted)
    }
}

#[tonic::async_trait]
impl PartitionService for PartitionDoor {
    async fn partition_metrics(
        &self,
        request: Request<PartitionMetricsRequest>,
    ) -> Reply<PartitionMetricsResponse> {
        let wanted = self.wanted(&request.get_ref().pair)?;
        let pairs: Vec<_> = wanted.into_iter().map(|pair| metrics(pair, pair.view())).collect();
        let ready = !pairs.is_empty() && pairs.iter().all(|pair| pair.ready);
        Ok(Response::new(PartitionMetricsResponse { pairs, ready }))
    }

    async fn partition_table_stats(
        &self,
        request: Request<PartitionTableStatsRequest>,
    ) -> Reply<PartitionTableStatsResponse> {
        let wanted = self.wanted(&request.get_ref().pair)?;
        let pairs = wanted.into_iter().map(|pair| tables(pair, pair.view())).collect();
        Ok(Response::new(PartitionTableStatsResponse { pairs }))
    }
}

fn metrics(pair: &Pair, view: View) -> PartitionPair {
    let config = &pair.config;
    let (legacy_rows, partitioned_rows, counts_exact) = view.rows();
    let parity = parity(view.standing, view.node);
    let [legacy_writes, partitioned_writes] =
        view.writes.map_or([None; 2], |both| both.map(|side| Some(writes(side))));
    let (catalog, inspected_at) = view.catalog.unzip();
    let catalog = catalog.unwrap_or_default();
    PartitionPair {
        name: pair.name.clone(),
        legacy: config.legacy.clone(),
        partitioned: config.partitioned.clone(),
        key: config.key.clone(),
        time_column: config.time_column.clone(),
        legacy_rows,
        partitioned_rows,
        delta: legacy_rows.cast_signed() - partitioned_rows.cast_signed(),
        counts_exact,
        parity: Some(parity),
        partitions: u32::try_from(catalog.partitions.len()).unwrap_or(u32::MAX),
        gaps: ranges(&catalog.gaps),
        missing_future: ranges(&catalog.missing_future),
        triggers: triggers(&catalog),
        ready: view.checks.iter().all(|check| check.state == State::Pass),
        checks: view.checks.into_iter().map(check).collect(),
        inspected_at: inspected_at.map(Into::into),
        failure: view.failure.unwrap_or_default(),
        legacy_writes,
        partitioned_writes,
    }
}

fn writes(writes: Writes) -> TableWrites {
    let Writes { counts, per_second } = writes;
    TableWrites { inserted: counts.inserted, updated: counts.updated, deleted: counts.deleted, per_second }
}

fn parity(standing: Standing, node: String) -> Parity {
    let verdict = match standing.verdict {
        Verdict::Unknown => ParityVerdict::ParityUnknown,
        Verdict::Equal => ParityVerdict::ParityEqual,
        Verdict::Different => ParityVerdict::ParityDifferent,
    };
    let difference = |found: crate::switchover::Difference| RowDifference {
        key: found.key,
        kind: found.kind.as_str().to_owned(),
    };
    Parity {
        verdict: verdict.into(),
        buckets: standing.n_buckets,
        buckets_verified: standing.n_verified,
        buckets_mismatched: standing.n_mismatched,
        oldest_age: standing.oldest_age.and_then(|age| age.try_into().ok()),
        rows_compared: standing.rows_compared,
        rows_per_second: standing.rows_per_second,
        differences: standing.differences.into_iter().map(difference).collect(),
        node,
    }
}

fn triggers(catalog: &Catalog) -> Vec<DualWriteTrigger> {
    let wire = |trigger: &crate::switchover::Trigger| DualWriteTrigger {
        name: trigger.name.clone(),
        function: trigger.function.clone(),
        on_insert: trigger.on_insert,
        on_update: trigger.on_update,
        on_delete: trigger.on_delete,
        enabled: trigger.enabled,
    };
    catalog.triggers.iter().map(wire).collect()
}

fn check(check: Check) -> ReadinessCheck {
    let state = match check.state {
        State::Pass => CheckState::CheckPass,
        State::Fail => CheckState::CheckFail,
        State::Unknown => CheckState::CheckUnknown,
    };
    ReadinessCheck { name: check.name.to_owned(), state: state.into(), reason: check.reason }
}

fn tables(pair: &Pair, view: View) -> PairTables {
    let (catalog, inspected_at) = view.catalog.unzip();
    let catalog = catalog.unwrap_or_default();
    PairTables {
        name: pair.name.clone(),
        legacy: catalog.legacy.as_ref().map(table),
        partitions: catalog.partitions.iter().map(table).collect(),
        missing_future: ranges(&catalog.missing_future),
        inspected_at: inspected_at.map(Into::into),
    }
}

fn table(table: &Table) -> TableStats {
    TableStats {
        name: table.name.clone(),
        bytes: table.bytes,
        rows: table.rows,
        dead_rows: table.dead_rows,
        from: table.bounds.map(|bounds| timestamp(bounds.from_s)),
        to: table.bounds.map(|bounds| timestamp(bounds.to_s)),
        is_default: table.is_default,
    }
}

fn ranges(ranges: &[Range]) -> Vec<TimeRange> {
    let wire =
        |range: &Range| TimeRange { from: Some(timestamp(range.from_s)), to: Some(timestamp(range.to_s)) };
    ranges.iter().map(wire).collect()
}

fn timestamp(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos: 0 }
}
