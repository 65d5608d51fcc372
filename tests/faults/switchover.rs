use mainstay_auth::Role;
use mainstay_tests::{Devstack, House, Rest, Service, eventually};
use serde_json::{Value, json};

const PATH: &str = "/monitoring/partitions/revenue";

async fn state(rest: &Rest, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || async {
        let answer = rest.get(&format!("{PATH}/switchover")).await;
        if answer.status == 200 && wanted(&answer.json()) { Ok(answer.json()) } else { Err(answer.text()) }
    })
    .await
}

async fn number(rest: &Rest, sql: &str) -> i64 {
    let answer = rest.post("/database/query", &json!({ "sql": sql, "prefer": "primary" })).await.ok();
    answer["rows"][0][0].as_i64().unwrap_or_else(|| panic!("no number in {answer}"))
}

#[tokio::test]
async fn backfill_goes_on_where_a_killed_service_left_it_and_ends_equal() {
    let services = [Service::ReplicaService, Service::MonitorService, Service::EdgeGateway];
    let builder = Devstack::builder().postgres(true).demo_data(true).services(services);
    // Small batches, so that there is a middle to be killed in.
    let builder = builder.env(Service::ReplicaService, "MAINSTAY__STEPS__BATCH_ROWS", "1000").env(
        Service::ReplicaService,
        "MAINSTAY__STEPS__DUTY_CYCLE",
        "0.5",
    );
    let house = House::start(builder).await;
    let admin = house.rest(Role::Admin);
    let service = house.stack().service(Service::ReplicaService).unwrap();
    let empty = json!({ "sql": "truncate revenue_transactions_partitioned" });
    admin.post("/database/execute", &empty).await.ok();
    delta_alert(&admin, "firing", "the alert that the tables differ").await;
    admin.post(&format!("{PATH}/install-triggers"), &json!({})).await.ok();
    admin.post(&format!("{PATH}/backfill"), &json!({})).await.ok();

    let middle =
        state(&admin, "the backfill to be under way", |state| state["rowsCopied"].as_u64() > Some(5_000))
            .await;
    assert_eq!((&middle["job"], &middle["backfilled"]), (&json!("backfill"), &json!(false)), "{middle}");
    service.kill().await.unwrap();
    service.start().await.unwrap();

    let update =
        "update revenue_transactions set description = 'written meanwhile' where id in (1, 100000, 200000)";
    eventually("a write to be taken", || async {
        let answer = admin.post("/database/execute", &json!({ "sql": update })).await;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    let done = state(&admin, "the backfill to end", |state| state["backfilled"] == true).await;
    // Each row by the backfill or by a trigger, none twice.
    let copied = done["rowsCopied"].as_i64().unwrap();
    assert!((199_997..=200_000).contains(&copied), "{done}");
    let differing = "select count(*) from (table revenue_transactions except all table revenue_transactions_partitioned) as d";
    assert_eq!(number(&admin, "select count(*) from revenue_transactions_partitioned").await, 200_000);
    assert_eq!(number(&admin, differing).await, 0);
    delta_alert(&admin, "resolved", "that it is over").await;
}

/// Waits until the critical alert about the rows of this pair is in such a state.
async fn delta_alert(rest: &Rest, state: &str, what: &str) {
    eventually(what, || async {
        let answer = rest.get(&format!("/monitoring/unified/alerts?state={state}")).await;
        let alerts = answer.json()["alerts"].as_array().cloned().unwrap_or_default();
        let is_it = |alert: &Value| {
            alert["rule"] == "row_count_delta"
                && alert["level"] == "critical"
                && alert["summary"].as_str().is_some_and(|text| text.contains("revenue"))
        };
        if alerts.iter().any(is_it) { Ok(()) } else { Err(answer.text()) }
    })
    .await;
}
