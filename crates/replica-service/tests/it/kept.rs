//! Prepared statements that connections keep: used again, bounded, never wrong after a change, and nobody else's.

use std::time::Duration;

use mainstay_devstack::{Devstack, wait_until};
use mainstay_proto::replica::v1::{Prefer, QueryRequest, QueryResponse, value::Kind};
use mainstay_rpc::{ErrorCode, Failure};

use crate::rig::*;

/// A service with one connection for reads on the primary, so that a test meets what it has left there.
async fn start(stack: &Devstack, way: Way, kept_statements: u32) -> Rig {
    Rig::start(stack, way, |config| {
        config.pool.max_size = 1;
        config.pool.kept_statements = kept_statements;
    })
    .await
}

async fn ask(rig: &Rig, sql: &str, params: &[Kind]) -> Result<QueryResponse, Failure> {
    let params = params.iter().cloned().map(value).collect();
    let prefer = Prefer::Primary.into();
    rig.ask(QueryRequest { sql: sql.to_owned(), params, prefer, ..QueryRequest::default() }).await
}

async fn ask_often(rig: &Rig, sql: &str, params: &[Kind]) -> QueryResponse {
    for _ in 0..3 {
        ask(rig, sql, params).await.unwrap();
    }
    ask(rig, sql, params).await.unwrap()
}

/// Counts the statements prepared in the session whose text is like `pattern`.
async fn n_prepared(rig: &Rig, pattern: &str) -> i64 {
    // Another text each time: it is not kept itself.
    let look = format!(
        "SELECT count(*) /* {} */ FROM pg_prepared_statements WHERE statement LIKE '{pattern}'",
        uuid::Uuid::new_v4()
    );
    match first(&ask(rig, &look, &[]).await.unwrap()) {
        Kind::Int(n) => n,
        other => panic!("{other:?}"),
    }
}

fn columns(response: &QueryResponse) -> Vec<(&str, &str)> {
    response.columns.iter().map(|column| (column.name.as_str(), column.r#type.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_asked_again_is_kept_and_only_so_many_are() {
    let rig = start(shared().await, Way::Direct, 3).await;
    let sql = "SELECT $1::int8 + 1 AS kept_once";
    for n in 0..5 {
        assert_eq!(first(&ask(&rig, sql, &[Kind::Int(n)]).await.unwrap()), Kind::Int(n + 1));
        assert_eq!(n_prepared(&rig, "%kept_once").await, i64::from(n > 0), "asked {n} times before");
    }
    // Without rows the columns are known all the same.
    let empty = ask_often(&rig, "SELECT 1 AS none WHERE false", &[]).await;
    assert_eq!((columns(&empty), empty.rows.len()), (vec![("none", "int4")], 0));
    for n in 0..10 {
        let sql = format!("SELECT {n} AS kept_many");
        assert_eq!(first(&ask_often(&rig, &sql, &[]).await), Kind::Int(n));
    }
    assert_eq!(n_prepared(&rig, "%kept_many").await, 3);
    assert_eq!(n_prepared(&rig, "%kept_once").await, 0, "it was used longest ago");
    for n in 0..100 {
        ask(&rig, &format!("SELECT {n} AS asked_once"), &[]).await.unwrap();
    }
    assert_eq!(n_prepared(&rig, "%asked_once").await, 0);
    assert_eq!(n_prepared(&rig, "%kept_many").await, 3, "texts asked once drive nothing out");
    // Ten and one were prepared beside the one that had no rows; all but the last three made room.
    for (event, least) in [("prepared", 12.0), ("evicted", 9.0), ("used", 20.0)] {
        let n = rig.metric(&format!("mainstay_replica_kept_statements_total{{event=\"{event}\"}}")).await;
        assert!(n.is_some_and(|n| n >= least), "{event}: {n:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_where_that_is_off_or_a_pooler_stands_before_the_server() {
    let stack = shared().await;
    for (way, most) in [(Way::Direct, 0), (Way::PgBouncer, 64)] {
        let rig = start(stack, way, most).await;
        let sql = format!("SELECT 1 AS never_kept_{most}");
        ask_often(&rig, &sql, &[]).await;
        assert_eq!(n_prepared(&rig, &sql).await, 0, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_statement_follows_every_change_of_its_table_at_once() {
    let stack = shared().await;
    let rig = start(stack, Way::Direct, 64).await;
    let table = table(stack, "id int, note text").await;
    let change = async |what: &str| sql(primary(stack), &what.replace("{t}", &table)).await;
    change("INSERT INTO {t} VALUES (7, 'seven')").await;
    let all = format!("SELECT * FROM {table}");
    // The database infers the type of the parameter.
    let by_id = format!("SELECT note FROM {table} WHERE id = $1");
    let (all, by_id) = (
        async || ask(&rig, &all, &[]).await,
        async |id: &str| ask(&rig, &by_id, &[Kind::Text(id.to_owned())]).await,
    );
    let mut expected = vec![("id", "int4"), ("note", "text")];
    for (what, columns_after) in [
        ("SELECT 1", None),
        (
            "ALTER TABLE {t} ADD COLUMN more bool",
            Some(vec![("id", "int4"), ("note", "text"), ("more", "bool")]),
        ),
        ("ALTER TABLE {t} DROP COLUMN more", Some(vec![("id", "int4"), ("note", "text")])),
        ("ALTER TABLE {t} ALTER COLUMN note TYPE varchar", Some(vec![("id", "int4"), ("note", "varchar")])),
        ("ALTER TABLE {t} RENAME COLUMN id TO nr; ALTER TABLE {t} RENAME COLUMN nr TO id", None),
        ("ALTER TABLE {t} ALTER COLUMN id TYPE text", Some(vec![("id", "text"), ("note", "varchar")])),
        ("UPDATE {t} SET id = 'x7'", None),
    ] {
        for _ in 0..3 {
            all().await.unwrap();
            by_id("7").await.unwrap();
        }
        change(what).await;
        expected = columns_after.unwrap_or(expected);
        assert_eq!(columns(&all().await.unwrap()), expected, "after {what}");
        let id = if what.starts_with("UPDATE") { "x7" } else { "7" };
        assert_eq!(first(&by_id(id).await.unwrap()), Kind::Text("seven".into()), "after {what}");
    }
    change("DROP TABLE {t}").await;
    let gone = all().await.unwrap_err();
    assert_eq!(gone.details()["sqlState"], "42P01", "{gone:?}");
    change("CREATE TABLE {t} (other int); GRANT SELECT ON {t} TO PUBLIC").await;
    assert_eq!(columns(&all().await.unwrap()), [("other", "int4")]);
    let outdated = rig.metric("mainstay_replica_kept_statements_total{event=\"outdated\"}").await;
    assert!(outdated.is_some_and(|n| n >= 3.0), "{outdated:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_deallocates_kept_statements_harms_nobody() {
    let stack = shared().await;
    let rig = start(stack, Way::Direct, 64).await;
    let function = "CREATE OR REPLACE FUNCTION kept_forgets() RETURNS int LANGUAGE plpgsql AS \
                    $$ BEGIN EXECUTE 'DEALLOCATE ALL'; RETURN 1; END $$";
    sql(primary(stack), function).await;
    let statements = ["SELECT $1::int4 AS a", "SELECT $1::int4 + 1 AS b"];
    for forget in ["SELECT kept_forgets()", "DEALLOCATE ALL", "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$"]
    {
        for sql in statements {
            ask_often(&rig, sql, &[Kind::Int(1)]).await;
        }
        ask(&rig, forget, &[]).await.unwrap();
        for (sql, wanted) in statements.into_iter().zip([5, 6]) {
            let answer = ask(&rig, sql, &[Kind::Int(5)]).await.unwrap();
            assert_eq!(first(&answer), Kind::Int(wanted), "{sql} after {forget}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_outlives_a_transaction_reaches_the_next_read() {
    let stack = shared().await;
    for way in [Way::Direct, Way::PgBouncer] {
        let rig = start(stack, way, 64).await;
        for leak in [
            "SELECT set_config('work_mem', '77MB', false)",
            "SELECT pg_advisory_lock(4712)",
            "SELECT pg_advisory_lock_shared(4712)",
            "LISTEN leaked",
            "DECLARE leaked CURSOR WITH HOLD FOR SELECT 1",
            "PREPARE leaked AS SELECT 1",
            "DO $$ BEGIN EXECUTE 'PREPARE leaked_too AS SELECT 1'; PERFORM set_config('work_mem', '77MB', false); END $$",
            "SET statement_timeout = 1",
        ] {
            // The second and the third time by a kept statement, where it is one that is kept.
            for n in 0..3 {
                ask(&rig, leak, &[])
                    .await
                    .unwrap_or_else(|failure| panic!("{way:?}, {leak}, {n}: {failure:?}"));
            }
        }
        for refused in ["CREATE TEMP TABLE leaked (id int)", "SELECT 1 AS id INTO TEMP leaked"] {
            assert_eq!(ask(&rig, refused, &[]).await.unwrap_err().reason(), "READ_ONLY", "{refused}");
        }
        let look = "SELECT concat_ws(', ', \
            (SELECT 'setting' WHERE current_setting('work_mem') = '77MB' OR current_setting('statement_timeout') = '1ms'), \
            (SELECT string_agg('lock', ', ') FROM pg_locks WHERE locktype = 'advisory' AND objid = 4712), \
            (SELECT string_agg('channel', ', ') FROM pg_listening_channels()), \
            (SELECT string_agg('cursor', ', ') FROM pg_cursors WHERE name = 'leaked'), \
            (SELECT string_agg(name, ', ') FROM pg_prepared_statements WHERE name LIKE 'leaked%'), \
            to_regclass('pg_temp.leaked')::text)";
        assert_eq!(first(&ask(&rig, look, &[]).await.unwrap()), Kind::Text(String::new()), "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_itself_stops_a_kept_statement_at_the_deadline() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, |config| {
        config.pool.max_size = 1;
        config.postgres.statement_within = Duration::from_secs(3);
    })
    .await;
    let mark = uuid::Uuid::new_v4();
    let sleep = format!("SELECT pg_sleep($1) /* {mark} */");
    // One may meet a machine that stands still; kept it is when it was asked and answered twice.
    wait_until("the statement to be kept", EVERY, SOON, || async {
        ask(&rig, &sleep, &[Kind::Float(0.0)]).await.map_err(|failure| format!("{failure:?}"))?;
        match ask(
            &rig,
            &format!("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%{mark}%'"),
            &[],
        )
        .await
        {
            Ok(answer) if first(&answer) == Kind::Int(2) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    let failure = ask(&rig, &sleep, &[Kind::Float(300.0)]).await.unwrap_err();
    assert_eq!(failure.code(), ErrorCode::DeadlineExceeded, "{failure:?}");
    let observer = superuser(&rig, stack, primary(stack)).await;
    let running = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%{mark}%' AND pid <> pg_backend_pid()"
    );
    wait_until("nothing to run any more", EVERY, SOON, || async {
        let n: i64 = observer.query_one(&running, &[]).await.unwrap().get(0);
        if n == 0 { Ok(()) } else { Err(n.to_string()) }
    })
    .await
    .unwrap();
}
