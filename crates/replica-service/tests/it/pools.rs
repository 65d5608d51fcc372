//! What pools tell: how full they are, what they opened and used again, what failed, and who waited.

use std::time::Duration;

use mainstay_proto::replica::v1::{Node, Pool};

use crate::rig::*;

fn writes(node: &Node) -> Pool {
    node.write_pool.unwrap()
}

/// Names a figure of a pool on the primary.
fn of(role: &str, figure: &str) -> String {
    format!("mainstay_replica_pool_{figure}{{node=\"primary\",role=\"{role}\"}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_tell_who_uses_them_who_waits_and_how_long() {
    let stack = shared().await;
    let table = table(stack, "n int").await;
    let rig = Rig::start(stack, Way::Direct, |config| config.pool.max_size = 1).await;
    let insert = format!("INSERT INTO {table} VALUES (1)");
    rig.execute(&insert).await.unwrap();
    let before = writes(&rig.node("primary").await);
    assert_eq!((before.created, before.recycled, before.asked, before.errors), (1, 0, 1, 0), "{before:?}");

    // The first write waits for a lock and keeps the only connection; the second waits for the connection.
    let locker = superuser(&rig, stack, primary(stack)).await;
    locker.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")).await.unwrap();
    let let_go = async {
        rig.wait("one to use the connection and one to wait", |topology| {
            let pool = writes(topology.nodes.iter().find(|node| node.name == "primary").unwrap());
            (pool.size, pool.max_size, pool.in_use, pool.waiting) == (1, 1, 1, 1)
        })
        .await;
        // So long at least the second one waits.
        tokio::time::sleep(Duration::from_millis(300)).await;
        locker.batch_execute("ROLLBACK").await.unwrap();
    };
    let (one, other, ()) = tokio::join!(rig.execute(&insert), rig.execute(&insert), let_go);
    assert_eq!(one.unwrap().rows_affected + other.unwrap().rows_affected, 2);

    let node = rig.node("primary").await;
    let after = writes(&node);
    assert_eq!((after.created, after.recycled, after.asked, after.timeouts), (1, 2, 3, 0), "{after:?}");
    assert!(after.wait_seconds >= before.wait_seconds + 0.3, "{before:?} {after:?}");
    let (reads, all) = (node.read_pool.unwrap(), node.pool.unwrap());
    assert_eq!(all.created, reads.created + after.created);
    assert_eq!(all.max_size, 2);

    // The histogram is told as it happens, the others by the next probe.
    assert_eq!(rig.metric(&of("write", "wait_seconds_count")).await, Some(3.0));
    assert!(rig.metric(&of("write", "wait_seconds_sum")).await.unwrap() >= 0.3);
    rig.wait_metric(&of("write", "recycled_total"), |recycled| recycled == 2.0).await;
    assert_eq!(rig.metric(&of("write", "created_total")).await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_for_reads_tells_the_same_of_itself() {
    let stack = shared().await;
    let table = table(stack, "n int").await;
    let rig = Rig::start(stack, Way::Direct, |config| config.pool.max_size = 1).await;
    let count = format!("SELECT count(*) FROM {table}");
    rig.query_primary(&count).await.unwrap();
    // One read waits for a lock and keeps the only connection, the next one waits for that.
    let locker = superuser(&rig, stack, primary(stack)).await;
    locker.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")).await.unwrap();
    let let_go = async {
        for figure in ["waiting", "in_use", "size"] {
            rig.wait_metric(&of("read", figure), |value| value == 1.0).await;
        }
        locker.batch_execute("ROLLBACK").await.unwrap();
    };
    let (one, other, ()) = tokio::join!(rig.query_primary(&count), rig.query_primary(&count), let_go);
    one.unwrap();
    other.unwrap();
    assert_eq!(rig.metric(&of("read", "wait_seconds_count")).await, Some(3.0));
    rig.wait_metric(&of("read", "recycled_total"), |recycled| recycled == 2.0).await;
    for (figure, wanted) in [("created_total", 1.0), ("errors_total", 0.0), ("timeouts_total", 0.0)] {
        assert_eq!(rig.metric(&of("read", figure)).await, Some(wanted), "{figure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_cannot_be_opened_is_an_error_of_the_pool() {
    let rig = Rig::start(shared().await, Way::Direct, |config| {
        config.postgres.password = "wrong".into();
    })
    .await;
    rig.execute("SELECT 1").await.unwrap_err();
    let pool = writes(&rig.node("primary").await);
    assert!(pool.errors >= 1 && pool.errors == pool.asked, "{pool:?}");
    assert_eq!((pool.created, pool.size, pool.in_use), (0, 0, 0), "{pool:?}");
    rig.wait_metric(&of("write", "errors_total"), |errors| errors >= 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_old_is_replaced_and_a_young_one_is_kept() {
    let stack = shared().await;
    let pid = "SELECT pg_backend_pid()";
    for (max_age, is_replaced) in [(Duration::from_secs(1), true), (Duration::from_secs(3_600), false)] {
        let rig = Rig::start(stack, Way::Direct, |config| {
            (config.pool.max_size, config.pool.max_age) = (1, max_age);
        })
        .await;
        let (read, written) =
            (first(&rig.query_primary(pid).await.unwrap()), rig.execute(pid).await.unwrap().rows);
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        let (read_now, written_now) =
            (first(&rig.query_primary(pid).await.unwrap()), rig.execute(pid).await.unwrap().rows);
        assert_eq!((read != read_now, written != written_now), (is_replaced, is_replaced), "{max_age:?}");
        let node = rig.node("primary").await;
        let created = if is_replaced { 2 } else { 1 };
        assert_eq!(
            (writes(&node).created, node.read_pool.unwrap().created),
            (created, created),
            "{max_age:?}"
        );
    }
}
