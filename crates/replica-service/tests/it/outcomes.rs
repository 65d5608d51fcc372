//! What became of a write whose connection, or whose server, is lost on the way: nothing twice, and nothing lost that was
//! acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering},
};

use mainstay_devstack::{ChaosProxy, wait_until};
use mainstay_proto::replica::v1::value::Kind;
use mainstay_rpc::ErrorCode;

use crate::rig::*;

fn outcome(failure: &mainstay_rpc::Failure) -> &str {
    failure.details().get("outcome").map_or("", String::as_str)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_before_or_during_the_commit_says_what_is_known() {
    let stack = start_stack(false).await;
    let proxy = ChaosProxy::start(primary(&stack).public_address()).unwrap();
    let rig = Rig::start(&stack, Way::Direct, |config| {
        config.nodes.get_mut("primary").unwrap().address = proxy.address().to_string();
    })
    .await;
    let table = table(&stack, "id int8").await;
    // Each row takes its time when it is committed.
    sql(
        primary(&stack),
        &format!(
            "CREATE FUNCTION takes_its_time() RETURNS trigger LANGUAGE plpgsql AS \
               $$ BEGIN PERFORM pg_sleep(5); RETURN NULL; END $$; \
             CREATE CONSTRAINT TRIGGER takes_its_time AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED \
               FOR EACH ROW EXECUTE FUNCTION takes_its_time()"
        ),
    )
    .await;
    for (insert, at, reason, wanted, n_rows) in [
        (
            format!("INSERT INTO {table} SELECT 1 FROM pg_sleep(5)"),
            "INSERT%",
            "CONNECTION_LOST",
            "not_applied",
            0,
        ),
        (format!("INSERT INTO {table} VALUES (2)"), "COMMIT%", "OUTCOME_UNKNOWN", "unknown", 1),
    ] {
        let running = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '{at}'"
        );
        let cut = async {
            wait_until(at, EVERY, SOON, || async {
                let seen = primary(&stack).query_text(&running).await.unwrap().unwrap();
                if seen == "1" { Ok(()) } else { Err(seen) }
            })
            .await
            .unwrap();
            proxy.cut().await.unwrap();
        };
        let (failed, ()) = tokio::join!(rig.execute(&insert), cut);
        let failure = failed.unwrap_err();
        assert_eq!((failure.code(), failure.reason()), (ErrorCode::Unavailable, reason), "{failure:?}");
        assert_eq!(outcome(&failure), wanted);
        let retryable = if wanted == "unknown" { "false" } else { "true" };
        assert_eq!(failure.details()["retryable"], retryable, "{failure:?}");
        proxy.restore().await.unwrap();
        rig.wait("the primary to be back", |topology| topology.primary == "primary").await;
        // The server goes on with what it was sent, until it notices; then there is nothing to wait for.
        wait_until("the server to end it", EVERY, SOON, || async {
            let seen = primary(&stack).query_text(&running).await.unwrap().unwrap();
            if seen == "0" { Ok(()) } else { Err(seen) }
        })
        .await
        .unwrap();
        let counted = primary(&stack).query_text(&format!("SELECT count(*) FROM {table}")).await.unwrap();
        assert_eq!(counted.as_deref(), Some(n_rows.to_string().as_str()), "{reason}");
    }
}

/// Ids by what their writers were told.
#[derive(Default)]
struct Told {
    acknowledged: BTreeSet<i64>,
    not_applied: BTreeSet<i64>,
    unknown: BTreeSet<i64>,
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_while_the_primary_dies_and_another_is_promoted_are_neither_lost_nor_doubled() {
    let stack = start_stack(false).await;
    let table = table(&stack, "id int8").await;
    let postgres = stack.postgres().unwrap();
    let next_primary = postgres.node("replica1").unwrap();
    // Else what the primary acknowledged may be with nobody when it dies.
    sql(primary(&stack), "ALTER SYSTEM SET synchronous_standby_names = 'replica1'").await;
    sql(primary(&stack), "SELECT pg_reload_conf()").await;
    wait_until("replica1 to be waited for", EVERY, SOON, || async {
        let state = "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'replica1'";
        let seen = primary(&stack).query_text(state).await.unwrap().unwrap_or_default();
        if seen == "sync" { Ok(()) } else { Err(seen) }
    })
    .await
    .unwrap();
    let rig = Rig::start(&stack, Way::Direct, |_| {}).await;
    let (next, n_acknowledged, ended) = (AtomicI64::new(0), AtomicU32::new(0), AtomicBool::new(false));
    let writer = async || {
        let mut told = Told::default();
        while !ended.load(Ordering::Relaxed) {
            let id = next.fetch_add(1, Ordering::Relaxed);
            match rig
                .execute_with(&format!("INSERT INTO {table} VALUES ($1)"), vec![value(Kind::Int(id))])
                .await
            {
                Ok(_) => {
                    n_acknowledged.fetch_add(1, Ordering::Relaxed);
                    told.acknowledged.insert(id)
                }
                Err(failure) => match outcome(&failure) {
                    "not_applied" => told.not_applied.insert(id),
                    "unknown" => told.unknown.insert(id),
                    other => panic!("{other:?}: {failure:?}"),
                },
            };
        }
        told
    };
    let some_more = async |what: &str| {
        let before = n_acknowledged.load(Ordering::Relaxed);
        wait_until(what, EVERY, SOON, || async {
            let now = n_acknowledged.load(Ordering::Relaxed);
            if now > before + 50 { Ok(()) } else { Err(format!("{now} after {before}")) }
        })
        .await
        .unwrap();
    };
    let dying = async {
        some_more("writes to be acknowledged").await;
        primary(&stack).kill().await.unwrap();
        next_primary.promote().await.unwrap();
        some_more("writes to be acknowledged by the next primary").await;

        // The old one comes back as if nothing had happened, and gets nothing.
        primary(&stack).start().await.unwrap();
        rig.wait("the old primary to be fenced", |topology| {
            let old = topology.nodes.iter().find(|node| node.name == "primary").unwrap();
            topology.primary == "replica1" && !old.reads && !old.writes && old.detail.contains("fenced")
        })
        .await;
        some_more("writes to go on beside it").await;
        ended.store(true, Ordering::Relaxed);
    };
    let (told, ()) = tokio::join!(futures_util::future::join_all((0..4).map(|_| writer())), dying);

    let all = format!(
        "SELECT string_agg(id || ' ' || n, ',') FROM (SELECT id, count(*) AS n FROM {table} GROUP BY 1) AS ids"
    );
    let all = next_primary.query_text(&all).await.unwrap().unwrap();
    let count = |entry: &str| {
        let (id, n) = entry.split_once(' ').unwrap();
        (id.parse::<i64>().unwrap(), n.parse::<u32>().unwrap())
    };
    let counts: BTreeMap<_, _> = all.split(',').map(count).collect();
    assert!(counts.values().all(|n| *n == 1), "doubled: {counts:?}");
    for Told { acknowledged, not_applied, unknown } in told {
        println!(
            "{} acknowledged, {} not applied, {} unknown",
            acknowledged.len(),
            not_applied.len(),
            unknown.len()
        );
        let lost: Vec<_> = acknowledged.iter().filter(|id| !counts.contains_key(id)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let there: Vec<_> = not_applied.iter().filter(|id| counts.contains_key(id)).collect();
        assert!(there.is_empty(), "not applied, and there: {there:?}");
    }
    let on_the_old =
        primary(&stack).query_text(&format!("SELECT max(id) FROM {table}")).await.unwrap().unwrap();
    let newest = counts.keys().max().unwrap();
    assert!(
        on_the_old.parse::<i64>().unwrap() < *newest,
        "the old primary was written: {on_the_old}, {newest}"
    );
    assert_eq!(rig.metric("mainstay_replica_primaries").await, Some(1.0));
}
