//! How fit replicas share the reads, and which bounds take them out.

use std::{collections::BTreeMap, time::Duration};

use mainstay_devstack::{ChaosProxy, Direction, wait_until};
use mainstay_proto::replica::v1::{QueryRequest, QueryStreamRequest, value::Kind};
use mainstay_rpc::ErrorCode;
use replica_service::{ReplicaConfig, Strategy};

use crate::rig::*;

/// Reads so often, one after the other, and counts who answered.
async fn shares(rig: &Rig, n_reads: u32) -> BTreeMap<String, u32> {
    let mut shares = BTreeMap::new();
    for _ in 0..n_reads {
        *shares.entry(served_by(&rig.query("SELECT 1").await).0).or_default() += 1;
    }
    shares
}

fn by(strategy: Strategy, weights: [u32; 2]) -> impl FnOnce(&mut ReplicaConfig) {
    move |config| {
        config.routing.strategy = strategy;
        for (name, weight) in ["replica1", "replica2"].into_iter().zip(weights) {
            config.nodes.get_mut(name).unwrap().weight = weight;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_share_the_reads_in_turn_or_at_random() {
    let in_turn = Rig::start(shared().await, Way::Direct, by(Strategy::RoundRobin, [3, 1])).await;
    assert_eq!(
        shares(&in_turn, 40).await,
        BTreeMap::from([("replica1".into(), 30), ("replica2".into(), 10)])
    );
    let at_random = Rig::start(shared().await, Way::Direct, by(Strategy::Weighted, [3, 1])).await;
    let shares = shares(&at_random, 400).await;
    assert!(
        (250..=350).contains(&shares["replica1"]) && shares["replica1"] + shares["replica2"] == 400,
        "{shares:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_replica_is_spared() {
    let rig = Rig::start(shared().await, Way::Direct, by(Strategy::LeastInFlight, [1, 1])).await;
    let is_busy = || async {
        let topology = rig.topology().await;
        let busy = topology.nodes.iter().find(|node| node.traffic.as_ref().is_some_and(|t| t.in_flight > 0));
        busy.map(|node| node.name.clone()).ok_or_else(|| "nobody is busy".to_owned())
    };
    let reading = async {
        let busy = wait_until("a replica to be busy", EVERY, SOON, is_busy).await.unwrap();
        let shares = shares(&rig, 20).await;
        assert!(!shares.contains_key(&busy) && !shares.contains_key("primary"), "{busy} is busy: {shares:?}");
    };
    tokio::select! {
        ended = rig.query_with("SELECT pg_sleep(50)", vec![]) => panic!("it ended: {ended:?}"),
        () = reading => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_replica_gets_fewer_reads() {
    let stack = shared().await;
    let replica = stack.postgres().unwrap().node("replica1").unwrap().public_address();
    let proxy = ChaosProxy::start(replica).unwrap();
    let rig = Rig::start(stack, Way::Direct, |config| {
        by(Strategy::LatencyAware, [1, 1])(config);
        config.nodes.get_mut("replica1").unwrap().address = proxy.address().to_string();
    })
    .await;
    // Far more than a read takes, also on a busy machine.
    proxy.delay(Direction::Downstream, Duration::from_millis(700));
    // Its first answers tell how slow it is.
    shares(&rig, 4).await;
    let shares = shares(&rig, 30).await;
    assert!(shares["replica2"] >= 25, "{shares:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_too_many_bytes_behind_is_left_out_but_for_who_bounds_time() {
    let stack = start_stack(false).await;
    let rig = Rig::start(&stack, Way::Direct, |config| {
        config.routing.max_lag_bytes = bytesize::ByteSize::kib(64);
        config.nodes.retain(|name, _| name != "replica2");
    })
    .await;
    let table = table(&stack, "note text").await;
    let replica = stack.postgres().unwrap().node("replica1").unwrap();
    replica.hold_replay().await.unwrap();
    rig.execute(&format!("INSERT INTO {table} SELECT repeat('x', 1000) FROM generate_series(1, 1000)"))
        .await
        .unwrap();
    rig.wait("replica1 to be too many bytes behind", |topology| {
        let node = topology.nodes.iter().find(|node| node.name == "replica1").unwrap();
        !node.reads && node.lag.as_ref().is_some_and(|lag| lag.bytes > 1_000_000)
    })
    .await;
    assert_eq!(served_by(&rig.query("SELECT 1").await), ("primary".into(), "no_fit_replica".into()));
    let max_staleness = Some(prost_types::Duration { seconds: 3_600, nanos: 0 });
    let bounded = QueryRequest { sql: "SELECT 1".to_owned(), max_staleness, ..QueryRequest::default() };
    assert_eq!(served_by(&rig.ask(bounded.clone()).await.unwrap()).0, "replica1");
    // A read says its bytes itself, with a time and without.
    for (max_lag_bytes, node) in [(64 << 20, "replica1"), (64 << 10, "primary"), (0, "primary")] {
        for read in [bounded.clone(), QueryRequest { max_staleness: None, ..bounded.clone() }] {
            let read = QueryRequest { max_lag_bytes: Some(max_lag_bytes), ..read };
            assert_eq!(served_by(&rig.ask(read.clone()).await.unwrap()).0, node, "{read:?}");
            let stream = QueryStreamRequest {
                sql: read.sql,
                max_staleness: read.max_staleness,
                max_lag_bytes: read.max_lag_bytes,
                ..QueryStreamRequest::default()
            };
            let mut chunks = rig.client.clone().query_stream(stream).await.unwrap().into_inner();
            let served = chunks.message().await.unwrap().unwrap().served.unwrap();
            assert_eq!(served.node, node, "{max_lag_bytes}");
        }
    }
    rig.wait_metric("mainstay_replica_node_lag_bytes{node=\"replica1\"}", |bytes| bytes > 1_000_000.0).await;
    replica.release_replay().await.unwrap();
    rig.wait("replica1 to be back", |topology| topology.nodes.iter().all(|node| node.reads)).await;
    assert_eq!(served_by(&rig.query("SELECT 1").await).0, "replica1");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_fallback_the_primary_answers_only_who_asks_for_it() {
    let stack = start_stack(false).await;
    let mut config = patient_config(&stack, Way::Direct);
    config.routing.primary_fallback = false;
    config.routing.token_wait_within = Duration::from_millis(100);
    let rig = Rig::launch(config).await;
    rig.wait("the replicas to take reads, and nobody else", |topology| {
        topology.primary == "primary"
            && topology.nodes.iter().all(|node| node.reads == (node.name != "primary"))
    })
    .await;
    let table = table(&stack, "n int").await;
    let replicas = ["replica1", "replica2"].map(|name| stack.postgres().unwrap().node(name).unwrap());
    for replica in replicas {
        replica.hold_replay().await.unwrap();
    }
    let written = rig.execute(&format!("INSERT INTO {table} VALUES (1)")).await.unwrap();
    let sql = format!("SELECT count(*) FROM {table}");
    let after = QueryRequest { sql: sql.clone(), after: written.token, ..QueryRequest::default() };
    let failure = rig.ask(after.clone()).await.unwrap_err();
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::FailedPrecondition, "NO_REPLICA_CAUGHT_UP"));
    assert_eq!(first(&rig.query_primary(&sql).await.unwrap()), Kind::Int(1));
    for replica in replicas {
        replica.release_replay().await.unwrap();
    }
    let read = wait_until("a replica to have caught up", EVERY, SOON, || async {
        rig.ask(after.clone()).await.map_err(|failure| format!("{failure:?}"))
    })
    .await
    .unwrap();
    assert!(served_by(&read).0.starts_with("replica"), "{read:?}");
    for replica in replicas {
        replica.kill().await.unwrap();
    }
    rig.wait("both to be down", |topology| topology.nodes.iter().all(|node| !node.reads)).await;
    let failure = rig.query_with("SELECT 1", Vec::new()).await.unwrap_err();
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::Unavailable, "NO_FIT_NODE"));
    assert_eq!(first(&rig.query_primary(&sql).await.unwrap()), Kind::Int(1));
}
