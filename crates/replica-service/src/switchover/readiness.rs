use std::time::Duration;

use super::{
    catalog::{Catalog, Key},
    ledger::{Standing, Verdict},
};
use crate::config::PairConfig;

/// One thing that must be right before a switchover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    pub name: &'static str,
    pub state: State,
    /// One line for a person, also when it passes.
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Pass,
    Fail,
    Unknown,
}

const NAMES: [&str; 10] = [
    "tables",
    "columns",
    "keys",
    "triggers",
    "parity",
    "row_counts",
    "partitions",
    "future_partitions",
    "dependents",
    "statistics",
];
const NAMED: usize = 5;

/// Judges everything; `catalog` is `None` when it is not known, or not any more.
pub(super) fn checks(
    catalog: Option<&Catalog>,
    standing: &Standing,
    max_age: Duration,
    pair: &PairConfig,
) -> Vec<Check> {
    let Some(catalog) = catalog else {
        let unknown = |name| Check::new(name, State::Unknown, "the database has not been looked at lately");
        return NAMES.into_iter().map(unknown).collect();
    };
    let tables = tables(catalog, pair);
    if tables.state != State::Pass {
        let unknown = |name| Check::new(name, State::Unknown, "the tables are not right");
        return std::iter::once(tables).chain(NAMES[1..].iter().map(|name| unknown(name))).collect();
    }
    vec![
        tables,
        columns(catalog),
        keys(catalog, pair),
        triggers(catalog),
        parity(standing, max_age),
        row_counts(standing),
        partitions(catalog),
        future_partitions(catalog),
        dependents(catalog),
        statistics(catalog),
    ]
}

/// Judges only what rows can be mirrored and compared by.
pub(super) fn of_tables(catalog: &Catalog, pair: &PairConfig) -> Vec<Check> {
    let tables = tables(catalog, pair);
    if tables.state != State::Pass {
        return vec![tables];
    }
    vec![tables, columns(catalog), keys(catalog, pair)]
}

fn tables(catalog: &Catalog, pair: &PairConfig) -> Check {
    let name = "tables";
    let missing = |table: &str| Check::fail(name, format!("there is no table {table}"));
    let (Some(legacy), Some(partitioned)) = (&catalog.legacy, &catalog.partitioned) else {
        return missing(if catalog.legacy.is_none() { &pair.legacy } else { &pair.partitioned });
    };
    if legacy.is_partitioned {
        Check::fail(name, format!("{} is partitioned already", pair.legacy))
    } else if !partitioned.is_partitioned {
        Check::fail(name, format!("{} is not partitioned", pair.partitioned))
    } else if catalog.is_partitioned_by(&pair.time_column) {
        Check::pass(name, format!("{} is partitioned by {}", pair.partitioned, catalog.partition_key))
    } else {
        let by = &catalog.partition_key;
        Check::fail(name, format!("{} is partitioned by {by}, not by {}", pair.partitioned, pair.time_column))
    }
}

fn columns(catalog: &Catalog) -> Check {
    let problems: Vec<_> = catalog.columns.iter().filter_map(|column| column.problem.clone()).collect();
    Check::of_problems("columns", &problems, || {
        format!("{} columns, the same in both", catalog.columns.len())
    })
}

fn keys(catalog: &Catalog, pair: &PairConfig) -> Check {
    let key = &pair.key;
    let why = match catalog.key {
        None => format!("{} has no column {key}", pair.legacy),
        Some(Key { is_integer: false, .. }) => format!("{key} is no integer"),
        Some(Key { is_never_null: false, .. }) => format!("{key} may be null"),
        Some(Key { is_unique: false, .. }) => format!("no unique index on {key} alone in {}", pair.legacy),
        Some(Key { is_indexed_in_partitions: false, .. }) => {
            format!("no index of {} begins with {key}", pair.partitioned)
        }
        Some(_) => return Check::pass("keys", format!("{key} is unique, and indexed in both")),
    };
    Check::fail("keys", why)
}

fn triggers(catalog: &Catalog) -> Check {
    let enabled = || catalog.triggers.iter().filter(|trigger| trigger.enabled);
    let missing: Vec<_> = [
        ("inserts", enabled().any(|trigger| trigger.on_insert)),
        ("updates", enabled().any(|trigger| trigger.on_update)),
        ("deletes", enabled().any(|trigger| trigger.on_delete)),
    ]
    .into_iter()
    .filter_map(|(what, there)| (!there).then_some(what))
    .collect();
    let disabled: Vec<_> = catalog
        .triggers
        .iter()
        .filter(|trigger| !trigger.enabled)
        .map(|trigger| trigger.name.as_str())
        .collect();
    if missing.is_empty() {
        Check::pass("triggers", "inserts, updates and deletes are written to both")
    } else if disabled.is_empty() {
        Check::fail("triggers", format!("no trigger writes {} to the partitioned table", missing.join(", ")))
    } else {
        let (missing, disabled) = (missing.join(", "), disabled.join(", "));
        Check::fail("triggers", format!("{missing} are not written to both: {disabled} is disabled"))
    }
}

fn parity(standing: &Standing, max_age: Duration) -> Check {
    let Standing { n_buckets, n_verified, n_mismatched, oldest_age, .. } = standing;
    match (standing.verdict, oldest_age) {
        (Verdict::Different, _) => {
            let named: Vec<_> = standing
                .differences
                .iter()
                .take(NAMED)
                .map(|difference| format!("{} {}", difference.key, difference.kind.as_str()))
                .collect();
            Check::fail("parity", format!("rows differ in {n_mismatched} key ranges: {}", named.join(", ")))
        }
        (Verdict::Equal, Some(age)) if *age <= max_age => Check::pass(
            "parity",
            format!("{n_buckets} key ranges equal, the oldest verified {} s ago", age.as_secs()),
        ),
        (Verdict::Equal, age) => {
            let age = age.unwrap_or_default().as_secs();
            Check::new("parity", State::Unknown, format!("last verified in full {age} s ago"))
        }
        (Verdict::Unknown, _) => {
            let reason = format!("{n_verified} of {n_buckets} key ranges verified so far, all equal");
            Check::new("parity", State::Unknown, reason)
        }
    }
}

fn row_counts(standing: &Standing) -> Check {
    let Standing { legacy_rows, partitioned_rows, .. } = standing;
    let reason = format!("{legacy_rows} in the legacy table, {partitioned_rows} in the partitioned one");
    if standing.n_verified < standing.n_buckets {
        Check::new("row_counts", State::Unknown, "not all key ranges were counted yet")
    } else if legacy_rows == partitioned_rows {
        Check::pass("row_counts", reason)
    } else {
        Check::fail("row_counts", reason)
    }
}

fn partitions(catalog: &Catalog) -> Check {
    let filled =
        catalog.partitions.iter().filter(|table| table.is_default && table.rows.is_some_and(|n| n > 0));
    let problems: Vec<_> = filled
        .map(|table| format!("the default partition {} has rows", table.name))
        .chain((!catalog.gaps.is_empty()).then(|| format!("{} gaps between partitions", catalog.gaps.len())))
        .chain(catalog.partitions.is_empty().then(|| "there are none".to_owned()))
        .collect();
    Check::of_problems("partitions", &problems, || format!("{} without a gap", catalog.partitions.len()))
}

fn future_partitions(catalog: &Catalog) -> Check {
    match catalog.missing_future.len() {
        0 => Check::pass("future_partitions", "there are enough ahead of now"),
        n => Check::fail("future_partitions", format!("{n} are missing ahead of now")),
    }
}

fn dependents(catalog: &Catalog) -> Check {
    Check::of_problems("dependents", &catalog.dependents, || {
        "no foreign key or materialized view points at the legacy table".to_owned()
    })
}

fn statistics(catalog: &Catalog) -> Check {
    let unknown = catalog.partitions.iter().chain(&catalog.partitioned).filter(|table| table.rows.is_none());
    let problems: Vec<_> = unknown.map(|table| format!("{} was never analyzed", table.name)).collect();
    Check::of_problems("statistics", &problems, || "all partitions and their parent are analyzed".to_owned())
}

impl Check {
    fn new(name: &'static str, state: State, reason: impl Into<String>) -> Self {
        Self { name, state, reason: reason.into() }
    }

    fn pass(name: &'static str, reason: impl Into<String>) -> Self {
        Self::new(name, State::Pass, reason)
    }

    fn fail(name: &'static str, reason: impl Into<String>) -> Self {
        Self::new(name, State::Fail, reason)
    }

    fn of_problems(name: &'static str, problems: &[String], right: impl FnOnce() -> String) -> Self {
        let rest = problems.len().saturating_sub(NAMED);
        let mut reason = problems.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
        if rest > 0 {
            reason.push_str(&format!("; and {rest} more"));
        }
        if problems.is_empty() { Self::pass(name, right()) } else { Self::fail(name, reason) }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            catalog::{Column, Range, Table, Trigger, tests::table},
            ledger::Ledger,
        },
        *,
    };
    use crate::test_time::origin;

    fn pair() -> PairConfig {
        PairConfig {
            legacy: "t".to_owned(),
            partitioned: "t_p".to_owned(),
            key: "id".to_owned(),
            time_column: "at".to_owned(),
        }
    }

    fn right() -> (Catalog, Standing) {
        let trigger = Trigger {
            name: "both".to_owned(),
            function: "both".to_owned(),
            on_insert: true,
            on_update: true,
            on_delete: true,
            enabled: true,
        };
        let key =
            Key { is_integer: true, is_unique: true, is_never_null: true, is_indexed_in_partitions: true };
        let catalog = Catalog {
            legacy: Some(table("t", None)),
            partitioned: Some(Table { is_partitioned: true, ..table("t_p", None) }),
            partition_key: "RANGE (at)".to_owned(),
            partitions: vec![table("t_p1", Some((0, 10)))],
            columns: vec![Column { name: "id".to_owned(), problem: None, hashable: true }],
            key: Some(key),
            triggers: vec![trigger],
            ..Catalog::default()
        };
        let standing = Standing {
            verdict: Verdict::Equal,
            n_verified: 1,
            oldest_age: Some(Duration::ZERO),
            ..Ledger::new(1).standing(origin())
        };
        (catalog, standing)
    }

    fn wrong(catalog: &Catalog, standing: &Standing) -> Vec<(&'static str, State)> {
        let checks = checks(Some(catalog), standing, Duration::from_secs(60), &pair());
        assert!(
            checks.iter().map(|check| check.name).eq(NAMES)
                && checks.iter().all(|check| !check.reason.is_empty())
        );
        checks
            .iter()
            .filter(|check| check.state != State::Pass)
            .map(|check| (check.name, check.state))
            .collect()
    }

    #[test]
    fn each_thing_that_is_wrong_fails_its_own_check_and_no_other() {
        let (catalog, standing) = right();
        assert_eq!(wrong(&catalog, &standing), []);
        type Spoil = fn(&mut Catalog, &mut Standing);
        let spoils: [(&str, State, Spoil); 12] = [
            ("columns", State::Fail, |c, _| c.columns[0].problem = Some("id differs".to_owned())),
            ("keys", State::Fail, |c, _| c.key = None),
            ("triggers", State::Fail, |c, _| c.triggers[0].enabled = false),
            ("triggers", State::Fail, |c, _| c.triggers[0].on_delete = false),
            ("parity", State::Fail, |_, s| s.verdict = Verdict::Different),
            ("parity", State::Unknown, |_, s| s.oldest_age = Some(Duration::from_secs(61))),
            ("row_counts", State::Fail, |_, s| s.legacy_rows = 1),
            ("partitions", State::Fail, |c, _| c.gaps.push(Range { from_s: 0, to_s: 1 })),
            ("partitions", State::Fail, |c, _| c.partitions.push(table("d", None))),
            ("future_partitions", State::Fail, |c, _| c.missing_future.push(Range { from_s: 0, to_s: 1 })),
            ("dependents", State::Fail, |c, _| c.dependents.push("view v".to_owned())),
            ("statistics", State::Fail, |c, _| c.partitions[0].rows = None),
        ];
        for (name, state, spoil) in spoils {
            let (mut catalog, mut standing) = right();
            spoil(&mut catalog, &mut standing);
            assert_eq!(wrong(&catalog, &standing), [(name, state)]);
        }
    }

    #[test]
    fn a_missing_table_fails_and_leaves_the_rest_unknown() {
        let (mut catalog, standing) = right();
        catalog.partitioned = None;
        let wrong = wrong(&catalog, &standing);
        assert_eq!(wrong[0], ("tables", State::Fail));
        assert!(wrong.len() == NAMES.len() && wrong[1..].iter().all(|(_, state)| *state == State::Unknown));
    }
}
