use std::time::Duration;

use mainstay_devstack::{ChaosProxy, Devstack, Direction, wait_until};
use mainstay_proto::{
    common::v1::Health,
    replica::v1::{Lag, QueryRequest, Role, TopologyResponse, value::Kind},
};
use mainstay_rpc::ErrorCode;
use tokio::time::Instant;

use crate::rig::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replica_fails_no_read_and_comes_back() {
    let stack = start_stack(false).await;
    let rig = Rig::start(&stack, Way::Direct, |_| {}).await;
    let replica = stack.postgres().unwrap().node("replica1").unwrap();
    let reading = read_until_told(&rig);
    let killing = async {
        replica.kill().await.unwrap();
        let down = |node: &mainstay_proto::replica::v1::Node| {
            node.name == "replica1" && node.health() == Health::Unhealthy
        };
        rig.wait("replica1 to be down", |topology| topology.nodes.iter().any(down)).await;
        assert!(rig.cx.is_ready(), "{:?}", rig.cx.not_ready_because());
        replica.start().await.unwrap();
        let back = |node: &mainstay_proto::replica::v1::Node| {
            node.name == "replica1" && node.reads && node.lag.is_some()
        };
        rig.wait("replica1 to take reads again", |topology| topology.nodes.iter().any(back)).await;
    };
    let n_reads = tokio::select! { n = reading => n, () = killing => 0 };
    assert_eq!(n_reads, 0, "a read failed after {n_reads}");
    let answered_by_it = || async {
        if served_by(&rig.query("SELECT 1").await).0 == "replica1" { Ok(()) } else { Err(String::new()) }
    };
    wait_until("replica1 to answer", EVERY, SOON, answered_by_it).await.unwrap();
}

/// Reads for ever; returns only with a failure.
async fn read_until_told(rig: &Rig) -> u32 {
    let mut n_reads = 0;
    loop {
        if let Err(failure) = rig.query_with("SELECT 1", vec![]).await {
            panic!("read {n_reads} failed: {failure:?}");
        }
        n_reads += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stays_down_is_asked_less_and_less_often() {
    let stack = shared().await;
    let replica = stack.postgres().unwrap().node("replica1").unwrap().public_address();
    let proxy = ChaosProxy::start(replica).unwrap();
    let (every, longest) = (Duration::from_millis(50), Duration::from_secs(2));
    let rig = Rig::start(stack, Way::Direct, |config| {
        (config.health.probe_every, config.health.probe_down_every) = (every, longest);
        config.nodes.get_mut("replica1").unwrap().address = proxy.address().to_string();
    })
    .await;
    // Each connection is taken and broken at its first byte.
    proxy.drop_after(Direction::Both, 0);
    let takes_reads = |wanted| {
        move |topology: &TopologyResponse| {
            topology.nodes.iter().any(|node| node.name == "replica1" && node.reads == wanted)
        }
    };
    rig.wait("replica1 to be down", takes_reads(false)).await;
    // Pauses of 50, 100, ... 1,600 ms, and then of 2 s, each with jitter.
    let (begun_at, before) = (Instant::now(), proxy.counts().accepted);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let (asked, took) = (proxy.counts().accepted - before, begun_at.elapsed());
    let most = 6 + (took.as_secs_f64() / (longest / 2).as_secs_f64()).ceil() as u64;
    assert!((2..=most).contains(&asked), "{asked} probes in {took:?}, at most {most}");
    proxy.restore().await.unwrap();
    rig.wait("replica1 to be back", takes_reads(true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_suspect_before_it_is_down_and_on_probation_before_it_is_up() {
    let stack = shared().await;
    let replica = stack.postgres().unwrap().node("replica1").unwrap().public_address();
    let proxy = ChaosProxy::start(replica).unwrap();
    let rig = Rig::start(stack, Way::Direct, |config| {
        // Each for seconds, so that it is seen.
        (config.health.down_after, config.health.up_after) = (50, 20);
        config.health.probe_down_every = config.health.probe_every;
        config.nodes.get_mut("replica1").unwrap().address = proxy.address().to_string();
    })
    .await;
    let is = async |state: f64| {
        rig.wait_metric("mainstay_replica_node_probe_state{node=\"replica1\"}", |now| now == state).await;
        rig.node("replica1").await
    };
    is(3.0).await;
    proxy.cut().await.unwrap();
    let suspect = is(2.0).await;
    assert!(suspect.reads && suspect.detail.contains("last probe failed"), "{suspect:?}");
    assert!(!is(0.0).await.reads);
    proxy.restore().await.unwrap();
    let on_probation = is(1.0).await;
    assert!(!on_probation.reads && on_probation.detail.contains("not steadily enough"), "{on_probation:?}");
    is(3.0).await;
    rig.wait("replica1 to take reads again", |topology| topology.nodes.iter().all(|node| node.reads)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_replica_is_left_out_and_its_reads_go_elsewhere() {
    let stack = start_stack(false).await;
    let rig =
        Rig::start(&stack, Way::Direct, |config| config.health.probe_within = Duration::from_millis(500))
            .await;
    let replica = stack.postgres().unwrap().node("replica1").unwrap();
    rig.query("SELECT 1").await;
    rig.query("SELECT 1").await;
    replica.pause().await.unwrap();
    // It answers nothing until it is resumed below, so each answer was given elsewhere, a read that had begun on it included.
    for _ in 0..4 {
        let response = rig.query_with("SELECT 1", vec![]).await.unwrap();
        assert_ne!(served_by(&response).0, "replica1");
    }
    replica.resume().await.unwrap();
    rig.wait("replica1 to be back", |topology| topology.nodes.iter().all(|node| node.reads)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn held_replay_shows_as_lag_and_sends_reads_elsewhere() {
    let stack = start_stack(false).await;
    let rig = Rig::start(&stack, Way::Direct, |config| {
        config.routing.max_staleness = Duration::from_secs(2);
        config.postgres.statement_within = SOON;
        config.routing.token_wait_within = Duration::from_millis(200);
    })
    .await;
    let (postgres, table) = (stack.postgres().unwrap(), table(&stack, "n int").await);
    let replica = postgres.node("replica1").unwrap();
    replica.hold_replay().await.unwrap();
    let token = rig.execute(&format!("INSERT INTO {table} VALUES (1)")).await.unwrap().token;
    rig.wait("replica1 to lag", |topology| {
        let node = topology.nodes.iter().find(|node| node.name == "replica1").unwrap();
        let behind = |lag: &Lag| {
            lag.bytes > 0
                && lag.replay_paused
                && lag.staleness.as_ref().is_some_and(|bound| bound.seconds >= 2)
        };
        let told = (node.health(), node.detail.as_str()) == (Health::Degraded, "replay is paused");
        !node.reads && told && node.lag.as_ref().is_some_and(behind)
    })
    .await;
    for _ in 0..6 {
        assert_ne!(served_by(&rig.query("SELECT 1").await).0, "replica1");
    }
    postgres.node("replica2").unwrap().hold_replay().await.unwrap();
    let token =
        rig.execute(&format!("UPDATE {table} SET n = 2")).await.map(|written| written.token).unwrap_or(token);
    // Both replicas are fit in everything but the token, however long this takes.
    let read = QueryRequest {
        sql: format!("SELECT n FROM {table}"),
        after: token,
        max_staleness: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
        ..QueryRequest::default()
    };
    let response = rig.ask(read).await.unwrap();
    assert_eq!(
        (first(&response), served_by(&response)),
        (Kind::Int(2), ("primary".to_owned(), "token".to_owned()))
    );
    assert_eq!(rig.metric("mainstay_replica_routed_total{reason=\"token\"}").await, Some(1.0));
    for name in ["replica1", "replica2"] {
        postgres.node(name).unwrap().release_replay().await.unwrap();
    }
    rig.wait("both to take reads again", |topology| topology.nodes.iter().all(|node| node.reads)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_follow_a_promotion_the_old_primary_is_fenced_and_a_split_brain_stops_writes() {
    let stack = start_stack(false).await;
    let rig = Rig::start(&stack, Way::Direct, |_| {}).await;
    let (postgres, table) = (stack.postgres().unwrap(), table(&stack, "n int").await);
    let old_token = rig.execute(&format!("INSERT INTO {table} VALUES (1)")).await.unwrap().token;
    postgres.wait_caught_up(primary(&stack)).await.unwrap();

    postgres.node("replica1").unwrap().promote().await.unwrap();
    rig.wait("replica1 to be the primary", |topology| topology.primary == "replica1").await;
    let written = rig.execute(&format!("INSERT INTO {table} VALUES (2)")).await.unwrap();
    assert_eq!(written.served.unwrap().node, "replica1");
    let old = rig.node("primary").await;
    assert_eq!((old.role(), old.reads, old.writes), (Role::Unknown, false, false), "{old:?}");
    assert!(old.detail.contains("fenced"), "{}", old.detail);
    for after in [old_token, written.token] {
        let read =
            QueryRequest { sql: format!("SELECT count(*) FROM {table}"), after, ..QueryRequest::default() };
        let response = rig.ask(read).await.unwrap();
        assert_eq!((first(&response), served_by(&response).0), (Kind::Int(2), "replica1".to_owned()));
    }

    split(&stack, &rig, &table).await;
}

async fn split(stack: &Devstack, rig: &Rig, table: &str) {
    stack.postgres().unwrap().node("replica2").unwrap().promote().await.unwrap();
    rig.wait("the split brain to be seen", |topology| {
        let split = topology.nodes.iter().filter(|node| node.detail.contains("split brain"));
        topology.primary.is_empty() && split.count() == 2
    })
    .await;
    let failure = rig.execute(&format!("INSERT INTO {table} VALUES (3)")).await.unwrap_err();
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::Unavailable, "NO_PRIMARY"));
    assert!(failure.message().contains("split brain of replica1 and replica2"), "{}", failure.message());
    rig.wait_metric("mainstay_replica_primaries", |primaries| primaries == 2.0).await;
    rig.wait_metric("mainstay_component_health{component=\"primary\"}", |health| health == 1.0).await;

    // One of the two goes: whose rows count is no question any more.
    stack.postgres().unwrap().node("replica2").unwrap().kill().await.unwrap();
    rig.wait("replica1 to be the only primary", |topology| topology.primary == "replica1").await;
    let written = rig.execute(&format!("INSERT INTO {table} VALUES (3)")).await.unwrap();
    assert_eq!(written.served.unwrap().node, "replica1");
    rig.wait_metric("mainstay_replica_primaries", |primaries| primaries == 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_on_without_a_primary_and_writes_come_back_with_it() {
    let stack = start_stack(false).await;
    let rig =
        Rig::start(&stack, Way::Direct, |config| config.routing.max_staleness = Duration::from_secs(1)).await;
    let patient =
        Rig::start(&stack, Way::Direct, |config| config.routing.write_wait_within = Duration::from_secs(50))
            .await;
    let table = table(&stack, "n int").await;
    rig.execute(&format!("INSERT INTO {table} VALUES (1)")).await.unwrap();
    stack.postgres().unwrap().wait_caught_up(primary(&stack)).await.unwrap();
    primary(&stack).kill().await.unwrap();
    rig.wait("the primary to be missed", |topology| topology.primary.is_empty()).await;
    let asked_at = Instant::now();
    let failure = rig.execute(&format!("INSERT INTO {table} VALUES (2)")).await.unwrap_err();
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::Unavailable, "NO_PRIMARY"));
    // `routing.write_wait_within`, and far from the time that a statement has.
    let waited = asked_at.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(20)).contains(&waited), "it waited {waited:?}");
    // Long enough for the usual bound of 1 s to be passed.
    rig.wait("replicas to be staler than the bound", |topology| {
        let lags = topology.nodes.iter().filter_map(|node| node.lag.as_ref());
        let stale: Vec<_> =
            lags.filter(|lag| lag.staleness.as_ref().is_some_and(|s| s.seconds >= 2)).collect();
        stale.len() == 2
    })
    .await;
    let response = rig.query(&format!("SELECT count(*) FROM {table}")).await;
    assert_eq!((first(&response), served_by(&response).1.as_str()), (Kind::Int(1), "replica"));
    assert!(response.served.unwrap().staleness.unwrap().seconds >= 1);
    assert!(rig.cx.is_ready(), "{:?}", rig.cx.not_ready_because());
    // A write that waits is done as soon as there is a primary, and once.
    let insert = format!("INSERT INTO {table} VALUES (3)");
    let waiting = patient.execute_with(&insert, Vec::new());
    let (started, written) = tokio::join!(primary(&stack).start(), waiting);
    started.unwrap();
    assert_eq!(written.unwrap().rows_affected, 1);
    rig.wait("the primary to be back", |topology| topology.primary == "primary").await;
    assert_eq!(rig.execute(&format!("INSERT INTO {table} VALUES (2)")).await.unwrap().rows_affected, 1);
    let rows = rig.query_primary(&format!("SELECT count(*) FROM {table}")).await.unwrap();
    assert_eq!(first(&rows), Kind::Int(3));
}

/// Whoever misses a node has it probed, so that a long period costs freshness and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn probes_every_half_minute_keep_neither_a_lost_replica_nor_a_promotion_waiting() {
    let stack = start_stack(false).await;
    let rig = Rig::start(&stack, Way::Direct, |config| {
        config.health.probe_every = Duration::from_secs(30);
        config.routing.max_staleness = Duration::from_secs(120);
        config.routing.write_wait_within = Duration::from_secs(60);
    })
    .await;
    let postgres = stack.postgres().unwrap();
    let table = table(&stack, "n int").await;
    let insert = format!("INSERT INTO {table} VALUES (1)");
    rig.execute(&insert).await.unwrap();
    postgres.wait_caught_up(primary(&stack)).await.unwrap();
    postgres.node("replica2").unwrap().kill().await.unwrap();
    for _ in 0..6 {
        assert_ne!(served_by(&rig.query_with("SELECT 1", Vec::new()).await.unwrap()).0, "replica2");
    }
    let replica = postgres.node("replica1").unwrap();
    primary(&stack).kill().await.unwrap();
    replica.promote().await.unwrap();
    let promoted_at = Instant::now();
    let written = rig.execute(&insert).await.unwrap();
    let took = promoted_at.elapsed();
    assert_eq!(written.served.unwrap().node, "replica1");
    assert!(took < Duration::from_secs(15), "the write took {took:?}");
}
