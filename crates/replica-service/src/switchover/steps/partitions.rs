use super::{Step, Steps};
use crate::switchover::{
    catalog::{Catalog, Range},
    ddl::FOUNDATION,
    record::Record,
    rows::{literal, quote},
    step_error::StepError,
    tables::Tables,
};

const DAY_S: i64 = 86_400;
/// What PostgreSQL keeps of a name.
const MAX_NAME_BYTES: usize = 63;

impl Steps {
    /// Makes the partitions that are missing. Each is made beside the table and attached, which keeps nobody from
    /// reading or writing the others.
    pub(super) async fn create_partitions(&self, actor: &str) -> Result<(), StepError> {
        let work = self.begin().await?;
        work.run("make our schema", FOUNDATION).await?;
        let stage = Record::read(&work, &self.pair.name).await?.stage;
        let catalog = self.inspect(stage).await?;
        let missing: Vec<_> = catalog.gaps.iter().chain(&catalog.missing_future).copied().collect();
        if missing.is_empty() {
            return work.commit().await;
        }
        let tables = Tables::find(&work, stage, &self.pair.config).await?;
        let parent = tables.partitioned.quoted();
        let mut made = Vec::new();
        for range in missing {
            let name = self.partition_name(&work, &self.pair.config.partitioned, range).await?;
            let table = tables.partitioned.quoted_as(&name);
            let Range { from_s, to_s } = range;
            let sql = format!(
                "CREATE TABLE {table} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE); \
                 ALTER TABLE {parent} ATTACH PARTITION {table} FOR VALUES FROM (to_timestamp({from_s})) TO (to_timestamp({to_s})); \
                 ANALYZE {table}"
            );
            work.run("make a partition", &sql).await?;
            made.push(name);
        }
        self.done(work, Step::CreatePartitions, actor, &made.join(", ")).await
    }

    async fn partition_name(
        &self,
        work: &crate::switchover::work::Work,
        parent: &str,
        range: Range,
    ) -> Result<String, StepError> {
        let format = if (range.to_s - range.from_s) % DAY_S == 0 { "YYYYMMDD" } else { "YYYYMMDDHH24MISS" };
        let prefix = crate::switchover::tables::bare(parent);
        let sql =
            format!("SELECT {} || to_char(to_timestamp({}), '_{format}')", literal(prefix), range.from_s);
        let name = work.row("name a partition", &sql).await?.into_iter().next().flatten();
        let name = name.ok_or(StepError::Unreadable { doing: "name a partition" })?;
        if name.len() > MAX_NAME_BYTES {
            return Err(StepError::refused(format!(
                "{} is too long for the name of a partition",
                quote(&name)
            )));
        }
        Ok(name)
    }
}

/// Says which times no partition would take, of rows that are there and of rows to come.
pub(super) fn uncovered(catalog: &Catalog, rows: Option<(i64, i64)>) -> Vec<String> {
    if catalog.partitions.iter().any(|partition| partition.is_default) {
        return Vec::new();
    }
    let mut refused = Vec::new();
    let n_missing = catalog.gaps.len() + catalog.missing_future.len();
    if n_missing > 0 {
        refused.push(format!(
            "{n_missing} partitions are missing between others or ahead: create-partitions makes them"
        ));
    }
    let bounds = || catalog.partitions.iter().filter_map(|partition| partition.bounds);
    let first = bounds().map(|range| range.from_s).min();
    let last = bounds().map(|range| range.to_s).max();
    if let (Some((from, to)), Some(first), Some(last)) = (rows, first, last)
        && catalog.partitions.iter().all(|partition| partition.bounds.is_some())
        && (from < first || to > last)
    {
        refused.push("rows are older or newer than all partitions".to_owned());
    }
    if catalog.partitions.is_empty() {
        refused.push("there are no partitions".to_owned());
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switchover::catalog::tests::table;

    #[test]
    fn rows_that_no_partition_takes_are_refused_before_they_fail() {
        let mut catalog = Catalog { partitions: vec![table("a", Some((0, 10)))], ..Catalog::default() };
        assert_eq!(uncovered(&catalog, Some((0, 10))), [] as [String; 0]);
        assert_eq!(uncovered(&catalog, None), [] as [String; 0]);
        assert_eq!(uncovered(&catalog, Some((-1, 5))).len(), 1);
        assert_eq!(uncovered(&catalog, Some((5, 11))).len(), 1);
        catalog.gaps.push(Range { from_s: 1, to_s: 2 });
        assert!(uncovered(&catalog, None)[0].starts_with("1 partitions are missing"));
        catalog.partitions.push(table("d", None));
        assert_eq!(uncovered(&catalog, Some((5, 11))), [] as [String; 0]);
        assert_eq!(uncovered(&Catalog::default(), None), ["there are no partitions"]);
    }
}
