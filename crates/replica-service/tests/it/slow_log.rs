use std::time::Duration;

use mainstay_proto::replica::v1::{
    ExplainRequest, ExplainResponse, QueryRequest, SlowStatement, SlowStatementsRequest,
    SlowStatementsResponse, slow_log_service_client::SlowLogServiceClient, value::Kind,
};
use mainstay_rpc::{ErrorCode, Failure};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

use crate::rig::*;

fn client(rig: &Rig) -> SlowLogServiceClient<Channel> {
    let address = rig.cx.listening()[0].address;
    SlowLogServiceClient::new(Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy())
}

async fn slow(rig: &Rig, request: SlowStatementsRequest) -> SlowStatementsResponse {
    client(rig).slow_statements(request).await.unwrap().into_inner()
}

async fn explain(rig: &Rig, request: ExplainRequest) -> Result<ExplainResponse, Failure> {
    Ok(client(rig).explain(request).await.map_err(Failure::from)?.into_inner())
}

fn seconds(duration: Option<prost_types::Duration>) -> f64 {
    Duration::try_from(duration.unwrap()).unwrap().as_secs_f64()
}

/// Everything is slow on a machine that stands still, so only the statement that is meant is looked at.
fn of<'a>(told: &'a SlowStatementsResponse, word: &str) -> Vec<&'a SlowStatement> {
    told.statements.iter().filter(|entry| entry.sql.contains(word)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_statement_is_kept_with_where_its_time_went_and_without_its_values() {
    let rig = Rig::start(shared().await, Way::Direct, |config| {
        config.slow_log.after = Duration::from_millis(300);
        config.pool.max_size = 1;
        config.nodes.retain(|name, _| name == "primary");
    })
    .await;
    let nap = "SELECT pg_sleep($1) AS nap, 'secret' AS word";
    let napping = || rig.query_with(nap, vec![typed(Kind::Float(0.6), "float8")]);
    // The pool has one connection: one of them waits for the other.
    let (a, b) = tokio::join!(napping(), napping());
    a.unwrap();
    b.unwrap();
    let failure = rig.query_with("SELECT 1 / 0, pg_sleep(0) AS quick", vec![]).await.unwrap_err();
    assert_eq!(failure.details()["sqlState"], "22012");
    let late = "SELECT 1 / (count(*) - 1) AS late FROM (SELECT pg_sleep(0.4)) AS one";
    rig.execute(late).await.unwrap_err();

    let told = slow(&rig, SlowStatementsRequest::default()).await;
    assert_eq!(seconds(told.after), 0.3);
    for (kind, n) in [("query", 2.0), ("execute", 1.0)] {
        let counted = rig.metric(&format!("mainstay_replica_slow_statements_total{{kind=\"{kind}\"}}")).await;
        assert!(counted.is_some_and(|counted| counted >= n), "{kind}: {counted:?}");
    }
    let naps = of(&told, "nap");
    assert_eq!(naps.len(), 2, "{told:?}");
    for entry in &naps {
        assert_eq!((entry.kind.as_str(), entry.node.as_str(), entry.rows), ("query", "primary", 1));
        assert_eq!(entry.sql, "SELECT pg_sleep($1) AS nap, ? AS word");
        assert!(seconds(entry.executed) >= 0.6 && entry.error.is_empty(), "{entry:?}");
        assert!(entry.sql_as_sent.is_empty() && entry.params.is_empty(), "{entry:?}");
    }
    assert!(naps.iter().any(|entry| seconds(entry.waited) > 0.3), "{naps:?}");
    let failed = slow(&rig, SlowStatementsRequest { failed: true, ..Default::default() }).await;
    let [late] = of(&failed, "late")[..] else { panic!("{failed:?}") };
    assert_eq!((late.kind.as_str(), late.node.as_str()), ("execute", "primary"));
    assert!(!late.error.is_empty() && of(&failed, "nap").is_empty(), "{failed:?}");

    let fingerprint = naps[0].fingerprint.clone();
    let filter = SlowStatementsRequest { fingerprint, limit: 1, ..Default::default() };
    assert_eq!(slow(&rig, filter).await.statements.len(), 1);
    let nowhere = SlowStatementsRequest { node: "replica1".to_owned(), ..Default::default() };
    assert!(slow(&rig, nowhere).await.statements.is_empty());
    let bad = SlowStatementsRequest { kind: "slow".to_owned(), ..Default::default() };
    let refused = Failure::from(client(&rig).slow_statements(bad).await.unwrap_err());
    assert_eq!(refused.fields()[0].field, "kind");
    // Its literal was not kept, so it cannot be planned by its id.
    let refused = explain(&rig, ExplainRequest { id: naps[0].id, ..Default::default() }).await.unwrap_err();
    assert_eq!((refused.code(), refused.reason()), (ErrorCode::FailedPrecondition, "TEXT_NOT_KEPT"));
    let refused = explain(&rig, ExplainRequest { id: 4_711, ..Default::default() }).await.unwrap_err();
    assert_eq!((refused.code(), refused.reason()), (ErrorCode::NotFound, "SLOW_ENTRY_UNKNOWN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_made_on_a_replica_and_nothing_is_run() {
    let stack = shared().await;
    let table = table(stack, "id int8 PRIMARY KEY, note text").await;
    sql(
        primary(stack),
        &format!("INSERT INTO {table} SELECT n, 'n' FROM generate_series(1, 5000) AS n; ANALYZE {table}"),
    )
    .await;
    stack.postgres().unwrap().wait_caught_up(primary(stack)).await.unwrap();
    for way in [Way::Direct, Way::PgBouncer] {
        let rig = Rig::start(stack, way, |config| {
            config.slow_log.after = Duration::from_millis(1);
            config.slow_log.keep_values = true;
            config.slow_log.explain_within = Duration::from_secs(60);
            config.pool.max_size = 1;
        })
        .await;
        let plan = |sql: &str| explain(&rig, ExplainRequest { sql: sql.to_owned(), ..Default::default() });
        let by_key = format!("SELECT note FROM {table} WHERE id = $1");
        let generic = plan(&by_key).await.unwrap();
        assert!(generic.generic && generic.node.starts_with("replica"), "{way:?}: {generic:?}");
        assert_eq!(generic.parameter_types, ["bigint"]);
        assert!(generic.plan.contains("Index Scan") && generic.plan.contains("$1"), "{}", generic.plan);
        // One that writes is planned too, on a node that could not run it; and it is not run.
        let write = plan(&format!("DELETE FROM {table} WHERE id < $1")).await.unwrap();
        assert!(write.plan.contains("Delete on"), "{}", write.plan);
        assert_eq!(rig.metric("mainstay_replica_plans_total{result=\"ok\"}").await, Some(2.0));
        let sleep = plan("SELECT pg_sleep(3000)").await.unwrap();
        assert!(sleep.plan.contains("Result"), "{}", sleep.plan);
        for (sql, reason) in [
            (format!("SELECT 1; DROP TABLE {table}"), "SYNTAX_ERROR"),
            (format!("ANALYZE {table}"), "SYNTAX_ERROR"),
            ("EXECUTE nothing".to_owned(), "SYNTAX_ERROR"),
            ("SELECT nobody".to_owned(), "UNDEFINED_COLUMN"),
        ] {
            let refused = plan(&sql).await.unwrap_err();
            assert_eq!(refused.reason(), reason, "{way:?} {sql}: {refused:?}");
        }
        let values = ExplainRequest {
            sql: by_key.clone(),
            params: vec![value(Kind::Int(7))],
            json: true,
            ..Default::default()
        };
        let special = explain(&rig, values).await.unwrap();
        let json = &special.plan;
        assert!(!special.generic && json.contains("(id = 7)") && json.starts_with('['), "{way:?}: {json}");
        let analyze = ExplainRequest {
            sql: "ANALYZE SELECT $1".to_owned(),
            params: vec![value(Kind::Int(7))],
            ..Default::default()
        };
        assert_eq!(explain(&rig, analyze).await.unwrap_err().reason(), "SYNTAX_ERROR");

        // An entry of the log whose values were kept is planned for these.
        let slow_key = format!("SELECT note, pg_sleep(0.01) FROM {table} WHERE id = $1 AND note = 'n'");
        rig.query_with(&slow_key, vec![value(Kind::Int(9))]).await.unwrap();
        let told = slow(&rig, SlowStatementsRequest::default()).await;
        let [entry] = of(&told, "pg_sleep(?)")[..] else { panic!("{told:?}") };
        assert_eq!((entry.sql_as_sent.as_str(), entry.params[0].as_str()), (slow_key.as_str(), "9"));
        let by_id = explain(&rig, ExplainRequest { id: entry.id, ..Default::default() }).await.unwrap();
        assert!(!by_id.generic && by_id.plan.contains("9"), "{by_id:?}");

        let mut viewer = Request::new(ExplainRequest { sql: "SELECT 1".to_owned(), ..Default::default() });
        viewer.metadata_mut().insert("x-mainstay-subject", "somebody".parse().unwrap());
        viewer.metadata_mut().insert("x-mainstay-role", "viewer".parse().unwrap());
        let refused = Failure::from(client(&rig).explain(viewer).await.unwrap_err());
        assert_eq!((refused.code(), refused.reason()), (ErrorCode::PermissionDenied, "ROLE_TOO_LOW"));

        // Nothing is left of it: no prepared statement, and no setting.
        let left = "SELECT (SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'mainstay_plan%') || \
                    current_setting('plan_cache_mode')";
        let answer = rig.ask(QueryRequest { sql: left.to_owned(), ..Default::default() }).await.unwrap();
        assert_eq!(first(&answer), Kind::Text("0auto".to_owned()), "{way:?}");
        let rows = rig.query_primary(&format!("SELECT count(*) FROM {table}")).await.unwrap();
        assert_eq!(first(&rows), Kind::Int(5_000));
    }
}
