use mainstay_proto::replica::v1::{SqlStatement, TransactionRequest, value::Kind};
use mainstay_rpc::ErrorCode;

use crate::rig::*;

fn one_connection(config: &mut replica_service::ReplicaConfig) {
    config.pool.max_size = 1;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_smuggled_into_a_read_fails_in_the_database() {
    let stack = shared().await;
    let table = table(stack, "id int").await;
    let function = format!(
        "CREATE OR REPLACE FUNCTION f_{table}() RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO {table} VALUES (1) RETURNING id'"
    );
    sql(primary(stack), &function).await;
    stack.postgres().unwrap().wait_caught_up(primary(stack)).await.unwrap();
    for way in [Way::Direct, Way::PgBouncer] {
        let rig = Rig::start(stack, way, |_| {}).await;
        for statement in [
            format!("INSERT INTO {table} VALUES (1)"),
            format!("WITH w AS (INSERT INTO {table} VALUES (1) RETURNING id) SELECT * FROM w"),
            format!("SELECT f_{table}()"),
            format!("CREATE TABLE x_{table} (id int)"),
        ] {
            let on_primary = rig.query_primary(&statement).await.unwrap_err();
            let on_replica = rig.query_with(&statement, vec![]).await.unwrap_err();
            for failure in [on_primary, on_replica] {
                assert_eq!(
                    (failure.code(), failure.reason()),
                    (ErrorCode::FailedPrecondition, "READ_ONLY"),
                    "{statement}"
                );
                assert_eq!(failure.details()["sqlState"], "25006");
                assert!(failure.message().contains("use Execute"), "{}", failure.message());
            }
        }
        let rows = rig.query_primary(&format!("SELECT count(*) FROM {table}")).await.unwrap();
        assert_eq!(first(&rows), Kind::Int(0), "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_statements_in_one_are_refused() {
    let rig = Rig::start(shared().await, Way::Direct, |_| {}).await;
    for failure in [
        rig.query_with("SELECT 1; SELECT 2", vec![]).await.unwrap_err(),
        rig.execute("SELECT 1; SELECT 2").await.unwrap_err(),
    ] {
        assert_eq!(failure.code(), ErrorCode::InvalidArgument);
        assert_eq!(failure.message(), "only one statement is run at a time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_statement_sets_reaches_the_next_one() {
    let stack = shared().await;
    for way in [Way::Direct, Way::PgBouncer] {
        let rig = Rig::start(stack, way, one_connection).await;
        for leak in [
            "SELECT set_config('search_path', 'nowhere', false)",
            "SET work_mem = '77MB'",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
            "SELECT pg_advisory_lock(4711)",
        ] {
            rig.query_primary(leak).await.unwrap();
            rig.execute(leak).await.unwrap();
        }
        rig.execute("CREATE TEMP TABLE leaked (id int)").await.unwrap();
        let look = "SELECT current_setting('search_path') = 'nowhere' OR current_setting('work_mem') = '77MB' \
                    OR to_regclass('leaked') IS NOT NULL \
                    OR EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711)";
        assert_eq!(first(&rig.query_primary(look).await.unwrap()), Kind::Bool(false), "{way:?} read");
        let written = rig.execute(look).await.unwrap();
        assert_eq!(written.rows[0].values[0].kind, Some(Kind::Bool(false)), "{way:?} write");
    }
}

/// A prepared statement outlives its transaction, also one that was rolled back.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_write_prepares_is_there_for_the_next_one() {
    let stack = shared().await;
    let prepare = |name: &str| format!("PREPARE leaked_{name} AS SELECT 1");
    let within = |name: &str, then: &str| {
        format!("DO $$ BEGIN EXECUTE 'PREPARE leaked_{name} AS SELECT 1'; {then} END $$")
    };
    for way in [Way::Direct, Way::PgBouncer] {
        let rig = Rig::start(stack, way, one_connection).await;
        let table = table(stack, "id int").await;
        let nothing_left = async |after: &str| {
            let count = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'leaked%'";
            let left = rig.execute(count).await.unwrap();
            assert_eq!(left.rows[0].values[0].kind, Some(Kind::Int(0)), "{way:?}: after {after}");
        };
        rig.execute(&prepare("alone")).await.unwrap();
        nothing_left("PREPARE").await;
        rig.execute(&within("inside", "")).await.unwrap();
        nothing_left("DO").await;
        rig.execute(&within("failed", "RAISE 'no';")).await.unwrap_err();
        nothing_left("a DO that failed").await;
        let statements = [format!("INSERT INTO {table} VALUES (1)"), within("together", "")]
            .map(|sql| SqlStatement { sql, params: Vec::new() })
            .to_vec();
        let request = TransactionRequest { statements, ..TransactionRequest::default() };
        rig.client.clone().transaction(request).await.unwrap();
        nothing_left("a transaction").await;
        // What leaves nothing costs no connection.
        let created = rig.node("primary").await.write_pool.unwrap().created;
        for n in 0..3 {
            rig.execute(&format!("INSERT INTO {table} VALUES ({n})")).await.unwrap();
        }
        assert_eq!(rig.node("primary").await.write_pool.unwrap().created, created, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_that_end_their_own_transaction_harm_nobody() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, one_connection).await;
    let table = table(stack, "id int").await;
    for statement in [
        "COMMIT",
        "ROLLBACK",
        "COMMIT AND CHAIN",
        "SET TRANSACTION READ WRITE",
        "BEGIN READ WRITE",
        "SAVEPOINT a",
    ] {
        let _ = rig.query_primary(statement).await;
        let insert = rig.query_primary(&format!("INSERT INTO {table} VALUES (1)")).await.unwrap_err();
        assert_eq!(insert.reason(), "READ_ONLY", "after {statement}");
        let _ = rig.execute(statement).await;
        assert_eq!(rig.execute("SELECT 1").await.unwrap().rows.len(), 1, "after {statement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_is_refused_and_blocks_nobody() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, one_connection).await;
    let table = table(stack, "id int").await;
    for statement in [format!("COPY {table} TO STDOUT"), format!("COPY {table} FROM STDIN")] {
        let failure = rig.execute(&statement).await.unwrap_err();
        assert_eq!(
            (failure.code(), failure.reason()),
            (ErrorCode::InvalidArgument, "UNSUPPORTED_STATEMENT"),
            "{statement}"
        );
        assert_eq!(rig.execute("SELECT 1").await.unwrap().rows.len(), 1);
    }
    // A read may copy out, as far as the database is concerned; what comes then is no row.
    let failure = rig.query_primary(&format!("COPY {table} TO STDOUT")).await.unwrap_err();
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::InvalidArgument, "UNSUPPORTED_STATEMENT"));
    assert_eq!(first(&rig.query_primary("SELECT 1").await.unwrap()), Kind::Int(1));
}
