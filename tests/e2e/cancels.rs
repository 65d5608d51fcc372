//! A caller of the REST door who goes away takes his statement with him.

use std::time::Duration;

use mainstay_auth::Role;
use mainstay_tests::{Devstack, House, Rest, Service, eventually};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Nothing but the cancelling ends a statement before this; the edge takes no longer one.
const LONG: Duration = Duration::from_mins(1);

async fn house() -> House {
    let services = [Service::ReplicaService, Service::EdgeGateway];
    let builder = Devstack::builder()
        .postgres(true)
        .services(services)
        .env(Service::ReplicaService, "MAINSTAY__POSTGRES__STATEMENT_WITHIN", "10m")
        .env(Service::EdgeGateway, "MAINSTAY__HTTP__REQUEST_WITHIN", "1m");
    House::start(builder).await
}

/// Counts the statements with this mark that run on the primary, the question itself left out.
async fn running(rest: &Rest, mark: &str) -> Value {
    let sql = "select count(*) from pg_stat_activity \
               where state = 'active' and pid <> pg_backend_pid() and query like '%' || $1 || '%'";
    let body = json!({ "sql": sql, "params": [mark], "prefer": "primary" });
    rest.post("/database/query", &body).await.ok()["rows"][0][0].clone()
}

#[tokio::test]
async fn a_statement_ends_in_the_database_when_its_caller_goes_away() {
    let house = house().await;
    let admin = house.rest(Role::Admin);
    let lines = admin.clone().with_header("accept", "application/x-ndjson");
    let cases = [
        (&admin, "/database/query", "gone_rows"),
        (&lines, "/database/query", "gone_lines"),
        (&admin, "/database/execute", "gone_write"),
    ];
    for (caller, path, mark) in cases {
        let mut body = json!({ "sql": format!("select pg_sleep(600) as {mark}") });
        if path == "/database/query" {
            body["prefer"] = json!("primary");
        }
        let begun_at = Instant::now();
        let seen = eventually_running(&admin, mark);
        tokio::select! {
            answer = caller.post(path, &body) => panic!("{mark} was answered: {}", answer.text()),
            () = seen => {}
        }
        // The call is dropped, and its connection with it.
        eventually(format!("{mark} to be gone"), || async {
            let n = running(&admin, mark).await;
            if n == 0 { Ok(()) } else { Err(n.to_string()) }
        })
        .await;
        let lasted = begun_at.elapsed();
        assert!(lasted < LONG, "{mark} ended after {lasted:?}, which its deadline would have done too");
    }
}

async fn eventually_running(admin: &Rest, mark: &str) {
    eventually(format!("{mark} to run"), || async {
        let n = running(admin, mark).await;
        if n == 1 { Ok(()) } else { Err(n.to_string()) }
    })
    .await;
}
