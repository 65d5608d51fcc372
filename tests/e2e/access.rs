use mainstay_auth::Role;
use mainstay_auth::jwt::Claims;
use mainstay_tests::{House, Rest, eventually, shared, unix_s};
use serde_json::{Value, json};

/// Makes a key and gives a client that holds it, with its secret.
async fn made(house: &House, body: Value) -> (Rest, String) {
    let answer = house.rest(Role::Admin).post("/api-keys", &body).await;
    let secret = answer.ok()["secret"].as_str().expect("a secret is a string").to_owned();
    assert_eq!(answer.header("cache-control"), "no-store");
    (house.anonymous().with_api_key(&secret), secret)
}

#[tokio::test]
async fn api_key_is_made_rotated_with_grace_and_revoked() {
    let house = shared().await;
    let admin = house.rest(Role::Admin);
    let body = json!({ "name": "e2e-life", "role": "viewer", "expiresIn": "1day" });
    let (holder, secret) = made(house, body.clone()).await;
    assert_eq!(holder.get("/cache/stats").await.status, 200, "good at once on the edge that made it");
    holder.post("/api-keys", &body).await.problem(403, "ROLE_TOO_LOW");
    admin.post("/api-keys", &body).await.problem(409, "API_KEY_EXISTS");

    let listed = admin.get("/api-keys").await;
    assert!(!listed.text().contains(&secret), "a secret is shown once");
    let keys = listed.ok();
    let find = |name: &str| keys["keys"].as_array().unwrap().iter().find(|key| key["name"] == name).cloned();
    let key = find("e2e-life").expect("it is listed");
    assert_eq!((&key["role"], &key["source"]), (&json!("viewer"), &json!("stored")), "{key}");
    assert!(key["expiresAt"].is_string() && key["createdBy"].is_string(), "{key}");
    let configured = keys["keys"].as_array().unwrap().iter().filter(|key| key["source"] == "config").count();
    assert!(configured >= 3, "{keys}");

    let rotation = admin.post("/api-keys/e2e-life/rotate", &json!({ "grace": "1h" })).await.ok();
    let second = house.anonymous().with_api_key(rotation["secret"].as_str().unwrap());
    assert!(rotation["key"]["previousUntil"].is_string(), "{rotation}");
    for good in [&holder, &second] {
        assert_eq!(good.get("/cache/stats").await.status, 200, "both are good for the grace");
    }
    let rotation = admin.post("/api-keys/e2e-life/rotate", &json!({ "grace": "0s" })).await.ok();
    let third = house.anonymous().with_api_key(rotation["secret"].as_str().unwrap());
    assert_eq!(third.get("/cache/stats").await.status, 200);
    for ended in [&holder, &second] {
        ended.get("/cache/stats").await.problem(401, "CREDENTIALS_REFUSED");
    }
    assert_eq!(admin.delete("/api-keys/e2e-life").await.ok(), json!({ "revoked": true }));
    third.get("/cache/stats").await.problem(401, "CREDENTIALS_REFUSED");
    admin.delete("/api-keys/e2e-life").await.problem(404, "API_KEY_NOT_FOUND");
}

#[tokio::test]
async fn bad_keys_are_refused_by_the_field_that_is_wrong() {
    let admin = shared().await.rest(Role::Admin);
    let table = [
        (json!({ "name": "E2E", "role": "viewer" }), "name"),
        (json!({ "name": "e2e-bad", "role": "root" }), "role"),
        (json!({ "name": "e2e-bad", "role": "viewer", "scopes": ["cache:a", "cahce:b"] }), "scopes[1]"),
        (json!({ "name": "e2e-bad", "role": "viewer", "expiresIn": "1s" }), "expiresIn"),
        (json!({ "name": "e2e-bad", "role": "viewer", "expiresIn": "soon" }), "expiresIn"),
    ];
    for (body, field) in table {
        let problem = admin.post("/api-keys", &body).await.problem(400, "INVALID_FIELD");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    let configured = json!({ "name": "admin", "role": "viewer" });
    admin.post("/api-keys", &configured).await.problem(409, "API_KEY_EXISTS");
    admin.post("/api-keys/e2e-nobody/rotate", &json!({})).await.problem(404, "API_KEY_NOT_FOUND");
}

#[tokio::test]
async fn secret_of_a_new_key_is_kept_for_no_repetition() {
    let admin = shared().await.rest(Role::Admin).with_header("idempotency-key", "e2e-once-6ac1");
    let body = json!({ "name": "e2e-once", "role": "viewer" });
    admin.post("/api-keys", &body).await.ok();
    admin.post("/api-keys", &body).await.problem(409, "IDEMPOTENCY_KEY_IN_USE");
    assert_eq!(admin.delete("/api-keys/e2e-once").await.status, 200);
}

/// One row per kind of thing that a scope names: what is asked, and the scope that lets it through.
fn asked() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    let sql = |sql: &str| json!({ "sql": sql });
    let publish = |channel: &str| json!({ "channel": channel, "data": 1 });
    let many = |channels: &[&str]| json!({ "channels": channels, "data": 1 });
    let messages = |channels: &[&str]| {
        let messages: Vec<Value> = channels.iter().map(|channel| publish(channel)).collect();
        json!({ "messages": messages })
    };
    let batch = json!({ "operations": [{ "op": "get", "key": "a" }] });
    let transaction = json!({ "statements": [{ "sql": "insert into nowhere values (1)" }] });
    let member = json!({ "channel": "e2e-a:1" });
    vec![
        ("GET", "/cache/e2e-a/k", Value::Null, "cache.read:e2e-a"),
        ("PUT", "/cache/e2e-a/k", Value::Null, "cache.write:e2e-a"),
        ("DELETE", "/cache/e2e-a/k", Value::Null, "cache.write:e2e-a"),
        ("POST", "/cache/e2e-a/batch", batch, "cache.write:e2e-a"),
        ("POST", "/cache/e2e-a/invalidate", json!({ "keys": ["k"] }), "cache.write:e2e-a"),
        ("GET", "/cache/namespaces/e2e-a", Value::Null, "cache.read:e2e-a"),
        ("GET", "/cache/stats", Value::Null, "cache.read:*"),
        ("POST", "/realtime/publish", publish("e2e-a:1"), "realtime.write:e2e-a:1"),
        ("POST", "/realtime/broadcast", many(&["e2e-a:1", "e2e-b:1"]), "realtime.write:e2e-a:1"),
        ("POST", "/realtime/batch", messages(&["e2e-a:1", "e2e-b:1"]), "realtime.write:e2e-a:1"),
        ("DELETE", "/realtime/channels/e2e-a:1/history", Value::Null, "realtime.write:e2e-a:1"),
        ("POST", "/realtime/users/e2e-nobody/subscribe", member.clone(), "realtime.write:e2e-a:1"),
        ("POST", "/realtime/users/e2e-nobody/unsubscribe", member, "realtime.write:e2e-a:1"),
        ("GET", "/realtime/channels/e2e-a:1/history", Value::Null, "realtime.read:e2e-a:1"),
        ("POST", "/realtime/users/e2e-nobody/disconnect", json!({}), "realtime.write:*"),
        ("POST", "/database/query", sql("select 1"), "database.read:select"),
        ("POST", "/database/execute", sql("insert into nowhere values (1)"), "database.write:insert"),
        ("POST", "/database/execute", sql("/* x */ delete from nowhere"), "database.write:delete"),
        ("POST", "/database/transaction", transaction, "database.write:insert"),
        ("GET", "/database/info", Value::Null, "database.read:*"),
        ("GET", "/locks/e2e-a", Value::Null, "locks.read:e2e-a"),
        ("GET", "/users/e2e-nobody/sessions", Value::Null, "sessions.read:*"),
        ("GET", "/monitoring/alerts/rules", Value::Null, "monitoring.read:alerts/rules"),
        ("GET", "/api-keys", Value::Null, "keys.read:*"),
        ("GET", "/audit", Value::Null, "audit.read:*"),
    ]
}

async fn ask(rest: &Rest, (verb, path, body, _): &(&str, &str, Value, &str)) -> mainstay_tests::Answer {
    match *verb {
        "GET" => rest.get(path).await,
        "PUT" => rest.put(path, "value").await,
        "DELETE" => rest.delete(path).await,
        _ => rest.post(path, body).await,
    }
}

fn bearer(house: &House, scopes: &[&str]) -> Rest {
    let claims = Claims {
        sub: "e2e-scopes".to_owned(),
        exp: Some(unix_s() + 600),
        role: Some(Role::Admin),
        scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        ..Claims::default()
    };
    house.anonymous().with_header("authorization", &format!("Bearer {}", house.token(&claims)))
}

#[tokio::test]
async fn credentials_with_scopes_reach_what_they_name_and_nothing_else() {
    let house = shared().await;
    let elsewhere = ["cache:e2e-other", "realtime:e2e-other*", "database:vacuum", "locks:e2e-other"];
    let scopes = json!(elsewhere);
    let (key, _) = made(house, json!({ "name": "e2e-narrow", "role": "admin", "scopes": scopes })).await;
    let token = bearer(house, &elsewhere);
    let unlimited = bearer(house, &["openid", "profile"]);
    for row in asked() {
        let (verb, path, _, scope) = &row;
        for (what, rest) in [("key", &key), ("token", &token)] {
            let problem = ask(rest, &row).await.problem(403, "SCOPE_MISSING");
            assert_eq!(problem["scope"], *scope, "{verb} {path} by a {what}: {problem}");
        }
        for rest in [bearer(house, &[scope, "realtime:e2e-b:*"]), unlimited.clone()] {
            let answer = ask(&rest, &row).await;
            assert!(answer.status != 403 && answer.status != 401, "{verb} {path}: {}", answer.text());
        }
    }
    assert_eq!(house.rest(Role::Admin).delete("/api-keys/e2e-narrow").await.status, 200);
}

#[tokio::test]
async fn nobody_makes_a_key_that_reaches_further_than_himself() {
    let house = shared().await;
    let admin = bearer(house, &["keys:*", "cache:e2e-shop-*"]);
    let body = |scopes: Value| json!({ "name": "e2e-child", "role": "viewer", "scopes": scopes });
    for wide in [json!([]), json!(["cache:*"]), json!(["cache:e2e-shop-a", "database:*"])] {
        admin.post("/api-keys", &body(wide)).await.problem(403, "SCOPES_TOO_WIDE");
    }
    admin.post("/api-keys", &body(json!(["cache.read:e2e-shop-a"]))).await.ok();
    assert_eq!(admin.delete("/api-keys/e2e-child").await.status, 200);
    let (_, _) = made(house, json!({ "name": "e2e-wide", "role": "viewer" })).await;
    admin.post("/api-keys/e2e-wide/rotate", &json!({})).await.problem(403, "SCOPES_TOO_WIDE");
    assert_eq!(house.rest(Role::Admin).delete("/api-keys/e2e-wide").await.status, 200);
}

#[tokio::test]
async fn changes_are_on_record_with_who_what_from_where_and_how_they_ended() {
    let house = shared().await;
    let admin = house.rest(Role::Admin);
    let (holder, secret) = made(house, json!({ "name": "e2e-audited", "role": "operator" })).await;
    let holder = holder.with_header("user-agent", "e2e/1.0");
    let done = holder.put("/cache/e2e/audit-k?note=hidden", "value").await;
    assert!(done.status.is_success(), "{}", done.text());
    assert_eq!(holder.get("/cache/e2e/audit-k").await.status, 200);
    holder.delete("/api-keys/e2e-audited").await.problem(403, "ROLE_TOO_LOW");
    let session = json!({ "user": "e2e-audited" });
    let session = holder.post("/sessions", &session).await.ok();
    let id = session["id"].as_str().expect("a session has an id").to_owned();
    holder.delete(&format!("/sessions/{id}")).await.ok();
    assert_eq!(admin.delete("/api-keys/e2e-audited").await.status, 200);

    let page = eventually("the changes to be on record", || async {
        let page = admin.get("/audit?subject=e2e-audited").await.ok();
        if page["changes"].as_array().unwrap().len() == 4 { Ok(page) } else { Err(page.to_string()) }
    })
    .await;
    let seen: Vec<Value> = page["changes"].as_array().unwrap().iter().rev().cloned().collect();
    let told =
        |change: &Value| ["verb", "target", "status", "code", "kind"].map(|field| change[field].clone());
    let expected = [
        json!(["PUT", "/cache/e2e/audit-k", done.status.as_u16(), "", "data"]),
        json!(["DELETE", "/api-keys/e2e-audited", 403, "ROLE_TOO_LOW", "data"]),
        json!(["POST", "/sessions", 200, "", "data"]),
        json!(["DELETE", "/sessions/{id}", 200, "", "data"]),
    ];
    assert_eq!(seen.iter().map(|change| json!(told(change))).collect::<Vec<_>>(), expected);
    let first = &seen[0];
    assert_eq!((&first["address"], &first["agent"]), (&json!("127.0.0.1"), &json!("e2e/1.0")), "{first}");
    assert_eq!((&first["method"], &first["role"]), (&json!("api_key"), &json!("operator")), "{first}");
    assert_eq!(first["requestId"], done.header("x-request-id"), "{first}");

    let failed = admin.get("/audit?subject=e2e-audited&failed=true").await.ok();
    assert_eq!(failed["changes"].as_array().unwrap().len(), 1, "{failed}");
    let control = eventually("the end of the key to be on record", || async {
        let page = admin.get("/audit?kind=control&route=/api-keys/{name}&limit=1000").await;
        let text = page.text();
        if text.contains("/api-keys/e2e-audited") { Ok(text) } else { Err(text) }
    });
    let control = control.await;
    let everything = admin.get("/audit?limit=1000").await.text();
    for text in [control, everything] {
        assert!(!text.contains(&secret) && !text.contains(&id) && !text.contains("hidden"), "{text}");
    }
    let next = page["changes"][1]["number"].as_u64().unwrap();
    let older = admin.get(&format!("/audit?subject=e2e-audited&before={next}")).await.ok();
    assert_eq!(older["changes"].as_array().unwrap().len(), 2, "{older}");
    admin.get("/audit?kind=other").await.problem(400, "INVALID_FIELD");
    house.rest(Role::Operator).get("/audit").await.problem(403, "ROLE_TOO_LOW");
}
