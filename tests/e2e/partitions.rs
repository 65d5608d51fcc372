use mainstay_auth::Role;
use mainstay_tests::{eventually, shared};
use serde_json::Value;

fn named<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let tables = answer["tables"].as_array().unwrap();
    tables.iter().find(|table| table["name"] == name).unwrap_or_else(|| panic!("no {name} in {answer}"))
}

#[tokio::test]
async fn demo_twins_are_compared_and_their_readiness_says_what_is_missing() {
    let rest = shared().await.rest(Role::Viewer);
    let metrics = eventually("every row of the demo tables to be compared", || async {
        let metrics = rest.get("/monitoring/partitions/metrics").await.ok();
        let all = metrics["tables"].as_array().unwrap().iter().all(|table| table["countsExact"] == true);
        if all { Ok(metrics) } else { Err(metrics.to_string()) }
    })
    .await;
    let revenue = named(&metrics, "revenue");
    assert_eq!((&revenue["legacyRows"], &revenue["delta"]), (&200_000.into(), &0.into()), "{revenue}");
    assert_eq!(revenue["parity"]["verdict"], "equal", "{revenue}");
    let readiness = &metrics["switchoverReadiness"];
    let checks = readiness["tables"]["revenue"]["checks"].as_array().unwrap();
    let of = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap();
    assert_eq!((&of("parity")["state"], &of("triggers")["state"]), (&"pass".into(), &"fail".into()));
    assert!(checks.iter().all(|check| !check["reason"].as_str().unwrap().is_empty()), "{checks:?}");
    assert_eq!(readiness["ready"], false);

    let unified = rest.get("/monitoring/unified/metrics").await.ok();
    assert_eq!(named(&unified["partitions"], "expense")["parity"], "equal", "{unified}");
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
