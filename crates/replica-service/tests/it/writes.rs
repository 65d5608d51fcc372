use mainstay_proto::replica::v1::{QueryRequest, value::Kind};
use mainstay_rpc::ErrorCode;

use crate::rig::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_with_the_token_always_sees_the_write() {
    let stack = shared().await;
    for way in [Way::Direct, Way::PgBouncer] {
        let rig = Rig::start(stack, way, |_| {}).await;
        let table = table(stack, "n int8").await;
        rig.execute(&format!("INSERT INTO {table} VALUES (0)")).await.unwrap();
        let mut by_replicas = 0;
        for n in 1..=100 {
            let update = format!("UPDATE {table} SET n = $1 RETURNING n");
            let written = rig.execute_with(&update, vec![value(Kind::Int(n))]).await.unwrap();
            assert_eq!(
                (written.rows_affected, written.rows[0].values[0].kind.clone()),
                (1, Some(Kind::Int(n)))
            );
            assert_eq!(written.served.unwrap().reason, "write");
            let read = QueryRequest {
                sql: format!("SELECT n FROM {table}"),
                after: written.token,
                ..QueryRequest::default()
            };
            let response = rig.ask(read).await.unwrap();
            assert_eq!(first(&response), Kind::Int(n), "{way:?}: {:?}", response.served);
            by_replicas += u32::from(served_by(&response).1 == "replica");
        }
        assert!(by_replicas > 50, "{way:?}: only {by_replicas} of 100 reads were answered by a replica");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_ours_is_refused() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, |_| {}).await;
    let real = rig.execute("SELECT 1").await.unwrap().token;
    // The first character behind the version belongs to the system identifier.
    let foreign = format!("{}{}{}", &real[..4], if &real[4..5] == "A" { "B" } else { "A" }, &real[5..]);
    for after in ["garbage".to_owned(), foreign] {
        let failure = rig
            .ask(QueryRequest { sql: "SELECT 1".to_owned(), after, ..QueryRequest::default() })
            .await
            .unwrap_err();
        assert_eq!((failure.code(), failure.reason()), (ErrorCode::InvalidArgument, "TOKEN_INVALID"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_database_carry_what_it_said() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, |_| {}).await;
    let table = table(stack, "id int PRIMARY KEY, n int CHECK (n > 0)").await;
    rig.execute(&format!("INSERT INTO {table} VALUES (1, 1)")).await.unwrap();
    for (sql, code, state, reason) in [
        (format!("INSERT INTO {table} VALUES (1, 1)"), ErrorCode::Conflict, "23505", "UNIQUE_VIOLATION"),
        (
            format!("INSERT INTO {table} VALUES (2, 0)"),
            ErrorCode::FailedPrecondition,
            "23514",
            "CHECK_VIOLATION",
        ),
        ("SELEC 1".to_owned(), ErrorCode::InvalidArgument, "42601", "SYNTAX_ERROR"),
        ("SELECT * FROM nowhere".to_owned(), ErrorCode::NotFound, "42P01", "UNDEFINED_TABLE"),
        ("SELECT $1".to_owned(), ErrorCode::InvalidArgument, "08P01", "PARAMETER_MISMATCH"),
        ("SELECT 1/0".to_owned(), ErrorCode::InvalidArgument, "22012", "INVALID_STATEMENT"),
        (
            "SELECT pg_read_file('/etc/passwd')".to_owned(),
            ErrorCode::PermissionDenied,
            "42501",
            "INSUFFICIENT_PRIVILEGE",
        ),
    ] {
        let failure = rig.execute(&sql).await.unwrap_err();
        assert_eq!((failure.code(), failure.reason()), (code, reason), "{sql}");
        assert_eq!(failure.details()["sqlState"], state);
        assert_eq!(failure.details()["outcome"], "not_applied");
    }
    let failure = rig.execute(&format!("INSERT INTO {table} VALUES (1, 1)")).await.unwrap_err();
    assert_eq!(failure.details()["constraint"], format!("{table}_pkey"));
    assert_eq!(failure.details()["detail"], "Key (id)=(1) already exists.");
    assert_eq!((failure.details()["schema"].as_str(), &failure.details()["table"]), ("public", &table));
    assert_eq!(failure.details()["retryable"], "false");
    let failure = rig.execute("SELECT 1 +").await.unwrap_err();
    assert_eq!(failure.details()["position"], "11");
    // A read says as much, by a protocol of its own.
    let failure = rig.query_primary("SELECT count FROM (SELECT 1) AS one").await.unwrap_err();
    assert_eq!((failure.reason(), failure.details()["position"].as_str()), ("UNDEFINED_COLUMN", "8"));
    let failure = rig.query_primary("SELECT 'x'::int").await.unwrap_err();
    assert_eq!(
        (failure.details()["sqlState"].as_str(), failure.details()["position"].as_str()),
        ("22P02", "8")
    );
    let failure = rig.query_primary("SELECT '{'::json").await.unwrap_err();
    assert_eq!(failure.details()["detail"], "The input string ended unexpectedly.");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constraint_checked_at_commit_leaves_nothing_behind() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, |_| {}).await;
    let table = table(stack, "id int UNIQUE DEFERRABLE INITIALLY DEFERRED").await;
    let failure = rig.execute(&format!("INSERT INTO {table} VALUES (1), (1)")).await.unwrap_err();
    assert_eq!(
        (failure.details()["sqlState"].as_str(), failure.details()["outcome"].as_str()),
        ("23505", "not_applied")
    );
    let rows = rig.query_primary(&format!("SELECT count(*) FROM {table}")).await.unwrap();
    assert_eq!(first(&rows), Kind::Int(0));
    assert_eq!(rig.node("primary").await.write_pool.unwrap().in_use, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_too_large_is_rolled_back() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, |config| {
        config.limits.max_rows = 10;
        config.limits.default_rows = 10;
    })
    .await;
    let table = table(stack, "id int").await;
    let insert = format!("INSERT INTO {table} SELECT generate_series(1, 11) RETURNING id");
    let failure = rig.execute(&insert).await.unwrap_err();
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::ResourceExhausted, "TOO_MANY_ROWS"));
    let rows = rig.query_primary(&format!("SELECT count(*) FROM {table}")).await.unwrap();
    assert_eq!(first(&rows), Kind::Int(0));
}
