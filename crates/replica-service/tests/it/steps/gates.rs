use std::time::Duration;

use mainstay_devstack::wait_until;
use mainstay_proto::replica::v1::{
    PartitionPair, QueryRequest, SwitchoverState, SwitchoverStep, value::Kind,
};

use super::pair::Switched;
use crate::rig::*;

/// Reads until the service has taken the reads back, whatever becomes of them; `{table}` is where each went.
async fn read_until_taken_back(switched: &Switched, sql: &str) -> SwitchoverState {
    let state = switched.take(SwitchoverStep::Advance).await;
    assert_eq!(state.read_percent, 1, "{state:?}");
    wait_until("the reads to be taken back", EVERY, SOON, || async {
        for _ in 0..50 {
            let request =
                QueryRequest { sql: sql.to_owned(), table: switched.name.clone(), ..QueryRequest::default() };
            // Those of the twin may fail: that is what it is about.
            let _ = switched.rig.ask(request).await;
        }
        let state = switched.state().await;
        if state.read_percent == 0 { Ok(state) } else { Err(format!("{state:?}")) }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_of_the_twin_that_fail_are_taken_back() {
    let switched = Switched::start("failing", 300, |_| {}).await;
    switched.to_the_first_read().await;
    let sql = "SELECT 1 / CASE WHEN '{table}' LIKE '%failing_p%' THEN 0 ELSE 1 END";
    let state = read_until_taken_back(&switched, sql).await;
    assert!(state.stepped_back.contains("of the reads of the partitioned table fail"), "{state:?}");
    let failed =
        "mainstay_replica_switchover_reads_total{pair=\"failing\",table=\"partitioned\",result=\"error\"}";
    assert!(switched.rig.metric(failed).await.is_some_and(|n| n >= 2.0));
    assert!(state.journal.iter().any(|entry| entry.step == "step-back"), "{state:?}");
    switched
        .rig
        .wait_metric("mainstay_replica_switchover_step_backs_total{pair=\"failing\"}", |n| n >= 1.0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_of_the_twin_that_take_long_are_taken_back() {
    let switched = Switched::start("slow", 300, |config| config.advance.max_latency_ratio = 2.0).await;
    switched.to_the_first_read().await;
    // Far more than twice what a read takes, also on a busy machine.
    let sql = "SELECT pg_sleep(CASE WHEN '{table}' LIKE '%slow_p%' THEN 5 ELSE 0 END)";
    let state = read_until_taken_back(&switched, sql).await;
    assert!(state.stepped_back.contains("reads of the partitioned table take up to"), "{state:?}");
}

/// Drops one of the partitions of a twin; 0 is the last in time.
async fn drop_partition(switched: &Switched, from_the_end: u32) {
    let find = format!(
        "SELECT c.oid::regclass::text FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid \
         WHERE i.inhparent = '{}_p'::regclass ORDER BY pg_get_expr(c.relpartbound, 0) DESC OFFSET {from_the_end} LIMIT 1",
        switched.name
    );
    let Kind::Text(partition) = first(&switched.rig.query_primary(&find).await.unwrap()) else {
        panic!("none")
    };
    switched.rig.execute(&format!("DROP TABLE {partition}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_to_come_are_made_when_asked_for_and_later_by_itself() {
    let switched = Switched::start("ahead", 300, |config| config.parity.future_partitions = 3).await;
    let n_all = switched.wait_pair("all partitions", |pair| pair.partitions > 0).await.partitions;
    drop_partition(&switched, 2).await;
    drop_partition(&switched, 0).await;
    switched
        .wait_pair("both to be missed", |pair| pair.gaps.len() == 1 && pair.missing_future.len() == 1)
        .await;
    let missing = "mainstay_replica_switchover_missing_future{pair=\"ahead\"}";
    switched.rig.wait_metric(missing, |n| n == 1.0).await;
    let refused = switched.try_take(SwitchoverStep::InstallTriggers).await.unwrap_err();
    assert_eq!(refused.reason(), "STEP_REFUSED", "{refused:?}");
    let whole = "all partitions to be there";
    let is_whole =
        |pair: &PartitionPair| (pair.partitions, pair.gaps.len(), pair.missing_future.len()) == (n_all, 0, 0);
    // Its line is in the journal, though nothing of ours was in the database before.
    let state = switched.take(SwitchoverStep::CreatePartitions).await;
    let line = &state.journal[0];
    assert_eq!((line.step.as_str(), line.outcome.as_str()), ("create-partitions", "done"), "{state:?}");
    assert!(!line.actor.is_empty() && line.detail.contains("ahead_p"), "{line:?}");
    switched.wait_pair(whole, is_whole).await;

    switched.take(SwitchoverStep::InstallTriggers).await;
    drop_partition(&switched, 0).await;
    switched
        .wait("it to be made by itself", |state| {
            state.journal.iter().any(|entry| entry.step == "create-partitions" && entry.outcome == "done")
        })
        .await;
    switched.wait_pair(whole, is_whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_waits_for_a_replica_that_lags() {
    let stack = start_stack(true).await;
    let switched = Switched::start_on(&stack, "patient", 500, |config| {
        config.steps.max_lag = Duration::from_secs(2);
    })
    .await;
    switched.take(SwitchoverStep::InstallTriggers).await;
    let replica = stack.postgres().unwrap().node("replica1").unwrap();
    replica.hold_replay().await.unwrap();
    switched.rig.execute("UPDATE patient SET note = 'held' WHERE id = 1").await.unwrap();
    switched
        .rig
        .wait("replica1 to lag", |topology| {
            let lag = topology.nodes.iter().find(|node| node.name == "replica1").unwrap().lag.as_ref();
            lag.and_then(|lag| lag.staleness.as_ref()).is_some_and(|bound| bound.seconds >= 3)
        })
        .await;
    switched.take(SwitchoverStep::Backfill).await;
    let held =
        switched.wait("the backfill to wait", |state| state.held_up.contains("replica1 is up to")).await;
    assert!(!held.backfilled && held.rows_copied == 0, "{held:?}");
    switched
        .rig
        .wait_metric("mainstay_replica_switchover_held_up{pair=\"patient\"}", |held| held == 1.0)
        .await;
    let health = "mainstay_component_health{component=\"switchover.patient\"}";
    switched.rig.wait_metric(health, |health| health == 2.0).await;
    replica.release_replay().await.unwrap();
    switched.wait("the backfill to end", |state| state.backfilled).await;
    let counts = "SELECT (SELECT count(*) FROM patient) = 500 AND (SELECT count(*) FROM patient_p) = 500";
    assert_eq!(first(&switched.rig.query_primary(counts).await.unwrap()), Kind::Bool(true));
}
