use mainstay_auth::Role;
use mainstay_tests::{eventually, shared};
use serde_json::json;

#[tokio::test]
async fn a_batch_does_each_operation_and_says_how_each_ended() {
    let rest = shared().await.rest(Role::Operator);
    let body = json!({ "operations": [
        { "op": "set", "key": "text", "value": "größe", "contentType": "text/plain", "ttl": "1m", "tags": ["a"] },
        { "op": "set", "key": "bytes", "value": "/wD+", "encoding": "base64" },
        { "op": "delete", "key": "none" },
        { "op": "set", "key": "", "value": "x" },
    ]});
    let done = rest.post("/cache/e2e-batch/batch", &body).await.ok();
    let outcomes = done["outcomes"].as_array().unwrap();
    assert_eq!((&outcomes[0]["stored"], &outcomes[2]["existed"]), (&json!(true), &json!(false)), "{done}");
    assert_eq!(outcomes[3]["error"]["code"], "KEY_EMPTY", "{done}");

    let reads = json!({ "operations": [
        { "op": "get", "key": "text" }, { "op": "get", "key": "bytes" }, { "op": "get", "key": "none" },
    ]});
    let read = rest.post("/cache/e2e-batch/batch", &reads).await.ok();
    let entries = read["outcomes"].as_array().unwrap();
    let of = |entry: &serde_json::Value| (entry["value"].clone(), entry["encoding"].clone());
    assert_eq!(of(&entries[0]["entry"]), (json!("größe"), json!("utf8")), "{read}");
    assert_eq!(of(&entries[1]["entry"]), (json!("/wD+"), json!("base64")), "{read}");
    assert_eq!(entries[2]["found"], false, "{read}");

    let wrong = json!({ "operations": [{ "op": "set", "key": "k", "value": "?", "encoding": "base64" }] });
    rest.post("/cache/e2e-batch/batch", &wrong).await.problem(400, "INVALID_FIELD");
    rest.post("/cache/e2e-batch/batch", &json!({ "operations": [] })).await.problem(400, "BATCH_SIZE");
}

#[tokio::test]
async fn warming_says_what_it_lacks_and_that_nothing_runs() {
    let rest = shared().await.rest(Role::Operator);
    rest.post("/cache/e2e-warm/warm", &json!({})).await.problem(412, "WARMING_NO_SOURCE");
    rest.post("/cache/e2e-warm/warm", &json!({ "sources": ["moon"] })).await.problem(400, "INVALID_FIELD");
    let beyond = json!({ "sources": ["origin"], "keysPerSecond": 0 });
    rest.post("/cache/e2e-warm/warm", &beyond).await.problem(400, "WARM_PLAN_INVALID");
    rest.delete("/cache/e2e-warm/warm").await.problem(404, "WARMING_RUN_NOT_FOUND");
    assert_eq!(rest.get("/cache/e2e-warm/warm").await.ok()["runs"], json!([]));
}

#[tokio::test]
async fn a_session_is_begun_read_changed_rotated_listed_and_ended() {
    let rest = shared().await.rest(Role::Operator);
    let begun =
        rest.post("/sessions", &json!({ "user": "e2e-ann", "fields": { "theme": "dark" } })).await.ok();
    let path = format!("/sessions/{}", begun["id"].as_str().unwrap());
    let read = rest.get(&path).await;
    let tag = read.header("etag").to_owned();
    assert_eq!(read.ok()["fields"]["theme"], "dark");

    let json = rest.clone().with_header("content-type", "application/json");
    let change = json!({ "set": { "lang": "de" }, "remove": ["theme"] }).to_string();
    let changed = json.clone().with_header("if-match", &tag).patch(&path, change.clone()).await.ok();
    assert_eq!(changed["fields"], json!({ "lang": "de" }));
    json.with_header("if-match", &tag).patch(&path, change).await.problem(412, "VERSION_MISMATCH");
    rest.post(&format!("{path}/touch"), &json!({})).await.ok();

    let rotated = rest.post(&format!("{path}/rotate"), &json!({ "grace": "0s" })).await.ok();
    rest.get(&path).await.problem(404, "SESSION_NOT_FOUND");
    let new = format!("/sessions/{}", rotated["id"].as_str().unwrap());
    let listed = rest.get("/users/e2e-ann/sessions").await.ok();
    assert_eq!(listed["sessions"][0]["handle"], rotated["session"]["handle"], "{listed}");
    assert!(!listed.to_string().contains(rotated["id"].as_str().unwrap()), "a list shows no id");
    assert_eq!(rest.delete("/users/e2e-ann/sessions").await.ok()["revoked"], 1);
    rest.get(&new).await.problem(404, "SESSION_NOT_FOUND");
}

#[tokio::test]
async fn counters_locks_and_limits_are_shared() {
    let rest = shared().await.rest(Role::Operator);
    rest.delete("/counters/e2e").await.ok();
    let add = json!({ "by": 5, "idempotencyKey": "e2e-once", "ttl": "1m" });
    let first = rest.post("/counters/e2e/increment", &add).await.ok();
    let again = rest.post("/counters/e2e/increment", &add).await.ok();
    assert_eq!((&first["value"], &again["value"]), (&json!(5), &json!(5)), "{again}");
    assert_eq!(rest.get("/counters/e2e").await.ok()["value"], 5);

    let wanted = |owner: &str| json!({ "owner": owner, "ttl": "30s" });
    let got = rest.post("/locks/e2e/acquire", &wanted("one")).await.ok();
    assert_eq!(got["acquired"], true, "{got}");
    assert_eq!(rest.post("/locks/e2e/acquire", &wanted("two")).await.ok()["acquired"], false);
    let token = got["token"].as_u64().unwrap();
    assert_eq!(rest.get(&format!("/locks/e2e?token={token}")).await.ok()["current"], true);
    let held = json!({ "owner": "one", "token": token });
    assert_eq!(rest.post("/locks/e2e/release", &held).await.ok()["done"], true);

    let check = json!({ "key": "e2e-limit", "quota": 1, "window": "1h" });
    assert_eq!(rest.post("/rate-limits/check", &check).await.ok()["allowed"], true);
    let over = rest.post("/rate-limits/check", &check).await.ok();
    assert!(over["allowed"] == false && over["retryAfterSeconds"].as_f64().unwrap() > 1.0, "{over}");
}

#[tokio::test]
async fn a_policy_is_replaced_only_by_who_knows_it_and_the_history_says_who() {
    let house = shared().await;
    let (viewer, admin) = (house.rest(Role::Viewer), house.rest(Role::Admin));
    let path = "/cache/namespaces/e2e-policy";
    let admin = admin.with_header("content-type", "application/json");
    let read = viewer.get(path).await;
    let tag = read.header("etag").to_owned();
    let policy = json!({ "eviction": "lru", "ttl": "7m" }).to_string();
    admin.put(path, policy.clone()).await.problem(400, "INVALID_FIELD");
    let put = admin.clone().with_header("if-match", &tag).put(path, policy.clone()).await.ok();
    assert_eq!(
        (&put["effective"]["eviction"], &put["runTime"]["ttl"]),
        (&json!("lru"), &json!("7m")),
        "{put}"
    );
    admin
        .clone()
        .with_header("if-match", &tag)
        .put(path, policy.clone())
        .await
        .problem(412, "VERSION_MISMATCH");
    let refused = house.rest(Role::Operator).with_header("content-type", "application/json");
    refused.with_header("if-match", &tag).put(path, policy).await.problem(403, "ROLE_TOO_LOW");

    let history = viewer.get(&format!("{path}/history")).await.ok();
    assert_eq!(history["changes"][0]["changed"], json!(["eviction", "ttl"]), "{history}");
    assert!(!history["changes"][0]["putBy"].as_str().unwrap().is_empty(), "{history}");
    let listed = viewer.get("/cache/namespaces").await.ok();
    let names = listed["namespaces"].as_array().unwrap().iter();
    assert!(names.filter(|view| view["namespace"] == "e2e-policy").count() == 1, "{listed}");
}

#[tokio::test]
async fn the_cache_tells_its_health_and_forgets_its_window() {
    let rest = shared().await.rest(Role::Operator);
    eventually("the cache to be well", || async {
        let health = rest.get("/cache/health").await.ok();
        if health["instances"][0]["status"] == "healthy" { Ok(()) } else { Err(health.to_string()) }
    })
    .await;
    rest.put("/cache/e2e/window", "value").await.ok();
    let reset = rest.post("/monitoring/cache/reset-metrics", &json!({})).await.ok();
    assert!(reset["operations"].as_u64().unwrap() >= 1, "{reset}");
    let stats = rest.get("/cache/stats").await.ok();
    assert!(stats["operations"]["recent"]["get"]["p99Seconds"].is_f64(), "{stats}");
    assert!(stats["origins"].is_array() && stats["namespaces"][0]["l2Misses"].is_u64(), "{stats}");
}
