//! Reads and writes that are too long, too large, or not taken.

use std::sync::atomic::{AtomicU32, Ordering};

use http_body_util::BodyExt as _;
use mainstay_auth::Role;
use mainstay_devstack::Service;
use mainstay_tests::{Rest, eventually, resident_bytes, shared};
use serde_json::{Value, json};

const LINES: &str = "application/x-ndjson";

#[tokio::test]
async fn statements_end_when_the_time_that_their_caller_gave_is_over() {
    let admin = shared().await.rest(Role::Admin);
    let lines = admin.clone().with_header("accept", LINES);
    let body = |within: &str| json!({ "sql": "select pg_sleep(30) as e2e_within", "within": within });
    let several =
        |within: &str| json!({ "statements": [{ "sql": "select pg_sleep(30)" }], "within": within });
    for (rest, path, body) in [
        (&admin, "/database/query", &body as &dyn Fn(&str) -> Value),
        (&lines, "/database/query", &body),
        (&admin, "/database/execute", &body),
        (&admin, "/database/transaction", &several),
    ] {
        let late = rest.post(path, &body("500ms")).await;
        // The database itself is given the time, too, and may be the first to notice.
        let by_database = late.json()["code"] == "STATEMENT_TIMEOUT";
        late.problem(504, if by_database { "STATEMENT_TIMEOUT" } else { "DEADLINE_EXCEEDED" });
        for bad in ["0s", "1h"] {
            let refused = rest.post(path, &body(bad)).await.problem(400, "INVALID_FIELD");
            assert_eq!(refused["errors"][0]["field"], "within", "{refused}");
            assert!(refused["detail"].as_str().unwrap().contains("above 0 and at most 5s"), "{refused}");
        }
        rest.post(path, &body("soon")).await.problem(400, "INVALID_FIELD");
    }
    let enough = json!({ "sql": "select 1", "within": "4s" });
    assert_eq!(admin.post("/database/query", &enough).await.ok()["rows"], json!([[1]]));
}

#[tokio::test]
async fn lines_end_before_they_are_more_bytes_than_asked_for() {
    let viewer = shared().await.rest(Role::Viewer);
    let lines = viewer.clone().with_header("accept", LINES);
    let body = json!({ "sql": "select n from generate_series(1, 50000) as n", "maxBytes": 10_000 });
    let text = lines.post("/database/query", &body).await.text();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&last["last"], &last["truncated"]), (&json!(true), &json!(true)), "{last}");
    let rows = last["rowsTotal"].as_u64().unwrap();
    assert!((1..50_000).contains(&rows), "{last}");
    assert_eq!(text.lines().count() as u64, rows + 2);
    let refused = viewer.post("/database/query", &body).await.problem(400, "INVALID_FIELD");
    assert_eq!(refused["errors"][0]["field"], "maxBytes", "{refused}");
}

/// Tells what each statement with this mark waits for on the primary, the question itself left out.
async fn waits(rest: &Rest, mark: &str) -> Value {
    let sql = "select wait_event from pg_stat_activity \
               where state = 'active' and pid <> pg_backend_pid() and query like '%' || $1 || '%'";
    let body = json!({ "sql": sql, "params": [mark], "prefer": "primary" });
    rest.post("/database/query", &body).await.ok()["rows"].clone()
}

#[tokio::test]
async fn reader_that_stops_reading_holds_the_database_back_and_fills_no_memory() {
    /// Far less than the answer, and far more than either process takes with all that the other tests do.
    const BOUND: u64 = 512 << 20;

    let house = shared().await;
    let admin = house.rest(Role::Admin);
    let reader = admin.clone().with_header("accept", LINES).with_header("content-type", "application/json");
    // About 10 GB.
    let sql = "select generate_series(1, 20000000), repeat('x', 500) as e2e_slow_reader";
    let body = json!({ "sql": sql, "prefer": "primary" }).to_string();
    let mut answer = reader.begin(http::Method::POST, "/database/query", body.into()).await.unwrap();
    assert_eq!(answer.status(), http::StatusCode::OK);
    let first = answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"{\"columns\""), "{first:?}");

    let in_a_row = AtomicU32::new(0);
    eventually("the database to wait for the reader", || async {
        let waits = waits(&admin, "e2e_slow_reader").await;
        if waits != json!([["ClientWrite"]]) {
            in_a_row.store(0, Ordering::Relaxed);
            return Err(waits.to_string());
        }
        // A statement that is sending waits so for a moment, too.
        let seen = in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        if seen >= 20 { Ok(()) } else { Err(format!("seen {seen} times in a row")) }
    })
    .await;
    for service in [Service::EdgeGateway, Service::ReplicaService] {
        let pid = house.stack().service(service).unwrap().pid().unwrap();
        let resident = resident_bytes(pid).unwrap();
        assert!(resident < BOUND, "{} takes {} MiB", service.name(), resident >> 20);
    }
    // It goes on where it stood.
    assert!(answer.body_mut().frame().await.unwrap().unwrap().is_data());
    drop(answer);
    eventually("the statement to end", || async {
        let waits = waits(&admin, "e2e_slow_reader").await;
        if waits == json!([]) { Ok(()) } else { Err(waits.to_string()) }
    })
    .await;
}
