use std::time::Duration;

use mainstay_devstack::wait_until;
use mainstay_proto::replica::v1::{Prefer, QueryRequest, value::Kind};
use mainstay_rpc::ErrorCode;
use tokio::time::{Instant, timeout};

use crate::rig::*;

#[tokio::test(flavor = "multi_thread")]
async fn rows_stop_at_the_limit_and_the_answer_says_so() {
    let rig = Rig::start(shared().await, Way::Direct, |config| config.pool.max_size = 1).await;
    for (n_rows, max_rows, truncated) in
        [(10, 10, false), (11, 10, true), (5_000_000, 10, true), (1_000, 0, false), (1_001, 0, true)]
    {
        let sql = format!("SELECT generate_series(1, {n_rows})");
        let response = rig.ask(QueryRequest { sql, max_rows, ..QueryRequest::default() }).await.unwrap();
        let wanted = if max_rows == 0 { 1_000 } else { 10 };
        assert_eq!(
            (response.rows.len(), response.truncated),
            (wanted, truncated),
            "{n_rows} rows, limit {max_rows}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_beyond_the_byte_limit_is_refused_and_the_next_read_is_served() {
    let rig = Rig::start(shared().await, Way::Direct, |config| {
        config.pool.max_size = 1;
        config.limits.max_result_size = bytesize::ByteSize::kib(64);
    })
    .await;
    // A value takes four bytes more than its text; a row that is too long is not even read.
    for (n_bytes, n_rows) in [(1_000, 1_000), (65_533, 1), (100_000_000, 1)] {
        let large = format!("SELECT repeat('x', {n_bytes}) FROM generate_series(1, {n_rows})");
        let failure = rig.query_with(&large, vec![]).await.unwrap_err();
        assert_eq!((failure.code(), failure.reason()), (ErrorCode::ResourceExhausted, "RESULT_TOO_LARGE"));
        let most = rig.query("SELECT repeat('x', 65532)").await;
        assert_eq!(first(&most), Kind::Text("x".repeat(65_532)), "after {large}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_parameters_as_the_protocol_can_count_are_taken() {
    let rig = Rig::start(shared().await, Way::Direct, |config| config.postgres.statement_within = SOON).await;
    let n_params = 65_535;
    let list = (1..=n_params).map(|n| format!("${n}")).collect::<Vec<_>>().join(",");
    let sql = format!("SELECT count(*) FROM unnest(ARRAY[{list}])");
    let params = |n| (0..n).map(|n| value(Kind::Int(n))).collect::<Vec<_>>();
    assert_eq!(first(&rig.query_with(&sql, params(n_params)).await.unwrap()), Kind::Int(n_params));
    let failure = rig.query_with(&sql, params(n_params + 1)).await.unwrap_err();
    assert_eq!(failure.fields()[0].field, "params");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_too_long_is_refused_before_it_is_sent() {
    let rig = Rig::start(shared().await, Way::Direct, |config| {
        config.limits.max_sql_size = bytesize::ByteSize::kib(1);
    })
    .await;
    let of_length = |n_bytes: usize| format!("SELECT 1 --{}", "x".repeat(n_bytes - "SELECT 1 --".len()));
    assert_eq!(first(&rig.query(&of_length(1_024)).await), Kind::Int(1));
    rig.execute(&of_length(1_024)).await.unwrap();
    let before = rig.node("primary").await.traffic.unwrap().queries;
    for failure in [
        rig.query_primary(&of_length(1_025)).await.unwrap_err(),
        rig.execute(&of_length(1_025)).await.unwrap_err(),
        rig.execute(&of_length(5 << 20)).await.unwrap_err(),
    ] {
        assert_eq!(failure.code(), ErrorCode::InvalidArgument, "{failure:?}");
        let field = &failure.fields()[0];
        assert!(field.field == "sql" && field.message.contains("1024"), "{field:?}");
    }
    assert_eq!(rig.node("primary").await.traffic.unwrap().queries, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_itself_stops_a_statement_at_the_deadline() {
    // The deadline is that of the service: a client that has one too may give up a moment before it is told.
    let rig = Rig::start(shared().await, Way::Direct, |config| {
        config.pool.max_size = 1;
        config.postgres.statement_within = Duration::from_secs(1);
    })
    .await;
    let begun_at = Instant::now();
    for prefer in [Prefer::Replica, Prefer::Primary] {
        let sql = "SELECT pg_sleep(30)".to_owned();
        let request = QueryRequest { sql, prefer: prefer.into(), ..QueryRequest::default() };
        let failure = rig.ask(request).await.unwrap_err();
        assert_eq!(failure.code(), ErrorCode::DeadlineExceeded, "{failure:?}");
    }
    let write = "SELECT pg_sleep(30) AS write_past_the_deadline";
    assert_eq!(rig.execute(write).await.unwrap_err().code(), ErrorCode::DeadlineExceeded);
    assert!(begun_at.elapsed() < Duration::from_secs(30), "nothing stopped the sleepers");
    // Not a cancel request of ours, which would come later and might not arrive.
    wait_until("the server to say why it stopped", EVERY, SOON, || async {
        let log = std::fs::read_to_string(primary(shared().await).log_path()).unwrap();
        let lines: Vec<_> = log.lines().collect();
        let said = lines.windows(2).any(|two| {
            two[0].contains("canceling statement due to statement timeout")
                && two[1].contains("write_past_the_deadline")
        });
        if said { Ok(()) } else { Err(lines[lines.len().saturating_sub(5)..].join("\n")) }
    })
    .await
    .unwrap();
    let read_again =
        || async { rig.query_primary("SELECT 1").await.map_err(|failure| format!("{failure:?}")) };
    wait_until("the connection to be free", EVERY, SOON, read_again).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_statement_is_cancelled_and_blocks_nobody() {
    let stack = shared().await;
    for way in [Way::Direct, Way::PgBouncer] {
        let rig = Rig::start(stack, way, |config| {
            config.pool.max_size = 1;
            config.postgres.statement_within = Duration::from_secs(300);
        })
        .await;
        let mark = format!("abandoned by {way:?}");
        for write in [false, true] {
            let sleep = format!("SELECT pg_sleep(250) /* {mark} */");
            let abandoned = async {
                if write {
                    rig.execute(&sleep).await.map(|_| ())
                } else {
                    rig.query_primary(&sleep).await.map(|_| ())
                }
            };
            let running = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%{mark}%' AND pid <> pg_backend_pid()"
            );
            let count = |wanted: &'static str| {
                let running = &running;
                async move {
                    wait_until("sleepers", EVERY, SOON, || async {
                        let seen = primary(stack).query_text(running).await.unwrap().unwrap();
                        if seen == wanted { Ok(()) } else { Err(seen) }
                    })
                    .await
                    .unwrap();
                }
            };
            tokio::select! {
                ended = abandoned => panic!("it ended: {ended:?}"),
                () = count("1") => {}
            }
            // The slot is free long before the sleeper would have ended: the pool has room for one.
            let next = async {
                if write {
                    rig.execute("SELECT 1").await.map(|_| ())
                } else {
                    rig.query_primary("SELECT 1").await.map(|_| ())
                }
            };
            timeout(SOON, next).await.unwrap().unwrap();
            count("0").await;
        }
        assert!(rig.metric("mainstay_replica_cancels_total").await.is_some_and(|cancels| cancels >= 2.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_answers_that_it_is_full() {
    let rig = Rig::start(shared().await, Way::Direct, |config| {
        config.pool.max_size = 1;
        config.pool.wait_within = Duration::from_millis(50);
    })
    .await;
    let sleeper = rig.execute("SELECT pg_sleep(6)");
    let second = async {
        wait_until("the pool to be full", EVERY, SOON, || async {
            let in_use = rig.node("primary").await.pool.unwrap().in_use;
            if in_use == 1 { Ok(()) } else { Err(in_use.to_string()) }
        })
        .await
        .unwrap();
        rig.execute("SELECT 1").await
    };
    let (slept, second) = tokio::join!(sleeper, second);
    slept.unwrap();
    let failure = second.unwrap_err();
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::ResourceExhausted, "POOL_EXHAUSTED"));
    assert!(failure.retry_delay().is_some());
    assert_eq!(rig.node("primary").await.pool.unwrap().timeouts, 1);
}
