use mainstay_auth::Role;
use mainstay_tests::{Rest, eventually, shared};
use serde_json::{Value, json};

async fn alert_of(rest: &Rest, rule: &str, state: &str) -> Value {
    eventually(format!("a {state} alert of {rule}"), || async {
        let answer = rest.get(&format!("/monitoring/unified/alerts?state={state}")).await.ok();
        let found = answer["alerts"].as_array().unwrap().iter().find(|alert| alert["rule"] == rule);
        found.cloned().ok_or_else(|| answer.to_string())
    })
    .await
}

#[tokio::test]
async fn rule_set_over_rest_is_tried_first_then_fires_and_ends_when_it_is_removed() {
    let house = shared().await;
    let (admin, viewer) = (house.rest(Role::Admin), house.rest(Role::Viewer));
    let path = "/monitoring/alerts/rules/e2e_ready";
    let rule = json!({
        "kind": "threshold", "metric": "mainstay_ready", "labels": { "service": "cache-service" },
        "warning": 0.5, "firesAfter": "0s", "clearsAfter": "0s", "summary": "{service} is ready: {value}",
    });
    let body = |rule: &Value| rule.to_string();
    let admin = admin.with_header("content-type", "application/json");
    // History must have begun, for the rule to have something to be tried on.
    let tried = eventually("a dry run that finds the figure", || async {
        let tried = admin.put(&format!("{path}?dryRun=true"), body(&rule)).await.ok();
        let found = tried["episodes"].as_array().is_some_and(|episodes| !episodes.is_empty());
        if found { Ok(tried) } else { Err(tried.to_string()) }
    });
    assert_eq!(tried.await["status"]["matched"], 1);
    viewer.get(path).await.problem(404, "RULE_NOT_FOUND");

    let wrong = json!({ "kind": "threshold", "metric": "m", "firesAfter": "48h" });
    let problem = admin.put(path, body(&wrong)).await.problem(400, "INVALID_FIELD");
    let fields: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["warning", "firesAfter"], "{problem}");

    let put = admin.put(path, body(&rule)).await.ok();
    assert_eq!((&put["status"]["origin"], &put["episodes"]), (&json!("runtime"), &Value::Null), "{put}");
    let fired = alert_of(&viewer, "e2e_ready", "firing").await;
    assert_eq!(fired["summary"], "cache-service is ready: 1", "{fired}");
    assert_eq!(viewer.get(path).await.ok()["rule"]["firesAfter"], "0s");

    let silenced = house.rest(Role::Operator);
    let silence = json!({ "matchers": { "rule": "e2e_ready" }, "duration": "1h", "comment": "a test" });
    let silence = silenced.post("/monitoring/alerts/silences", &silence).await.ok();
    assert_eq!(silence["by"], "operator");
    let listed = viewer.get("/monitoring/alerts/silences").await.ok();
    assert!(listed["silences"].as_array().unwrap().contains(&silence), "{listed}");
    let id = silence["id"].as_str().unwrap();
    silenced.delete(&format!("/monitoring/alerts/silences/{id}")).await.ok();
    silenced.delete(&format!("/monitoring/alerts/silences/{id}")).await.problem(404, "SILENCE_NOT_FOUND");
    let without = json!({ "matchers": {}, "duration": "1h", "comment": "" });
    silenced.post("/monitoring/alerts/silences", &without).await.problem(400, "INVALID_FIELD");

    admin.delete(path).await.ok();
    admin.delete(path).await.problem(404, "RULE_NOT_FOUND");
    let over = alert_of(&viewer, "e2e_ready", "resolved").await;
    assert_eq!(over["id"], fired["id"]);

    let audit = format!("/monitoring/alerts/audit?alertId={}", fired["id"].as_str().unwrap());
    let events = viewer.get(&audit).await.ok();
    let changes: Vec<&str> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["change"].as_str().unwrap())
        .filter(|change| ["started", "fired", "resolved"].contains(change))
        .collect();
    assert_eq!(changes, ["resolved", "fired", "started"], "{events}");
}

#[tokio::test]
async fn errors_and_channels_are_listed() {
    let house = shared().await;
    let viewer = house.rest(Role::Viewer);
    assert!(
        viewer.get("/monitoring/errors?service=nobody").await.ok()["errors"].as_array().unwrap().is_empty()
    );
    viewer.get("/monitoring/errors/0123456789abcdef").await.problem(404, "ERROR_GROUP_NOT_FOUND");
    let channels = viewer.get("/monitoring/alerts/channels").await.ok();
    assert!(channels["channels"].is_array(), "{channels}");
    let test = "/monitoring/alerts/channels/none/test";
    house.rest(Role::Operator).post(test, &json!({})).await.problem(404, "CHANNEL_NOT_FOUND");
}
