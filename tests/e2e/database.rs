use mainstay_auth::Role;
use mainstay_tests::{House, Rest, eventually, shared};
use serde_json::{Value, json};

async fn table(admin: &Rest, name: &str) {
    admin.post("/database/execute", &json!({ "sql": format!("drop table if exists {name}") })).await.ok();
    let sql = format!("create table {name} (id bigint primary key, name text, amount numeric(12,2))");
    admin.post("/database/execute", &json!({ "sql": sql })).await.ok();
}

async fn admin() -> (&'static House, Rest) {
    let house = shared().await;
    (house, house.rest(Role::Admin))
}

#[tokio::test]
async fn read_runs_on_a_replica_and_says_how_stale_it_may_be() {
    let rest = shared().await.rest(Role::Viewer);
    let body = json!({ "sql": "select count(*) as n from revenue_transactions" });
    // On a busy machine replicas fall behind for a while, and are passed over.
    let answer = eventually("an answer of a replica", || async {
        let answer = rest.post("/database/query", &body).await.ok();
        if answer["served"]["role"] == "replica" { Ok(answer) } else { Err(answer.to_string()) }
    })
    .await;
    assert_eq!(answer["columns"], json!([{ "name": "n", "type": "int8" }]));
    assert_eq!(answer["rows"], json!([[200_000]]));
    assert!(answer["served"]["hedged"].is_boolean(), "{answer}");
    assert!(answer["served"]["stalenessSeconds"].as_f64().unwrap() < 5.0, "{answer}");
}

#[tokio::test]
async fn write_runs_on_the_primary_and_its_token_makes_it_readable_at_once() {
    let (_, admin) = admin().await;
    table(&admin, "e2e_tokens").await;
    for id in 0..50 {
        let sql = "insert into e2e_tokens values ($1, $2, $3)";
        let params = json!([id, "a name", { "type": "numeric", "value": "12.50" }]);
        let written = admin.post("/database/execute", &json!({ "sql": sql, "params": params })).await.ok();
        assert_eq!((&written["rowsAffected"], &written["served"]["role"]), (&json!(1), &json!("primary")));

        let sql = "select name, amount from e2e_tokens where id = $1";
        let body = json!({ "sql": sql, "params": [id], "after": written["token"] });
        let read = admin.post("/database/query", &body).await.ok();
        assert_eq!(read["rows"], json!([["a name", "12.50"]]), "{read}");
    }
}

#[tokio::test]
async fn write_smuggled_into_a_read_fails_in_the_database() {
    let (_, admin) = admin().await;
    table(&admin, "e2e_smuggled").await;
    for prefer in ["replica", "primary"] {
        let body = json!({ "sql": "insert into e2e_smuggled values (1) returning id", "prefer": prefer });
        let answer = admin.post("/database/query", &body).await;
        assert!(answer.status.is_client_error(), "{}", answer.text());
        assert_eq!(answer.json()["sqlState"], "25006", "{}", answer.text());
    }
    let body = json!({ "sql": "select count(*) from e2e_smuggled", "prefer": "primary" });
    assert_eq!(admin.post("/database/query", &body).await.ok()["rows"], json!([[0]]));
}

#[tokio::test]
async fn transaction_happens_whole_or_not_at_all() {
    let (house, admin) = admin().await;
    table(&admin, "e2e_transactions").await;
    let insert =
        |id| json!({ "sql": "insert into e2e_transactions values ($1) returning id", "params": [id] });
    let both = json!({ "statements": [insert(1), insert(2)], "isolation": "serializable" });
    let done = admin.post("/database/transaction", &both).await.ok();
    assert_eq!(
        (&done["results"][1]["rows"], &done["results"][1]["rowsAffected"]),
        (&json!([[2]]), &json!(1))
    );
    let again = admin.post("/database/transaction", &json!({ "statements": [insert(3), insert(2)] })).await;
    let problem = again.problem(409, "UNIQUE_VIOLATION");
    assert_eq!((&problem["sqlState"], &problem["statement"]), (&json!("23505"), &json!("1")), "{problem}");
    let body = json!({ "sql": "select count(*) from e2e_transactions", "after": done["token"] });
    assert_eq!(admin.post("/database/query", &body).await.ok()["rows"], json!([[2]]));
    let bad = json!({ "statements": [] });
    admin.post("/database/transaction", &bad).await.problem(400, "INVALID_FIELD");
    house.rest(Role::Operator).post("/database/transaction", &both).await.problem(403, "ROLE_TOO_LOW");
}

#[tokio::test]
async fn rows_come_as_lines_without_a_limit_of_their_number() {
    let (_, admin) = admin().await;
    let lines = admin.clone().with_header("accept", "application/x-ndjson");
    let body = json!({ "sql": "select n, 'row ' || n from generate_series(1, 50000) as n" });
    let answer = lines.post("/database/query", &body).await;
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let text = answer.text();
    let lines_of: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines_of.len(), 50_002);
    assert_eq!(lines_of[0]["columns"][0], json!({ "name": "n", "type": "int4" }));
    assert_eq!(lines_of[50_000], json!([50_000, "row 50000"]));
    assert_eq!(lines_of[50_001], json!({ "last": true, "rowsTotal": 50_000, "truncated": false }));
    // Half-way there is no status left to say it by.
    let body = json!({ "sql": "select 1 / (40000 - n) from generate_series(1, 50000) as n" });
    let text = lines.post("/database/query", &body).await.text();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let error = &last["error"];
    assert!(error["detail"].as_str().unwrap().contains("division by zero"), "{last}");
    assert_eq!(error["sqlState"], "22012", "{last}");
    // It has what the document of the same failure has, the path and the status left out.
    let problem = admin.post("/database/query", &json!({ "sql": "select 1 / 0" })).await.json();
    let differ = ["type", "title", "status", "instance", "requestId", "node"];
    for (name, value) in problem.as_object().unwrap() {
        assert!(differ.contains(&name.as_str()) || &error[name] == value, "{name}: {last} {problem}");
    }
    let body = json!({ "sql": "select nothing" });
    lines.post("/database/query", &body).await.problem(400, "UNDEFINED_COLUMN");
}

#[tokio::test]
async fn sql_errors_say_what_the_database_said() {
    let (_, admin) = admin().await;
    table(&admin, "e2e_errors").await;
    let insert = json!({ "sql": "insert into e2e_errors values (7)" });
    admin.post("/database/execute", &insert).await.ok();
    let cases: [(Value, u16, &str); 4] = [
        (insert, 409, "23505"),
        (json!({ "sql": "selec 1" }), 400, "42601"),
        (json!({ "sql": "insert into no_such_table values (1)" }), 404, "42P01"),
        (json!({ "sql": "select 1; select 2" }), 400, "42601"),
    ];
    for (body, status, sql_state) in cases {
        let answer = admin.post("/database/execute", &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["sqlState"].as_str()),
            (status, Some(sql_state)),
            "{body} {}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn writes_need_the_admin_role_and_well_formed_bodies() {
    let house = shared().await;
    let body = json!({ "sql": "select 1" });
    house.rest(Role::Operator).post("/database/execute", &body).await.problem(403, "ROLE_TOO_LOW");

    let admin = house.rest(Role::Admin);
    let missing = admin.post("/database/query", &json!({ "params": [] })).await.problem(400, "INVALID_FIELD");
    assert!(missing["detail"].as_str().unwrap().contains("sql"), "{missing}");
    let unknown = json!({ "sql": "select 1", "maxLagg": "1s" });
    let unknown = admin.post("/database/query", &unknown).await.problem(400, "INVALID_FIELD");
    assert!(unknown["detail"].as_str().unwrap().contains("maxLagg"), "{unknown}");
    let bad_param = json!({ "sql": "select $1", "params": [{ "a": 1 }] });
    let bad_param = admin.post("/database/query", &bad_param).await.problem(400, "INVALID_FIELD");
    assert_eq!(bad_param["errors"][0]["field"], "params[0]");
    admin.put("/database/query", "{}").await.problem(405, "METHOD_NOT_ALLOWED");
    let not_json = admin.clone().with_header("content-type", "text/plain");
    let answer = not_json.send(http::Method::POST, "/database/query", "{}".into()).await.unwrap();
    answer.problem(415, "CONTENT_TYPE_NOT_JSON");
}

#[tokio::test]
async fn topology_health_lag_and_pools_are_real_figures_of_three_nodes() {
    let (_, admin) = admin().await;
    let info = admin.get("/database/info").await.ok();
    let primary = info["primary"].as_str().unwrap().to_owned();
    let roles: Vec<_> =
        info["nodes"].as_array().unwrap().iter().map(|node| node["role"].as_str().unwrap()).collect();
    assert_eq!(roles.iter().filter(|role| **role == "primary").count(), 1, "{info}");
    assert_eq!(roles.iter().filter(|role| **role == "replica").count(), 2, "{info}");

    // A replica that fell behind on a busy machine comes back by itself.
    let all = |answer: Value, fits: &dyn Fn(&Value) -> bool| {
        let nodes = answer["nodes"].as_array().unwrap();
        if nodes.len() == 3 && nodes.iter().all(fits) { Ok(()) } else { Err(answer.to_string()) }
    };
    eventually("all nodes to be healthy", || async {
        let is_up = |node: &Value| node["healthy"] == true && node["probeState"] == "up";
        all(admin.get("/database/replica/health").await.ok(), &is_up)
    })
    .await;
    let told = ["down", "probation", "suspect", "up"].map(|state| json!(state));
    let info = admin.get("/database/info").await.ok();
    all(info, &|node| told.contains(&node["probeState"])).unwrap();
    eventually("both replicas to stream and to be fresh", || async {
        let is_fresh = |node: &Value| {
            node["receiver"] == "streaming" && node["stalenessSeconds"].as_f64().is_some_and(|age| age < 5.0)
        };
        let answer = admin.get("/database/replica/lag").await.ok();
        all(answer, &|node| node["node"] == primary.as_str() || is_fresh(node))
    })
    .await;
    let names = |node: &Value| -> Vec<String> {
        let formulas = node["formulas"].as_array().unwrap();
        formulas.iter().map(|formula| formula["name"].as_str().unwrap().to_owned()).collect()
    };
    let compared = |node: &Value| {
        let formulas = node["formulas"].as_array().unwrap();
        let told = |name: &str, unit: &str| {
            formulas.iter().any(|formula| formula["name"] == name && formula[unit].is_number())
        };
        // Both the replica and the primary were asked, and the primary knows which row is that of the replica.
        names(node).len() == 8
            && told("receive_replay_bytes", "bytes")
            && told("sender_replay_bytes", "bytes")
    };
    eventually("the common formulas beside ours", || async {
        let answer = admin.get("/database/replica/lag").await.ok();
        all(answer, &|node| {
            if node["node"] == primary.as_str() { names(node).is_empty() } else { compared(node) }
        })
    })
    .await;
    admin.post("/database/query", &json!({ "sql": "select 1" })).await.ok();
    let pools = admin.get("/database/replica/pool-stats").await.ok();
    let sizes = pools["nodes"].as_array().unwrap().iter().map(|node| node["size"].as_u64().unwrap());
    assert!(sizes.sum::<u64>() >= 1, "{pools}");
}

#[tokio::test]
async fn poolers_tell_their_own_figures() {
    let (_, admin) = admin().await;
    eventually("SHOW POOLS, STATS and LISTS of three poolers", || async {
        // Their counters begin with the first statement.
        admin.post("/database/query", &json!({ "sql": "select 1" })).await.ok();
        let answer = admin.get("/database/replica/pool-stats").await.ok();
        let told = |node: &Value| {
            let stats = &node["pgbouncerStats"];
            let at_least = |name: &str, least: u64| stats[name].as_u64().is_some_and(|n| n >= least);
            at_least("clients", 1) && at_least("transactions", 1) && at_least("sentBytes", 1)
        };
        let nodes = answer["nodes"].as_array().unwrap();
        if nodes.len() == 3 && nodes.iter().all(told) { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn the_configuration_is_told_to_viewers_and_reloaded_for_admins() {
    let house = shared().await;
    let told = house.rest(Role::Viewer).get("/database/configuration").await.ok();
    let generation = told["generation"].as_u64().unwrap();
    assert!(generation >= 1 && told["needsRestart"] == json!([]), "{told}");
    let path = "/database/configuration/reload";
    house.rest(Role::Operator).post(path, &json!({})).await.problem(403, "ROLE_TOO_LOW");
    // Its file and environment are what they were.
    let reloaded = house.rest(Role::Admin).post(path, &json!({})).await.ok();
    assert_eq!(reloaded["generation"], generation, "{reloaded}");
    assert_eq!(reloaded["lastReload"]["outcome"], "unchanged", "{reloaded}");
    assert_eq!(reloaded["instance"], told["instance"]);
    let by = reloaded["lastReload"]["by"].as_str().unwrap();
    assert!(!by.is_empty() && by != "unknown", "{reloaded}");
}

#[tokio::test]
async fn what_the_servers_count_is_told_of_each_of_them() {
    let rest = shared().await.rest(Role::Viewer);
    let read = |node: &Value| node["readAt"].is_string() && node["database"]["commits"].as_u64() > Some(0);
    let answer = eventually("a reading of every server", || async {
        let answer = rest.get("/database/statistics").await.ok();
        let nodes = answer["nodes"].as_array().unwrap();
        if nodes.len() == 3 && nodes.iter().all(read) { Ok(answer) } else { Err(answer.to_string()) }
    })
    .await;
    let primary =
        answer["nodes"].as_array().unwrap().iter().find(|node| node["inRecovery"] == false).unwrap();
    let tables = primary["tables"].as_array().unwrap();
    assert!(tables.iter().any(|table| table["table"] == "revenue_transactions"), "{primary}");
    assert!(primary["writer"]["buffersAllocated"].as_u64() > Some(0), "{primary}");
    let one = rest.get("/database/statistics?node=replica1").await.ok();
    assert_eq!((one["nodes"].as_array().unwrap().len(), &one["nodes"][0]["inRecovery"]), (1, &json!(true)));
    rest.get("/database/statistics?node=nobody").await.problem(404, "NODE_UNKNOWN");
}

#[tokio::test]
async fn what_statements_cost_is_told_by_their_kind() {
    let viewer = shared().await.rest(Role::Viewer);
    for n in 0..3 {
        let sql = format!("select {n} as e2e_costs");
        viewer.post("/database/query", &json!({ "sql": sql })).await.ok();
    }
    let failing = json!({ "sql": "select e2e_costs_that_fail" });
    viewer.post("/database/query", &failing).await.problem(400, "UNDEFINED_COLUMN");
    let told = viewer.get("/database/statement-stats?order=calls&limit=100000").await.ok();
    let statements = told["statements"].as_array().unwrap();
    assert_eq!(told["known"].as_u64(), Some(statements.len() as u64), "{}", told["known"]);
    assert!(told["forgotten"].is_u64());
    let calls: Vec<u64> = statements.iter().map(|each| each["calls"].as_u64().unwrap()).collect();
    assert!(calls.is_sorted_by(|a, b| a >= b), "{calls:?}");
    let of = |sql: &str| statements.iter().find(|each| each["sql"] == sql).unwrap();
    let cost = of("select ? as e2e_costs");
    assert!(cost["calls"].as_u64() >= Some(3) && cost["rows"].as_u64() >= Some(3), "{cost}");
    let succeeded = cost["calls"].as_u64().unwrap() - cost["errors"].as_u64().unwrap();
    let by_node = cost["callsByNode"].as_object().unwrap().values().map(|calls| calls.as_u64().unwrap());
    assert_eq!(by_node.sum::<u64>(), succeeded, "{cost}");
    let seconds = |name: &str| cost[name].as_f64().unwrap();
    assert!(seconds("secondsTotal") >= seconds("secondsMax") && seconds("secondsMax") > 0.0, "{cost}");
    for name in ["secondsMean", "secondsP50", "secondsP95", "secondsP99"] {
        assert!(seconds(name) > 0.0, "{cost}");
    }
    assert_eq!(cost["fingerprint"].as_str().unwrap().len(), 16, "{cost}");
    assert!(cost["lastCallAt"].is_string(), "{cost}");
    assert!(of("select e2e_costs_that_fail")["errors"].as_u64() >= Some(1));

    let first = viewer.get("/database/statement-stats?limit=1").await.ok();
    assert_eq!(first["statements"].as_array().unwrap().len(), 1, "{first}");
    let refused = viewer.get("/database/statement-stats?order=rows").await.problem(400, "INVALID_FIELD");
    assert_eq!(refused["errors"][0]["field"], "order", "{refused}");
    let words = "totalTime, calls, meanTime, errors";
    assert!(refused["detail"].as_str().unwrap().contains(words), "{refused}");
}

#[tokio::test]
async fn slow_statement_is_listed_and_its_plan_is_told() {
    let house = shared().await;
    let viewer = house.rest(Role::Viewer);
    let slow = "select pg_sleep($1) as e2e_nap, 'secret' as word";
    let body = json!({ "sql": slow, "params": [0.7] });
    viewer.post("/database/query", &body).await.ok();
    let listed = viewer.get("/database/slow-statements?kind=query&minDuration=600ms").await.ok();
    let entries = listed["statements"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["sql"].as_str().unwrap().contains("e2e_nap"));
    let entry = entry.unwrap_or_else(|| panic!("{listed}"));
    assert_eq!(entry["sql"], "select pg_sleep($1) as e2e_nap, ? as word", "{entry}");
    assert!(!listed.to_string().contains("secret"), "{listed}");
    let fingerprint = entry["fingerprint"].as_str().unwrap();
    let same = viewer.get(&format!("/database/slow-statements?fingerprint={fingerprint}&limit=1")).await.ok();
    assert_eq!(same["statements"].as_array().unwrap().len(), 1, "{same}");
    viewer.get("/database/slow-statements?minDuration=soon").await.problem(400, "INVALID_FIELD");

    let explain = json!({ "sql": "select * from revenue_transactions where id = 1" });
    viewer.post("/database/explain", &explain).await.problem(403, "ROLE_TOO_LOW");
    let plan = house.rest(Role::Operator).post("/database/explain", &explain).await.ok();
    assert!(plan["plan"].to_string().contains("Index"), "{plan}");
    assert!(plan["node"].is_string(), "{plan}");
}

#[tokio::test]
async fn read_says_how_many_bytes_of_the_log_its_replica_may_lack() {
    let viewer = shared().await.rest(Role::Viewer);
    let body = json!({ "sql": "select 1", "maxLagBytes": 1 << 30, "maxLag": "1h" });
    assert_eq!(viewer.post("/database/query", &body).await.ok()["served"]["role"], "replica");
    let body = json!({ "sql": "select 1", "maxLagBytes": -1 });
    let refused = viewer.post("/database/query", &body).await.problem(400, "INVALID_FIELD");
    assert!(refused["detail"].as_str().unwrap().contains("maxLagBytes"), "{refused}");
}
