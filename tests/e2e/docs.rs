use mainstay_tests::shared;

#[tokio::test]
async fn pages_bring_all_they_need_and_are_sent_once() {
    let rest = shared().await.anonymous();
    for (path, kind) in [
        ("/docs", "text/html; charset=utf-8"),
        ("/dashboard", "text/html; charset=utf-8"),
        ("/openapi.json", "application/json"),
    ] {
        let page = rest.get(path).await;
        assert_eq!((page.status.as_u16(), page.header("content-type")), (200, kind), "{path}");
        assert!(page.header("content-security-policy").contains("default-src 'none'"), "{path}");
        let text = page.text();
        for outside in ["src=\"http", "href=\"http", "url(http", "@import"] {
            assert!(!text.contains(outside), "{path} loads something from outside: {outside}");
        }
        let again = rest.clone().with_header("if-none-match", page.header("etag")).get(path).await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0), "{path}");
    }
}

#[tokio::test]
async fn document_is_that_of_the_running_edge() {
    let document = shared().await.anonymous().get("/openapi.json").await.ok();
    assert_eq!(document["openapi"], "3.1.0");
    let stats = &document["paths"]["/cache/stats"]["get"];
    assert_eq!(stats["x-mainstay-role"], "viewer", "{stats}");
    let schema = &stats["responses"]["200"]["content"]["application/json"]["schema"]["$ref"];
    assert_eq!(schema, "#/components/schemas/CacheStats");
}
