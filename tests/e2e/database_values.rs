use mainstay_auth::Role;
use mainstay_tests::{Rest, shared};
use serde_json::{Value, json};

async fn run(admin: &Rest, sql: &str) {
    admin.post("/database/execute", &json!({ "sql": sql })).await.ok();
}

/// Sends a body that is written by hand: numbers in it are longer than those of this process.
async fn post(rest: &Rest, path: &str, body: String) -> String {
    let json = rest.clone().with_header("content-type", "application/json");
    let answer = json.send(http::Method::POST, path, body.into()).await.unwrap();
    assert_eq!(answer.status, http::StatusCode::OK, "{}", answer.text());
    answer.text()
}

/// Type, parameter and answer of each column.
fn columns() -> Vec<(&'static str, Value, Value)> {
    let typed = |name: &str, value: Value| json!({ "type": name, "value": value });
    let as_sent = |value: Value| (value.clone(), value);
    let text = |ty: &'static str, value: &str| (ty, typed(ty, json!(value)), json!(value));
    let plain = |ty, value| {
        let (sent, answered) = as_sent(value);
        (ty, sent, answered)
    };
    let exact = "12345678901234567890.12345678901234567890";
    vec![
        plain("bool", json!(true)),
        plain("int2", json!(-32_768)),
        plain("int4", json!(2_147_483_647)),
        plain("int8", json!(9_223_372_036_854_775_807_i64)),
        plain("float4", json!(0.1)),
        plain("float8", json!(1.0e-300)),
        text("numeric", exact),
        plain("text", json!("ä\n\"€\"")),
        text("bytea", "\\x00ff7f"),
        text("uuid", "6f9619ff-8b86-d011-b42d-00c04fc964ff"),
        ("json", typed("json", json!({ "b": [1, null] })), json!({ "b": [1, null] })),
        ("jsonb", typed("jsonb", json!([{ "a": "x" }])), json!([{ "a": "x" }])),
        text("date", "1969-07-20"),
        text("time", "23:59:59.000001"),
        text("timestamp", "1969-07-20 20:17:40.123456"),
        (
            "timestamptz",
            typed("timestamptz", json!("1969-07-20 22:17:40.123456+02")),
            json!("1969-07-20T20:17:40.123456Z"),
        ),
        text("interval", "1 day 02:03:04.5"),
        plain("int4[]", json!([1, null, 3])),
        plain("text[]", json!(["a", "b, \"c\"", null])),
        plain("e2e_mood", json!("fine")),
        text("inet", "10.1.2.0/24"),
    ]
}

#[tokio::test]
async fn values_of_every_common_type_come_back_as_they_were_sent() {
    let admin = shared().await.rest(Role::Admin);
    run(&admin, "drop table if exists e2e_values").await;
    run(&admin, "drop type if exists e2e_mood").await;
    run(&admin, "create type e2e_mood as enum ('fine', 'bad')").await;
    let columns = columns();
    let defined: Vec<_> = columns.iter().enumerate().map(|(n, (ty, ..))| format!("c{n} {ty}")).collect();
    let defined = defined.join(", ");
    run(&admin, &format!("create table e2e_values (id int primary key, {defined})")).await;

    let names: Vec<_> = (0..columns.len()).map(|n| format!("c{n}")).collect();
    let names = names.join(", ");
    let places: Vec<_> = (0..columns.len()).map(|n| format!("${}", n + 2)).collect();
    let insert =
        format!("insert into e2e_values (id, {names}) values ($1, {}) returning {names}", places.join(", "));
    let sent: Vec<Value> = columns.iter().map(|(_, sent, _)| sent.clone()).collect();
    let expected: Vec<Value> = columns.iter().map(|(.., answered)| answered.clone()).collect();
    let nulls = vec![Value::Null; columns.len()];
    let mut written = Value::Null;
    for (id, values, expected) in [(1, sent, &expected), (2, nulls.clone(), &nulls)] {
        let params: Vec<Value> = [json!(id)].into_iter().chain(values).collect();
        written = admin.post("/database/execute", &json!({ "sql": insert, "params": params })).await.ok();
        assert_eq!(written["rows"], json!([expected]));
    }
    let sql = format!("select {names} from e2e_values order by id");
    let body = json!({ "sql": sql, "after": written["token"] });
    let read = admin.post("/database/query", &body).await.ok();
    assert_eq!(read["rows"], json!([expected, nulls]));
    let types: Vec<_> =
        read["columns"].as_array().unwrap().iter().map(|column| column["type"].clone()).collect();
    let wanted: Vec<_> = columns.iter().map(|(ty, ..)| json!(ty)).collect();
    assert_eq!(types, wanted);
    let lines = admin.clone().with_header("accept", "application/x-ndjson");
    let text = lines.post("/database/query", &body).await.text();
    let rows: Vec<Value> =
        text.lines().skip(1).take(2).map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows, [json!(expected), json!(nulls)]);
}

#[tokio::test]
async fn instants_of_any_year_are_told() {
    let rest = shared().await.rest(Role::Viewer);
    let sql = "select '0001-01-01 00:00:00.000001+00'::timestamptz, '1969-12-31 00:00:00+00'::timestamptz, \
               '9999-12-31 23:59:59.999999+00'::timestamptz, '10000-01-01 00:00:00+00'::timestamptz, \
               '0044-03-15 00:00:00+00 BC'::timestamptz, '-infinity'::timestamptz";
    let row = json!([
        "0001-01-01T00:00:00.000001Z",
        "1969-12-31T00:00:00.000000Z",
        "9999-12-31T23:59:59.999999Z",
        "10000-01-01 00:00:00+00",
        "0044-03-15 00:00:00+00 BC",
        "-infinity",
    ]);
    assert_eq!(rest.post("/database/query", &json!({ "sql": sql })).await.ok()["rows"], json!([row]));
}

#[tokio::test]
async fn numbers_of_any_length_lose_nothing_on_their_way() {
    let admin = shared().await.rest(Role::Admin);
    let lines = admin.clone().with_header("accept", "application/x-ndjson");
    let written = "{\"a\": 12345678901234567890.123,  \"b\": 1e400}";
    // A line break between the members of a document is none between rows.
    let sql = "select e'{\\\"a\\\":\\n12345678901234567890.123}'::json, '{\\\"b\\\": 1.50}'::jsonb";
    let body = format!("{{\"sql\": \"{sql}\"}}");
    let text = post(&admin, "/database/query", body.clone()).await;
    assert!(text.contains("[[{\"a\":\n12345678901234567890.123},{\"b\": 1.50}]]"), "{text}");
    let text = post(&lines, "/database/query", body).await;
    assert_eq!(text.lines().nth(1), Some("[{\"a\": 12345678901234567890.123},{\"b\": 1.50}]"), "{text}");

    let body = format!(
        "{{\"sql\": \"select $1::json, $2::numeric, $3::numeric[]\", \"params\": [\
         {{\"type\": \"json\", \"value\": {written}}}, \
         {{\"type\": \"numeric\", \"value\": 0.12345678901234567890}}, \
         {{\"type\": \"numeric[]\", \"value\": [0.12345678901234567890, null]}}]}}"
    );
    let row = format!("[{written},\"0.12345678901234567890\",[\"0.12345678901234567890\",null]]");
    for path in ["/database/query", "/database/execute"] {
        let text = post(&admin, path, body.clone()).await;
        assert!(text.contains(&row), "{path}: {text}");
    }
    let body = "{\"sql\": \"select $1::jsonb\", \"params\": [{\"type\": \"jsonb\", \"value\": {\"a\": 12345678901234567890.10}}]}";
    let text = post(&admin, "/database/query", body.to_owned()).await;
    assert!(text.contains("[[{\"a\": 12345678901234567890.10}]]"), "{text}");
}
