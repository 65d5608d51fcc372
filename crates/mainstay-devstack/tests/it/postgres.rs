//! PostgreSQL with replicas under control.

use std::time::Duration;

use mainstay_devstack::{Component, Devstack, Error, PostgresNode, demo, redis_command, wait_until};

const EVERY: Duration = Duration::from_millis(20);
const WITHIN: Duration = Duration::from_mins(1);

async fn rows(node: &PostgresNode) -> String {
    node.query_text("select count(*) from t").await.unwrap().unwrap()
}

async fn wait_rows(node: &PostgresNode, wanted: &str) {
    wait_until(format!("{wanted} rows on {}", node.name()), EVERY, WITHIN, || async {
        let sql = "select count(*) from t";
        match node.query_text(sql).await {
            Ok(Some(seen)) if seen == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn replica_can_be_held_released_cut_off_and_promoted() {
    let stack = Devstack::builder().postgres(true).proxied(Component::Replication(2)).start().await.unwrap();
    let postgres = stack.postgres().unwrap();
    let primary = postgres.first_primary();
    let [one, two] = postgres.first_replicas() else { panic!("two replicas") };
    primary.batch("create table t as select 1 as n", WITHIN).await.unwrap();
    postgres.wait_caught_up(primary).await.unwrap();

    one.hold_replay().await.unwrap();
    let proxy = stack.proxy(Component::Replication(2)).unwrap();
    proxy.cut().await.unwrap();
    primary.batch("insert into t values (2)", WITHIN).await.unwrap();
    let lsn = primary.query_text("select pg_current_wal_lsn()::text").await.unwrap().unwrap();
    wait_until("replica1 to receive", EVERY, WITHIN, || async {
        let sql = format!("select pg_last_wal_receive_lsn() >= '{lsn}'");
        let seen = one.query_text(&sql).await.map_err(|error| error.to_string())?;
        if seen.as_deref() == Some("t") { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await
    .unwrap();
    assert_eq!(rows(one).await, "1", "received, and held back");
    one.release_replay().await.unwrap();
    one.wait_replayed(&lsn).await.unwrap();
    assert_eq!(rows(one).await, "2");
    assert_eq!(rows(two).await, "1", "its stream is cut");
    proxy.restore().await.unwrap();
    wait_rows(two, "2").await;

    one.promote().await.unwrap();
    one.batch("insert into t values (3)", WITHIN).await.unwrap();
    assert!(!one.is_replica().await.unwrap() && two.is_replica().await.unwrap());
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn killed_primary_restarts_with_its_data_and_the_replicas_follow_again() {
    let stack = Devstack::builder().postgres(true).pgbouncer(true).start().await.unwrap();
    let postgres = stack.postgres().unwrap();
    let primary = postgres.first_primary();
    primary.batch("create table t as select 1 as n", WITHIN).await.unwrap();
    primary.kill().await.unwrap();
    let refused = primary.query_text("select 1").await.unwrap_err();
    assert!(matches!(refused, Error::Sql { .. }), "{refused:?}");
    primary.restart().await.unwrap();
    primary.batch("insert into t values (2)", WITHIN).await.unwrap();
    for replica in postgres.first_replicas() {
        wait_rows(replica, "2").await;
    }

    // Paused with all its backends: the port is open and nobody is at home.
    primary.pause().await.unwrap();
    let asked = primary.batch("select 1", Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(asked, Error::TimedOut(_)), "{asked:?}");
    primary.resume().await.unwrap();
    assert_eq!(rows(primary).await, "2");

    let bouncer = primary.bouncer().unwrap();
    bouncer.stop().await.unwrap();
    redis_command(bouncer.address(), None, &["PING"], WITHIN).await.unwrap_err();
    bouncer.start().await.unwrap();
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn demo_twins_hold_the_same_rows_on_every_node_and_are_made_once() {
    let stack = Devstack::builder().postgres(true).demo_data(true).start().await.unwrap();
    let postgres = stack.postgres().unwrap();
    demo::fill(postgres, &stack.credentials().postgres_password).await.unwrap();
    for node in postgres.nodes() {
        for table in demo::TABLES {
            // Joined by both keys: a row that differs anywhere does not count.
            let sql = format!(
                "select count(*) from {table} as a join {table}_partitioned as b using (id, occurred_at) \
                 where (a.*) is not distinct from (b.*)"
            );
            let seen = node.query_text(&sql).await.unwrap().unwrap();
            assert_eq!(seen, demo::N_ROWS.to_string(), "{table} on {}", node.name());
        }
    }
    let months =
        "select count(*) from pg_inherits where inhparent = 'revenue_transactions_partitioned'::regclass";
    let n_months: u32 = postgres.first_primary().query_text(months).await.unwrap().unwrap().parse().unwrap();
    assert!((22..=23).contains(&n_months), "18 months back, this one and 3 ahead: {n_months}");
}
