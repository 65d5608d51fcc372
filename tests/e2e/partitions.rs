use mainstay_auth::Role;
use mainstay_tests::{eventually, shared};
use serde_json::{Value, json};

fn named<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let tables = answer["tables"].as_array().unwrap();
    tables.iter().find(|table| table["name"] == name).unwrap_or_else(|| panic!("no {name} in {answer}"))
}

#[tokio::test]
async fn demo_twins_are_compared_and_their_readiness_says_what_is_missing() {
    let rest = shared().await.rest(Role::Viewer);
    let metrics = eventually("every row of the demo tables to be compared", || async {
        let metrics = rest.get("/monitoring/partitions/metrics").await.ok();
        let revenue = named(&metrics, "revenue");
        let known = revenue["countsExact"] == true && revenue["partitionedWrites"]["perSecond"].is_number();
        if known { Ok(metrics) } else { Err(metrics.to_string()) }
    })
    .await;
    let revenue = named(&metrics, "revenue");
    assert_eq!((&revenue["legacyRows"], &revenue["delta"]), (&200_000.into(), &0.into()), "{revenue}");
    assert_eq!(revenue["parity"]["verdict"], "equal", "{revenue}");
    assert!(revenue["legacyWrites"]["inserted"].is_u64(), "{revenue}");
    let readiness = &metrics["switchoverReadiness"];
    let checks = readiness["tables"]["revenue"]["checks"].as_array().unwrap();
    let of = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap();
    assert_eq!((&of("parity")["state"], &of("triggers")["state"]), (&"pass".into(), &"fail".into()));
    assert!(checks.iter().all(|check| !check["reason"].as_str().unwrap().is_empty()), "{checks:?}");
    assert_eq!(readiness["ready"], false);

    let unified = rest.get("/monitoring/unified/metrics").await.ok();
    assert_eq!(named(&unified["partitions"], "revenue")["parity"], "equal", "{unified}");
}

#[tokio::test]
async fn partitions_are_told_with_sizes_and_bounds() {
    let rest = shared().await.rest(Role::Viewer);
    let stats = eventually("the tables to be looked at", || async {
        let stats = rest.get("/monitoring/partitions/table-stats").await.ok();
        if named(&stats, "revenue")["legacy"].is_object() { Ok(stats) } else { Err(stats.to_string()) }
    })
    .await;
    let partitions = named(&stats, "revenue")["partitions"].as_array().unwrap();
    assert!(partitions.len() > 18, "{}", partitions.len());
    assert_eq!(partitions[0]["to"], partitions[1]["from"]);
    assert!(partitions.iter().all(|partition| partition["bytes"].as_u64().unwrap() > 0));
}

#[tokio::test]
async fn steps_are_taken_by_admins_one_after_the_other_and_told_with_their_journal() {
    let house = shared().await;
    let (admin, path) = (house.rest(Role::Admin), "/monitoring/partitions/expense");
    let step = async |step: &str| admin.post(&format!("{path}/{step}"), &json!({})).await;
    step("no-such-step").await.problem(400, "INVALID_FIELD");
    admin.post("/monitoring/partitions/nobody/backfill", &json!({})).await.problem(404, "PAIR_UNKNOWN");
    let state = step("install-triggers").await.ok();
    assert_eq!((&state["stage"], &state["readPercent"]), (&json!("dual-write"), &json!(0)), "{state}");
    let refused = step("swap").await.problem(412, "STEP_REFUSED");
    assert!(refused["detail"].as_str().unwrap().contains("0 % of the reads"), "{refused}");
    let percent = admin.post(&format!("{path}/advance"), &json!({ "percent": 7 })).await;
    percent.problem(412, "STEP_REFUSED");
    let body = json!({ "sql": "select count(*) from {table}", "table": "expense" });
    let read = house.rest(Role::Viewer).post("/database/query", &body).await.ok();
    assert_eq!(
        (&read["rows"], &read["served"]["table"]),
        (&json!([[200_000]]), &json!("expense_transactions"))
    );
    step("finish").await.ok();
    let state = house.rest(Role::Viewer).get(&format!("{path}/switchover")).await.ok();
    assert_eq!(state["stage"], "none");
    let journal = state["journal"].as_array().unwrap();
    let told: Vec<_> = journal.iter().map(|entry| &entry["step"]).collect();
    assert_eq!(told, ["finish", "advance", "swap", "install-triggers"], "{state}");
    assert!(journal.iter().all(|entry| entry["actor"] == "admin"), "{state}");
}
