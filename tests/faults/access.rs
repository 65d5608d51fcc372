//! API keys and the record of changes while the monitor that keeps both is away.

use mainstay_auth::Role;
use mainstay_tests::{Devstack, House, Rest, Service, eventually};
use serde_json::json;

async fn house(folder: &std::path::Path, max_stale: &str) -> House {
    let store = folder.join("monitor.db");
    let builder = Devstack::builder()
        .services([Service::MonitorService, Service::CacheService, Service::EdgeGateway])
        .env(
            Service::MonitorService,
            "MAINSTAY__STORE__PATH",
            store.to_str().expect("temporary paths are text"),
        )
        .env(Service::EdgeGateway, "MAINSTAY__AUTH__STORED_KEYS__REFRESH_EVERY", "200ms")
        .env(Service::EdgeGateway, "MAINSTAY__AUTH__STORED_KEYS__MAX_STALE", max_stale);
    House::start(builder).await
}

async fn made(house: &House, name: &str) -> Rest {
    let admin = house.rest(Role::Admin);
    let answer = eventually("a key to be made", || async {
        let answer = admin.post("/api-keys", &json!({ "name": name, "role": "operator" })).await;
        if answer.status == 200 { Ok(answer.json()) } else { Err(answer.text()) }
    });
    house.anonymous().with_api_key(answer.await["secret"].as_str().expect("a secret is a string"))
}

async fn status(rest: &Rest, expected: u16) {
    eventually(format!("the key to be answered {expected}"), || async {
        let answer = rest.get("/cache/stats").await;
        if answer.status == expected { Ok(()) } else { Err(format!("{} {}", answer.status, answer.text())) }
    })
    .await;
}

#[tokio::test]
async fn known_keys_are_good_while_the_monitor_is_away_but_not_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let house = house(folder.path(), "10s").await;
    let holder = made(&house, "away").await;
    assert_eq!(holder.get("/cache/stats").await.status, 200);

    let monitor = house.stack().service(Service::MonitorService).unwrap();
    monitor.kill().await.unwrap();
    let admin = house.rest(Role::Admin);
    let refused = admin.post("/api-keys", &json!({ "name": "other", "role": "viewer" })).await;
    assert!(matches!(refused.status.as_u16(), 503 | 504), "{} {}", refused.status, refused.text());
    assert_eq!(holder.get("/cache/stats").await.status, 200, "it is known, and not too old");
    status(&holder, 401).await;
    assert_eq!(admin.get("/cache/stats").await.status, 200, "keys of the configuration are always good");

    monitor.start().await.unwrap();
    status(&holder, 200).await;
}

#[tokio::test]
async fn changes_made_while_the_monitor_is_away_come_on_record_later() {
    let folder = tempfile::tempdir().unwrap();
    let house = house(folder.path(), "1h").await;
    let holder = made(&house, "busy").await;
    let monitor = house.stack().service(Service::MonitorService).unwrap();
    monitor.kill().await.unwrap();
    for n in 0..20 {
        let answer = holder.put(&format!("/cache/faults-audit/{n}"), "value").await;
        assert!(answer.status.is_success(), "{}", answer.text());
    }
    monitor.start().await.unwrap();
    let admin = house.rest(Role::Admin);
    eventually("all of them to be on record, once", || async {
        let page = admin.get("/audit?subject=busy&limit=1000").await;
        let n = page.text().matches("/cache/faults-audit/").count();
        if n == 20 { Ok(()) } else { Err(page.text()) }
    })
    .await;

    // What was asked last is on record when the edge has ended.
    let edge = house.stack().service(Service::EdgeGateway).unwrap();
    assert!(holder.put("/cache/faults-audit/last", "value").await.status.is_success());
    edge.stop().await.unwrap();
    edge.start().await.unwrap();
    eventually("the last one to be on record", || async {
        // A new client: the connections of the one before went with the edge.
        let page = house.rest(Role::Admin).get("/audit?subject=busy&limit=1").await;
        if page.text().contains("/cache/faults-audit/last") { Ok(()) } else { Err(page.text()) }
    })
    .await;
}
