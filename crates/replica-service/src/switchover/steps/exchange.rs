use super::{Step, Steps};
use crate::route::Prefer;
use crate::switchover::{
    carry::Carry,
    changes,
    ddl::{SCHEMA, drop_triggers},
    record::{self, Note, Record, Stage},
    rows::{RowSql, Scope, literal, quote},
    step_error::StepError,
    tables::{Relation, Tables, bare, named_at},
    work::Work,
};

/// Keys compared in one statement.
const KEYS_AT_ONCE: usize = 2_000;
/// So few changes are compared under the lock; more are compared before it.
const FEW_KEYS: usize = 2_000;
/// Looks at the changes before the lock; each leaves those of the time that it took.
const LOOKS: u32 = 10;
/// Above this the tables would be locked for too long.
const MOST_KEYS_LOCKED: usize = 50_000;
/// Rows named in a refusal.
const NAMED: u32 = 5;
const MAX_NAME_BYTES: usize = 63;

impl Steps {
    /// Gives the partitioned table the name of the legacy one.
    pub(super) async fn swap(&self, actor: &str) -> Result<(), StepError> {
        self.come_close().await?;
        let catalog = self.look_anew().await?;
        let work = self.begin().await?;
        let record = Record::lock(&work, &self.pair.name).await?;
        if record.stage.is_swapped() {
            return work.commit().await;
        }
        let mut refused = Vec::new();
        if record.read_percent < 100 {
            refused
                .push(format!("{} % of the reads go to the partitioned table, not all", record.read_percent));
        }
        refused.extend(self.pair.standing_in_the_way(&catalog, |_| true));
        if !refused.is_empty() {
            return Err(StepError::Refused(refused));
        }
        self.exchange(work, &record, Stage::Swapped, Step::Swap, actor).await
    }

    /// Undoes the swap, or else the sharing of reads.
    pub(super) async fn roll_back(&self, actor: &str) -> Result<(), StepError> {
        self.come_close().await?;
        let work = self.begin().await?;
        let record = Record::lock(&work, &self.pair.name).await?;
        match record.stage {
            Stage::Finished => Err(StepError::refused(
                "the switchover is finished: the archived table lacks what was written since",
            )),
            Stage::Swapped => self.exchange(work, &record, Stage::DualWrite, Step::Rollback, actor).await,
            Stage::None | Stage::DualWrite if record.read_percent == 0 => work.commit().await,
            Stage::None | Stage::DualWrite => {
                record::update(&work, &self.pair.name, "read_percent = 0").await?;
                let detail = format!("from {} to 0 percent", record.read_percent);
                self.done(work, Step::Rollback, actor, &detail).await
            }
        }
    }

    /// Compares what was changed since the tables were last known to be equal, so that little is left to compare under
    /// the lock.
    async fn come_close(&self) -> Result<(), StepError> {
        for _ in 0..LOOKS {
            if self.follow().await? <= FEW_KEYS {
                break;
            }
        }
        Ok(())
    }

    /// Compares what was changed since the tables were last known to be equal, and returns how many rows that were. If
    /// they are equal the tables are known to be equal now; else not at all any more.
    pub(in crate::switchover) async fn follow(&self) -> Result<usize, StepError> {
        let pair = &self.pair;
        let record = self.told_record().await?;
        let (Some(from_tx), None, true) = (record.verified_tx, record.job, record.stage.is_mirrored()) else {
            return Ok(0);
        };
        let asker = self.asker(Prefer::Replica);
        let changes = changes::since(&asker, &pair.name, Some(from_tx)).await?;
        let rows = self.row_sql(record.stage).await?;
        let mut differ = Vec::new();
        for keys in changes.keys.chunks(KEYS_AT_ONCE) {
            differ.extend(rows.differences(&asker, Scope::Keys(keys), Some(changes.token), NAMED).await?);
        }
        let work = self.begin().await?;
        let unchanged = format!("{} AND verified_tx = '{from_tx}'::xid8 AND job = ''", literal(&pair.name));
        if differ.is_empty() && !changes.is_stuck {
            let sql = format!(
                "UPDATE {SCHEMA}.pairs SET verified_tx = '{}', verified_at = clock_timestamp() WHERE name = {unchanged}",
                changes.seen_tx
            );
            work.run("note that the tables are equal", &sql).await?;
        } else {
            let why = match differ.first() {
                Some(found) => format!("row {} is {}", found.key, found.kind.as_str()),
                None => "one transaction changed more rows than are followed one by one".to_owned(),
            };
            let sql = format!(
                "UPDATE {SCHEMA}.pairs SET verified_tx = NULL, verified_at = NULL WHERE name = {unchanged}"
            );
            work.run("note that the tables are not known to be equal", &sql).await?;
            let note = Note { step: "follow", actor: super::OURSELVES, outcome: "failed", detail: &why };
            record::note(&work, &pair.name, &note).await?;
        }
        work.commit().await?;
        Ok(changes.keys.len())
    }

    pub(in crate::switchover) async fn told_record(&self) -> Result<Record, StepError> {
        let work = self.begin().await?;
        let record = Record::read(&work, &self.pair.name).await?;
        work.commit().await?;
        self.pair.learn(&record);
        Ok(record)
    }

    pub(in crate::switchover) async fn row_sql(&self, stage: Stage) -> Result<RowSql, StepError> {
        let catalog = self.inspect(stage).await?;
        let rows = RowSql::of(&catalog, &named_at(stage, &self.pair.config));
        rows.ok_or_else(|| StepError::refused("the tables cannot be compared: see the readiness checks"))
    }

    /// Exchanges the names in one transaction. Whoever writes waits for it, for `lock_within` per lock at most, and
    /// then finds the other table under the name; nothing is written between the last comparison and the exchange.
    async fn exchange(
        &self,
        work: Work,
        record: &Record,
        to: Stage,
        step: Step,
        actor: &str,
    ) -> Result<(), StepError> {
        let pair = &self.pair;
        let mut refused = Vec::new();
        if let Some(job) = record.job {
            refused.push(format!("{} is under way", job.as_str()));
        }
        let Some(verified_tx) = record.verified_tx else {
            refused.push("the tables are not known to be equal: verify comes first".to_owned());
            return Err(StepError::Refused(refused));
        };
        if !refused.is_empty() {
            return Err(StepError::Refused(refused));
        }
        let rows = self.row_sql(record.stage).await?;
        let tables = Tables::find(&work, record.stage, &pair.config).await?;
        let (from, other) = tables.directed(record.stage);
        // In the order in which writers lock them.
        for table in [from, other] {
            let sql = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", table.quoted());
            work.run("lock the tables", &sql).await?;
        }
        let n_keys = self.compare_locked(&work, &rows, verified_tx).await?;
        let carry = Carry::plan(&work, &tables.key, from, other).await?;
        let names = self.new_names(&work, &tables, to).await?;
        work.run("remove the triggers", &drop_triggers(&from.quoted(), &other.quoted())).await?;
        work.run("exchange the names", &names).await?;
        for statement in &carry.statements {
            work.run("carry over what belongs to the name", statement).await?;
        }
        let (functions, triggers) = Tables::find(&work, to, &pair.config).await?.mirror(&pair.name, to);
        work.run("make the functions of the triggers", &functions).await?;
        work.run("make the triggers", &triggers).await?;
        let percent = if to.is_swapped() { 100 } else { 0 };
        let set = format!(
            "stage = '{}', read_percent = {percent}, verified_at = clock_timestamp(), \
             verified_tx = pg_snapshot_xmin(pg_current_snapshot())",
            to.as_str()
        );
        record::update(&work, &pair.name, &set).await?;
        let detail = format!(
            "{n_keys} changed rows compared under the lock, {} things carried over",
            carry.statements.len()
        );
        self.done(work, step, actor, &detail).await
    }

    async fn compare_locked(&self, work: &Work, rows: &RowSql, verified_tx: u64) -> Result<usize, StepError> {
        let sql = format!(
            "SELECT DISTINCT key FROM {SCHEMA}.changes WHERE pair = {} AND tx >= '{verified_tx}'::xid8 LIMIT {}",
            literal(&self.pair.name),
            MOST_KEYS_LOCKED + 1
        );
        let doing = "read the last changes";
        let keys = work.texts(doing, &sql).await?;
        if keys.len() > MOST_KEYS_LOCKED {
            // They are compared before the lock at the next try.
            return Err(StepError::Busy);
        }
        let keys = keys.iter().map(|key| key.parse().map_err(|_| StepError::Unreadable { doing }));
        let keys = keys.collect::<Result<Vec<i64>, _>>()?;
        for some in keys.chunks(KEYS_AT_ONCE) {
            let differ = work
                .texts("compare the last changes", &rows.differences_sql(Scope::Keys(some), NAMED))
                .await?;
            if !differ.is_empty() {
                return Err(StepError::refused(format!(
                    "rows differ, of the keys {}: verify comes first",
                    differ.join(", ")
                )));
            }
        }
        Ok(keys.len())
    }

    async fn new_names(&self, work: &Work, tables: &Tables, to: Stage) -> Result<String, StepError> {
        let after = named_at(to, &self.pair.config);
        let (plain, partitioned) = (bare(&after.legacy), bare(&after.partitioned));
        let rename = |table: &Relation, name: &str| {
            format!("ALTER TABLE {} RENAME TO {}", table.quoted(), quote(name))
        };
        let (free, order) = if to.is_swapped() {
            (plain, [rename(&tables.plain, plain), rename(&tables.partitioned, partitioned)])
        } else {
            (partitioned, [rename(&tables.partitioned, partitioned), rename(&tables.plain, plain)])
        };
        if free.len() > MAX_NAME_BYTES {
            return Err(StepError::refused(format!("{free} is too long for the name of a table")));
        }
        let sql = format!("SELECT to_regclass({}) IS NULL", literal(&tables.plain.quoted_as(free)));
        if work.row("look for the name", &sql).await? != [Some("t".to_owned())] {
            return Err(StepError::refused(format!("there is a table {free} already")));
        }
        Ok(order.join("; "))
    }
}
