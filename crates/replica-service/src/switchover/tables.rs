use super::{
    ddl::{MIRROR, Mirror, NO_TRUNCATE, WATCH},
    record::Stage,
    rows::{literal, quote, quote_table},
    step_error::StepError,
    work::Work,
};
use crate::config::PairConfig;

/// The two tables of a pair as the primary has them now, under the names that they have at this stage.
pub(super) struct Tables {
    pub plain: Relation,
    pub partitioned: Relation,
    /// Those that can be written, in their order.
    pub columns: Vec<String>,
    pub key: String,
    pub time: String,
}

pub(super) struct Relation {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub owner: String,
}

/// Behind the name of a legacy table that has been swapped.
const ARCHIVED: &str = "_archived";

/// Returns the pair under the names that its tables have at a stage.
pub(super) fn named_at(stage: Stage, config: &PairConfig) -> PairConfig {
    if stage.is_swapped() {
        let legacy = format!("{}{ARCHIVED}", config.legacy);
        PairConfig { legacy, partitioned: config.legacy.clone(), ..config.clone() }
    } else {
        config.clone()
    }
}

impl Tables {
    pub(super) async fn find(work: &Work, stage: Stage, config: &PairConfig) -> Result<Self, StepError> {
        let PairConfig { legacy, partitioned, key, time_column } = named_at(stage, config);
        let (plain, partitioned) =
            (Relation::find(work, &legacy).await?, Relation::find(work, &partitioned).await?);
        let sql = format!(
            "SELECT attname FROM pg_attribute WHERE attrelid = {} AND attnum > 0 AND NOT attisdropped \
             AND attgenerated = '' ORDER BY attnum",
            plain.oid
        );
        let columns = work.texts("read the columns", &sql).await?;
        Ok(Self { plain, partitioned, columns, key, time: time_column })
    }

    /// Returns the table that is written at a stage, and the one that follows.
    pub(super) fn directed(&self, stage: Stage) -> (&Relation, &Relation) {
        if stage.is_swapped() { (&self.partitioned, &self.plain) } else { (&self.plain, &self.partitioned) }
    }

    /// Returns the statements that make the triggers of a stage: functions, and the triggers themselves.
    pub(super) fn mirror(&self, pair: &str, stage: Stage) -> (String, String) {
        let (source, target) = self.directed(stage);
        let both = [self.key.as_str(), self.time.as_str()];
        let mirror = Mirror {
            pair,
            source: &source.quoted(),
            target: &target.quoted(),
            columns: &self.columns,
            key: &self.key,
            time: &self.time,
            unique: if stage.is_swapped() { &both[..1] } else { &both },
        };
        (mirror.functions(), mirror.triggers())
    }

    /// Tells whether all triggers of a stage are there and always fire.
    pub(super) async fn are_mirrored(&self, work: &Work, stage: Stage) -> Result<bool, StepError> {
        let (source, target) = self.directed(stage);
        let sql = format!(
            "SELECT count(*) FROM pg_trigger WHERE tgenabled = 'A' AND \
             ((tgrelid = {} AND tgname IN ('{MIRROR}', '{NO_TRUNCATE}')) OR (tgrelid = {} AND tgname = '{WATCH}'))",
            source.oid, target.oid
        );
        Ok(work.row("look at the triggers", &sql).await? == [Some("3".to_owned())])
    }
}

impl Relation {
    async fn find(work: &Work, name: &str) -> Result<Self, StepError> {
        let sql = format!(
            "SELECT c.oid, n.nspname, c.relname, pg_get_userbyid(c.relowner) FROM pg_class AS c \
             JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = to_regclass({})",
            literal(&quote_table(name))
        );
        let doing = "look for the tables";
        let rows = work.rows(doing, &sql).await?;
        let row = rows.into_iter().next();
        let mut fields =
            row.ok_or_else(|| StepError::refused(format!("there is no table {name}")))?.into_iter().flatten();
        let mut field = || fields.next().ok_or(StepError::Unreadable { doing });
        let oid = field()?.parse::<u32>().map_err(|_| StepError::Unreadable { doing })?;
        Ok(Self { oid, schema: field()?, name: field()?, owner: field()? })
    }

    pub(super) fn quoted(&self) -> String {
        self.quoted_as(&self.name)
    }

    /// Returns the table of another name beside this one.
    pub(super) fn quoted_as(&self, name: &str) -> String {
        format!("{}.{}", quote(&self.schema), quote(name))
    }
}

/// Returns the last part of a name with or without a schema.
pub(super) fn bare(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}
