//! The steps of a switchover on real tables; `pair.rs` has the pair, `storm.rs` writes that never stop,
//! `gates.rs` what holds a switchover up and what takes reads back, `obstacles.rs` what a swap refuses, `columns.rs` tables whose
//! columns change on the way.

use std::time::Duration;

use mainstay_devstack::wait_until;
use mainstay_proto::replica::v1::{
    ParityVerdict, QueryRequest, SwitchoverStage, SwitchoverStep, value::Kind,
};
use mainstay_rpc::ErrorCode;

use crate::rig::*;

mod columns;
mod gates;
mod obstacles;
mod pair;
mod storm;

use pair::Switched;
use storm::Storm;

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_under_writes_that_never_stop_loses_and_doubles_no_row() {
    let switched = Switched::start("forward", 3_000, |_| {}).await;
    let storm = Storm::start(&switched).await;
    switched.to_the_swap().await;
    let through_twin =
        "mainstay_replica_switchover_reads_total{pair=\"forward\",table=\"partitioned\",result=\"ok\"}";
    let before = switched.rig.metric(through_twin).await.unwrap();
    switched.count_by_name().await;
    assert_eq!(switched.rig.metric(through_twin).await.unwrap(), before + 1.0);
    let state = switched.take(SwitchoverStep::Swap).await;
    assert_eq!((state.stage(), state.read_percent), (SwitchoverStage::Swapped, 100), "{state:?}");
    storm.wait_for_writes(300).await;
    let rows = storm.stop().await;
    for (series, least) in [
        ("stage{pair=\"forward\"}", 2.0),
        ("read_percent{pair=\"forward\"}", 100.0),
        ("rows_copied{pair=\"forward\"}", 1_000.0),
        ("reads_total{pair=\"forward\",table=\"partitioned\",result=\"ok\"}", 1.0),
        ("changes_total{pair=\"forward\"}", 1.0),
        ("rows_compared_total{pair=\"forward\"}", 2_000.0),
        ("rows{pair=\"forward\",table=\"legacy\"}", 1_000.0),
        ("buckets_verified{pair=\"forward\"}", 1.0),
        ("partitions{pair=\"forward\"}", 7.0),
    ] {
        let series = format!("mainstay_replica_switchover_{series}");
        switched.rig.wait_metric(&series, |value| value >= least).await;
    }
    for none in ["buckets_mismatched", "gaps", "missing_future"] {
        let series = format!("mainstay_replica_switchover_{none}{{pair=\"forward\"}}");
        switched.rig.wait_metric(&series, |value| value == 0.0).await;
    }
    assert_eq!(switched.rows("forward").await, rows);
    assert_eq!(switched.rows("forward_archived").await, rows);
    // Who may call by names only was moved, too.
    assert_eq!(switched.count_by_name().await, rows.len() as i64);
    // Again is nothing.
    let again = switched.take(SwitchoverStep::Swap).await;
    assert_eq!(again.journal.len(), state.journal.len());
    let read = switched.read("SELECT count(*) FROM {table}").await;
    assert_eq!(read.served.unwrap().table, "forward");
    let finished = switched.take(SwitchoverStep::Finish).await;
    assert_eq!(finished.stage(), SwitchoverStage::Finished);
    let refused = switched.try_take(SwitchoverStep::Rollback).await.unwrap_err();
    assert_eq!((refused.code(), refused.reason()), (ErrorCode::FailedPrecondition, "STEP_REFUSED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_rolled_back_under_writes_that_never_stop_loses_and_doubles_no_row() {
    let switched = Switched::start("backward", 3_000, |_| {}).await;
    let storm = Storm::start(&switched).await;
    switched.to_the_swap().await;
    switched.take(SwitchoverStep::Swap).await;
    storm.wait_for_writes(200).await;
    let state = switched.take(SwitchoverStep::Rollback).await;
    assert_eq!((state.stage(), state.read_percent), (SwitchoverStage::DualWrite, 0), "{state:?}");
    storm.wait_for_writes(200).await;
    let rows = storm.stop().await;
    assert_eq!(switched.rows("backward").await, rows);
    assert_eq!(switched.rows("backward_p").await, rows);
    let read = switched.read("SELECT count(*) FROM {table}").await;
    assert_eq!(read.served.unwrap().table, "backward");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_that_finds_its_tables_in_use_lets_go_and_changes_nothing() {
    let switched = Switched::start("inuse", 300, |config| {
        config.steps.lock_within = Duration::from_millis(50);
    })
    .await;
    switched.to_the_swap().await;
    let reader = switched.connect().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM inuse").await.unwrap();
    let busy = wait_until("the swap to give up", EVERY, SOON, || async {
        match switched.try_take(SwitchoverStep::Swap).await {
            Err(failure) if failure.reason() == "TABLES_BUSY" => Ok(failure),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    assert_eq!(busy.code(), ErrorCode::Conflict);
    assert!(busy.retry_delay().is_some(), "{busy:?}");
    let state = switched.state().await;
    assert_eq!(state.stage(), SwitchoverStage::DualWrite, "{state:?}");
    // The name means what it meant, and others get to it.
    let kind = "SELECT relkind::text FROM pg_class WHERE oid = 'inuse'::regclass";
    assert_eq!(first(&switched.rig.query_primary(kind).await.unwrap()), Kind::Text("r".to_owned()));
    switched.rig.execute("UPDATE inuse SET note = 'still here' WHERE id = 1").await.unwrap();
    reader.batch_execute("COMMIT").await.unwrap();
    assert_eq!(switched.take(SwitchoverStep::Swap).await.stage(), SwitchoverStage::Swapped);
    assert_eq!(first(&switched.rig.query_primary(kind).await.unwrap()), Kind::Text("p".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_begins_to_differ_while_the_swap_waits_for_its_lock_is_found_under_it() {
    let switched = Switched::start("dirty", 300, |config| {
        config.steps.lock_within = Duration::from_secs(10);
        config.steps.lock_attempts = 20;
    })
    .await;
    switched.to_the_swap().await;
    // All looks before the lock see the tables equal: what this one does to both is not committed yet.
    let other = switched.connect().await;
    other
        .batch_execute(
            "BEGIN; UPDATE dirty SET note = 'here' WHERE id = 5; UPDATE dirty_p SET note = 'there' WHERE id = 5",
        )
        .await
        .unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE%dirty%'";
    let commit = async {
        wait_until("the swap to wait for its lock", EVERY, SOON, || async {
            let n_waiting = primary(shared().await).query_text(waits).await.unwrap().unwrap();
            if n_waiting == "1" { Ok(()) } else { Err(n_waiting) }
        })
        .await
        .unwrap();
        other.batch_execute("COMMIT").await.unwrap();
    };
    let (refused, ()) = tokio::join!(switched.try_take(SwitchoverStep::Swap), commit);
    let refused = refused.unwrap_err();
    assert_eq!(refused.reason(), "STEP_REFUSED", "{refused:?}");
    assert!(refused.message().contains("rows differ, of the keys 5"), "{refused:?}");
    assert_eq!(switched.state().await.stage(), SwitchoverStage::DualWrite);
    // Nothing was exchanged; repaired, it is.
    switched.take(SwitchoverStep::Verify).await;
    switched.wait("the verification to end", |state| state.job() == SwitchoverStep::Unspecified).await;
    assert_eq!(switched.rows("dirty_p").await, switched.rows("dirty").await);
    switched.wait_parity(ParityVerdict::ParityEqual).await;
    wait_until("the swap", EVERY, SOON, || async {
        // The watch may have taken the reads back.
        switched.take_up_again().await;
        switched.try_take(SwitchoverStep::Swap).await.map_err(|failure| format!("{failure:?}"))
    })
    .await
    .unwrap();
    let rows = switched.rows("dirty").await;
    assert_eq!((rows[&5].1.as_str(), rows.len()), ("here", 300));
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_for_a_table_that_is_written_are_tried_again_and_block_nobody_for_long() {
    let switched = Switched::start("hot", 100, |config| {
        config.steps.lock_within = Duration::from_millis(50);
    })
    .await;
    let writer = switched.connect().await;
    writer.batch_execute("BEGIN; UPDATE hot SET note = 'mine' WHERE id = 1").await.unwrap();
    let busy = switched.try_take(SwitchoverStep::InstallTriggers).await.unwrap_err();
    assert_eq!((busy.code(), busy.reason()), (ErrorCode::Conflict, "TABLES_BUSY"), "{busy:?}");
    let state = switched.state().await;
    assert_eq!(state.stage(), SwitchoverStage::None, "{state:?}");
    // Nothing of it waits before others, and nothing of it is there.
    switched.rig.execute("UPDATE hot SET note = 'others' WHERE id = 2").await.unwrap();
    let count = "SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('hot'::regclass, 'hot_p'::regclass)";
    assert_eq!(first(&switched.rig.query_primary(count).await.unwrap()), Kind::Int(0));
    writer.batch_execute("COMMIT").await.unwrap();
    assert_eq!(switched.take(SwitchoverStep::InstallTriggers).await.stage(), SwitchoverStage::DualWrite);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_neither_resurrects_nor_doubles_rows_that_others_are_changing() {
    let switched = Switched::start("held", 200, |_| {}).await;
    switched.take(SwitchoverStep::InstallTriggers).await;
    let other = switched.connect().await;
    other
        .batch_execute(
            "BEGIN; DELETE FROM held WHERE id = 5; \
             UPDATE held SET at = at - interval '40 days' WHERE id = 6; UPDATE held SET note = 'new' WHERE id = 7",
        )
        .await
        .unwrap();
    switched.take(SwitchoverStep::Backfill).await;
    switched.wait("the backfill to wait for the rows", |state| state.held_up.contains("locked")).await;
    other.batch_execute("COMMIT").await.unwrap();
    switched.wait("the backfill to end", |state| state.backfilled).await;
    let rows = switched.rows("held").await;
    assert_eq!((switched.rows("held_p").await, rows.len()), (rows, 199));
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_hold_where_others_do_not_and_statistics_are_made() {
    let switched = Switched::start("strict", 300, |_| {}).await;
    switched.take(SwitchoverStep::InstallTriggers).await;
    // Twice is once: the second changes nothing, and takes no lock that a reader would notice.
    switched.take(SwitchoverStep::InstallTriggers).await;
    let truncate = switched.connect().await.batch_execute("TRUNCATE strict").await.unwrap_err();
    assert!(truncate.as_db_error().unwrap().message().contains("TRUNCATE is refused"), "{truncate}");
    sql(
        primary(shared().await),
        "BEGIN; SET LOCAL session_replication_role = replica; UPDATE strict SET note = 'silent' WHERE id = 9; \
         INSERT INTO strict VALUES (5000, now(), 'silent'); COMMIT",
    )
    .await;
    assert_eq!(switched.rows("strict_p").await.len(), 2);
    switched.take(SwitchoverStep::Backfill).await;
    switched.wait("the backfill to end", |state| state.backfilled).await;
    let known = "SELECT reltuples::int8 FROM pg_class WHERE oid = 'strict_p'::regclass";
    let known = switched.rig.query_primary(known).await.unwrap();
    assert_eq!(first(&known), Kind::Int(301));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_make_writes_fail_is_refused_before_they_do() {
    let switched = Switched::start("refused", 100, |_| {}).await;
    let connection = switched.connect().await;
    connection.batch_execute("ALTER TABLE refused_p DROP CONSTRAINT refused_p_pkey").await.unwrap();
    connection.batch_execute("CREATE INDEX ON refused_p (id)").await.unwrap();
    let refused = switched.try_take(SwitchoverStep::InstallTriggers).await.unwrap_err();
    assert!(refused.message().contains("no unique index of refused_p on (id, at)"), "{refused:?}");
    connection.batch_execute("ALTER TABLE refused_p ADD PRIMARY KEY (at, id)").await.unwrap();
    connection
        .batch_execute("INSERT INTO refused VALUES (777, now() - interval '3 years', 'old')")
        .await
        .unwrap();
    let refused = switched.try_take(SwitchoverStep::InstallTriggers).await.unwrap_err();
    assert!(refused.message().contains("older or newer than all partitions"), "{refused:?}");
    connection.batch_execute("DELETE FROM refused WHERE id = 777").await.unwrap();
    switched.take(SwitchoverStep::InstallTriggers).await;

    for (step, why) in [
        (SwitchoverStep::Verify, "before the backfill"),
        (SwitchoverStep::Advance, "verify comes first"),
        (SwitchoverStep::Swap, "not all"),
    ] {
        let refused = switched.try_take(step).await.unwrap_err();
        assert_eq!(refused.reason(), "STEP_REFUSED", "{refused:?}");
        assert!(refused.message().contains(why), "{step:?}: {}", refused.message());
    }
    let journal = switched.state().await.journal;
    assert_eq!((journal[0].step.as_str(), journal[0].outcome.as_str()), ("swap", "refused"), "{journal:?}");
    let unknown = QueryRequest { sql: "SELECT 1".into(), table: "nobody".into(), ..QueryRequest::default() };
    assert_eq!(switched.rig.ask(unknown).await.unwrap_err().reason(), "PAIR_UNKNOWN");
    let no_table =
        QueryRequest { sql: "SELECT 1".into(), table: "refused".into(), ..QueryRequest::default() };
    assert!(switched.rig.ask(no_table).await.unwrap_err().message().contains("{table}"));
    // Given up: nothing of it is left on the tables.
    assert_eq!(switched.take(SwitchoverStep::Finish).await.stage(), SwitchoverStage::None);
    connection.batch_execute("TRUNCATE refused").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_carries_over_what_belongs_to_the_name_or_refuses_it_by_name() {
    let switched = Switched::start("carried", 200, |_| {}).await;
    let connection = switched.connect().await;
    connection
        .batch_execute(
            "CREATE SEQUENCE carried_seq START 1000 OWNED BY carried.id; \
             ALTER TABLE carried ALTER id SET DEFAULT nextval('carried_seq'), ALTER note SET DEFAULT 'by default'; \
             CREATE VIEW carried_view WITH (security_barrier = true) AS SELECT id, note FROM carried; \
             GRANT SELECT, INSERT ON carried TO PUBLIC",
        )
        .await
        .unwrap();
    switched.to_the_swap().await;
    connection.batch_execute("CREATE TABLE carried_child (id bigint REFERENCES carried)").await.unwrap();
    let refused = switched.try_take(SwitchoverStep::Swap).await.unwrap_err();
    assert!(refused.message().contains("foreign key carried_child_id_fkey of carried_child"), "{refused:?}");
    assert_eq!(switched.state().await.stage(), SwitchoverStage::DualWrite);
    connection.batch_execute("DROP TABLE carried_child").await.unwrap();
    switched.take(SwitchoverStep::Swap).await;

    let insert = "INSERT INTO carried (at) VALUES (now()) RETURNING id, note";
    let row = connection.query_one(insert, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, &str>(1)), (1_000, "by default"));
    let seen = connection.query_one("SELECT count(*) FROM carried_view WHERE id = 1000", &[]).await.unwrap();
    assert_eq!(seen.get::<_, i64>(0), 1);
    let facts = "SELECT has_table_privilege('public', 'carried', 'INSERT'), \
                   (SELECT reloptions::text FROM pg_class WHERE relname = 'carried_view'), \
                   pg_get_serial_sequence('carried', 'id'), \
                   (SELECT relkind::text FROM pg_class WHERE oid = 'carried'::regclass)";
    let facts = connection.query_one(facts, &[]).await.unwrap();
    assert_eq!(
        (facts.get::<_, bool>(0), facts.get::<_, &str>(1), facts.get::<_, &str>(2), facts.get::<_, &str>(3)),
        (true, "{security_barrier=true}", "public.carried_seq", "p")
    );
    // The pitfall that nothing carries over: the key alone is unique no more.
    let upsert = "INSERT INTO carried (id, at) VALUES (1000, now()) ON CONFLICT (id) DO NOTHING";
    let failure = connection.execute(upsert, &[]).await.unwrap_err();
    assert_eq!(failure.code().unwrap().code(), "42P10");

    switched.take(SwitchoverStep::Rollback).await;
    let row = connection.query_one(insert, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1_001);
    let seen = connection.query_one("SELECT count(*) FROM carried_view WHERE id >= 1000", &[]).await.unwrap();
    assert_eq!(seen.get::<_, i64>(0), 2);
    assert_eq!(switched.rows("carried").await, switched.rows("carried_p").await);
}

/// Returns how many rows the journal has once a step is done, and once it was asked for again.
async fn take_twice(switched: &Switched, step: SwitchoverStep) -> (usize, usize) {
    let once = switched.take(step).await.journal.len();
    (once, switched.take(step).await.journal.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_is_done_is_not_done_again() {
    let switched = Switched::start("twice", 200, |_| {}).await;
    let same = async |step: SwitchoverStep| {
        let (once, again) = take_twice(&switched, step).await;
        assert_eq!(once, again, "{step:?}");
    };
    same(SwitchoverStep::CreatePartitions).await;
    switched.take(SwitchoverStep::InstallTriggers).await;
    switched.take(SwitchoverStep::Backfill).await;
    switched.wait("the backfill to end", |state| state.backfilled).await;
    same(SwitchoverStep::Backfill).await;
    same(SwitchoverStep::Rollback).await;
    switched.take(SwitchoverStep::Verify).await;
    switched.wait("the verification to end", |state| state.verified_at.is_some()).await;
    switched.wait_ready().await;
    switched.take_up_again().await;
    // There is no next share.
    same(SwitchoverStep::Advance).await;
    same(SwitchoverStep::Swap).await;
    same(SwitchoverStep::Rollback).await;
    same(SwitchoverStep::Finish).await;
    assert_eq!(switched.rows("twice").await, switched.rows("twice_p").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_take_longer_than_they_may_become_smaller() {
    let n_batches = async |name: &str, batch_within: Duration| {
        let switched = Switched::start(name, 4_000, |config| {
            config.steps.batch_rows = 1_000;
            config.steps.batch_within = batch_within;
        })
        .await;
        switched.take(SwitchoverStep::InstallTriggers).await;
        switched.take(SwitchoverStep::Backfill).await;
        let progress = format!("mainstay_replica_switchover_backfill_progress{{pair=\"{name}\"}}");
        switched.rig.wait_metric(&progress, |progress| progress == 1.0).await;
        switched.wait("the backfill to end", |state| state.backfilled).await;
        // Each batch is a transaction of its own.
        let count = format!("SELECT count(DISTINCT xmin::text) FROM {name}_p");
        let Kind::Int(n) = first(&switched.rig.query_primary(&count).await.unwrap()) else {
            panic!("no count")
        };
        n
    };
    assert_eq!(n_batches("unhurried", Duration::from_secs(10)).await, 4);
    let n_small = n_batches("hurried", Duration::from_millis(1)).await;
    assert!(n_small > 8, "{n_small} batches");
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_repairs_rows_that_differ() {
    let switched = Switched::start("mended", 1_000, |_| {}).await;
    switched.take(SwitchoverStep::InstallTriggers).await;
    switched.take(SwitchoverStep::Backfill).await;
    switched.wait("the backfill to end", |state| state.backfilled).await;
    let connection = switched.connect().await;
    connection
        .batch_execute(
            "UPDATE mended_p SET note = 'other' WHERE id = 10; DELETE FROM mended_p WHERE id = 20; \
             INSERT INTO mended_p VALUES (-30, now(), 'extra'); \
             INSERT INTO mended_p SELECT id, at + interval '1 second', note FROM mended_p WHERE id = 40",
        )
        .await
        .unwrap();
    switched.take(SwitchoverStep::Verify).await;
    let state = switched.wait("the verification to end", |state| state.verified_at.is_some()).await;
    assert_eq!((state.rows_verified, state.rows_repaired), (1_000, 4), "{state:?}");
    assert_eq!(switched.rows("mended").await, switched.rows("mended_p").await);
    assert!(state.journal.iter().any(|entry| entry.step == "repair"), "{state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_range_has_its_turn_however_little_time_there_is() {
    let switched = Switched::start("starved", 3_000, |config| config.parity.duty_cycle = 0.001).await;
    switched.wait_parity(ParityVerdict::ParityDifferent).await;
    let connection = switched.connect().await;
    connection.batch_execute("INSERT INTO starved_p SELECT * FROM starved").await.unwrap();
    switched.wait_parity(ParityVerdict::ParityEqual).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_row_is_found_at_once_and_takes_the_reads_back() {
    let switched = Switched::start("watched", 20_000, |config| {
        config.parity.bucket_rows = 200;
        config.steps.batch_rows = 2_000;
        config.steps.duty_cycle = 1.0;
    })
    .await;
    switched.take(SwitchoverStep::InstallTriggers).await;
    switched.take(SwitchoverStep::Backfill).await;
    switched.wait("the backfill to end", |state| state.backfilled).await;
    switched.take(SwitchoverStep::Verify).await;
    switched.wait("the verification to end", |state| state.verified_at.is_some()).await;
    switched.wait_parity(ParityVerdict::ParityEqual).await;
    let state = switched.take(SwitchoverStep::Advance).await;
    assert_eq!(state.read_percent, 1);
    for key in [1, 7_777, 19_999] {
        let spoil = format!("UPDATE watched_p SET note = 'other' WHERE id = {key}");
        switched.rig.execute(&spoil).await.unwrap();
        switched
            .wait_pair("the difference to be named", |pair| {
                let parity = pair.parity.as_ref().unwrap();
                let keys: Vec<_> = parity.differences.iter().map(|found| found.key).collect();
                parity.verdict() == ParityVerdict::ParityDifferent && keys == [key]
            })
            .await;
        let mend = format!("UPDATE watched SET note = 'mended' WHERE id = {key}");
        switched.rig.execute(&mend).await.unwrap();
        switched.wait_parity(ParityVerdict::ParityEqual).await;
    }
    let state = switched.wait("the reads to be taken back", |state| state.read_percent == 0).await;
    assert!(state.stepped_back.contains("rows differ"), "{state:?}");
    wait_until("the journal to say so", EVERY, SOON, || async {
        let journal = switched.state().await.journal;
        if journal.iter().any(|entry| entry.step == "step-back") {
            Ok(())
        } else {
            Err(format!("{journal:?}"))
        }
    })
    .await
    .unwrap();
}
