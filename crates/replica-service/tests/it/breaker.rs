//! A node that answers probes and fails statements: it is left out, told, tried now and then, and used again.

use std::time::Duration;

use mainstay_devstack::{PostgresNode, SERVICE_ROLE, wait_until};
use mainstay_proto::{
    common::v1::Health,
    replica::v1::{Node, Traffic},
};
use mainstay_rpc::ErrorCode;

use crate::rig::*;

const OPEN_FOR: Duration = Duration::from_secs(15);
const STATE: &str = "mainstay_replica_node_breaker_state";
const OPENINGS: &str = "mainstay_replica_node_breaker_openings_total";

fn of(metric: &str, node: &str) -> String {
    format!("{metric}{{node=\"{node}\"}}")
}

/// Keeps the role of the pools out of a server, open connections too; probes use another one.
async fn refuse_statements(server: &PostgresNode) {
    prepend_hba(server, &format!("host all {SERVICE_ROLE} 127.0.0.1/32 reject\n")).await;
    let end = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{SERVICE_ROLE}'"
    );
    sql(server, &end).await;
}

fn traffic(node: &Node) -> &Traffic {
    node.traffic.as_ref().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_fails_statements_is_left_out_and_used_again() {
    let stack = start_stack(false).await;
    let rig = Rig::start(&stack, Way::Direct, |config| {
        config.breaker.open_for = OPEN_FOR;
        config.breaker.open_for_max = OPEN_FOR;
    })
    .await;
    rig.wait_metric(&of(STATE, "replica1"), |state| state == 0.0).await;
    let replica = stack.postgres().unwrap().node("replica1").unwrap();
    refuse_statements(replica).await;

    // Each failure is of a read that is then answered elsewhere, so the callers see none.
    let opened = wait_until("the breaker to open", EVERY, SOON, || async {
        rig.query("SELECT 1").await;
        let node = rig.node("replica1").await;
        if traffic(&node).breaker == "open" { Ok(node) } else { Err(format!("{node:?}")) }
    })
    .await
    .unwrap();
    for _ in 0..6 {
        let served = rig.query("SELECT 1").await.served.unwrap();
        assert_eq!((served.node.as_str(), served.attempts), ("replica2", 1), "nothing is tried there");
    }
    assert_eq!((opened.reads, opened.health()), (false, Health::Degraded), "{opened:?}");
    let why = "replica, but statements fail there with SQLSTATE 28000: none is sent for now";
    assert_eq!(opened.detail, why);
    assert!(rig.metric("mainstay_replica_retries_total").await.unwrap() >= 5.0);
    rig.wait_metric(&of(OPENINGS, "replica1"), |openings| openings >= 1.0).await;
    rig.wait_metric("mainstay_component_health{component=\"postgres.replica1\"}", |health| health == 2.0)
        .await;
    assert!(rig.cx.is_ready(), "{:?}", rig.cx.not_ready_because());

    // It is tried when its time is over, in vain, and held back again.
    rig.wait_metric(&of(STATE, "replica1"), |state| state == 1.0).await;
    wait_until("the breaker to open again", EVERY, SOON, || async {
        rig.query("SELECT 1").await;
        let openings = rig.metric(&of(OPENINGS, "replica1")).await;
        if openings.is_some_and(|openings| openings >= 2.0) { Ok(()) } else { Err(format!("{openings:?}")) }
    })
    .await
    .unwrap();

    drop_first_hba(replica).await;
    wait_until("replica1 to answer again", EVERY, SOON, || async {
        let (node, _) = served_by(&rig.query("SELECT 1").await);
        let breaker = traffic(&rig.node("replica1").await).breaker.clone();
        if (node.as_str(), breaker.as_str()) == ("replica1", "closed") { Ok(()) } else { Err(breaker) }
    })
    .await
    .unwrap();
    rig.wait_metric(&of(STATE, "replica1"), |state| state == 0.0).await;
    assert_eq!(rig.metric(&of(OPENINGS, "replica2")).await, Some(0.0));
    rig.wait("all to be healthy", |topology| {
        topology.nodes.iter().all(|node| node.reads && node.health() == Health::Healthy)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_on_a_primary_that_fails_them_are_not_applied_and_told_why() {
    let stack = start_stack(false).await;
    let rig = Rig::start(&stack, Way::Direct, |config| {
        config.breaker.open_for = OPEN_FOR;
        config.breaker.open_for_max = OPEN_FOR;
        config.routing.write_wait_within = Duration::from_millis(100);
    })
    .await;
    let table = table(&stack, "n int").await;
    let insert = format!("INSERT INTO {table} VALUES (1)");
    rig.execute(&insert).await.unwrap();
    refuse_statements(primary(&stack)).await;
    wait_until("the breaker to open", EVERY, SOON, || async {
        rig.execute(&insert).await.unwrap_err();
        let node = rig.node("primary").await;
        if traffic(&node).breaker == "open" { Ok(()) } else { Err(format!("{node:?}")) }
    })
    .await
    .unwrap();
    let failure = rig.execute(&insert).await.unwrap_err();
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::Unavailable, "NODE_UNAVAILABLE"));
    let detail = |key: &str| failure.details().get(key).map(String::as_str);
    assert_eq!((detail("sqlState"), detail("outcome")), (Some("28000"), Some("not_applied")));
    assert!(failure.retry_delay().is_some_and(|delay| delay <= OPEN_FOR), "{failure:?}");
    assert!(!rig.node("primary").await.writes);

    drop_first_hba(primary(&stack)).await;
    wait_until("writes to be taken again", EVERY, SOON, || async {
        rig.execute(&insert).await.map_err(|failure| format!("{failure:?}"))
    })
    .await
    .unwrap();
    let rows = rig.query_primary(&format!("SELECT count(*) FROM {table}")).await.unwrap();
    assert_eq!(first(&rows), mainstay_proto::replica::v1::value::Kind::Int(2));
}
