use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use mainstay_proto::replica::v1::{Prefer, QueryRequest, value::Kind};

use crate::rig::*;

/// Clients that keep the pools of a node busy.
const AT_ONCE: usize = 24;

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_tells_its_own_figures() {
    let rig = Rig::start(shared().await, Way::PgBouncer, |config| {
        config.health.pgbouncer_stats_every = std::time::Duration::from_secs(1);
    })
    .await;
    let busy = async {
        loop {
            rig.execute("SELECT pg_sleep(0.2)").await.unwrap();
        }
    };
    let told = rig.wait("the pooler to tell of a client", |topology| {
        topology.nodes.iter().all(|node| {
            let Some(stats) = &node.pgbouncer_stats else { return false };
            let busy = node.name != "primary" || stats.clients_active > 0 && stats.servers_active > 0;
            busy && stats.clients >= 1 && stats.queries > 0
        })
    });
    tokio::select! {
        never = busy => never,
        _ = told => {}
    }
    for (figure, node, least) in [
        ("queries_total", "primary", 1.0),
        ("transactions_total", "primary", 1.0),
        ("queries_total", "replica1", 1.0),
        ("servers_idle", "replica1", 0.0),
        ("clients", "primary", 1.0),
        ("servers", "primary", 1.0),
        ("clients_waiting", "primary", 0.0),
        ("max_wait_seconds", "primary", 0.0),
    ] {
        let series = format!("mainstay_replica_pgbouncer_{figure}{{node=\"{node}\"}}");
        rig.wait_metric(&series, |value| value >= least).await;
    }
    let direct = Rig::start(shared().await, Way::Direct, |_| {}).await;
    assert!(direct.topology().await.nodes.iter().all(|node| node.pgbouncer_stats.is_none()));
    assert_eq!(direct.metric("mainstay_replica_pgbouncer_queries_total{node=\"primary\"}").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn types_made_by_the_user_work_behind_a_pooler_without_named_statements() {
    let stack = shared().await;
    sql(
        primary(stack),
        "CREATE TYPE mood AS ENUM ('glad', 'sad'); CREATE DOMAIN posint AS int CHECK (VALUE > 0)",
    )
    .await;
    sql(primary(stack), "CREATE TYPE weather AS ENUM ('sun', 'rain')").await;
    let table = table(stack, "id posint, m mood, w weather[]").await;
    // Each new connection costs a SCRAM log-in, which an unoptimised build makes slow.
    let rig = Rig::start(stack, Way::PgBouncer, |config| {
        config.pool.max_size = 6;
        config.pool.wait_within = SOON;
        config.postgres.statement_within = SOON;
    })
    .await;
    let insert = format!(
        "INSERT INTO {table} SELECT n, 'glad', '{{sun,rain}}' FROM generate_series(1, 10) AS n RETURNING id, m, w"
    );
    let mut written = Vec::new();
    for _ in 0..10 {
        written.push(rig.execute(&insert).await.unwrap().rows.len());
    }
    assert_eq!(written, [10; 10]);
    stack.postgres().unwrap().wait_caught_up(primary(stack)).await.unwrap();
    let read = |n: u32| {
        let sql = match n % 3 {
            0 => format!("SELECT m FROM {table} WHERE m = $1"),
            1 => format!("SELECT w FROM {table} WHERE $1 <> 'x'"),
            _ => format!("SELECT m, w FROM {table} WHERE $1::text IS NOT NULL"),
        };
        let params = vec![value(Kind::Text("glad".to_owned()))];
        let prefer = if n.is_multiple_of(2) { Prefer::Replica } else { Prefer::Primary };
        let rig = &rig;
        async move {
            rig.ask(QueryRequest { sql, params, prefer: prefer.into(), ..QueryRequest::default() }).await
        }
    };
    let responses: Vec<_> =
        stream::iter((0..200).map(read)).buffer_unordered(AT_ONCE).try_collect().await.unwrap();
    assert!(responses.iter().all(|response| response.rows.len() == 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_statements_share_few_server_connections_without_an_error() {
    let stack = shared().await;
    let table = table(stack, "id int8").await;
    let rig = Rig::start(stack, Way::PgBouncer, |config| {
        config.pool.max_size = 6;
        config.pool.wait_within = SOON;
    })
    .await;
    let write = |n: i64| {
        let (rig, sql) = (&rig, format!("INSERT INTO {table} VALUES ($1)"));
        async move { rig.execute_with(&sql, vec![value(Kind::Int(n))]).await }
    };
    let responses: Vec<_> =
        stream::iter((0..200).map(write)).buffer_unordered(AT_ONCE).try_collect().await.unwrap();
    assert!(responses.iter().all(|response| response.rows_affected == 1));
    let rows = rig.query_primary(&format!("SELECT count(DISTINCT id) FROM {table}")).await.unwrap();
    assert_eq!(first(&rows), Kind::Int(200));
}
