use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::switchover::{Counts, Record, Stage, State, View};

/// Gauges by pair of tables, as of its last check; names of pairs come from the configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct PairMetrics {
    rows: Family<OfSide, Gauge>,
    delta: Family<OfPair, Gauge>,
    buckets: Family<OfPair, Gauge>,
    verified: Family<OfPair, Gauge>,
    mismatched: Family<OfPair, Gauge>,
    oldest_seconds: Family<OfPair, Gauge<f64, AtomicU64>>,
    compared: Family<OfPair, Counter>,
    partitions: Family<OfPair, Gauge>,
    gaps: Family<OfPair, Gauge>,
    missing_future: Family<OfPair, Gauge>,
    ready: Family<OfPair, Gauge>,
    changes: Family<OfPair, Counter>,
    read_percent: Family<OfPair, Gauge>,
    reads: Family<OfRead, Counter>,
    rows_copied: Family<OfPair, Gauge>,
    backfill_progress: Family<OfPair, Gauge<f64, AtomicU64>>,
    rows_written: Family<OfWrite, Counter>,
    triggers_enabled: Family<OfPair, Gauge>,
    held_up: Family<OfPair, Gauge>,
    step_backs: Family<OfPair, Counter>,
    stage: Family<OfPair, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfPair {
    pub pair: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSide {
    pair: String,
    table: Side,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRead {
    pair: String,
    table: Side,
    result: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWrite {
    pair: String,
    table: Side,
    op: Op,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Op {
    #[expect(non_camel_case_types, reason = "the name is the value of a label")]
    insert,
    #[expect(non_camel_case_types, reason = "the name is the value of a label")]
    update,
    #[expect(non_camel_case_types, reason = "the name is the value of a label")]
    delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Outcome {
    #[expect(non_camel_case_types, reason = "the name is the value of a label")]
    ok,
    #[expect(non_camel_case_types, reason = "the name is the value of a label")]
    error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Side {
    #[expect(non_camel_case_types, reason = "the name is the value of a label")]
    legacy,
    #[expect(non_camel_case_types, reason = "the name is the value of a label")]
    partitioned,
}

impl PairMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("switchover");
        registry.register("rows", "Rows of a table of a pair", self.rows.clone());
        registry.register(
            "delta",
            "Rows of the legacy table less those of the partitioned one",
            self.delta.clone(),
        );
        registry.register("buckets", "Key ranges", self.buckets.clone());
        registry.register("buckets_verified", "Key ranges verified at least once", self.verified.clone());
        registry.register("buckets_mismatched", "Key ranges whose rows differ", self.mismatched.clone());
        registry.register(
            "oldest_seconds",
            "Age of the oldest verification; absent while some range never was verified",
            self.oldest_seconds.clone(),
        );
        registry.register("rows_compared", "Rows compared, both tables counted", self.compared.clone());
        registry.register("partitions", "Partitions that are there", self.partitions.clone());
        registry.register("gaps", "Times between partitions that none covers", self.gaps.clone());
        registry.register("missing_future", "Partitions missing ahead of now", self.missing_future.clone());
        registry.register("ready", "1 when every readiness check passes", self.ready.clone());
        registry.register("changes", "Changed rows compared one by one", self.changes.clone());
        registry.register(
            "read_percent",
            "Share of the reads of the pair that go to the partitioned table",
            self.read_percent.clone(),
        );
        registry.register("reads", "Reads that named the pair, by table and result", self.reads.clone());
        registry.register("rows_copied", "Rows copied by the backfill", self.rows_copied.clone());
        registry.register(
            "backfill_progress",
            "Share of the keys that the backfill has come past, 0 to 1",
            self.backfill_progress.clone(),
        );
        registry.register(
            "rows_written",
            "Rows written to a table of a pair, as the primary counts them",
            self.rows_written.clone(),
        );
        registry.register(
            "triggers_enabled",
            "Enabled triggers that write to the other table",
            self.triggers_enabled.clone(),
        );
        registry.register("held_up", "1 while the background work stands still", self.held_up.clone());
        registry.register(
            "step_backs",
            "Times that this process has moved reads back by itself",
            self.step_backs.clone(),
        );
        registry.register("stage", "0 none, 1 dual write, 2 swapped, 3 finished", self.stage.clone());
    }

    /// Counts changed rows that were compared.
    pub(crate) fn changes(&self, label: &OfPair, n_rows: u64) {
        self.changes.get_or_create(label).inc_by(n_rows);
    }

    /// Counts one time that reads were moved back.
    pub(crate) fn stepped_back(&self, label: &OfPair) {
        self.step_backs.get_or_create(label).inc();
    }

    /// Tells whether the background work stands still.
    pub(crate) fn set_held_up(&self, label: &OfPair, held_up: bool) {
        self.held_up.get_or_create(label).set(held_up.into());
    }

    /// Counts one read of the pair.
    pub(crate) fn read(&self, label: &OfPair, side: crate::switchover::Side, ok: bool) {
        let table = match side {
            crate::switchover::Side::Legacy => Side::legacy,
            crate::switchover::Side::Partitioned => Side::partitioned,
        };
        let result = if ok { Outcome::ok } else { Outcome::error };
        self.reads.get_or_create(&OfRead { pair: label.pair.clone(), table, result }).inc();
    }

    /// Tells how far the switchover is.
    pub(crate) fn set_record(&self, label: &OfPair, record: &Record) {
        self.read_percent.get_or_create(label).set(record.read_percent.into());
        self.rows_copied.get_or_create(label).set(record.rows_copied.cast_signed());
        self.backfill_progress.get_or_create(label).set(record.backfill_progress());
        let stage = match record.stage {
            Stage::None => 0,
            Stage::DualWrite => 1,
            Stage::Swapped => 2,
            Stage::Finished => 3,
        };
        self.stage.get_or_create(label).set(stage);
    }

    /// Tells what is known about a pair.
    pub(crate) fn set(&self, label: &OfPair, view: &View) {
        let standing = &view.standing;
        let (legacy, partitioned, _) = view.rows();
        let (legacy, partitioned) = (legacy.cast_signed(), partitioned.cast_signed());
        let side = |table| OfSide { pair: label.pair.clone(), table };
        self.rows.get_or_create(&side(Side::legacy)).set(legacy);
        self.rows.get_or_create(&side(Side::partitioned)).set(partitioned);
        self.delta.get_or_create(label).set(legacy - partitioned);
        self.buckets.get_or_create(label).set(standing.n_buckets.into());
        self.verified.get_or_create(label).set(standing.n_verified.into());
        self.mismatched.get_or_create(label).set(standing.n_mismatched.into());
        match standing.oldest_age {
            Some(age) => {
                self.oldest_seconds.get_or_create(label).set(age.as_secs_f64());
            }
            None => {
                self.oldest_seconds.remove(label);
            }
        }
        let compared = self.compared.get_or_create(label);
        compared.inner().store(standing.rows_compared, Ordering::Relaxed);
        for (table, writes) in
            [Side::legacy, Side::partitioned].into_iter().zip(view.writes.into_iter().flatten())
        {
            let Counts { inserted, updated, deleted } = writes.counts;
            for (op, n_rows) in [(Op::insert, inserted), (Op::update, updated), (Op::delete, deleted)] {
                let written =
                    self.rows_written.get_or_create(&OfWrite { pair: label.pair.clone(), table, op });
                written.inner().store(n_rows, Ordering::Relaxed);
            }
        }
        if let Some((catalog, _)) = &view.catalog {
            let figure = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
            self.partitions.get_or_create(label).set(figure(catalog.partitions.len()));
            self.gaps.get_or_create(label).set(figure(catalog.gaps.len()));
            self.missing_future.get_or_create(label).set(figure(catalog.missing_future.len()));
            let enabled = catalog.triggers.iter().filter(|trigger| trigger.enabled).count();
            self.triggers_enabled.get_or_create(label).set(figure(enabled));
        }
        let ready = view.checks.iter().all(|check| check.state == State::Pass);
        self.ready.get_or_create(label).set(ready.into());
    }
}
