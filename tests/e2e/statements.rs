use mainstay_auth::Role;
use mainstay_auth::jwt::Claims;
use mainstay_tests::{House, Rest, shared, unix_s};
use serde_json::{Value, json};

fn bearer(house: &House, subject: &str, role: Role, scopes: &[&str]) -> Rest {
    let claims = Claims {
        sub: subject.to_owned(),
        exp: Some(unix_s() + 600),
        role: Some(role),
        scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        ..Claims::default()
    };
    house.anonymous().with_header("authorization", &format!("Bearer {}", house.token(&claims)))
}

fn names(listed: &Value) -> Vec<&str> {
    let statements = listed["statements"].as_array().unwrap();
    statements.iter().map(|statement| statement["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn statements_are_called_by_name_by_those_who_may() {
    let house = shared().await;
    let (viewer, admin) = (house.rest(Role::Viewer), house.rest(Role::Admin));
    admin.post("/database/execute", &json!({ "sql": "create table e2e_notes (id bigint)" })).await.ok();

    let listed = viewer.get("/database/statements").await.ok();
    assert_eq!((names(&listed), &listed["onlyNamed"]), (vec!["next"], &json!(false)), "{listed}");
    assert_eq!(names(&admin.get("/database/statements").await.ok()), ["next", "note"]);

    let next = json!({ "params": [41] });
    let read = viewer.post("/database/statements/next", &next).await.ok();
    assert_eq!(read["rows"], json!([[42]]), "{read}");
    assert!(read["cache"].is_object(), "it has a ttl: {read}");
    let refused = viewer.post("/database/statements/note", &next).await;
    refused.problem(403, "STATEMENT_NOT_ALLOWED");
    let written = admin.post("/database/statements/note", &next).await.ok();
    assert_eq!((&written["rowsAffected"], &written["served"]["role"]), (&json!(1), &json!("primary")));
    assert!(written["token"].is_string(), "{written}");

    admin.post("/database/statements/nothing", &json!({})).await.problem(404, "UNKNOWN_STATEMENT");
    let misused = json!({ "params": [1], "maxRows": 1 });
    let misused = admin.post("/database/statements/note", &misused).await.problem(400, "INVALID_FIELD");
    assert_eq!(misused["errors"][0]["field"], "maxRows", "{misused}");
}

#[tokio::test]
async fn scopes_and_the_list_of_who_is_bound_to_names_hold_through_the_edge() {
    let house = shared().await;
    let (text, next) = (json!({ "sql": "select 1" }), json!({ "params": [1] }));

    let scoped = bearer(house, "e2e-statements", Role::Admin, &["database.read:named/next"]);
    assert_eq!(scoped.post("/database/statements/next", &next).await.ok()["rows"], json!([[2]]));
    scoped.post("/database/statements/note", &next).await.problem(403, "STATEMENT_NOT_ALLOWED");
    scoped.post("/database/query", &text).await.problem(403, "SCOPE_MISSING");
    assert_eq!(names(&scoped.get("/database/statements").await.ok()), ["next"]);

    let bound = bearer(house, "e2e-only-names", Role::Admin, &[]);
    for path in ["/database/query", "/database/execute"] {
        bound.post(path, &text).await.problem(403, "STATEMENT_NOT_ALLOWED");
    }
    let several = json!({ "statements": [text] });
    bound.post("/database/transaction", &several).await.problem(403, "STATEMENT_NOT_ALLOWED");
    assert_eq!(bound.post("/database/statements/next", &next).await.ok()["rows"], json!([[2]]));
    assert_eq!(bound.get("/database/statements").await.ok()["onlyNamed"], true);
}
