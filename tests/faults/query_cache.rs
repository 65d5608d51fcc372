//! Answers of the database that are kept in cache-service: with replicas that stand still, and with the cache gone.

use mainstay_auth::Role;
use mainstay_tests::{Devstack, House, Rest, Service, eventually};
use serde_json::{Value, json};

const READ: &str = "select n from kept";

async fn house() -> (House, Rest) {
    let services = [Service::CacheService, Service::ReplicaService, Service::EdgeGateway];
    let mut builder = Devstack::builder().postgres(true).redis(true).services(services);
    // A machine that stands still for a moment is not what these are about.
    for (key, value) in [
        ("CACHE__GET_WITHIN", "1s"),
        ("CACHE__INVALIDATE_WITHIN", "5s"),
        ("ROUTING__TOKEN_WAIT_WITHIN", "200ms"),
    ] {
        builder = builder.env(Service::ReplicaService, format!("MAINSTAY__{key}"), value);
    }
    let house = House::start(builder).await;
    let admin = house.rest(Role::Admin);
    write(&admin, "create table kept (n int8)", &[]).await;
    let made = write(&admin, "insert into kept values (0)", &["kept"]).await;
    let shown = json!({ "sql": READ, "after": made["token"] });
    assert_eq!(admin.post("/database/query", &shown).await.ok()["rows"], json!([[0]]));
    (house, admin)
}

async fn write(admin: &Rest, sql: &str, invalidates: &[&str]) -> Value {
    admin.post("/database/execute", &json!({ "sql": sql, "invalidates": invalidates })).await.ok()
}

async fn read(rest: &Rest, after: &str) -> Value {
    let cache = json!({ "ttl": "10m", "tags": ["kept"] });
    rest.post("/database/query", &json!({ "sql": READ, "after": after, "cache": cache })).await.ok()
}

/// Reads until the cache has what it is to keep; every answer on the way must be right too.
async fn read_hit(rest: &Rest, n: i64) -> Value {
    eventually("an answer from the cache", || async {
        let answer = read(rest, "").await;
        assert_eq!(answer["rows"], json!([[n]]), "{answer}");
        if answer["cache"]["state"] == "hit" { Ok(answer) } else { Err(answer.to_string()) }
    })
    .await
}

#[tokio::test]
async fn no_answer_is_given_that_lacks_a_write_of_its_table_or_of_its_reader() {
    let (house, admin) = house().await;
    let hit = read_hit(&admin, 0).await;
    assert!(hit["cache"]["ageSeconds"].as_f64().unwrap() >= 0.0, "{hit}");
    assert_eq!(hit["cache"]["tags"], json!(["kept"]));
    assert!(hit["served"]["stalenessSeconds"].is_number(), "{hit}");

    // Neither a write of the table nor the token of one that named nothing meets an older answer.
    let written = write(&admin, "update kept set n = 1", &["kept"]).await;
    assert_eq!(written["invalidationPending"], false, "{written}");
    read_hit(&admin, 1).await;
    let silent = write(&admin, "update kept set n = 2", &[]).await;
    let seen = read(&admin, silent["token"].as_str().unwrap()).await;
    assert_eq!(seen["rows"], json!([[2]]), "{seen}");
    read_hit(&admin, 2).await;

    // Replicas that stand still answer what is long gone: it is neither given nor kept for others.
    let postgres = house.stack().postgres().unwrap();
    for name in ["replica1", "replica2"] {
        postgres.node(name).unwrap().hold_replay().await.unwrap();
    }
    for n in 3..6 {
        write(&admin, &format!("update kept set n = {n}"), &["kept", "other"]).await;
        for _ in 0..3 {
            let answer = read(&admin, "").await;
            assert_eq!(answer["rows"], json!([[n]]), "{answer}");
        }
    }
    let both = json!({ "statements": [{ "sql": "update kept set n = 6" }], "invalidates": ["kept"] });
    admin.post("/database/transaction", &both).await.ok();
    assert_eq!(read(&admin, "").await["rows"], json!([[6]]));
    for name in ["replica1", "replica2"] {
        postgres.node(name).unwrap().release_replay().await.unwrap();
    }
    read_hit(&admin, 6).await;

    let purge = json!({ "tags": ["kept"] });
    let viewer = house.rest(Role::Viewer);
    viewer.post("/database/cache/purge", &purge).await.problem(403, "ROLE_TOO_LOW");
    admin.post("/database/cache/purge", &purge).await.ok();
    assert_ne!(read(&viewer, "").await["cache"]["state"], "hit");
    admin.post("/database/cache/purge", &json!({})).await.problem(400, "INVALID_FIELD");
    let figures = viewer.get("/database/cache").await.ok();
    assert!(figures["hits"].as_u64() >= Some(4) && figures["outdated"].as_u64() >= Some(2), "{figures}");
}

#[tokio::test]
async fn a_write_that_the_cache_could_not_be_told_of_is_honoured_and_told_when_it_is_back() {
    let (house, admin) = house().await;
    read_hit(&admin, 0).await;
    let cache = house.stack().service(Service::CacheService).unwrap();
    cache.kill().await.unwrap();
    let written = write(&admin, "update kept set n = 1", &["kept"]).await;
    assert_eq!(written["invalidationPending"], true, "{written}");
    let answer = read(&admin, written["token"].as_str().unwrap()).await;
    assert_eq!((&answer["rows"], &answer["cache"]["state"]), (&json!([[1]]), &json!("bypassed")), "{answer}");
    assert_eq!(admin.get("/database/cache").await.ok()["pending"], 1);

    // Redis has the old answer still, and gives it to the cache.
    cache.start().await.unwrap();
    read_hit(&admin, 1).await;
    eventually("the cache to know of the write", || async {
        let figures = admin.get("/database/cache").await.ok();
        if figures["pending"] == 0 { Ok(()) } else { Err(figures.to_string()) }
    })
    .await;
    read_hit(&admin, 1).await;
}
