//! What the servers themselves count, at the door of the service.

use std::time::Duration;

use mainstay_devstack::wait_until;
use mainstay_proto::replica::v1::{
    DatabaseStatsRequest, DatabaseStatsResponse, ServerStats, SqlStatement, TableCounters,
    TransactionRequest, database_stats_service_client::DatabaseStatsServiceClient,
};
use mainstay_rpc::{ErrorCode, Failure};
use tonic::transport::{Channel, Endpoint};

use crate::rig::*;

struct Stats(DatabaseStatsServiceClient<Channel>);

impl Stats {
    fn of(rig: &Rig) -> Self {
        let address = rig.cx.listening()[0].address;
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self(DatabaseStatsServiceClient::new(channel))
    }

    async fn ask(&self, node: &str) -> Result<DatabaseStatsResponse, Failure> {
        let request = DatabaseStatsRequest { node: node.to_owned() };
        Ok(self.0.clone().database_stats(request).await.map_err(Failure::from)?.into_inner())
    }

    /// Waits for a reading of one server that is as wanted.
    async fn wait(&self, node: &str, what: &str, wanted: impl Fn(&ServerStats) -> bool) -> ServerStats {
        wait_until(format!("{node}: {what}"), EVERY, SOON, || async {
            let stats = self.ask(node).await.unwrap().nodes.remove(0);
            if wanted(&stats) { Ok(stats) } else { Err(format!("{stats:?}")) }
        })
        .await
        .unwrap()
    }
}

fn of_table<'a>(stats: &'a ServerStats, name: &str) -> Option<&'a TableCounters> {
    stats.tables.iter().find(|table| table.table == name)
}

/// Has two transactions wait for each other.
async fn deadlock(rig: &Rig, table: &str) {
    let update =
        |n: u32| SqlStatement { sql: format!("UPDATE {table} SET n = n WHERE n = {n}"), params: Vec::new() };
    let nap = SqlStatement { sql: "SELECT pg_sleep(0.3)".to_owned(), params: Vec::new() };
    let run = async |one: u32, other: u32| {
        let statements = vec![update(one), nap.clone(), update(other)];
        let request = TransactionRequest { statements, ..TransactionRequest::default() };
        rig.client.clone().transaction(request).await
    };
    wait_until("two transactions to meet", EVERY, SOON, || async {
        let (one, other) = tokio::join!(run(4, 5), run(5, 4));
        if one.is_err() || other.is_err() { Ok(()) } else { Err("both were done".to_owned()) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_server_tells_what_it_counts_and_what_it_cannot() {
    let stack = start_stack(false).await;
    let rig = Rig::start(&stack, Way::Direct, |config| {
        config.stats.every = Duration::from_secs(1);
        config.stats.max_tables = 2;
        config.stats.within = Duration::from_secs(30);
    })
    .await;
    let stats = Stats::of(&rig);
    let (big, small, empty) =
        (table(&stack, "n int").await, table(&stack, "n int").await, table(&stack, "n int").await);
    let unknown = stats.ask("nobody").await.unwrap_err();
    assert_eq!((unknown.code(), unknown.reason()), (ErrorCode::NotFound, "NODE_UNKNOWN"));
    assert_eq!(stats.ask("").await.unwrap().nodes.len(), 3);

    // Tables: the largest of them, with what was done to them.
    rig.execute(&format!("INSERT INTO {small} SELECT generate_series(1, 5)")).await.unwrap();
    rig.execute(&format!("INSERT INTO {big} SELECT generate_series(1, 100)")).await.unwrap();
    rig.execute(&format!("DELETE FROM {big} WHERE n <= 40")).await.unwrap();
    let told = stats
        .wait("primary", "to count rows", |stats| {
            of_table(stats, &big).is_some_and(|table| table.rows_deleted == 40)
                && of_table(stats, &small).is_some()
        })
        .await;
    let table = of_table(&told, &big).unwrap();
    assert_eq!((table.rows_inserted, table.live_rows, table.dead_rows), (100, 60, 40), "{table:?}");
    assert!(table.sequential_scans >= 1 && table.index_scans.is_none(), "{table:?}");
    assert!(table.last_vacuum.is_none(), "{table:?}");
    assert_eq!((told.tables.len(), told.tables_total), (2, 3), "{:?} without {empty}", told.tables);
    sql(primary(&stack), &format!("VACUUM {big}")).await;
    stats
        .wait("primary", "to tell of the vacuum", |stats| {
            of_table(stats, &big).is_some_and(|table| table.last_vacuum.is_some() && table.dead_rows == 0)
        })
        .await;

    // Counters, checkpoints, and who takes the log.
    let database = told.database.as_ref().unwrap();
    assert!(database.commits > 0 && database.connections > 0 && database.blocks_hit > 0, "{database:?}");
    assert!(!told.in_recovery && told.failure.is_empty());
    sql(primary(&stack), "CHECKPOINT").await;
    let checkpoints = |stats: &ServerStats| stats.writer.as_ref().unwrap().checkpoints_requested;
    let before = checkpoints(&told);
    stats.wait("primary", "to count a checkpoint", |stats| checkpoints(stats) > before).await;
    let senders =
        |stats: &ServerStats| stats.senders.iter().filter(|sender| sender.state == "streaming").count();
    let told = stats.wait("primary", "to tell of both replicas", |stats| senders(stats) == 2).await;
    assert!(told.senders.iter().all(|sender| sender.sent_bytes_behind.is_some()), "{:?}", told.senders);
    let replica = stats.wait("replica1", "to be read", |stats| stats.read_at.is_some()).await;
    assert!(replica.in_recovery && replica.senders.is_empty(), "{replica:?}");
    // A read ends with a ROLLBACK.
    rig.query_primary("SELECT 1").await.unwrap();
    // The series have what the door tells, or more by now; all that is counted here was caused above.
    let series = |name: &str, node: &str| format!("mainstay_replica_database_{name}{{node=\"{node}\"}}");
    for (name, least) in [
        ("commits_total", database.commits as f64),
        ("rollbacks_total", database.rollbacks as f64),
        ("blocks_hit_total", database.blocks_hit as f64),
        ("checkpoints_requested_total", before as f64 + 1.0),
        ("connections", 1.0),
    ] {
        rig.wait_metric(&series(name, "primary"), |value| value >= least.max(1.0)).await;
    }
    rig.wait_metric(&series("conflicts_total", "replica1"), |conflicts| conflicts == 0.0).await;
    rig.execute(&format!("DELETE FROM {small} WHERE n <= 3")).await.unwrap();
    rig.wait_metric(&series("dead_rows", "primary"), |dead| dead == 3.0).await;
    let deadlocks = rig.metric(&series("deadlocks_total", "primary")).await.unwrap();
    deadlock(&rig, &small).await;
    rig.wait_metric(&series("deadlocks_total", "primary"), |now| now > deadlocks).await;

    // Statements: not installed, then installed and on the replicas not loaded.
    assert!(told.statements.is_empty() && told.statements_missing.contains("not installed"), "{told:?}");
    primary(&stack)
        .query_text("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
        .await
        .unwrap();
    primary(&stack).restart().await.unwrap();
    sql(primary(&stack), "CREATE EXTENSION pg_stat_statements").await;
    rig.wait("the primary to be back", |topology| topology.primary == "primary").await;
    rig.execute(&format!("INSERT INTO {small} VALUES (4711)")).await.unwrap();
    let told = stats
        .wait("primary", "to tell of a statement", |stats| {
            stats
                .statements
                .iter()
                .any(|statement| statement.sql.starts_with(&format!("INSERT INTO {small} VALUES")))
        })
        .await;
    assert!(told.statements_missing.is_empty() && told.statements.len() <= 50);
    assert!(told.statements.iter().all(|statement| !statement.sql.contains("4711")), "{:?}", told.statements);
    let insert = told.statements.iter().find(|statement| statement.sql.contains(&small)).unwrap();
    assert!(insert.calls >= 1 && insert.rows >= 1 && insert.seconds_total > 0.0, "{insert:?}");
    stats
        .wait("replica1", "to say that the extension is not loaded", |stats| {
            stats.statements_missing.contains("must be loaded") && stats.failure.is_empty()
        })
        .await;

    // A server that is gone keeps its last figures, and says since when.
    let server = stack.postgres().unwrap().node("replica2").unwrap();
    stats.wait("replica2", "to be read", |stats| stats.read_at.is_some()).await;
    server.kill().await.unwrap();
    let gone = stats.wait("replica2", "to fail", |stats| !stats.failure.is_empty()).await;
    assert!(gone.read_at.is_some() && gone.database.is_some(), "{gone:?}");
}
