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
        let policies = [&again, &page].map(|answer| answer.header("content-security-policy"));
        // A browser takes it over into the page that it has kept.
        assert_eq!(policies[0], policies[1], "{path}");
    }
}

#[tokio::test]
async fn what_the_dashboard_loads_may_be_kept_for_ever_and_is_small() {
    let rest = shared().await.anonymous().with_header("accept-encoding", "gzip");
    let page = shared().await.anonymous().get("/dashboard").await.text();
    let named = page.split('"').filter(|part| part.starts_with("/dashboard/assets/"));
    let mut bytes = page.len();
    for path in named.clone() {
        let asset = rest.get(path).await;
        assert_eq!(asset.status, 200, "{path}");
        // What is shorter gains nothing.
        assert!(asset.header("content-encoding") == "gzip" || asset.body.len() < 512, "{path}");
        assert_eq!(asset.header("cache-control"), "public, max-age=31536000, immutable", "{path}");
        bytes += asset.body.len();
    }
    assert!(named.count() > 5 && bytes < 300 * 1_024, "{bytes} bytes");
    rest.get("/dashboard/assets/app-0000000000000000.js").await.problem(404, "ASSET_NOT_FOUND");
    rest.get("/dashboard/assets/..%2f..%2fCargo.toml").await.problem(404, "ASSET_NOT_FOUND");
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
