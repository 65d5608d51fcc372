use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
};

use mainstay_devstack::SERVICE_ROLE;
use mainstay_proto::replica::v1::value::Kind;

use crate::rig::*;

/// Writes of each way.
const WRITES: i64 = 600;
const WRITERS: usize = 3;

/// A cancel request may hit any part of what a write sends: its BEGIN alone, the statement, the COMMIT.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_cancelled_anywhere_has_not_happened() {
    let stack = start_stack(true).await;
    for way in [Way::Direct, Way::PgBouncer] {
        let rig = Rig::start(&stack, way, |_| {}).await;
        let table = table(&stack, "id int8 PRIMARY KEY").await;
        let (next, ended) = (AtomicI64::new(0), AtomicBool::new(false));
        let writer = || async {
            let mut written = BTreeSet::new();
            loop {
                let id = next.fetch_add(1, Ordering::Relaxed);
                if id >= WRITES {
                    return written;
                }
                let insert = format!("INSERT INTO {table} VALUES ($1)");
                match rig.execute_with(&insert, vec![value(Kind::Int(id))]).await {
                    Ok(_) => {
                        written.insert(id);
                    }
                    Err(failure) => {
                        // One that was cancelled while it connected has no SQLSTATE.
                        let outcome = failure.details().get("outcome").map(String::as_str);
                        assert_eq!(outcome, Some("not_applied"), "{way:?}: {failure:?}");
                    }
                }
            }
        };
        let cancel = format!(
            "SELECT pg_stat_clear_snapshot(); \
             SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = '{SERVICE_ROLE}'; \
             SELECT pg_sleep(0.002);"
        )
        .repeat(50);
        let canceller = async {
            while !ended.load(Ordering::Relaxed) {
                sql(primary(&stack), &cancel).await;
            }
        };
        let writers = async {
            let written = futures_util::future::join_all((0..WRITERS).map(|_| writer())).await;
            ended.store(true, Ordering::Relaxed);
            written.into_iter().flatten().collect::<BTreeSet<_>>()
        };
        let (written, ()) = tokio::join!(writers, canceller);
        let rows =
            rig.query_primary(&format!("SELECT array_agg(id ORDER BY id) FROM {table}")).await.unwrap();
        let Kind::Array(rows) = first(&rows) else { panic!("{way:?}: nothing was written: {rows:?}") };
        let rows: BTreeSet<_> = rows
            .values
            .iter()
            .map(|row| match row.kind {
                Some(Kind::Int(id)) => id,
                ref other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(rows, written, "{way:?}");
    }
}
