use std::time::Duration;

use mainstay_auth::Role;
use mainstay_tests::{Devstack, House, Rest, Service, eventually, shared};
use serde_json::{Value, json};

#[tokio::test]
async fn history_of_every_service_grows() {
    let rest = shared().await.rest(Role::Viewer);
    for service in ["cache-service", "ws-gateway", "replica-service", "edge-gateway"] {
        let path = format!("/monitoring/history?metric=mainstay_ready&service={service}&step=1s");
        let points = eventually(format!("history of {service}"), || async {
            let answer = rest.get(&path).await.ok();
            match answer["series"][0]["points"].as_array() {
                Some(points) if points.len() >= 2 => Ok(points.clone()),
                _ => Err(answer.to_string()),
            }
        });
        let last = points.await.pop().unwrap();
        assert_eq!(last["last"], 1.0, "{last}");
    }
    rest.get("/monitoring/history").await.problem(400, "INVALID_FIELD");
}

/// Waits for an alert about the replica in the given state.
async fn alert(rest: &Rest, state: &str) -> Value {
    let found = eventually(format!("a {state} alert about postgres.replica1"), || async {
        let answer =
            rest.get(&format!("/monitoring/unified/alerts?state={state}&source=replica-service")).await.ok();
        let alerts = answer["alerts"].as_array().unwrap();
        let about =
            alerts.iter().find(|alert| alert["subject"].as_str().unwrap().contains("postgres.replica1"));
        about.cloned().ok_or_else(|| answer.to_string())
    });
    found.await
}

#[tokio::test]
async fn stopped_replica_is_an_alert_that_is_acknowledged_and_resolves() {
    let services = [Service::ReplicaService, Service::MonitorService, Service::EdgeGateway];
    let house = House::start(Devstack::builder().postgres(true).services(services)).await;
    let rest = house.rest(Role::Operator);
    let replica = &house.stack().postgres().unwrap().first_replicas()[0];

    let began_at = tokio::time::Instant::now();
    replica.kill().await.unwrap();
    let firing = alert(&rest, "firing").await;
    assert!(began_at.elapsed() < Duration::from_secs(10), "firing after {:?}", began_at.elapsed());

    let body = json!({ "alertId": firing["id"], "comment": "on it" });
    house
        .rest(Role::Viewer)
        .post("/monitoring/unified/acknowledge-alert", &body)
        .await
        .problem(403, "ROLE_TOO_LOW");
    let acknowledged = rest.post("/monitoring/unified/acknowledge-alert", &body).await.ok();
    assert_eq!(acknowledged["alert"]["acknowledgement"]["comment"], "on it", "{acknowledged}");
    assert_eq!(acknowledged["alert"]["acknowledgement"]["by"], "operator", "{acknowledged}");
    let nobody = json!({ "alertId": "00000000-0000-0000-0000-000000000000" });
    rest.post("/monitoring/unified/acknowledge-alert", &nobody).await.problem(404, "ALERT_NOT_FOUND");

    replica.start().await.unwrap();
    let began_at = tokio::time::Instant::now();
    let resolved = alert(&rest, "resolved").await;
    assert_eq!(resolved["id"], firing["id"]);
    assert!(began_at.elapsed() < Duration::from_secs(15), "resolved after {:?}", began_at.elapsed());
}
