use mainstay_auth::Role;
use mainstay_tests::{eventually, shared};
use serde_json::json;

#[tokio::test]
async fn conditional_writes_replace_only_the_version_they_name() {
    let rest = shared().await.rest(Role::Operator);
    let path = "/cache/e2e/conditional";
    rest.delete(path).await.ok();
    let only_new = rest.clone().with_header("if-none-match", "*");
    let first = only_new.put(path, "one").await;
    first.ok();
    only_new.put(path, "two").await.problem(412, "VERSION_MISMATCH");

    let replacing = rest.clone().with_header("if-match", first.header("etag"));
    replacing.put(path, "two").await.ok();
    replacing.put(path, "three").await.problem(412, "VERSION_MISMATCH");
    assert_eq!(rest.get(path).await.text(), "two");
}

#[tokio::test]
async fn known_version_is_not_sent_again() {
    let rest = shared().await.rest(Role::Operator);
    rest.put("/cache/e2e/known", "value").await.ok();
    let read = rest.get("/cache/e2e/known").await;
    let again = rest.clone().with_header("if-none-match", read.header("etag"));
    let answer = again.get("/cache/e2e/known").await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (304, 0));
    rest.put("/cache/e2e/known", "another").await.ok();
    assert_eq!(again.get("/cache/e2e/known").await.text(), "another");
}

#[tokio::test]
async fn entries_of_a_tag_are_gone_after_its_invalidation() {
    let rest = shared().await.rest(Role::Operator);
    for (key, tags) in [("t1", "red,round"), ("t2", "red"), ("t3", "blue")] {
        let tagged = rest.clone().with_header("x-cache-tags", tags);
        tagged.put(&format!("/cache/e2e-tags/{key}"), key).await.ok();
    }
    let done = rest.post("/cache/e2e-tags/invalidate", &json!({ "tags": ["red"] })).await.ok();
    assert!(done["position"].as_u64().unwrap() > 0, "{done}");
    for (key, status) in [("t1", 404), ("t2", 404), ("t3", 200)] {
        let gone = eventually(format!("{key} to be {status}"), || async {
            let answer = rest.get(&format!("/cache/e2e-tags/{key}")).await;
            if answer.status.as_u16() == status { Ok(()) } else { Err(answer.text()) }
        });
        gone.await;
    }
    let metrics = rest.get("/monitoring/cache/invalidation-metrics").await.ok();
    assert!(metrics["invalidations"]["tags"].as_u64().unwrap() >= 1, "{metrics}");
    assert!(metrics["cacheHitStats"]["gets"].is_u64(), "{metrics}");
}

#[tokio::test]
async fn key_statistics_name_what_is_read_most() {
    let rest = shared().await.rest(Role::Operator);
    let stats = rest.get("/monitoring/cache/key-stats").await.ok();
    assert!(stats["hotKeys"].is_array() && stats["patterns"].is_array(), "{stats}");
}
