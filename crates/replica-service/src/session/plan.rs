use std::time::Duration;

use super::{Road, UNDO, timeout_ms};
use crate::{
    error::{Kind, QueryError},
    pool::ReadLease,
    sql::param::Param,
    wire::{Wire, WireError},
};

/// How the database would run a statement.
#[derive(Debug)]
pub(crate) struct Plan {
    pub text: String,
    /// It holds for no values in particular.
    pub generic: bool,
    pub parameter_types: Vec<String>,
}

/// What is planned, and how it is told.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub sql: String,
    /// Without any the plan is generic.
    pub params: Vec<Param>,
    pub json: bool,
}

/// Plans one statement in a read-only transaction that is rolled back; it is never run.
///
/// A generic plan is that of a prepared statement, asked for with NULL for each parameter while `plan_cache_mode` says
/// that values do not count: EXPLAIN (GENERIC_PLAN) exists from version 16 on only. The text travels by the extended
/// protocol, which takes one statement; behind PREPARE and behind the options of EXPLAIN the grammar allows none but
/// those that can be planned, and no ANALYZE.
pub(crate) async fn plan(
    mut lease: ReadLease,
    road: Road<'_>,
    wanted: &Wanted,
    left: Duration,
) -> Result<Plan, QueryError> {
    let wire = lease.wire();
    let failed = |error| QueryError::from_postgres(road.node, Kind::Query, error);
    let begin = format!(
        "BEGIN READ ONLY; SET LOCAL statement_timeout = {}; SET LOCAL plan_cache_mode = force_generic_plan",
        timeout_ms(left)
    );
    wire.simple(&begin).await.map_err(failed)?;
    let name = format!("mainstay_plan_{:016x}", rand::random::<u64>());
    let planned = if wanted.params.is_empty() {
        generic(wire, &name, wanted).await
    } else {
        for_values(wire, wanted).await.map_err(Refused::unprepared)
    };
    // A prepared statement outlives its transaction.
    let end = match &planned {
        Ok(Plan { generic: true, .. }) | Err(Refused { prepared: true, .. }) => {
            format!("ROLLBACK; DEALLOCATE {name}")
        }
        _ => UNDO.to_owned(),
    };
    let planned = planned.map_err(|refused| failed(refused.error));
    if let Err(error @ QueryError::Broken { .. }) = planned {
        return Err(error);
    }
    lease.wire().simple(&end).await.map_err(failed)?;
    lease.keep();
    planned
}

struct Refused {
    error: WireError,
    prepared: bool,
}

impl Refused {
    fn unprepared(error: WireError) -> Self {
        Self { error, prepared: false }
    }

    fn prepared(error: WireError) -> Self {
        Self { error, prepared: true }
    }
}

async fn generic(wire: &mut Wire, name: &str, wanted: &Wanted) -> Result<Plan, Refused> {
    let prepare = format!("PREPARE {name} AS {}", wanted.sql);
    wire.one(&prepare, &[]).await.map_err(Refused::unprepared)?;
    let types = format!(
        "SELECT unnest(parameter_types)::text FROM pg_catalog.pg_prepared_statements WHERE name = '{name}'"
    );
    let types = wire.simple(&types).await.map_err(Refused::prepared)?;
    let nulls =
        if types.is_empty() { String::new() } else { format!("({})", vec!["NULL"; types.len()].join(", ")) };
    let explain = format!("{} EXECUTE {name}{nulls}", explain(wanted.json));
    let lines = wire.simple(&explain).await.map_err(Refused::prepared)?;
    Ok(Plan { text: lines.join("\n"), generic: true, parameter_types: types })
}

async fn for_values(wire: &mut Wire, wanted: &Wanted) -> Result<Plan, WireError> {
    let sql = format!("{} {}", explain(wanted.json), wanted.sql);
    // Text, or JSON, whose binary form is its text.
    let lines = wire.one(&sql, &wanted.params).await?;
    Ok(Plan { text: lines.join("\n"), generic: false, parameter_types: Vec::new() })
}

fn explain(json: bool) -> &'static str {
    if json { "EXPLAIN (FORMAT JSON)" } else { "EXPLAIN (FORMAT TEXT)" }
}
