//! Whether a legacy table and its partitioned twin hold the same rows, and what stands in the way of a switchover.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use mainstay_runtime::{Activate, Component, ComponentKind, Context};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    config::{AdvanceConfig, PairConfig, ParityConfig},
    engine::Engine,
    metrics::{OfPair, PairMetrics},
    route::Prefer,
    token::Token,
};

mod ask;
mod carry;
mod catalog;
mod changes;
mod ddl;
mod exposure;
mod ledger;
mod readiness;
mod record;
mod rows;
mod runner;
mod step_error;
mod steps;
mod tables;
mod work;
mod written;

pub(crate) use catalog::{Catalog, Range, Table, Trigger};
pub(crate) use exposure::{ReadStats, Side};
pub(crate) use ledger::{Difference, Standing, Verdict};
pub(crate) use readiness::{Check, State};
pub(crate) use record::{Entry, Job, Record, Stage};
pub(crate) use rows::quote_table;
pub(crate) use runner::Runner;
pub(crate) use steps::{Step, Steps, Told};
pub(crate) use written::{Counts, Writes};

use ask::Asker;
use exposure::Exposure;
use ledger::{KeyRange, Ledger};
use rows::{MAX_NAMED, RowSql, Scope};
use tables::named_at;
use written::Written;

/// Watches one pair in the background: each round looks at the catalog, then verifies ranges of rows until its time
/// is used up.
pub(crate) struct Watch {
    pair: Arc<Pair>,
    asker: Asker,
    every: Duration,
    duty_cycle: f64,
    /// Changes by transactions below were compared; `None` before the first look.
    seen_tx: Option<u64>,
}

/// One configured pair and what is known about it.
pub(crate) struct Pair {
    pub name: String,
    pub config: PairConfig,
    parity: ParityConfig,
    advance: AdvanceConfig,
    known: Mutex<Known>,
    /// As it was last read.
    record: Mutex<Record>,
    exposure: Mutex<Exposure>,
    held_up: Mutex<String>,
    /// Rows were found to differ since it was last asked.
    differed: AtomicBool,
    component: Component,
    metrics: PairMetrics,
    label: OfPair,
}

struct Known {
    catalog: Option<(Catalog, SystemTime, Instant)>,
    written: Written,
    ledger: Ledger,
    node: String,
    failure: Option<String>,
}

/// All that is known about a pair at one moment.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub catalog: Option<(Catalog, SystemTime)>,
    pub standing: Standing,
    /// To the legacy table and to the partitioned one, while they are known.
    pub writes: Option<[Writes; 2]>,
    pub checks: Vec<Check>,
    /// Who answered last.
    pub node: String,
    /// Why the last round failed.
    pub failure: Option<String>,
}

/// Changed rows compared in one statement.
const KEYS_AT_ONCE: usize = 2_000;

impl Pair {
    pub(crate) fn new(
        name: &str,
        config: &PairConfig,
        parity: &ParityConfig,
        advance: &AdvanceConfig,
        metrics: &PairMetrics,
        cx: &Context,
    ) -> Self {
        let known = Known {
            catalog: None,
            written: Written::default(),
            ledger: Ledger::new(parity.bucket_rows),
            node: String::new(),
            failure: None,
        };
        Self {
            name: name.to_owned(),
            config: config.clone(),
            parity: parity.clone(),
            advance: advance.clone(),
            known: Mutex::new(known),
            record: Mutex::default(),
            exposure: Mutex::default(),
            held_up: Mutex::default(),
            differed: AtomicBool::new(false),
            component: cx.component(format!("switchover.{name}"), ComponentKind::Internal, false),
            metrics: metrics.clone(),
            label: OfPair { pair: name.to_owned() },
        }
    }

    /// Returns how far the switchover was when it was last looked at.
    pub(crate) fn record(&self) -> Record {
        self.record.lock().clone()
    }

    fn stage(&self) -> Stage {
        self.record.lock().stage
    }

    /// Takes over what the database says about the switchover.
    fn learn(&self, record: &Record) {
        let mut known = self.record.lock();
        if known.read_percent == 0 && record.read_percent > 0 {
            // What differed before the first read went there speaks against nothing.
            self.take_differed();
        }
        known.clone_from(record);
        drop(known);
        self.exposure.lock().set(record.read_percent, Instant::now().into_std());
        self.metrics.set_record(&self.label, record);
    }

    /// Chooses the table for one read of the pair.
    pub(crate) fn choose(&self) -> (Side, &str) {
        if self.stage().is_swapped() {
            return (Side::Partitioned, &self.config.legacy);
        }
        match self.exposure.lock().choose(rand::random_range(0..100)) {
            Side::Legacy => (Side::Legacy, &self.config.legacy),
            Side::Partitioned => (Side::Partitioned, &self.config.partitioned),
        }
    }

    /// Notes how a read of the pair ended.
    pub(crate) fn note_read(&self, side: Side, took: Duration, ok: bool) {
        self.exposure.lock().record(side, took, ok, Instant::now().into_std());
        self.metrics.read(&self.label, side, ok);
    }

    /// Returns the reads of both tables within the last minute, or the last few.
    pub(crate) fn read_stats(&self) -> [ReadStats; 2] {
        self.exposure.lock().stats(&self.advance, Instant::now().into_std())
    }

    fn read_trouble(&self) -> Option<String> {
        self.exposure.lock().trouble(&self.advance, Instant::now().into_std())
    }

    /// Returns everything that speaks against a larger share of reads for the partitioned table.
    fn against_more_reads(&self, record: &Record, catalog: &Catalog) -> Vec<String> {
        let needed = ["tables", "columns", "keys", "triggers", "parity", "partitions"];
        let mut refused = self.standing_in_the_way(catalog, |check| needed.contains(&check));
        if record.verified_at.is_none() {
            refused.push("the tables are not known to be equal: verify comes first".to_owned());
        }
        let now = Instant::now().into_std();
        let mut exposure = self.exposure.lock();
        refused.extend(exposure.trouble(&self.advance, now));
        refused.extend(exposure.unproven(&self.advance, now));
        refused
    }

    /// Returns the checks that do not pass, for tables that are like `catalog` now.
    ///
    /// Ranges that are being verified anew, as those of new rows always are, stand in nobody's way: that the tables are
    /// equal is known from the record.
    fn standing_in_the_way(&self, catalog: &Catalog, counts: impl Fn(&str) -> bool) -> Vec<String> {
        let blocks = |check: &Check| match check.state {
            State::Pass => false,
            State::Fail => true,
            State::Unknown => !matches!(check.name, "parity" | "row_counts"),
        };
        let standing = self.known.lock().ledger.standing(Instant::now().into_std());
        let checks = self.checks(Some(catalog), &standing).into_iter();
        let checks = checks.filter(|check| counts(check.name) && blocks(check));
        checks.map(|check| format!("{}: {}", check.name, check.reason)).collect()
    }

    /// Tells whether rows were found to differ since this was last asked, even if they are equal again.
    fn take_differed(&self) -> bool {
        self.differed.swap(false, Ordering::Relaxed)
    }

    /// Why the background work stands still; empty when it does not.
    pub(crate) fn held_up(&self) -> String {
        self.held_up.lock().clone()
    }

    fn set_held_up(&self, why: String) {
        self.metrics.set_held_up(&self.label, !why.is_empty());
        *self.held_up.lock() = why;
    }

    /// Returns what is known now.
    pub(crate) fn view(&self) -> View {
        let now = Instant::now();
        let known = self.known.lock();
        let standing = known.ledger.standing(now.into_std());
        let catalog = known.catalog.as_ref();
        let fresh = catalog.filter(|(_, _, at)| now - *at <= self.parity.max_age);
        let fresh = fresh.map(|(catalog, ..)| catalog);
        View {
            checks: self.checks(fresh, &standing),
            standing,
            writes: known.written.writes(now.into_std(), self.parity.max_age),
            catalog: catalog.map(|(catalog, wall, _)| (catalog.clone(), *wall)),
            node: known.node.clone(),
            failure: known.failure.clone(),
        }
    }

    fn checks(&self, catalog: Option<&Catalog>, standing: &Standing) -> Vec<Check> {
        let named = named_at(self.stage(), &self.config);
        readiness::checks(catalog, standing, self.parity.max_age, &named)
    }

    fn publish(&self) {
        let view = self.view();
        if view.standing.verdict == Verdict::Different {
            self.differed.store(true, Ordering::Relaxed);
        }
        self.metrics.set(&self.label, &view);
        let ahead = view.catalog.as_ref().map_or(0, |(catalog, _)| catalog.missing_future.len());
        if self.stage() == Stage::Finished {
            self.component.healthy("switched over, the archived table is written no more");
        } else if let Some(failure) = view.failure {
            self.component.unhealthy(format!("cannot be checked: {failure}"));
        } else if view.standing.verdict == Verdict::Different {
            let n = view.standing.n_mismatched;
            self.component.degraded(format!("rows differ in {n} key ranges"));
        } else if let held_up = self.held_up()
            && !held_up.is_empty()
        {
            self.component.degraded(format!("the background work stands still: {held_up}"));
        } else if ahead > 0 {
            self.component.degraded(format!("{ahead} future partitions are missing"));
        } else if view.standing.verdict == Verdict::Unknown {
            let Standing { n_verified, n_buckets, .. } = view.standing;
            self.component.healthy(format!("{n_verified} of {n_buckets} key ranges verified, all equal"));
        } else {
            self.component.healthy("all rows equal");
        }
    }
}

impl Known {
    fn look(&mut self, catalog: Catalog, wall: SystemTime, now: Instant) {
        self.written.look(&catalog, now.into_std());
        self.catalog = Some((catalog, wall, now));
    }
}

impl View {
    /// Returns the rows of both tables, and whether they were counted: else they are what the database estimates.
    pub(crate) fn rows(&self) -> (u64, u64, bool) {
        let standing = &self.standing;
        if standing.n_verified == standing.n_buckets {
            return (standing.legacy_rows, standing.partitioned_rows, true);
        }
        let Some((catalog, _)) = &self.catalog else { return (0, 0, false) };
        let estimate = |table: &Table| table.rows.unwrap_or(0);
        let legacy = catalog.legacy.as_ref().map_or(0, estimate);
        (legacy, catalog.partitions.iter().map(estimate).sum(), false)
    }
}

impl Watch {
    pub(crate) fn new(pair: Arc<Pair>, engine: Arc<Engine>, parity: &ParityConfig) -> Self {
        let asker = Asker { engine, within: parity.statement_within, prefer: Prefer::Replica };
        Self { pair, asker, every: parity.check_every, duty_cycle: parity.duty_cycle, seen_tx: None }
    }

    async fn round(&mut self) -> anyhow::Result<()> {
        let pair = Arc::clone(&self.pair);
        let stage = pair.stage();
        if stage == Stage::Finished {
            return Ok(());
        }
        let catalog =
            catalog::inspect(&self.asker, &pair.config, stage, pair.parity.future_partitions).await?;
        let row_sql = RowSql::of(&catalog, &named_at(stage, &pair.config));
        let clock = self.asker.engine.cx.clock();
        pair.known.lock().look(catalog, clock.now(), Instant::now());
        // Tables that cannot be compared are told by the checks.
        let Some(row_sql) = row_sql else { return Ok(()) };
        pair.known.lock().ledger.begin_round(Instant::now().into_std());
        if stage.is_mirrored() {
            self.compare_changes(&row_sql).await?;
        }
        let out_of_time_at = Instant::now() + self.every.mul_f64(self.duty_cycle);
        // However slow the database is, each round comes past the newest range: else the others would wait for ever.
        let mut is_past_newest = false;
        loop {
            is_past_newest |= self.verify_next(&row_sql).await?.below.is_some();
            let done = pair.known.lock().ledger.is_round_done();
            let out_of_time = is_past_newest && Instant::now() >= out_of_time_at;
            if done || out_of_time || self.asker.engine.cx.stopping().is_cancelled() {
                break;
            }
        }
        pair.known.lock().ledger.end_round(Instant::now().into_std());
        Ok(())
    }

    /// Verifies the range whose turn it is, and returns it.
    async fn verify_next(&self, row_sql: &RowSql) -> anyhow::Result<KeyRange> {
        let (range, wants_split) = self.pair.known.lock().ledger.next();
        let range = match wants_split {
            Some(n_rows) => {
                let boundary = row_sql.boundary(&self.asker, range, n_rows).await?;
                self.pair.known.lock().ledger.split(range, boundary)
            }
            None => range,
        };
        self.verify(row_sql, range, None).await?;
        Ok(range)
    }

    /// Compares rows that were changed since the last look, whatever their ranges; one that differs has its range
    /// verified at once.
    async fn compare_changes(&mut self, row_sql: &RowSql) -> anyhow::Result<()> {
        let changes = changes::since(&self.asker, &self.pair.name, self.seen_tx).await?;
        if self.seen_tx.is_none() {
            // What was verified before may have been changed since without a look.
            self.pair.known.lock().ledger.forget();
        }
        for keys in changes.keys.chunks(KEYS_AT_ONCE) {
            let (asker, after) = (&self.asker, Some(changes.token));
            let differ = row_sql.differences(asker, Scope::Keys(keys), after, MAX_NAMED).await?;
            self.pair.known.lock().ledger.compared(2 * keys.len() as u64);
            for found in differ {
                let range = self.pair.known.lock().ledger.range_of(found.key);
                self.verify(row_sql, range, after).await?;
            }
        }
        self.pair.metrics.changes(&self.pair.label, changes.keys.len() as u64);
        if changes.is_stuck {
            // Too many to follow one by one: the look goes on behind them, with all ranges verified anew.
            self.seen_tx = None;
        } else {
            self.seen_tx = Some(changes.seen_tx);
        }
        Ok(())
    }

    async fn verify(&self, row_sql: &RowSql, range: KeyRange, after: Option<Token>) -> anyhow::Result<()> {
        let (sums, node) = row_sql.sums(&self.asker, range, after).await?;
        let differences = if sums.is_equal() {
            Vec::new()
        } else {
            row_sql.differences(&self.asker, Scope::Range(range), after, MAX_NAMED).await?
        };
        let mut known = self.pair.known.lock();
        known.ledger.record(range, &sums, differences, Instant::now().into_std());
        known.node = node;
        Ok(())
    }
}

impl Activate for Watch {
    async fn activate(&mut self) -> anyhow::Result<()> {
        let result = self.round().await;
        self.pair.known.lock().failure = result.as_ref().err().map(|error| format!("{error:#}"));
        self.pair.publish();
        result
    }
}
