//! Whether a legacy table and its partitioned twin hold the same rows, and what stands in the way of a switchover.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use mainstay_runtime::{Activate, Component, ComponentKind, Context};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    config::{PairConfig, ParityConfig},
    engine::Engine,
    metrics::{OfPair, PairMetrics},
};

mod ask;
mod catalog;
mod ledger;
mod readiness;
mod rows;

pub(crate) use catalog::{Catalog, Range, Table, Trigger};
pub(crate) use ledger::{Difference, Standing, Verdict};
pub(crate) use readiness::{Check, State};

use ask::Asker;
use ledger::Ledger;
use rows::RowSql;

/// Watches one pair in the background: each round looks at the catalog, then verifies ranges of rows until its time
/// is used up.
pub(crate) struct Watch {
    pair: Arc<Pair>,
    asker: Asker,
    every: Duration,
    duty_cycle: f64,
}

/// One configured pair and what is known about it.
pub(crate) struct Pair {
    pub name: String,
    pub config: PairConfig,
    parity: ParityConfig,
    known: Mutex<Known>,
    component: Component,
    metrics: PairMetrics,
    label: OfPair,
}

struct Known {
    catalog: Option<(Catalog, SystemTime, Instant)>,
    ledger: Ledger,
    node: String,
    failure: Option<String>,
}

/// All that is known about a pair at one moment.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub catalog: Option<(Catalog, SystemTime)>,
    pub standing: Standing,
    pub checks: Vec<Check>,
    /// Who answered last.
    pub node: String,
    /// Why the last round failed.
    pub failure: Option<String>,
}

impl Pair {
    pub(crate) fn new(
        name: &str,
        config: &PairConfig,
        parity: &ParityConfig,
        metrics: &PairMetrics,
        cx: &Context,
    ) -> Self {
        let known = Known {
            catalog: None,
            ledger: Ledger::new(parity.bucket_rows),
            node: String::new(),
            failure: None,
        };
        Self {
            name: name.to_owned(),
            config: config.clone(),
            parity: parity.clone(),
            known: Mutex::new(known),
            component: cx.component(format!("switchover.{name}"), ComponentKind::Internal, false),
            metrics: metrics.clone(),
            label: OfPair { pair: name.to_owned() },
        }
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
            checks: readiness::checks(fresh, &standing, self.parity.max_age, &self.config),
            standing,
            catalog: catalog.map(|(catalog, wall, _)| (catalog.clone(), *wall)),
            node: known.node.clone(),
            failure: known.failure.clone(),
        }
    }

    fn publish(&self) {
        let view = self.view();
        self.metrics.set(&self.label, &view);
        let ahead = view.catalog.as_ref().map_or(0, |(catalog, _)| catalog.missing_future.len());
        if let Some(failure) = view.failure {
            self.component.unhealthy(format!("cannot be checked: {failure}"));
        } else if view.standing.verdict == Verdict::Different {
            let n = view.standing.n_mismatched;
            self.component.degraded(format!("rows differ in {n} key ranges"));
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
        let asker = Asker { engine, within: parity.statement_within };
        Self { pair, asker, every: parity.check_every, duty_cycle: parity.duty_cycle }
    }

    async fn round(&self) -> anyhow::Result<()> {
        let begun_at = Instant::now();
        let pair = &self.pair;
        let catalog = catalog::inspect(&self.asker, &pair.config, pair.parity.future_partitions).await?;
        let row_sql = RowSql::of(&catalog, &pair.config);
        let clock = self.asker.engine.cx.clock();
        pair.known.lock().catalog = Some((catalog, clock.now(), Instant::now()));
        // Tables that cannot be compared are told by the checks.
        let Some(row_sql) = row_sql else { return Ok(()) };
        let budget = self.every.mul_f64(self.duty_cycle);
        pair.known.lock().ledger.begin_round(Instant::now().into_std());
        loop {
            self.verify_next(&row_sql).await?;
            let done = pair.known.lock().ledger.is_round_done();
            if done || begun_at.elapsed() >= budget || self.asker.engine.cx.stopping().is_cancelled() {
                break;
            }
        }
        pair.known.lock().ledger.end_round(Instant::now().into_std());
        Ok(())
    }

    async fn verify_next(&self, row_sql: &RowSql) -> anyhow::Result<()> {
        let (range, wants_split) = self.pair.known.lock().ledger.next();
        let range = match wants_split {
            Some(n_rows) => {
                let boundary = row_sql.boundary(&self.asker, range, n_rows).await?;
                self.pair.known.lock().ledger.split(range, boundary)
            }
            None => range,
        };
        let (sums, node) = row_sql.sums(&self.asker, range).await?;
        let differences =
            if sums.is_equal() { Vec::new() } else { row_sql.differences(&self.asker, range).await? };
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
