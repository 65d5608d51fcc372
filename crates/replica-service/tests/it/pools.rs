//! What pools tell: how full they are, what they opened and used again, what failed, and who waited.

use mainstay_devstack::wait_until;
use mainstay_proto::replica::v1::{Node, Pool};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::*;

fn writes(node: &Node) -> Pool {
    node.write_pool.unwrap()
}

/// Reads one figure of the pool for writes on the primary from `/metrics`.
async fn metric(rig: &Rig, name: &str) -> Option<f64> {
    let mut stream = tokio::net::TcpStream::connect(rig.cx.listening()[0].address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: it\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let series = format!("mainstay_replica_{name}{{node=\"primary\",role=\"write\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&series)).map(|value| value.parse().unwrap())
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
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
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
    assert_eq!(metric(&rig, "pool_wait_seconds_count").await, Some(3.0));
    assert!(metric(&rig, "pool_wait_seconds_sum").await.unwrap() >= 0.3);
    wait_until("the next probe", EVERY, SOON, || async {
        let recycled = metric(&rig, "pool_recycled_total").await;
        if recycled == Some(2.0) { Ok(()) } else { Err(format!("{recycled:?}")) }
    })
    .await
    .unwrap();
    assert_eq!(metric(&rig, "pool_created_total").await, Some(1.0));
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
    wait_until("the next probe", EVERY, SOON, || async {
        let errors = metric(&rig, "pool_errors_total").await;
        if errors.is_some_and(|n| n >= 1.0) { Ok(()) } else { Err(format!("{errors:?}")) }
    })
    .await
    .unwrap();
}
