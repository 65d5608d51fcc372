use std::collections::BTreeSet;
use std::time::Duration;

use mainstay_devstack::wait_until;
use mainstay_proto::{
    common::v1::Health,
    replica::v1::{
        DrainNodeRequest, QueryRequest, Role, node_service_client::NodeServiceClient, value::Kind,
    },
};
use mainstay_rpc::ErrorCode;
use replica_service::{NodeConfig, ReplicaConfig};

use crate::rig::*;

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_round_the_replicas() {
    let rig = Rig::start(shared().await, Way::Direct, |_| {}).await;
    let mut nodes = BTreeSet::new();
    for _ in 0..4 {
        let response = rig.query("SELECT pg_is_in_recovery()").await;
        assert_eq!(first(&response), Kind::Bool(true));
        let served = response.served.unwrap();
        assert_eq!((served.role(), served.reason.as_str(), served.attempts), (Role::Replica, "replica", 1));
        assert!(served.staleness.is_some());
        nodes.insert(served.node);
    }
    assert_eq!(nodes, BTreeSet::from(["replica1".to_owned(), "replica2".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_the_wanted_zone_answer_until_none_is_fit() {
    let rig = Rig::start(shared().await, Way::Direct, |config| {
        for (name, zone) in [("primary", "a"), ("replica1", "a"), ("replica2", "b")] {
            config.nodes.get_mut(name).unwrap().zone = zone.to_owned();
        }
        config.routing.zone = "a".to_owned();
    })
    .await;
    let ask = |zone: &str| {
        let request =
            QueryRequest { sql: "SELECT 1".to_owned(), zone: zone.to_owned(), ..Default::default() };
        let rig = &rig;
        async move { served_by(&rig.ask(request).await.unwrap()).0 }
    };
    for _ in 0..4 {
        assert_eq!((ask("").await.as_str(), ask("b").await.as_str()), ("replica1", "replica2"));
    }
    let address = rig.cx.listening()[0].address;
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let drain = DrainNodeRequest { node: "replica1".to_owned() };
    let drained = NodeServiceClient::new(channel).drain_node(drain).await.unwrap().into_inner().node.unwrap();
    assert_eq!(drained.zone, "a");
    assert_eq!(rig.metric("mainstay_replica_other_zone_total").await, Some(0.0));
    assert_eq!(ask("").await, "replica2");
    assert_eq!(rig.metric("mainstay_replica_other_zone_total").await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_primary_answers_reads_that_ask_for_it_or_for_no_staleness() {
    let rig = Rig::start(shared().await, Way::Direct, |_| {}).await;
    let preferred = rig.query_primary("SELECT 1").await.unwrap();
    assert_eq!(served_by(&preferred), ("primary".to_owned(), "primary_preferred".to_owned()));
    assert_eq!(preferred.served.unwrap().staleness, None);
    let max_staleness = Some(prost_types::Duration::default());
    let fresh = rig
        .ask(QueryRequest { sql: "SELECT 1".to_owned(), max_staleness, ..QueryRequest::default() })
        .await
        .unwrap();
    assert_eq!(served_by(&fresh), ("primary".to_owned(), "no_fit_replica".to_owned()));
    rig.query("SELECT 1").await;
    rig.execute("SELECT 1").await.unwrap();
    for reason in ["primary_preferred", "no_fit_replica", "replica", "write"] {
        let routed = rig.metric(&format!("mainstay_replica_routed_total{{reason=\"{reason}\"}}")).await;
        assert_eq!(routed, Some(1.0), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_result_still_names_its_columns() {
    for way in [Way::Direct, Way::PgBouncer] {
        let rig = Rig::start(shared().await, way, |_| {}).await;
        let response = rig.query("SELECT 1::int8 AS a, now() AS b WHERE false").await;
        let columns: Vec<_> =
            response.columns.iter().map(|column| (column.name.as_str(), column.r#type.as_str())).collect();
        assert_eq!(columns, [("a", "int8"), ("b", "timestamptz")]);
        assert!(response.rows.is_empty() && !response.truncated);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topology_tells_roles_lag_and_pools_as_they_are() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, |_| {}).await;
    let table = table(stack, "id int").await;
    rig.execute(&format!("INSERT INTO {table} SELECT generate_series(1, 1000)")).await.unwrap();
    let topology = rig
        .wait("replicas to have replayed all", |topology| {
            let lags: Vec<_> = topology.nodes.iter().filter_map(|node| node.lag.as_ref()).collect();
            let healthy = topology.nodes.iter().all(|node| node.health() == Health::Healthy);
            healthy && lags.len() == 2 && lags.iter().all(|lag| lag.bytes == 0 && lag.staleness.is_some())
        })
        .await;
    assert_eq!((topology.primary.as_str(), topology.strategy.as_str()), ("primary", "round_robin"));
    for node in &topology.nodes {
        assert_eq!(node.role(), if node.name == "primary" { Role::Primary } else { Role::Replica });
        assert_eq!(node.writes, node.name == "primary");
        assert!(
            node.server_version.starts_with(char::is_numeric) && node.timeline >= 1 && node.lsn.contains('/')
        );
        assert_eq!(node.traffic.as_ref().unwrap().breaker, "closed");
        if let Some(lag) = &node.lag {
            assert_eq!(lag.receiver, "streaming");
        }
    }
    for (node, primary) in [("primary", 1.0), ("replica1", 0.0)] {
        rig.wait_metric(&format!("mainstay_replica_node_up{{node=\"{node}\"}}"), |up| up == 1.0).await;
        rig.wait_metric(&format!("mainstay_replica_node_primary{{node=\"{node}\"}}"), |is| is == primary)
            .await;
    }
    rig.wait_metric("mainstay_replica_node_staleness_seconds{node=\"replica1\"}", |bound| bound >= 0.0).await;
    assert_eq!(rig.metric("mainstay_replica_node_staleness_seconds{node=\"primary\"}").await, None);
    assert_eq!(rig.metric("mainstay_replica_queries_total{kind=\"execute\",result=\"OK\"}").await, Some(1.0));
    assert_eq!(rig.metric("mainstay_replica_query_seconds_count{kind=\"execute\"}").await, Some(1.0));
    let pool = topology.nodes.iter().find(|node| node.name == "primary").unwrap().pool.unwrap();
    assert_eq!((pool.max_size, pool.in_use, pool.created), (32, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_primary_makes_no_lag_even_behind_a_fresh_segment() {
    let stack = start_stack(false).await;
    let rig =
        Rig::start(&stack, Way::Direct, |config| config.health.probe_every = Duration::from_millis(50)).await;
    sql(primary(&stack), "CHECKPOINT").await;
    primary(&stack).query_text("SELECT pg_switch_wal()").await.unwrap();
    stack.postgres().unwrap().wait_caught_up(primary(&stack)).await.unwrap();
    rig.wait("lag to be zero behind a fresh segment", |topology| {
        topology.nodes.iter().filter_map(|node| node.lag.as_ref()).all(|lag| {
            lag.bytes == 0 && lag.staleness.as_ref().is_some_and(|staleness| staleness.seconds == 0)
        })
    })
    .await;
}

/// Without a commit nobody waits for the log to be on disk, and what is not on disk is sent to no replica.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_on_an_idle_primary_makes_no_lag() {
    let stack = start_stack(false).await;
    let table = table(&stack, "id int").await;
    let rig = Rig::start(&stack, Way::Direct, |_| {}).await;
    let primary = primary(&stack);
    // One transaction that goes on writing, for the server itself writes out its log now and then; it ends with the stack.
    let open =
        format!("DO $$ BEGIN LOOP INSERT INTO {table} VALUES (1); PERFORM pg_sleep(3); END LOOP; END $$");
    let transaction = primary.batch(&open, Duration::from_hours(1));
    let ask = async |sql: &str| primary.query_text(sql).await.map_err(|error| error.to_string());
    let looking = async {
        let sleepers = "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        wait_until("the transaction to be open", EVERY, SOON, || async {
            let found = ask(sleepers).await?;
            if found.as_deref() == Some("1") { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await
        .unwrap();
        // Only the probe ends transactions here: the server is made to write out its log.
        let ended = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
        let before = ask(ended).await.unwrap();
        wait_until("the log to be asked for", EVERY, SOON, || async {
            let now = ask(ended).await?;
            if now == before { Err(format!("{now:?}")) } else { Ok(()) }
        })
        .await
        .unwrap();
        rig.wait("no lag", |topology| {
            topology.nodes.iter().filter_map(|node| node.lag.as_ref()).all(|lag| lag.bytes == 0)
        })
        .await;
    };
    tokio::select! {
        ended = transaction => panic!("the transaction ended: {ended:?}"),
        () = looking => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_server_the_service_lives_and_says_what_is_wrong() {
    let mut config = ReplicaConfig::default();
    config
        .nodes
        .insert("gone".to_owned(), NodeConfig { address: nobody().to_string(), ..NodeConfig::default() });
    let rig = Rig::launch(config).await;
    let topology = rig
        .wait("the node to be seen as down", |topology| topology.nodes[0].health() == Health::Unhealthy)
        .await;
    assert!(topology.nodes[0].detail.contains("does not answer"), "{topology:?}");
    let read = rig.query_with("SELECT 1", vec![]).await.unwrap_err();
    assert_eq!((read.code(), read.reason()), (ErrorCode::Unavailable, "NO_FIT_NODE"));
    assert_eq!(read.details()["node.gone"], "down");
    let write = rig.execute("SELECT 1").await.unwrap_err();
    assert_eq!((write.code(), write.reason()), (ErrorCode::Unavailable, "NO_PRIMARY"));
    wait_until("the reason of not being ready", EVERY, SOON, || async {
        let why = rig.cx.not_ready_because().join("\n");
        if why.contains("postgres: no node can answer reads") { Ok(()) } else { Err(why) }
    })
    .await
    .unwrap();
}
