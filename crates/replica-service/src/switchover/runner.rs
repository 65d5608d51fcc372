use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::future::try_join_all;
use mainstay_runtime::{Activate, Trigger};
use tokio::time::{Instant, sleep};

use super::{
    changes,
    ddl::SCHEMA,
    exposure::neighbours,
    ledger::KeyRange,
    record::{self, Job, Note, Record, Span, Stage},
    rows::{RowSql, Scope, literal, quote},
    step_error::StepError,
    steps::{OURSELVES, Step, Steps},
    tables::Tables,
};
use crate::{config::StepsConfig, route::Prefer, token::Token};

/// Does in the background what steps have begun, and keeps watch over shared reads.
///
/// What it has done is in the record before it goes on, so any process goes on where another one died. Several at once
/// do no harm: whoever holds the record does the next batch.
pub(crate) struct Runner {
    steps: Arc<Steps>,
    again: Arc<OnceLock<Trigger>>,
    batch_rows: u64,
    pruned_at: Option<Instant>,
    followed_at: Option<Instant>,
}

/// For one round; then shared reads are looked at again.
const ROUND: Duration = Duration::from_secs(2);
/// While a replica is too far behind.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
const PRUNE_EVERY: Duration = Duration::from_secs(60);
const FOLLOW_EVERY: Duration = Duration::from_secs(5);
const FEWEST_ROWS: u64 = 10;
/// Repairs of one range before it is given up.
const REPAIRS: u32 = 5;
const REPAIRED_AT_ONCE: u32 = 1_000;

impl Activate for Runner {
    async fn activate(&mut self) -> anyhow::Result<()> {
        let result = self.round().await;
        let pair = Arc::clone(&self.steps.pair);
        match &result {
            Ok(held_up) => pair.set_held_up(held_up.clone().unwrap_or_default()),
            Err(error) => pair.set_held_up(error.told()),
        }
        if matches!(result, Ok(None))
            && pair.record().job.is_some()
            && let Some(again) = self.again.get()
        {
            again.fire();
        }
        match result {
            // Others hold what it needs, or the primary is away: that is told elsewhere, and tried again.
            Err(StepError::Busy | StepError::Query(_)) | Ok(_) => Ok(()),
            Err(error) => Err(anyhow::anyhow!(error.told())),
        }
    }
}

impl Runner {
    pub(crate) fn new(steps: Arc<Steps>, again: Arc<OnceLock<Trigger>>) -> Self {
        let batch_rows = steps.config.batch_rows;
        Self { steps, again, batch_rows, pruned_at: None, followed_at: None }
    }

    /// Returns what it waits for.
    async fn round(&mut self) -> Result<Option<String>, StepError> {
        let record = self.steps.told_record().await?;
        self.look_at_reads(&record).await?;
        match record.job {
            Some(Job::Backfill) => Box::pin(self.backfill()).await,
            Some(Job::Verify) => Box::pin(self.verify()).await,
            None if record.stage.is_mirrored() => Box::pin(self.keep_up()).await.map(|()| None),
            None => Ok(None),
        }
    }

    /// Moves reads back when the partitioned table does worse than it may.
    async fn look_at_reads(&self, record: &Record) -> Result<(), StepError> {
        let pair = &self.steps.pair;
        let differed = pair.take_differed();
        if record.stage != Stage::DualWrite || record.read_percent == 0 {
            return Ok(());
        }
        if differed {
            return self.steps.step_back(0, "rows differ").await;
        }
        if let Some(why) = pair.read_trouble() {
            let (_, before) = neighbours(record.read_percent);
            self.steps.step_back(before.unwrap_or(0), &why).await?;
        }
        Ok(())
    }

    /// Compares what was changed, makes partitions in time, and forgets changes that were seen by all.
    async fn keep_up(&mut self) -> Result<(), StepError> {
        let is_due = |at: Option<Instant>, every| at.is_none_or(|at| at.elapsed() >= every);
        if is_due(self.followed_at, FOLLOW_EVERY) {
            self.followed_at = Some(Instant::now());
            self.steps.follow().await?;
        }
        let pair = &self.steps.pair;
        let missing = pair.view().catalog.is_some_and(|(catalog, _)| !catalog.missing_future.is_empty());
        if missing {
            self.steps.take(Step::CreatePartitions, OURSELVES).await?;
        }
        if is_due(self.pruned_at, PRUNE_EVERY) {
            self.pruned_at = Some(Instant::now());
            let keep_s = pair.parity.max_age.as_secs() * 2;
            let last = "'18446744073709551615'::xid8";
            let sql = format!(
                "DELETE FROM {SCHEMA}.changes AS c USING {SCHEMA}.pairs AS p WHERE p.name = {0} AND c.pair = {0} \
                 AND c.at < now() - interval '{keep_s} seconds' \
                 AND c.tx < LEAST(COALESCE(p.verified_tx, {last}), CASE p.job WHEN 'verify' THEN p.verify_tx ELSE {last} END)",
                literal(&pair.name)
            );
            let work = self.steps.begin().await?;
            work.run("forget old changes", &sql).await?;
            work.commit().await?;
        }
        Ok(())
    }

    async fn backfill(&mut self) -> Result<Option<String>, StepError> {
        let begun_at = Instant::now();
        while begun_at.elapsed() < ROUND && !self.is_stopping() {
            if let Some(why) = self.lagging() {
                sleep(LOOK_AGAIN).await;
                return Ok(Some(why));
            }
            let batch_at = Instant::now();
            match self.copy().await {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(StepError::Busy) => {
                    self.batch_rows = (self.batch_rows / 2).max(FEWEST_ROWS);
                    sleep(LOOK_AGAIN).await;
                    return Ok(Some("rows are locked by others".to_owned()));
                }
                Err(error) => return Err(error),
            }
            let took = batch_at.elapsed();
            // Batches become slower under load, and smaller and rarer by that.
            let StepsConfig { batch_rows, batch_within, duty_cycle, .. } = self.steps.config;
            let fit = self.batch_rows as f64 * batch_within.as_secs_f64() / took.as_secs_f64().max(1e-6);
            let fit = (self.batch_rows + fit as u64) / 2;
            self.batch_rows = fit.clamp(FEWEST_ROWS.min(batch_rows), batch_rows);
            sleep(took.mul_f64((1.0 - duty_cycle) / duty_cycle)).await;
        }
        Ok(None)
    }

    /// Copies the next rows; `false` when there are no more.
    ///
    /// `FOR SHARE` keeps a row from being changed or deleted until its copy is committed: without it a row deleted
    /// between reading and copying would come back, and one that moved to another partition would be there twice.
    /// `DO NOTHING` leaves what a trigger wrote, which is never older.
    async fn copy(&self) -> Result<bool, StepError> {
        let Steps { pair, .. } = &*self.steps;
        let work = self.steps.begin().await?;
        let record = Record::lock(&work, &pair.name).await?;
        let (Some(Span { at, end, .. }), Some(Job::Backfill)) = (record.backfill, record.job) else {
            return work.commit().await.map(|()| false);
        };
        let tables = Tables::find(&work, record.stage, &pair.config).await?;
        let (key, from, to) = (quote(&tables.key), tables.plain.quoted(), tables.partitioned.quoted());
        let columns = tables.columns.iter().map(|column| quote(column)).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "WITH batch AS (SELECT {columns} FROM {from} WHERE {key} > {at} AND {key} <= {end} ORDER BY {key} LIMIT {} FOR SHARE), \
             copied AS (INSERT INTO {to} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM batch ON CONFLICT DO NOTHING RETURNING 1) \
             SELECT max({key}), (SELECT count(*) FROM copied) FROM batch",
            self.batch_rows
        );
        let doing = "copy rows";
        work.run(doing, "SET LOCAL mainstay.copying = 'on'").await?;
        let row = work.row(doing, &sql).await?;
        let [last, Some(n_copied)] = &row[..] else { return Err(StepError::Unreadable { doing }) };
        if let Some(last) = last {
            let set = format!("backfill_at = {last}, rows_copied = rows_copied + {n_copied}");
            record::update(&work, &pair.name, &set).await?;
            work.commit().await?;
            pair.learn(&Record {
                rows_copied: record.rows_copied + n_copied.parse::<u64>().unwrap_or(0),
                ..record
            });
            return Ok(true);
        }
        // Nobody else analyzes the parent, and without it plans are made for an empty table.
        work.run_long("analyze the partitioned table", &format!("ANALYZE {to}")).await?;
        record::update(&work, &pair.name, "job = '', backfilled = true").await?;
        let detail = format!("{} rows copied", record.rows_copied);
        self.steps.done(work, Step::Backfill, OURSELVES, &detail).await?;
        self.steps.told_record().await?;
        Ok(false)
    }

    /// Verifies range after range, several at once, and repairs what differs.
    async fn verify(&mut self) -> Result<Option<String>, StepError> {
        let begun_at = Instant::now();
        let stage = self.steps.pair.record().stage;
        let rows = self.steps.row_sql(stage).await?;
        while begun_at.elapsed() < ROUND && !self.is_stopping() {
            if let Some(why) = self.lagging() {
                sleep(LOOK_AGAIN).await;
                return Ok(Some(why));
            }
            let batch_at = Instant::now();
            if !self.verify_some(&rows).await? {
                return Ok(None);
            }
            let duty_cycle = self.steps.config.duty_cycle;
            sleep(batch_at.elapsed().mul_f64((1.0 - duty_cycle) / duty_cycle)).await;
        }
        Ok(None)
    }

    /// Verifies the next ranges; `false` when there are no more.
    async fn verify_some(&self, rows: &RowSql) -> Result<bool, StepError> {
        let pair = &self.steps.pair;
        let record = self.steps.told_record().await?;
        if record.job != Some(Job::Verify) {
            return Ok(false);
        }
        let token = Token::decode(&record.verify_token).ok();
        let asker = self.steps.asker(Prefer::Replica);
        let mut ranges = Vec::new();
        let mut from = record.verify_at.unwrap_or(i64::MIN);
        for _ in 0..self.steps.config.workers {
            let above = KeyRange { from, below: None };
            let below = rows.boundary(&asker, above, pair.parity.bucket_rows).await?;
            ranges.push(KeyRange { from, below });
            let Some(below) = below else { break };
            from = below;
        }
        let verified =
            try_join_all(ranges.iter().map(|range| self.verify_range(rows, *range, token))).await?;
        let (n_rows, n_repaired) = verified.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let work = self.steps.begin().await?;
        let now = Record::lock(&work, &pair.name).await?;
        if now.job != record.job || now.verify_at != record.verify_at || now.verify_tx != record.verify_tx {
            // Another process was quicker.
            return work.commit().await.map(|()| true);
        }
        let sums =
            format!("rows_verified = rows_verified + {n_rows}, rows_repaired = rows_repaired + {n_repaired}");
        if let Some(below) = ranges.last().and_then(|range| range.below) {
            record::update(&work, &pair.name, &format!("verify_at = {below}, {sums}")).await?;
            work.commit().await?;
            return Ok(true);
        }
        let set = format!("job = '', verified_at = clock_timestamp(), verified_tx = verify_tx, {sums}");
        record::update(&work, &pair.name, &set).await?;
        let (n_rows, n_repaired) = (now.rows_verified + n_rows, now.rows_repaired + n_repaired);
        let detail = format!("{n_rows} rows verified, {n_repaired} repaired");
        self.steps.done(work, Step::Verify, OURSELVES, &detail).await?;
        self.steps.told_record().await?;
        Ok(false)
    }

    /// Returns how many rows were compared and how many repaired.
    async fn verify_range(
        &self,
        rows: &RowSql,
        range: KeyRange,
        token: Option<Token>,
    ) -> Result<(u64, u64), StepError> {
        let asker = self.steps.asker(Prefer::Replica);
        let (mut n_repaired, mut token) = (0, token);
        for _ in 0..REPAIRS {
            let (sums, _) = rows.sums(&asker, range, token).await?;
            if sums.is_equal() {
                return Ok((sums.legacy_rows, n_repaired));
            }
            let differ = rows.differences(&asker, Scope::Range(range), token, REPAIRED_AT_ONCE).await?;
            let keys: Vec<_> = differ.iter().map(|found| found.key).collect();
            self.repair(&keys).await?;
            n_repaired += keys.len() as u64;
            token = Some(changes::since(&asker, &self.steps.pair.name, None).await?.token);
        }
        Err(StepError::refused(format!(
            "rows from key {} on go on differing after {REPAIRS} repairs",
            range.from
        )))
    }

    /// Writes rows anew as they are in the table that is written. Writers wait meanwhile: a row that came between could
    /// be repaired away.
    async fn repair(&self, keys: &[i64]) -> Result<(), StepError> {
        let pair = &self.steps.pair;
        let work = self.steps.begin().await?;
        let record = Record::lock(&work, &pair.name).await?;
        if record.job != Some(Job::Verify) {
            return work.commit().await;
        }
        let tables = Tables::find(&work, record.stage, &pair.config).await?;
        let (source, target) = tables.directed(record.stage);
        let (source, target, key) = (source.quoted(), target.quoted(), quote(&tables.key));
        let columns = tables.columns.iter().map(|column| quote(column)).collect::<Vec<_>>().join(", ");
        let those = format!("{key} = ANY ({})", changes::array(keys));
        let sql = format!(
            "SET LOCAL mainstay.copying = 'on'; LOCK TABLE {source} IN SHARE ROW EXCLUSIVE MODE; \
             DELETE FROM {target} WHERE {those}; \
             INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {source} WHERE {those}"
        );
        work.run("repair rows", &sql).await?;
        let named: Vec<_> = keys.iter().take(20).map(i64::to_string).collect();
        let detail = format!("{} rows written anew: {}", keys.len(), named.join(", "));
        let note = Note { step: "repair", actor: OURSELVES, outcome: "done", detail: &detail };
        record::note(&work, &pair.name, &note).await?;
        work.commit().await
    }

    /// Says which replica is further behind than the work may bring it.
    fn lagging(&self) -> Option<String> {
        let fleet = &self.steps.engine.fleet;
        let StepsConfig { max_lag, max_lag_bytes, .. } = self.steps.config;
        let now = Instant::now().into_std();
        fleet.look(|topology, cluster| {
            topology.nodes().filter(|node| cluster.is_up(node.id)).find_map(|node| {
                let lag = cluster.lag(node.id, now)?;
                let name = &node.name;
                match (lag.staleness, lag.bytes) {
                    (Some(staleness), _) if staleness > max_lag => {
                        Some(format!("{name} is up to {staleness:.1?} behind"))
                    }
                    (_, Some(bytes)) if bytes > max_lag_bytes.as_u64() => {
                        Some(format!("{name} is {bytes} bytes behind"))
                    }
                    _ => None,
                }
            })
        })
    }

    fn is_stopping(&self) -> bool {
        self.steps.engine.cx.stopping().is_cancelled()
    }
}
