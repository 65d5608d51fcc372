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

#[tokio::test]
async fn hosts_and_processes_are_told_with_rates() {
    let rest = shared().await.rest(Role::Viewer);
    let answer = eventually("figures of the host and of every service that is watched", || async {
        let answer = rest.get("/monitoring/system/metrics").await.ok();
        let host = &answer["hosts"][0];
        let complete = |process: &Value| {
            ["cpuCores", "residentBytes", "openFds", "uptimeSeconds"]
                .iter()
                .all(|field| process[field].is_f64())
        };
        let known = ["cpuUsedRatio", "memoryUsedRatio", "load1"].iter().all(|field| host[field].is_f64())
            && host["network"]["lo"]["receivedBytesPerSecond"].is_f64();
        let services = answer["processes"].as_array().unwrap();
        let n_complete = services.iter().filter(|process| complete(process)).count();
        if known && n_complete == 4 { Ok(answer) } else { Err(answer.to_string()) }
    })
    .await;
    let share = answer["hosts"][0]["cpuUsedRatio"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&share), "{answer}");
    let resident = answer["processes"][0]["residentBytes"].as_f64().unwrap();
    assert!(resident > 1e6, "{answer}");
}

#[tokio::test]
async fn the_dashboard_gets_everything_in_one_answer() {
    let rest = shared().await.rest(Role::Viewer);
    let answer = eventually("a full answer", || async {
        let answer = rest.get("/monitoring/dashboard").await;
        let complete = answer.header("x-mainstay-completeness") == "full";
        let body = answer.ok();
        if complete { Ok(body) } else { Err(body.to_string()) }
    })
    .await;
    for part in ["system", "edge", "partitions", "cache", "replicas", "websockets", "host", "alerts"] {
        assert!(answer["figures"][part].is_object(), "{part}: {answer}");
    }
    assert!(answer["performance"]["endpoints"].is_array() && answer["bottlenecks"]["bottlenecks"].is_array());
    let services = answer["components"]["services"].as_array().unwrap();
    assert!(services.len() >= 5 && answer["version"].is_string(), "{answer}");
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
