//! Rules of kinds whose figures the stack does not show at will: a program of the test shows them, and the monitor scrapes it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::routing::get;
use mainstay_auth::Role;
use mainstay_tests::{Devstack, House, Rest, Service, eventually};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Shows a level far below zero, and counters of which one fails for each that does not. Ends with this value.
struct Shown {
    address: SocketAddr,
    _server: JoinSet<()>,
}

/// The answer to the nth scrape.
async fn metrics(State(scrapes): State<Arc<AtomicU64>>) -> String {
    let n = scrapes.fetch_add(1, Ordering::Relaxed) * 10;
    format!(
        "# TYPE work_failed counter\nwork_failed_total {n}\n# TYPE work_done counter\nwork_done_total {n}\n# TYPE difference gauge\ndifference -12\n"
    )
}

impl Shown {
    async fn start() -> Self {
        let app = axum::Router::new().route("/metrics", get(metrics)).with_state(Arc::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, _server: server }
    }
}

/// Tries a rule until the dry run finds an episode, which shows that nothing was set by that; returns the answer.
async fn tried(admin: &Rest, path: &str, rule: &Value) -> Value {
    let found = eventually(format!("an episode of {rule}"), || async {
        let tried = admin.put(&format!("{path}?dryRun=true"), rule.to_string()).await.ok();
        let found = tried["episodes"].as_array().is_some_and(|episodes| !episodes.is_empty());
        if found { Ok(tried) } else { Err(tried.to_string()) }
    });
    let found = found.await;
    admin.get(path).await.problem(404, "RULE_NOT_FOUND");
    found
}

async fn alert_of(rest: &Rest, rule: &str, state: &str) -> Value {
    eventually(format!("a {state} alert of {rule}"), || async {
        let answer = rest.get(&format!("/monitoring/unified/alerts?state={state}")).await.ok();
        let found = answer["alerts"].as_array().unwrap().iter().find(|alert| alert["rule"] == rule);
        found.cloned().ok_or_else(|| answer.to_string())
    })
    .await
}

#[tokio::test]
async fn shares_and_distances_from_zero_are_tried_set_fire_and_end_over_rest() {
    let shown = Shown::start().await;
    let url = format!("http://{}/metrics", shown.address);
    let builder = Devstack::builder()
        .services([Service::MonitorService, Service::EdgeGateway])
        .env(Service::MonitorService, "MAINSTAY__SCRAPES__SHOWN__URLS", url)
        .env(Service::MonitorService, "MAINSTAY__SCRAPES__SHOWN__EVERY", "1s")
        .env(Service::MonitorService, "MAINSTAY__SCRAPES__SHOWN__WITHIN", "1s");
    let house = House::start(builder).await;
    let admin = house.rest(Role::Admin).with_header("content-type", "application/json");
    let viewer = house.rest(Role::Viewer);

    let common = json!({ "firesAfter": "0s", "clearsAfter": "0s" });
    let with = |mut rule: Value| {
        rule.as_object_mut().unwrap().extend(common.as_object().unwrap().clone());
        rule
    };
    // As many fail as do not: a half of them. As a ratio that would be one, which is critical here.
    let share = with(json!({
        "kind": "share", "metric": "work_failed_total", "divisor": "work_done_total", "minTraffic": 20.0,
        "warning": 0.4, "critical": 0.9, "summary": "{percent} of the work of {service} fails",
    }));
    // Neither above 20 nor above 10, but as far from zero as is worth a warning.
    let beyond = with(json!({
        "kind": "threshold", "metric": "difference", "comparison": "beyond", "warning": 10.0, "critical": 20.0,
        "summary": "{service} differs by {value}",
    }));
    for (name, rule, summary) in [
        ("half_fails", &share, "50.0 % of the work of shown fails"),
        ("differs", &beyond, "shown differs by -12"),
    ] {
        let path = format!("/monitoring/alerts/rules/{name}");
        let tried = tried(&admin, &path, rule).await;
        assert_eq!(
            (&tried["status"]["matched"], &tried["episodes"][0]["level"]),
            (&json!(1), &json!("warning")),
            "{tried}"
        );

        admin.put(&path, rule.to_string()).await.ok();
        let fired = alert_of(&viewer, name, "firing").await;
        assert_eq!((&fired["summary"], &fired["level"]), (&json!(summary), &json!("warning")), "{fired}");
        let kept = viewer.get(&path).await.ok();
        for field in ["kind", "comparison", "warning"] {
            assert!(rule[field].is_null() || kept["rule"][field] == rule[field], "{field}: {kept}");
        }
        admin.delete(&path).await.ok();
        let over = alert_of(&viewer, name, "resolved").await;
        assert_eq!(over["id"], fired["id"]);
    }

    let wrong = with(
        json!({ "kind": "share", "metric": "work_failed_total", "comparison": "beyond", "warning": -1.0 }),
    );
    let problem =
        admin.put("/monitoring/alerts/rules/wrong", wrong.to_string()).await.problem(400, "INVALID_FIELD");
    let fields: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["warning", "divisor"], "{problem}");
}
