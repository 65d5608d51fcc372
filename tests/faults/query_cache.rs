//! Answers of the database that are kept in cache-service: with replicas that stand still, and with the cache gone.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use mainstay_auth::Role;
use mainstay_devstack::{DATABASE, SERVICE_ROLE};
use mainstay_proto::replica::v1::replica_service_client::ReplicaServiceClient;
use mainstay_proto::replica::v1::value::Kind;
use mainstay_proto::replica::v1::{CacheState, CacheWish, QueryRequest};
use mainstay_tests::{Devstack, House, Rest, Service, binary, eventually};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tonic::transport::Channel;

const READ: &str = "select n from kept";

async fn house() -> (House, Rest) {
    let services = [Service::CacheService, Service::ReplicaService, Service::EdgeGateway];
    let mut builder = Devstack::builder().postgres(true).redis(true).services(services);
    // A machine that stands still for a moment is not what these are about.
    for (key, value) in [
        ("CACHE__GET_WITHIN", "1s"),
        ("CACHE__INVALIDATE_WITHIN", "5s"),
        ("CACHE__FLIGHT_WITHIN", "10s"),
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

/// Reads what lacks so many bytes of the log at most.
async fn read_within(rest: &Rest, max_lag_bytes: u64) -> Value {
    let cache = json!({ "ttl": "10m", "tags": ["kept"] });
    let body = json!({ "sql": READ, "maxLagBytes": max_lag_bytes, "cache": cache });
    rest.post("/database/query", &body).await.ok()
}

/// Reads until the cache has what it is to keep; every answer on the way must be right too.
async fn read_hit(rest: &Rest, after: &str, n: i64) -> Value {
    eventually("an answer from the cache", || async {
        let answer = read(rest, after).await;
        assert_eq!(answer["rows"], json!([[n]]), "{answer}");
        hit(answer)
    })
    .await
}

fn hit(answer: Value) -> Result<Value, String> {
    if answer["cache"]["state"] == "hit" { Ok(answer) } else { Err(answer.to_string()) }
}

#[tokio::test]
async fn no_answer_is_given_that_lacks_a_write_of_its_table_or_of_its_reader() {
    let (house, admin) = house().await;
    let kept = read_hit(&admin, "", 0).await;
    assert!(kept["cache"]["ageSeconds"].as_f64().unwrap() >= 0.0, "{kept}");
    assert_eq!(kept["cache"]["tags"], json!(["kept"]));
    assert!(kept["served"]["stalenessSeconds"].is_number(), "{kept}");

    // Neither a write of the table nor the token of one that named nothing meets an older answer.
    let written = write(&admin, "update kept set n = 1", &["kept"]).await;
    assert_eq!(written["invalidationPending"], false, "{written}");
    read_hit(&admin, "", 1).await;
    let silent = write(&admin, "update kept set n = 2", &[]).await;
    read_hit(&admin, silent["token"].as_str().unwrap(), 2).await;
    // Who has no token is owed nothing of it, but is given what its reader brought.
    let brought = eventually("an answer from the cache", || async { hit(read(&admin, "").await) }).await;
    assert_eq!(brought["rows"], json!([[2]]), "{brought}");

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
    read_hit(&admin, "", 6).await;

    // What was kept lacks nothing of its table, but a megabyte of the log: that is for whoever bears it.
    write(&admin, "create table bulk as select repeat('x', 1000) from generate_series(1, 2000)", &[]).await;
    eventually("the bytes to be missed", || async {
        let answer = read_within(&admin, 100_000).await;
        assert_eq!(answer["rows"], json!([[6]]), "{answer}");
        if answer["cache"]["state"] == "miss" { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
    let near =
        eventually("what was read anew to be kept", || async { hit(read_within(&admin, 100_000).await) });
    assert_eq!(near.await["rows"], json!([[6]]));

    let purge = json!({ "tags": ["kept"] });
    let viewer = house.rest(Role::Viewer);
    viewer.post("/database/cache/purge", &purge).await.problem(403, "ROLE_TOO_LOW");
    admin.post("/database/cache/purge", &purge).await.ok();
    assert_ne!(read(&viewer, "").await["cache"]["state"], "hit");
    admin.post("/database/cache/purge", &json!({})).await.problem(400, "INVALID_FIELD");
    let figures = viewer.get("/database/cache").await.ok();
    assert!(figures["hits"].as_u64() >= Some(4) && figures["outdated"].as_u64() >= Some(2), "{figures}");
    let service = house.stack().service(Service::ReplicaService).unwrap();
    let metrics = Rest::new(service.address()).get("/metrics").await.text();
    for (series, figure) in [
        ("reads_total{result=\"hit\"}", "hits"),
        ("reads_total{result=\"miss\"}", "misses"),
        ("outdated_total", "outdated"),
        ("stored_total", "stored"),
    ] {
        let line = format!("mainstay_replica_cache_{series} {}", figures[figure]);
        assert!(metrics.lines().any(|told| told == line), "no {line} in {metrics}");
    }
}

#[tokio::test]
async fn a_write_that_the_cache_could_not_be_told_of_is_honoured_and_told_when_it_is_back() {
    let (house, admin) = house().await;
    read_hit(&admin, "", 0).await;
    let cache = house.stack().service(Service::CacheService).unwrap();
    cache.kill().await.unwrap();
    let written = write(&admin, "update kept set n = 1", &["kept"]).await;
    assert_eq!(written["invalidationPending"], true, "{written}");
    let answer = read(&admin, written["token"].as_str().unwrap()).await;
    assert_eq!((&answer["rows"], &answer["cache"]["state"]), (&json!([[1]]), &json!("bypassed")), "{answer}");
    assert_eq!(admin.get("/database/cache").await.ok()["pending"], 1);

    // Redis has the old answer still, and gives it to the cache.
    cache.start().await.unwrap();
    read_hit(&admin, "", 1).await;
    eventually("the cache to know of the write", || async {
        let figures = admin.get("/database/cache").await.ok();
        if figures["pending"] == 0 { Ok(()) } else { Err(figures.to_string()) }
    })
    .await;
    read_hit(&admin, "", 1).await;
}

/// A second process of the service, on the same servers and the same cache; it asks for no credentials.
fn second(house: &House, folder: &std::path::Path) -> (Child, SocketAddr) {
    let stack = house.stack();
    let address =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let cache = stack.service(Service::CacheService).expect("the house has a cache").address();
    let mut command = Command::new(binary("replica-service"));
    let credentials = stack.credentials();
    command.env_clear().current_dir(folder);
    for (key, value) in [
        ("SERVER__LISTEN", address.to_string()),
        ("POSTGRES__DATABASE", DATABASE.to_owned()),
        ("POSTGRES__USER", SERVICE_ROLE.to_owned()),
        ("POSTGRES__PASSWORD", credentials.postgres_password.clone()),
        ("CACHE__UPSTREAM__ENDPOINTS", format!("http://{cache}")),
        ("CACHE__UPSTREAM__TOKEN", credentials.service_token.clone()),
        ("CACHE__GET_WITHIN", "1s".to_owned()),
        ("CACHE__FLIGHT_WITHIN", "10s".to_owned()),
    ] {
        command.env(format!("MAINSTAY__{key}"), value);
    }
    for node in stack.postgres().expect("the house has a database").nodes() {
        let key = format!("MAINSTAY__NODES__{}__ADDRESS", node.short_name().to_uppercase());
        command.env(key, node.public_address().to_string());
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    (command.spawn().expect("a built program starts"), address)
}

/// When an answer was made, and whether it came from the cache.
type Seen = (String, String);

/// Takes long enough for others to ask the same meanwhile.
const SLOW_READ: &str = "select clock_timestamp()::text from pg_sleep(1)";

async fn read_slowly(mut client: ReplicaServiceClient<Channel>) -> Result<Seen, String> {
    let ttl = Some(prost_types::Duration { seconds: 600, nanos: 0 });
    let cache = Some(CacheWish { ttl, tags: vec!["kept".to_owned()] });
    let request = QueryRequest { sql: SLOW_READ.to_owned(), cache, ..QueryRequest::default() };
    let answer = client.query(request).await.map_err(|status| status.to_string())?.into_inner();
    let state = answer.cache.map(|used| used.state()).unwrap_or_default();
    match &answer.rows[0].values[0].kind {
        Some(Kind::Text(made)) => {
            Ok((made.clone(), if state == CacheState::CacheHit { "hit" } else { "miss" }.to_owned()))
        }
        other => Err(format!("{other:?}")),
    }
}

async fn read_slowly_by_rest(rest: &Rest) -> Result<Seen, String> {
    let cache = json!({ "ttl": "10m", "tags": ["kept"] });
    let answer = rest.post("/database/query", &json!({ "sql": SLOW_READ, "cache": cache })).await;
    if answer.status != 200 {
        return Err(answer.text());
    }
    let answer = answer.json();
    let made = answer["rows"][0][0].as_str().ok_or("no row")?.to_owned();
    Ok((made, answer["cache"]["state"].as_str().unwrap_or_default().to_owned()))
}

#[tokio::test]
async fn what_two_processes_lack_at_once_is_read_once() {
    let (house, admin) = house().await;
    let folder = tempfile::tempdir().unwrap();
    let (_process, address) = second(&house, folder.path());
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let client = ReplicaServiceClient::new(channel);
    eventually("the second process to answer", || async { read_slowly(client.clone()).await.map(|_| ()) })
        .await;
    // Once for an answer that a write has made too old, and once for one that is not there.
    for purged in [false, true] {
        eventually("one of two to read, and the other to have its answer", || async {
            if purged {
                admin.post("/database/cache/purge", &json!({ "tags": ["kept"] })).await.ok();
            } else {
                write(&admin, "update kept set n = n + 1", &["kept"]).await;
            }
            let (one, other) = tokio::join!(read_slowly(client.clone()), read_slowly_by_rest(&admin));
            let (one, other) = (one?, other?);
            let mut states = [one.1.as_str(), other.1.as_str()];
            states.sort_unstable();
            if one.0 == other.0 && states == ["hit", "miss"] {
                Ok(())
            } else {
                Err(format!("{one:?} {other:?}"))
            }
        })
        .await;
    }
}
