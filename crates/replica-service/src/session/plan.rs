use std::{pin::pin, time::Duration};

use futures_util::TryStreamExt as _;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{END_READ, Road, timeout_ms};
use crate::{
    error::{Kind, QueryError},
    pool::Lease,
    sql::{decode::Raw, param::Param},
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
    lease: Lease,
    road: Road<'_>,
    wanted: &Wanted,
    left: Duration,
) -> Result<Plan, QueryError> {
    let client = lease.client();
    let failed = |error| QueryError::from_postgres(road.node, Kind::Query, error);
    let begin = format!(
        "BEGIN READ ONLY; SET LOCAL statement_timeout = {}; SET LOCAL plan_cache_mode = force_generic_plan",
        timeout_ms(left)
    );
    client.batch_execute(&begin).await.map_err(failed)?;
    let name = format!("mainstay_plan_{:016x}", rand::random::<u64>());
    let planned = if wanted.params.is_empty() {
        generic(client, &name, wanted).await
    } else {
        for_values(client, wanted).await.map_err(Refused::unprepared)
    };
    // A prepared statement outlives its transaction.
    let end = match &planned {
        Ok(Plan { generic: true, .. }) | Err(Refused { prepared: true, .. }) => {
            format!("ROLLBACK; DEALLOCATE {name}")
        }
        _ => END_READ.to_owned(),
    };
    let planned = planned.map_err(|refused| failed(refused.error));
    if let Err(error @ QueryError::Broken { .. }) = planned {
        return Err(error);
    }
    client.batch_execute(&end).await.map_err(failed)?;
    lease.keep();
    planned
}

struct Refused {
    error: tokio_postgres::Error,
    prepared: bool,
}

impl Refused {
    fn unprepared(error: tokio_postgres::Error) -> Self {
        Self { error, prepared: false }
    }

    fn prepared(error: tokio_postgres::Error) -> Self {
        Self { error, prepared: true }
    }
}

async fn generic(client: &Client, name: &str, wanted: &Wanted) -> Result<Plan, Refused> {
    let prepare = format!("PREPARE {name} AS {}", wanted.sql);
    client.query_typed(&prepare, &[]).await.map_err(Refused::unprepared)?;
    let types = format!(
        "SELECT unnest(parameter_types)::text FROM pg_catalog.pg_prepared_statements WHERE name = '{name}'"
    );
    let types = first_columns(client, &types).await.map_err(Refused::prepared)?;
    let nulls =
        if types.is_empty() { String::new() } else { format!("({})", vec!["NULL"; types.len()].join(", ")) };
    let explain = format!("{} EXECUTE {name}{nulls}", explain(wanted.json));
    let lines = first_columns(client, &explain).await.map_err(Refused::prepared)?;
    Ok(Plan { text: lines.join("\n"), generic: true, parameter_types: types })
}

async fn for_values(client: &Client, wanted: &Wanted) -> Result<Plan, tokio_postgres::Error> {
    let sql = format!("{} {}", explain(wanted.json), wanted.sql);
    let params = wanted.params.iter().map(|param| (param, param.ty.clone()));
    let mut rows = pin!(client.query_typed_raw(&sql, params).await?);
    let mut lines = Vec::new();
    while let Some(row) = rows.try_next().await? {
        // Text, or JSON, whose binary form is its text.
        let Raw(line) = row.try_get(0)?;
        lines.push(String::from_utf8_lossy(line).into_owned());
    }
    Ok(Plan { text: lines.join("\n"), generic: false, parameter_types: Vec::new() })
}

fn explain(json: bool) -> &'static str {
    if json { "EXPLAIN (FORMAT JSON)" } else { "EXPLAIN (FORMAT TEXT)" }
}

async fn first_columns(client: &Client, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let messages = client.simple_query(sql).await?;
    let text = |message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(text).collect())
}
