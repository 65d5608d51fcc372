//! The proven bound beside the common formulas, where these mislead.

use mainstay_devstack::{Devstack, PostgresNode, wait_until};
use mainstay_proto::replica::v1::{Lag, LagFormula, QueryRequest, TopologyResponse, value::Kind};

use crate::rig::*;

fn lag<'a>(topology: &'a TopologyResponse, node: &str) -> Option<&'a Lag> {
    topology.nodes.iter().find(|known| known.name == node)?.lag.as_ref()
}

fn formula<'a>(lag: &'a Lag, name: &str) -> &'a LagFormula {
    lag.formulas.iter().find(|formula| formula.name == name).unwrap()
}

fn seconds(lag: &Lag, name: &str) -> Option<f64> {
    formula(lag, name).seconds
}

fn bytes(lag: &Lag, name: &str) -> Option<u64> {
    formula(lag, name).bytes
}

/// The proven bound, in seconds.
fn proven(lag: &Lag) -> Option<f64> {
    let bound = lag.staleness.as_ref()?;
    Some(bound.seconds as f64 + f64::from(bound.nanos) / 1e9)
}

fn replica<'a>(stack: &'a Devstack, name: &str) -> &'a PostgresNode {
    stack.postgres().unwrap().node(name).unwrap()
}

/// How much longer a formula says than what is true, where it does; nothing here takes so long by itself.
const MUCH_S: f64 = 5.0;

#[tokio::test(flavor = "multi_thread")]
async fn the_bound_is_right_where_each_common_formula_misleads() {
    let stack = start_stack(false).await;
    let rig = Rig::start(&stack, Way::Direct, |_| {}).await;
    let table = table(&stack, "n int").await;
    let write = format!("INSERT INTO {table} VALUES (1)");
    rig.execute(&write).await.unwrap();
    let wait = async |what: &str, node: &str, wanted: &dyn Fn(&Lag, f64) -> bool| {
        rig.wait(what, |topology| {
            let Some(lag) = lag(topology, node) else { return false };
            proven(lag).is_some_and(|proven| wanted(lag, proven))
        })
        .await;
    };

    // 1. Nobody writes: the replica shows everything, and the age of the last commit is called lag.
    for node in ["replica1", "replica2"] {
        wait("an idle primary to look like lag", node, &|lag, proven| {
            seconds(lag, "replay_timestamp").is_some_and(|said| said > proven + MUCH_S)
                && lag.bytes == 0
                && seconds(lag, "replay_timestamp_unless_received") == Some(0.0)
                && bytes(lag, "sender_replay_bytes") == Some(0)
        })
        .await;
    }

    // 2. Replay is held: the time since the commit before is still called lag, and what is flushed is called fresh.
    replica(&stack, "replica1").hold_replay().await.unwrap();
    rig.execute(&write).await.unwrap();
    wait(
        "held replay to look fresh to the primary, and older than it is to itself",
        "replica1",
        &|lag, proven| {
            lag.replay_paused
                && proven > 2.0
                && lag.bytes > 0
                && seconds(lag, "replay_timestamp").is_some_and(|said| said > proven + MUCH_S / 2.0)
                && seconds(lag, "flush_lag").is_none_or(|said| said < proven - 1.0)
                && bytes(lag, "receive_replay_bytes").is_some_and(|said| said > 0)
        },
    )
    .await;
    replica(&stack, "replica1").release_replay().await.unwrap();
    wait("replica1 to be fresh again", "replica1", &|lag, _| lag.bytes == 0).await;

    // 3. Cut off: what was received is replayed, so all is well, says the replica; the primary says nothing at all.
    let cut = "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1 user=nobody'";
    replica(&stack, "replica2").query_text(cut).await.unwrap();
    replica(&stack, "replica2").query_text("SELECT pg_reload_conf()").await.unwrap();
    rig.wait("the receiver of replica2 to be gone", |topology| {
        lag(topology, "replica2").is_some_and(|lag| lag.receiver.is_empty())
    })
    .await;
    rig.execute(&write).await.unwrap();
    wait("a replica that is cut off to look perfect", "replica2", &|lag, proven| {
        proven > 2.0
            && lag.bytes > 0
            && seconds(lag, "replay_timestamp_unless_received") == Some(0.0)
            && bytes(lag, "receive_replay_bytes") == Some(0)
            && seconds(lag, "replay_lag").is_none()
            && bytes(lag, "sender_replay_bytes").is_none()
    })
    .await;
}

/// It comes back behind, with nothing proven of it but by what it has replayed.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_restarted_never_answers_with_less_than_its_bound_says() {
    let stack = start_stack(false).await;
    let rig = Rig::start(&stack, Way::Direct, |config| {
        config.nodes.retain(|name, _| name != "replica2");
    })
    .await;
    let table = table(&stack, "n int").await;
    replica(&stack, "replica1").kill().await.unwrap();
    rig.wait("replica1 to be missed", |topology| topology.nodes.iter().any(|node| !node.reads)).await;
    rig.execute(&format!("INSERT INTO {table} SELECT generate_series(1, 100000)")).await.unwrap();
    // Older than the bound below, so who keeps it shows all of them.
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    let max_staleness = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let count = QueryRequest {
        sql: format!("SELECT count(*) FROM {table}"),
        max_staleness,
        ..QueryRequest::default()
    };
    let reading = async {
        wait_until("replica1 to answer", EVERY, SOON, || async {
            let answer = rig.ask(count.clone()).await.map_err(|failure| format!("{failure:?}"))?;
            assert_eq!(first(&answer), Kind::Int(100_000), "{:?}", answer.served);
            let (node, _) = served_by(&answer);
            if node == "replica1" { Ok(()) } else { Err(node) }
        })
        .await
        .unwrap();
    };
    let (started, ()) = tokio::join!(replica(&stack, "replica1").start(), reading);
    started.unwrap();
    rig.wait("nothing to be behind", |topology| {
        lag(topology, "replica1")
            .is_some_and(|lag| lag.bytes == 0 && proven(lag).is_some_and(|proven| proven < 30.0))
    })
    .await;
}

/// One clock decides, that of the service; those of the servers may say what they like.
#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_are_an_hour_wrong_change_nothing() {
    let wrong = Devstack::builder().postgres(true).clock(1, 3_600).clock(2, -3_600);
    let stack = wrong.start().await.unwrap();
    let rig = Rig::start(&stack, Way::Direct, |config| {
        config.routing.max_staleness = std::time::Duration::from_secs(20);
    })
    .await;
    let table = table(&stack, "n int").await;
    let write = format!("INSERT INTO {table} VALUES (1)");
    rig.execute(&write).await.unwrap();
    let both = async |what: &str, ahead: &dyn Fn(&Lag, f64) -> bool, behind: &dyn Fn(&Lag, f64) -> bool| {
        rig.wait(what, |topology| {
            [("replica1", ahead), ("replica2", behind)].into_iter().all(|(node, wanted)| {
                lag(topology, node).is_some_and(|lag| proven(lag).is_some_and(|proven| wanted(lag, proven)))
            })
        })
        .await;
    };

    // 1. Both show everything; the clock that is ahead calls that an hour, the other one nothing.
    both(
        "both to be fresh, whatever their clocks say",
        &|lag, proven| {
            lag.bytes == 0
                && proven < 20.0
                && seconds(lag, "replay_timestamp").is_some_and(|said| said > 3_000.0)
        },
        &|lag, proven| lag.bytes == 0 && proven < 20.0 && seconds(lag, "replay_timestamp") == Some(0.0),
    )
    .await;
    let answered = rig.query("SELECT 1").await.served.unwrap();
    assert!(answered.node.starts_with("replica"), "{answered:?}");

    // 2. Both lag: the clock that is behind still calls it nothing.
    for name in ["replica1", "replica2"] {
        replica(&stack, name).hold_replay().await.unwrap();
    }
    rig.execute(&write).await.unwrap();
    both(
        "both to be stale, whatever their clocks say",
        &|lag, proven| lag.bytes > 0 && (2.0..3_000.0).contains(&proven),
        &|lag, proven| {
            lag.bytes > 0 && (2.0..3_000.0).contains(&proven) && seconds(lag, "replay_timestamp") == Some(0.0)
        },
    )
    .await;
    rig.wait("reads to leave both", |topology| {
        topology.nodes.iter().all(|node| node.reads == (node.name == "primary"))
    })
    .await;
    assert_eq!(served_by(&rig.query("SELECT 1").await).0, "primary");
}

/// A statement on a replica holds replay back as surely as an operator does, and nothing calls it paused.
#[tokio::test(flavor = "multi_thread")]
async fn replay_that_a_statement_holds_back_is_lag_past_the_bound_until_it_ends() {
    let stack = start_stack(false).await;
    let rig = Rig::start(&stack, Way::Direct, |config| {
        config.routing.max_staleness = std::time::Duration::from_secs(2);
    })
    .await;
    let table = table(&stack, "n int").await;
    let held = replica(&stack, "replica1");
    // Else the server ends the statement after 30 s, and this would be a race against it.
    held.query_text("ALTER SYSTEM SET max_standby_streaming_delay = -1").await.unwrap();
    held.query_text("SELECT pg_reload_conf()").await.unwrap();
    let reader = superuser(&rig, &stack, held).await;
    reader.batch_execute(&format!("BEGIN; SELECT FROM {table}")).await.unwrap();
    sql(primary(&stack), &format!("ALTER TABLE {table} ADD COLUMN more int")).await;

    rig.wait("replica1 to lag past the bound", |topology| {
        let node = topology.nodes.iter().find(|node| node.name == "replica1").unwrap();
        let behind =
            |lag: &Lag| lag.bytes > 0 && !lag.replay_paused && proven(lag).is_some_and(|proven| proven > 2.0);
        !node.reads && node.detail.contains("stale, above 2.0 s") && node.lag.as_ref().is_some_and(behind)
    })
    .await;
    for _ in 0..6 {
        assert_ne!(served_by(&rig.query("SELECT 1").await).0, "replica1");
    }
    // It grows by itself: nobody writes.
    let before = proven(lag(&rig.topology().await, "replica1").unwrap()).unwrap();
    rig.wait("the lag to grow", |topology| {
        lag(topology, "replica1").and_then(proven).is_some_and(|proven| proven > before + 1.0)
    })
    .await;
    reader.batch_execute("COMMIT").await.unwrap();
    rig.wait("replica1 to be back", |topology| {
        topology.nodes.iter().all(|node| node.reads)
            && lag(topology, "replica1").is_some_and(|lag| lag.bytes == 0)
    })
    .await;
    rig.execute(&format!("INSERT INTO {table} VALUES (1, 2)")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_stands_in_the_way_of_replay_is_ended_there_and_answered_elsewhere() {
    let stack = start_stack(false).await;
    let rig = Rig::start(&stack, Way::Direct, |config| {
        config.nodes.retain(|name, _| name != "replica2");
    })
    .await;
    let table = table(&stack, "n int").await;
    rig.execute(&format!("INSERT INTO {table} VALUES (1)")).await.unwrap();
    stack.postgres().unwrap().wait_caught_up(primary(&stack)).await.unwrap();
    let server = replica(&stack, "replica1");
    server.query_text("ALTER SYSTEM SET max_standby_streaming_delay = 0").await.unwrap();
    server.query_text("SELECT pg_reload_conf()").await.unwrap();
    // It holds its table for far longer than replay waits.
    let sql = format!("SELECT n, pg_sleep(CASE WHEN pg_is_in_recovery() THEN 120 ELSE 0 END) FROM {table}");
    let stand_in_the_way = async {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT n, pg_sleep%'";
        wait_until("the read to run", EVERY, SOON, || async {
            let n_running = server.query_text(count).await.unwrap().unwrap();
            if n_running == "1" { Ok(()) } else { Err(n_running) }
        })
        .await
        .unwrap();
        self::sql(primary(&stack), &format!("ALTER TABLE {table} ADD COLUMN more int")).await;
    };
    let (read, ()) = tokio::join!(rig.query(&sql), stand_in_the_way);
    let served = read.served.as_ref().unwrap();
    assert_eq!((served.node.as_str(), served.attempts, first(&read)), ("primary", 2, Kind::Int(1)));
    rig.wait_metric("mainstay_replica_retries_total", |retries| retries == 1.0).await;
}
