use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    Pair,
    ask::Asker,
    catalog::{self, Catalog},
    ddl::{FOUNDATION, drop_triggers},
    exposure::{PERCENTS, neighbours},
    readiness::{self, State},
    record::{self, Entry, Job, Note, Record, Stage},
    step_error::StepError,
    tables::Tables,
    work::{Patience, Work},
};
use crate::{config::StepsConfig, engine::Engine, route::Prefer};

mod exchange;
mod partitions;

/// Takes the steps of one pair. Each is one transaction on the primary together with its line in the journal, so it is
/// done or not, whoever dies; what takes long is only begun here and goes on in [`super::runner::Runner`].
pub(crate) struct Steps {
    pub pair: Arc<Pair>,
    pub engine: Arc<Engine>,
    pub config: StepsConfig,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    InstallTriggers,
    CreatePartitions,
    Backfill,
    Verify,
    /// To a share of the reads; `None` for the next one.
    Advance(Option<u32>),
    Swap,
    Rollback,
    Finish,
}

/// How far the pair is, and how it came there.
pub(crate) struct Told {
    pub record: Record,
    pub journal: Vec<Entry>,
}

const JOURNAL_LINES: u32 = 50;
/// Between two tries for tables that others hold; with jitter, so that those who wait behind us get in between.
const TRY_AGAIN: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

impl Steps {
    pub(crate) fn name(&self) -> &str {
        &self.pair.name
    }

    /// Takes a step in the name of `actor`; a refusal goes into the journal too.
    pub(crate) async fn take(&self, step: Step, actor: &str) -> Result<(), StepError> {
        let result = Box::pin(self.until_free(step, actor)).await;
        if let Err(error) = &result {
            let outcome = if matches!(error, StepError::Refused(_)) { "refused" } else { "failed" };
            let why = error.told();
            let note = Note { step: step.as_str(), actor, outcome, detail: &why };
            // Where the journal cannot be written the caller is told all the same.
            if let Err(error) = self.note(&note).await {
                tracing::debug!(error = error.told(), "journal not written");
            }
        }
        result
    }

    pub(crate) async fn told(&self) -> Result<Told, StepError> {
        let work = self.begin().await?;
        let record = Record::read(&work, &self.pair.name).await?;
        let journal = record::journal(&work, &self.pair.name, JOURNAL_LINES).await?;
        work.commit().await?;
        self.pair.learn(&record);
        Ok(Told { record, journal })
    }

    async fn until_free(&self, step: Step, actor: &str) -> Result<(), StepError> {
        let [mut pause, longest] = TRY_AGAIN;
        for _ in 1..self.config.lock_attempts {
            match self.once(step, actor).await {
                Err(error) if error.is_busy() => {
                    sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
                    pause = (pause * 2).min(longest);
                }
                result => return result,
            }
        }
        self.once(step, actor).await
    }

    async fn once(&self, step: Step, actor: &str) -> Result<(), StepError> {
        match step {
            Step::InstallTriggers => Box::pin(self.install(actor)).await,
            Step::CreatePartitions => Box::pin(self.create_partitions(actor)).await,
            Step::Backfill => Box::pin(self.begin_backfill(actor)).await,
            Step::Verify => Box::pin(self.begin_verify(actor)).await,
            Step::Advance(percent) => Box::pin(self.advance(percent, actor)).await,
            Step::Swap => Box::pin(self.swap(actor)).await,
            Step::Rollback => Box::pin(self.roll_back(actor)).await,
            Step::Finish => Box::pin(self.finish(actor)).await,
        }
    }

    pub(super) async fn begin(&self) -> Result<Work, StepError> {
        let StepsConfig { lock_within, statement_within: within, .. } = self.config;
        Work::begin(&self.engine, Patience { lock_within, within }).await
    }

    pub(super) fn asker(&self, prefer: Prefer) -> Asker {
        Asker { engine: Arc::clone(&self.engine), within: self.config.statement_within, prefer }
    }

    /// Looks at the tables on the primary, as they are called at this stage.
    pub(super) async fn inspect(&self, stage: Stage) -> Result<Catalog, StepError> {
        let n_future = self.pair.parity.future_partitions;
        Ok(catalog::inspect(&self.asker(Prefer::Primary), &self.pair.config, stage, n_future).await?)
    }

    /// Looks at the tables for a step that rests on what they are like now: what the watch saw last may be gone by now,
    /// or not yet seen.
    async fn look_anew(&self) -> Result<Catalog, StepError> {
        let stage = self.told_record().await?.stage;
        self.inspect(stage).await
    }

    async fn install(&self, actor: &str) -> Result<(), StepError> {
        let pair = &self.pair;
        let work = self.begin().await?;
        work.run("make our schema", FOUNDATION).await?;
        let record = Record::make(&work, &pair.name, &pair.config).await?;
        let stage = match record.stage {
            Stage::None => Stage::DualWrite,
            Stage::DualWrite | Stage::Swapped => record.stage,
            Stage::Finished => return Err(StepError::refused("the switchover is finished")),
        };
        let tables = Tables::find(&work, stage, &pair.config).await?;
        if !stage.is_swapped() {
            self.fit_to_mirror(&work, &tables).await?;
        }
        let (functions, triggers) = tables.mirror(&pair.name, stage);
        work.run("make the functions of the triggers", &functions).await?;
        let already = record.stage == stage && tables.are_mirrored(&work, stage).await?;
        if !already {
            work.run("make the triggers", &triggers).await?;
            // Whatever was written while they were missing is in one table only.
            let set = format!(
                "stage = '{}', job = '', backfilled = {}, backfill_at = NULL, rows_copied = 0, verify_at = NULL, \
                 verified_at = NULL, verified_tx = NULL, rows_verified = 0, rows_repaired = 0",
                stage.as_str(),
                stage.is_swapped()
            );
            record::update(&work, &pair.name, &set).await?;
        }
        let detail = if already { "they were there" } else { "" };
        self.done(work, Step::InstallTriggers, actor, detail).await
    }

    /// Refuses what would make writes fail that go well without the triggers.
    async fn fit_to_mirror(&self, work: &Work, tables: &Tables) -> Result<(), StepError> {
        let catalog = self.inspect(Stage::None).await?;
        let mut refused: Vec<_> = readiness::of_tables(&catalog, &self.pair.config)
            .into_iter()
            .filter(|check| check.state != State::Pass)
            .map(|check| check.reason)
            .collect();
        let unique = format!(
            "SELECT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = {0} AND i.indisunique AND i.indisvalid \
               AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = 2 \
               AND (SELECT array_agg(attname ORDER BY attname) FROM pg_attribute WHERE attrelid = {0} \
                    AND attnum IN (i.indkey[0], i.indkey[1])) = (SELECT array_agg(n ORDER BY n) FROM unnest({1}::name[]) AS n))",
            tables.partitioned.oid,
            super::rows::literal(&format!("{{{},{}}}", tables.key, tables.time))
        );
        let there = |row: Vec<Option<String>>| row == [Some("t".to_owned())];
        if refused.is_empty() && !there(work.row("look for a unique index", &unique).await?) {
            refused.push(format!(
                "no unique index of {} on ({}, {}) alone: rows written twice could not be told",
                self.pair.config.partitioned, tables.key, tables.time
            ));
        }
        if refused.is_empty() {
            let (time, plain) = (super::rows::quote(&tables.time), tables.plain.quoted());
            let bounds = format!(
                "SELECT floor(EXTRACT(EPOCH FROM min({time})::timestamptz))::int8, \
                   floor(EXTRACT(EPOCH FROM max({time})::timestamptz))::int8 + 1 FROM {plain}"
            );
            let bounds = work.row("look for the first and the last time", &bounds).await?;
            let [from, to] = [0, 1].map(|n| bounds.get(n)?.as_ref()?.parse::<i64>().ok());
            refused.extend(partitions::uncovered(&catalog, from.zip(to)));
        }
        if refused.is_empty() { Ok(()) } else { Err(StepError::Refused(refused)) }
    }

    async fn begin_backfill(&self, actor: &str) -> Result<(), StepError> {
        let work = self.begin().await?;
        let record = Record::lock(&work, &self.pair.name).await?;
        if record.stage != Stage::DualWrite {
            return Err(StepError::refused(format!(
                "a backfill belongs to dual writes, the stage is {}",
                record.stage.as_str()
            )));
        }
        if record.backfilled || record.job == Some(Job::Backfill) {
            return work.commit().await;
        }
        if record.job.is_some() {
            return Err(StepError::refused("a verification is under way"));
        }
        let tables = Tables::find(&work, record.stage, &self.pair.config).await?;
        let (key, plain) = (super::rows::quote(&tables.key), tables.plain.quoted());
        let set = if record.backfill.is_some() {
            "job = 'backfill'".to_owned()
        } else {
            // Rows above are written by the triggers, which were there before this transaction began.
            format!(
                "job = 'backfill', (backfill_from, backfill_at, backfill_end) = \
                 (SELECT COALESCE(min({key}), 0) - 1, COALESCE(min({key}), 0) - 1, COALESCE(max({key}), 0) FROM {plain})"
            )
        };
        record::update(&work, &self.pair.name, &set).await?;
        self.started(work, Step::Backfill, actor).await
    }

    async fn begin_verify(&self, actor: &str) -> Result<(), StepError> {
        // Asked before the record is locked: the primary may be asked by another connection.
        let seen = super::changes::since(&self.asker(Prefer::Primary), &self.pair.name, None).await?;
        let work = self.begin().await?;
        let record = Record::lock(&work, &self.pair.name).await?;
        if !record.stage.is_mirrored() || !record.backfilled {
            return Err(StepError::refused("there is nothing to verify before the backfill is done"));
        }
        if record.job == Some(Job::Verify) {
            return work.commit().await;
        }
        let set = format!(
            "job = 'verify', verify_at = NULL, verify_tx = '{}', verify_token = '{}', rows_verified = 0, rows_repaired = 0",
            seen.seen_tx,
            seen.token.encode()
        );
        record::update(&work, &self.pair.name, &set).await?;
        self.started(work, Step::Verify, actor).await
    }

    async fn advance(&self, to: Option<u32>, actor: &str) -> Result<(), StepError> {
        let catalog = self.look_anew().await?;
        let work = self.begin().await?;
        let record = Record::lock(&work, &self.pair.name).await?;
        if record.stage != Stage::DualWrite {
            return Err(StepError::refused(format!(
                "reads are shared during dual writes, the stage is {}",
                record.stage.as_str()
            )));
        }
        let now = record.read_percent;
        let (next, _) = neighbours(now);
        let to = to.or(next).unwrap_or(now);
        if !PERCENTS.contains(&to) {
            return Err(StepError::refused(format!("percent must be one of {PERCENTS:?}, is {to}")));
        }
        if to == now {
            return work.commit().await;
        }
        if to > now {
            if next != Some(to) {
                return Err(StepError::refused(format!(
                    "after {now} % comes {} %, not {to} %",
                    next.unwrap_or(now)
                )));
            }
            let refused = self.pair.against_more_reads(&record, &catalog);
            if !refused.is_empty() {
                return Err(StepError::Refused(refused));
            }
        }
        record::update(&work, &self.pair.name, &format!("read_percent = {to}, stepped_back = ''")).await?;
        self.done(work, Step::Advance(None), actor, &format!("from {now} to {to} percent")).await
    }

    async fn finish(&self, actor: &str) -> Result<(), StepError> {
        let work = self.begin().await?;
        let record = Record::lock(&work, &self.pair.name).await?;
        let (after, percent) = match record.stage {
            Stage::None | Stage::Finished => return work.commit().await,
            Stage::Swapped => (Stage::Finished, 100),
            Stage::DualWrite if record.read_percent > 0 => {
                let percent = record.read_percent;
                return Err(StepError::refused(format!(
                    "{percent} % of the reads go to the partitioned table: roll back first"
                )));
            }
            Stage::DualWrite => (Stage::None, 0),
        };
        let tables = Tables::find(&work, record.stage, &self.pair.config).await?;
        let drop = drop_triggers(&tables.plain.quoted(), &tables.partitioned.quoted());
        work.run("remove the triggers", &drop).await?;
        let set = format!("stage = '{}', read_percent = {percent}, job = ''", after.as_str());
        record::update(&work, &self.pair.name, &set).await?;
        self.done(work, Step::Finish, actor, "").await
    }

    /// Moves reads back without being asked to.
    pub(super) async fn step_back(&self, to: u32, why: &str) -> Result<(), StepError> {
        let work = self.begin().await?;
        let record = Record::lock(&work, &self.pair.name).await?;
        if record.stage != Stage::DualWrite || record.read_percent <= to {
            return work.commit().await;
        }
        let detail = format!("from {} to {to} percent: {why}", record.read_percent);
        let set = format!("read_percent = {to}, stepped_back = {}", super::rows::literal(&detail));
        record::update(&work, &self.pair.name, &set).await?;
        record::note(
            &work,
            &self.pair.name,
            &Note { step: "step-back", actor: OURSELVES, outcome: "done", detail: &detail },
        )
        .await?;
        work.commit().await?;
        self.pair.metrics.stepped_back(&self.pair.label);
        tracing::warn!(pair = self.pair.name, detail, "reads moved back to the legacy table");
        Ok(())
    }

    async fn started(&self, work: Work, step: Step, actor: &str) -> Result<(), StepError> {
        let note = Note { step: step.as_str(), actor, outcome: "started", detail: "" };
        record::note(&work, &self.pair.name, &note).await?;
        work.commit().await
    }

    pub(super) async fn done(
        &self,
        work: Work,
        step: Step,
        actor: &str,
        detail: &str,
    ) -> Result<(), StepError> {
        let note = Note { step: step.as_str(), actor, outcome: "done", detail };
        record::note(&work, &self.pair.name, &note).await?;
        work.commit().await?;
        tracing::info!(pair = self.pair.name, step = step.as_str(), actor, detail, "switchover step done");
        Ok(())
    }

    async fn note(&self, note: &Note<'_>) -> Result<(), StepError> {
        let work = self.begin().await?;
        record::note(&work, &self.pair.name, note).await?;
        work.commit().await
    }
}

/// Who did what nobody asked for.
pub(super) const OURSELVES: &str = "replica-service";

impl Step {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::InstallTriggers => "install-triggers",
            Self::CreatePartitions => "create-partitions",
            Self::Backfill => "backfill",
            Self::Verify => "verify",
            Self::Advance(_) => "advance",
            Self::Swap => "swap",
            Self::Rollback => "rollback",
            Self::Finish => "finish",
        }
    }
}
