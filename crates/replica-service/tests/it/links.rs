//! What lies between the service and a node: a link that stalls or breaks, a pooler that starts again, a password that
//! changes, a server that takes no more connections.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use mainstay_devstack::{ChaosProxy, DATABASE, Devstack, Direction, SERVICE_ROLE, SUPERUSER, wait_until};
use mainstay_proto::{
    common::v1::Health,
    replica::v1::{QueryStreamRequest, TopologyResponse, value::Kind},
};
use mainstay_rpc::{ErrorCode, Failure};
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};

use crate::rig::*;

/// Reads for ever, one after the other; ends only with a failure. Keeps the longest time of a read.
async fn read_on(rig: &Rig, longest_ms: &AtomicU64) -> Failure {
    loop {
        let asked_at = Instant::now();
        if let Err(failure) = rig.query_with("SELECT 1", vec![]).await {
            return failure;
        }
        longest_ms.fetch_max(asked_at.elapsed().as_millis() as u64, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn takes_reads(name: &'static str, wanted: bool) -> impl Fn(&TopologyResponse) -> bool {
    move |topology| topology.nodes.iter().any(|node| node.name == name && node.reads == wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_stalls_or_breaks_fails_no_read_and_is_used_again() {
    let stack = shared().await;
    let proxy =
        ChaosProxy::start(stack.postgres().unwrap().node("replica1").unwrap().public_address()).unwrap();
    let rig = Rig::start(stack, Way::Direct, |config| {
        config.health.probe_within = Duration::from_millis(500);
        config.nodes.get_mut("replica1").unwrap().address = proxy.address().to_string();
    })
    .await;
    let longest_ms = AtomicU64::new(0);
    let faults = async {
        proxy.stall(Direction::Both);
        rig.wait("the stalled node to be left out", takes_reads("replica1", false)).await;
        proxy.unstall(Direction::Both);
        rig.wait("it to take reads again", takes_reads("replica1", true)).await;
        proxy.cut().await.unwrap();
        rig.wait("the node behind the cut to be left out", takes_reads("replica1", false)).await;
        proxy.restore().await.unwrap();
        rig.wait("it to take reads again", takes_reads("replica1", true)).await;
        // Only answers come late: what was sent has been run.
        proxy.stall(Direction::Downstream);
        rig.wait("the silent node to be left out", takes_reads("replica1", false)).await;
        proxy.restore().await.unwrap();
        rig.wait("it to take reads once more", takes_reads("replica1", true)).await;
    };
    tokio::select! {
        failure = read_on(&rig, &longest_ms) => panic!("a read failed: {failure:?}"),
        () = faults => {}
    }
    // Found out by two probes of half a second; a statement would have a minute.
    let longest_ms = longest_ms.into_inner();
    assert!(longest_ms < 20_000, "the longest read took {longest_ms} ms");
    wait_until("the node to answer", EVERY, SOON, || async {
        let (node, _) = served_by(&rig.query("SELECT 1").await);
        if node == "replica1" { Ok(()) } else { Err(node) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn poolers_that_start_again_fail_no_read_and_lose_or_double_no_write() {
    let stack = start_stack(true).await;
    let rig = Rig::start(&stack, Way::PgBouncer, |_| {}).await;
    let table = table(&stack, "n int").await;
    let (acknowledged, unknown) = (AtomicU32::new(0), AtomicU32::new(0));
    let writing = async {
        loop {
            match rig.execute(&format!("INSERT INTO {table} VALUES (1)")).await {
                Ok(_) => acknowledged.fetch_add(1, Ordering::Relaxed),
                Err(failure)
                    if failure.details().get("outcome").is_some_and(|outcome| outcome == "not_applied") =>
                {
                    0
                }
                Err(failure) => {
                    assert!(
                        matches!(failure.code(), ErrorCode::Unavailable | ErrorCode::DeadlineExceeded),
                        "{failure:?}"
                    );
                    unknown.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    };
    let longest_ms = AtomicU64::new(0);
    let restarts = async {
        for node in stack.postgres().unwrap().nodes() {
            let before = acknowledged.load(Ordering::Relaxed);
            node.bouncer().unwrap().restart().await.unwrap();
            wait_until("writes to be acknowledged again", EVERY, SOON, || async {
                let now = acknowledged.load(Ordering::Relaxed);
                if now > before + 5 { Ok(()) } else { Err(format!("{now} after {before}")) }
            })
            .await
            .unwrap();
            rig.wait("all nodes to take reads", |topology| topology.nodes.iter().all(|node| node.reads))
                .await;
        }
    };
    tokio::select! {
        failure = read_on(&rig, &longest_ms) => panic!("a read failed: {failure:?}"),
        () = writing => {}
        () = restarts => {}
    }
    // The write that was under way when the test ended is unknown too.
    let most = acknowledged.load(Ordering::Relaxed) + unknown.load(Ordering::Relaxed) + 1;
    let counted = rig.query_primary(&format!("SELECT count(*) FROM {table}")).await.unwrap();
    let Kind::Int(rows) = first(&counted) else { panic!("{counted:?}") };
    let rows = u32::try_from(rows).unwrap();
    let longest_ms = longest_ms.into_inner();
    assert!(longest_ms < 20_000, "the longest read took {longest_ms} ms");
    assert!(
        (acknowledged.load(Ordering::Relaxed)..=most).contains(&rows),
        "{rows} rows, {acknowledged:?} to {most}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_was_changed_is_told_and_works_once_it_is_right_again() {
    let stack = start_stack(false).await;
    let set_password = async |password: &str| {
        sql(primary(&stack), &format!("ALTER ROLE {SERVICE_ROLE} PASSWORD '{password}'")).await;
        stack.postgres().unwrap().wait_caught_up(primary(&stack)).await.unwrap();
    };
    let rig = Rig::start(&stack, Way::Direct, |config| config.pool.max_size = 1).await;
    rig.execute("SELECT 1").await.unwrap();
    set_password("another").await;
    // What is open stays open.
    rig.execute("SELECT 1").await.unwrap();
    let end = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{SERVICE_ROLE}'"
    );
    for node in stack.postgres().unwrap().nodes() {
        sql(node, &end).await;
    }
    wait_until("the refused log-in to be told", EVERY, SOON, || async {
        match rig.execute("SELECT 1").await {
            Err(failure) if failure.details().get("sqlState").is_some_and(|state| state == "28P01") => {
                assert_eq!(failure.code(), ErrorCode::Unavailable, "{failure:?}");
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    set_password(&stack.credentials().postgres_password).await;
    wait_until("reads and writes to work again", EVERY, SOON, || async {
        rig.execute("SELECT 1").await.map_err(|failure| format!("{failure:?}"))?;
        rig.query_with("SELECT 1", vec![]).await.map_err(|failure| format!("{failure:?}"))
    })
    .await
    .unwrap();
}

/// Without a role of their own the probes log in as the service does, and are refused like it.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_the_probes_share_is_told_of_each_node() {
    let stack = start_stack(false).await;
    let rig = Rig::start(&stack, Way::Direct, |config| {
        config.health.user = String::new();
        config.health.password = "".into();
        config.routing.write_wait_within = Duration::from_millis(100);
    })
    .await;
    let set_password = async |password: &str| {
        sql(primary(&stack), &format!("ALTER ROLE {SERVICE_ROLE} PASSWORD '{password}'")).await;
        stack.postgres().unwrap().wait_caught_up(primary(&stack)).await.unwrap();
    };
    set_password("another").await;
    let end = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{SERVICE_ROLE}'"
    );
    for node in stack.postgres().unwrap().nodes() {
        sql(node, &end).await;
    }
    rig.wait("all nodes to tell why they are down", |topology| {
        topology.nodes.iter().all(|node| node.health() == Health::Unhealthy && node.detail.contains("28P01"))
    })
    .await;
    let refused = rig.query_with("SELECT 1", vec![]).await.unwrap_err();
    assert_eq!((refused.code(), refused.reason()), (ErrorCode::Unavailable, "NO_FIT_NODE"));
    let refused = rig.execute("SELECT 1").await.unwrap_err();
    assert_eq!((refused.code(), refused.reason()), (ErrorCode::Unavailable, "NO_PRIMARY"));
    assert!(!rig.cx.is_ready());
    set_password(&stack.credentials().postgres_password).await;
    rig.wait("all nodes to take reads again", |topology| topology.nodes.iter().all(|node| node.reads)).await;
    rig.execute("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_from_a_node_that_falls_silent_begins_elsewhere_or_ends_with_an_error() {
    let stack = shared().await;
    let proxy =
        ChaosProxy::start(stack.postgres().unwrap().node("replica1").unwrap().public_address()).unwrap();
    let rig = Rig::start(stack, Way::Direct, |config| {
        config.health.probe_within = Duration::from_millis(500);
        config.postgres.stream_within = Duration::from_secs(600);
        config.nodes.retain(|name, _| name != "replica2");
        config.nodes.get_mut("replica1").unwrap().address = proxy.address().to_string();
    })
    .await;
    let open = async |sql: &str| {
        let request = QueryStreamRequest { sql: sql.to_owned(), ..QueryStreamRequest::default() };
        rig.client.clone().query_stream(request).await.unwrap().into_inner()
    };
    // Nothing of it has come when the node falls silent.
    let silence = async {
        wait_until("the stream to run there", EVERY, SOON, || async {
            let in_flight = rig.node("replica1").await.traffic.unwrap().in_flight;
            if in_flight == 1 { Ok(()) } else { Err(in_flight.to_string()) }
        })
        .await
        .unwrap();
        proxy.stall(Direction::Both);
    };
    let sleep = "SELECT pg_sleep(CASE WHEN pg_is_in_recovery() THEN 300 ELSE 0 END)";
    let first = async { open(sleep).await.message().await.unwrap().unwrap() };
    let (chunk, ()) = tokio::join!(first, silence);
    let served = chunk.served.unwrap();
    assert_eq!((served.node.as_str(), served.attempts), ("primary", 2));
    proxy.restore().await.unwrap();
    rig.wait("it to take reads again", takes_reads("replica1", true)).await;

    // Some of it has come: the rest can come from nowhere else.
    let mut chunks = open("SELECT n, repeat('x', 1000) FROM generate_series(1, 10000000) AS n").await;
    let served = chunks.message().await.unwrap().unwrap().served.unwrap();
    assert_eq!(served.node, "replica1");
    proxy.stall(Direction::Both);
    let failure = loop {
        match chunks.message().await {
            Ok(Some(chunk)) => assert!(!chunk.last),
            Ok(None) => panic!("it ended without a word"),
            Err(status) => break Failure::from(status),
        }
    };
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::Unavailable, "CONNECTION_LOST"));
    proxy.restore().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_more_connections_is_told_apart_and_used_again() {
    let stack = start_stack(false).await;
    // Nothing is open yet but what the probes hold.
    let rig = Rig::start(&stack, Way::Direct, |_| {}).await;
    let mut taken = fill(&stack, &rig, "primary").await;
    taken.extend(fill(&stack, &rig, "replica1").await);
    let failure = rig.execute("SELECT 1").await.unwrap_err();
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::ResourceExhausted, "NODE_UNAVAILABLE"));
    assert_eq!(failure.details().get("sqlState").map(String::as_str), Some("53300"), "{failure:?}");
    // One replica has room; reads are answered there.
    for _ in 0..6 {
        let response = rig.query_with("SELECT 1", vec![]).await.unwrap();
        assert_eq!(served_by(&response).0, "replica2");
    }
    drop(taken);
    wait_until("writes to be taken again", EVERY, SOON, || async {
        rig.execute("SELECT 1").await.map_err(|failure| format!("{failure:?}"))
    })
    .await
    .unwrap();
    wait_until("replica1 to answer again", EVERY, SOON, || async {
        let (node, _) = served_by(&rig.query("SELECT 1").await);
        if node == "replica1" { Ok(()) } else { Err(node) }
    })
    .await
    .unwrap();
    rig.wait("all to be healthy", |topology| {
        topology.nodes.iter().all(|node| node.health() == Health::Healthy)
    })
    .await;
}

/// Takes all connections that a role without rights of its own may have.
async fn fill(stack: &Devstack, rig: &Rig, node: &str) -> Vec<Client> {
    let address = stack.postgres().unwrap().node(node).unwrap().public_address();
    let mut config = tokio_postgres::Config::new();
    config.host(address.ip().to_string()).port(address.port()).dbname(DATABASE).user(SUPERUSER);
    config.password(&stack.credentials().postgres_superuser_password);
    let mut clients = Vec::new();
    loop {
        match config.connect(NoTls).await {
            Ok((client, connection)) => {
                rig.cx.spawn_work(async move {
                    // It ends with its client.
                    let _ = connection.await;
                });
                clients.push(client);
            }
            Err(error) => {
                let full = error.code().is_some_and(|code| code.code() == "53300");
                assert!(full && clients.len() > 50, "{} connections: {error:?}", clients.len());
                return clients;
            }
        }
    }
}
