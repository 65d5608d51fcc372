use mainstay_devstack::wait_until;
use mainstay_proto::replica::v1::{QueryChunk, QueryStreamRequest, value::Kind};
use mainstay_rpc::{ErrorCode, Failure};
use tonic::Streaming;

use crate::rig::*;

fn request(sql: &str) -> QueryStreamRequest {
    QueryStreamRequest { sql: sql.to_owned(), ..QueryStreamRequest::default() }
}

async fn open(rig: &Rig, request: QueryStreamRequest) -> Result<Streaming<QueryChunk>, Failure> {
    Ok(rig.client.clone().query_stream(request).await.map_err(Failure::from)?.into_inner())
}

async fn all(mut stream: Streaming<QueryChunk>) -> Result<Vec<QueryChunk>, Failure> {
    let mut chunks = Vec::new();
    while let Some(chunk) = stream.message().await.map_err(Failure::from)? {
        chunks.push(chunk);
    }
    Ok(chunks)
}

fn n_rows(chunks: &[QueryChunk]) -> usize {
    chunks.iter().map(|chunk| chunk.rows.len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_rows_come_in_order_and_in_small_chunks() {
    let stack = shared().await;
    for way in [Way::Direct, Way::PgBouncer] {
        let rig = Rig::start(stack, way, |_| {}).await;
        let chunks = all(open(&rig, request("SELECT n FROM generate_series(1, 12345) AS n")).await.unwrap());
        let chunks = chunks.await.unwrap();
        let rows = chunks.iter().flat_map(|chunk| &chunk.rows).map(|row| row.values[0].kind.clone().unwrap());
        assert!(rows.eq((1..=12_345).map(Kind::Int)), "{way:?}");
        assert!(chunks.iter().all(|chunk| chunk.rows.len() <= 1_000));
        let (first, last) = (&chunks[0], &chunks[chunks.len() - 1]);
        assert!(first.columns[0].name == "n" && first.served.as_ref().unwrap().node.starts_with("replica"));
        assert_eq!((last.last, last.truncated, last.rows_total), (true, false, 12_345));
        assert!(chunks[1..].iter().all(|chunk| chunk.columns.is_empty() && chunk.served.is_none()));

        let empty = all(open(&rig, request("SELECT 1 AS a WHERE false")).await.unwrap()).await.unwrap();
        assert_eq!(
            (empty.len(), empty[0].columns[0].name.as_str(), empty[0].last),
            (1, "a", true),
            "{way:?}"
        );
        rig.wait_metric("mainstay_replica_stream_rows_total", |rows| rows == 12_345.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_end_a_stream_and_say_so() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, |_| {}).await;
    let sql = "SELECT repeat('x', 1000) FROM generate_series(1, 10000)";
    let by_rows = QueryStreamRequest { max_rows: 1_500, ..request(sql) };
    let chunks = all(open(&rig, by_rows).await.unwrap()).await.unwrap();
    assert_eq!((n_rows(&chunks), chunks.last().unwrap().truncated), (1_500, true));
    let by_bytes = QueryStreamRequest { max_bytes: 100_000, ..request(sql) };
    let chunks = all(open(&rig, by_bytes).await.unwrap()).await.unwrap();
    let last = chunks.last().unwrap();
    assert!((90..=100).contains(&n_rows(&chunks)) && last.truncated && last.last, "{}", n_rows(&chunks));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_takes_too_long_is_ended_however_it_flows() {
    let rig = Rig::start(shared().await, Way::Direct, |config| {
        config.pool.max_size = 1;
        config.postgres.stream_within = std::time::Duration::from_secs(2);
    })
    .await;
    let sql = "SELECT repeat('x', 100000), pg_sleep(0.1) FROM generate_series(1, 3000)";
    let failure = match open(&rig, request(sql)).await {
        Ok(stream) => all(stream).await.unwrap_err(),
        Err(failure) => failure,
    };
    assert_eq!(failure.code(), ErrorCode::DeadlineExceeded, "{failure:?}");
    wait_until("the connections to be free", EVERY, SOON, || async {
        let busy: u32 = rig.topology().await.nodes.iter().map(|node| node.pool.unwrap().in_use).sum();
        if busy == 0 { Ok(()) } else { Err(busy.to_string()) }
    })
    .await
    .unwrap();
    assert_eq!(rig.metric("mainstay_replica_stream_rows_total").await, Some(0.0), "it did not end well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_too_long_ends_a_stream_and_is_not_read() {
    let rig = Rig::start(shared().await, Way::Direct, |config| {
        config.pool.max_size = 1;
        config.limits.max_result_size = bytesize::ByteSize::kib(64);
    })
    .await;
    let sql =
        "SELECT repeat('x', CASE WHEN n = 5 THEN 100000000 ELSE 60000 END) FROM generate_series(1, 9) AS n";
    let failure = match open(&rig, request(sql)).await {
        Ok(stream) => all(stream).await.unwrap_err(),
        Err(failure) => failure,
    };
    assert_eq!(failure.reason(), "RESULT_TOO_LARGE");
    assert_eq!(first(&rig.query("SELECT 1").await), Kind::Int(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_leaves_nothing_and_knows_types_that_users_made() {
    let stack = shared().await;
    sql(primary(stack), "CREATE TYPE stream_mood AS ENUM ('glad', 'sad')").await;
    for way in [Way::Direct, Way::PgBouncer] {
        let rig = Rig::start(stack, way, |config| {
            config.nodes.retain(|name, _| name == "primary");
            config.pool.max_size = 1;
        })
        .await;
        for leak in [
            "PREPARE leaked_by_stream AS SELECT 1",
            "DO $$ BEGIN EXECUTE 'PREPARE leaked_by_stream_too AS SELECT 1'; END $$",
            "SELECT pg_advisory_lock(4714), set_config('work_mem', '77MB', false)",
        ] {
            for n in 0..2 {
                let chunks = open(&rig, request(leak)).await;
                let ended = async { all(chunks?).await };
                ended.await.unwrap_or_else(|failure| panic!("{way:?}, {leak}, {n}: {failure:?}"));
            }
        }
        let left = "SELECT current_setting('work_mem') = '77MB' \
                    OR EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4714) \
                    OR EXISTS (SELECT FROM pg_prepared_statements WHERE name LIKE 'leaked_by_stream%')";
        assert_eq!(first(&rig.query(left).await), Kind::Bool(false), "{way:?}");

        let moods = "SELECT ARRAY['glad', 'sad']::stream_mood[] AS ms FROM generate_series(1, 3)";
        let chunks = all(open(&rig, request(moods)).await.unwrap()).await.unwrap();
        assert_eq!((&*chunks[0].columns[0].r#type, n_rows(&chunks)), ("stream_mood[]", 3), "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_cannot_begin_fails_as_a_call_and_a_later_error_ends_it() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, |_| {}).await;
    for (sql, code, reason) in [
        ("SELEC 1", ErrorCode::InvalidArgument, "SYNTAX_ERROR"),
        ("CREATE TABLE smuggled (n int)", ErrorCode::FailedPrecondition, "READ_ONLY"),
    ] {
        let failure = open(&rig, request(sql)).await.unwrap_err();
        assert_eq!((failure.code(), failure.reason()), (code, reason));
    }
    let late = open(&rig, request("SELECT 1 / (5000 - n) FROM generate_series(1, 9000) AS n")).await.unwrap();
    assert_eq!(all(late).await.unwrap_err().details()["sqlState"], "22012");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_caller_holds_the_rows_back_and_a_gone_one_ends_the_statement() {
    let stack = shared().await;
    let rig = Rig::start(stack, Way::Direct, |config| config.nodes.retain(|name, _| name == "primary")).await;
    let sql = "SELECT n, repeat('x', 500) AS held_back FROM generate_series(1, 3000000) AS n";
    let mut stream = open(&rig, request(sql)).await.unwrap();
    assert!(stream.message().await.unwrap().is_some());
    // The server has far more to send than all buffers hold, so its statement must go on while nobody reads.
    let running = || async {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%held_back%' AND pid <> pg_backend_pid() \
                   AND state = 'active' AND wait_event = 'ClientWrite'";
        first(&rig.query_primary(sql).await.unwrap())
    };
    let is = |wanted: i64| {
        let running = &running;
        move || async move {
            let seen = running().await;
            if seen == Kind::Int(wanted) { Ok(()) } else { Err(format!("{seen:?}")) }
        }
    };
    wait_until("the server to be held back", EVERY, SOON, is(1)).await.unwrap();
    drop(stream);
    wait_until("the statement to end", EVERY, SOON, is(0)).await.unwrap();
    wait_until("the connection to be free", EVERY, SOON, || async {
        let in_use = rig.node("primary").await.pool.unwrap().in_use;
        if in_use == 0 { Ok(()) } else { Err(in_use.to_string()) }
    })
    .await
    .unwrap();
}
