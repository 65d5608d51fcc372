use mainstay_auth::Role;
use mainstay_tests::{Rest, shared};
use serde_json::json;

fn keyed(rest: &Rest, key: &str) -> Rest {
    rest.clone().with_header("idempotency-key", key)
}

#[tokio::test]
async fn a_write_sent_again_with_its_key_is_done_once_and_answered_the_same() {
    let rest = shared().await.rest(Role::Admin);
    let sql = |sql: &str| json!({ "sql": sql });
    rest.post("/database/execute", &sql("create table if not exists idempotency_test (n int)")).await.ok();
    rest.post("/database/execute", &sql("delete from idempotency_test")).await.ok();
    let insert = sql("insert into idempotency_test values (1)");
    let key = "b51c4e2e-9a3d-4c57-8f0e-insert";

    let first = keyed(&rest, key).post("/database/execute", &insert).await;
    let again = keyed(&rest, key).post("/database/execute", &insert).await;
    assert_eq!((first.ok()["rowsAffected"].as_u64(), first.header("idempotency-replayed")), (Some(1), ""));
    assert_eq!((again.ok(), again.header("idempotency-replayed")), (first.ok(), "true"));
    assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
    let query = json!({ "sql": "select count(*) from idempotency_test", "prefer": "primary" });
    assert_eq!(rest.post("/database/query", &query).await.ok()["rows"][0][0], 1);

    let other = sql("insert into idempotency_test values (2)");
    keyed(&rest, key).post("/database/execute", &other).await.problem(409, "IDEMPOTENCY_KEY_REUSED");
    let somebody = shared().await.rest(Role::Operator);
    let published = json!({ "channel": "news", "data": 1 });
    assert_eq!(
        keyed(&somebody, key).post("/realtime/publish", &published).await.header("idempotency-replayed"),
        ""
    );
}

#[tokio::test]
async fn a_refused_request_leaves_its_key_free_and_bad_keys_are_named() {
    let rest = shared().await.rest(Role::Operator);
    let key = "0b0c1e55-refused";
    let bad = json!({ "channel": "", "data": 1 });
    assert_eq!(keyed(&rest, key).post("/realtime/publish", &bad).await.status, 400);
    let good = json!({ "channel": "news", "data": 1 });
    let done = keyed(&rest, key).post("/realtime/publish", &good).await;
    assert_eq!((done.status.as_u16(), done.header("idempotency-replayed")), (200, ""));
    keyed(&rest, "with space").post("/realtime/publish", &good).await.problem(400, "INVALID_FIELD");
    keyed(&rest, &"x".repeat(129)).post("/realtime/publish", &good).await.problem(400, "INVALID_FIELD");
}
