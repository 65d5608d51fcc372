use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;

/// A set with this many fresh keys.
fn key_set(n_keys: usize) -> String {
    let key = |n: usize| {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        json!({"kty": "OKP", "crv": "Ed25519", "kid": n.to_string(), "x": URL_SAFE_NO_PAD.encode(pair.public_key_raw())})
    };
    json!({ "keys": (0..n_keys).map(key).collect::<Vec<_>>() }).to_string()
}

fn keeper(config: &JwksConfig) -> Keeper {
    let cx = Context::for_test("jwks-test");
    Keeper {
        fetch: Fetch::try_new(config, config.source().unwrap()).unwrap(),
        plan: Plan::new(config),
        fetch_within: config.fetch_within,
        keys: RotatingKeys::default(),
        component: cx.component("jwks", ComponentKind::Upstream, false),
        figures: cx.metrics(Figures::register),
    }
}

fn of_file(path: &Path) -> JwksConfig {
    JwksConfig { source: path.to_str().unwrap().to_owned(), ..JwksConfig::default() }
}

fn trusted(keeper: &Keeper) -> i64 {
    keeper.figures.keys.get()
}

#[test]
fn plan_looks_when_it_is_time_and_never_too_often() {
    let mut plan = Plan::new(&JwksConfig::default());
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert!(plan.is_due(at(0), false) && !plan.is_stale(at(0)));
    plan.looked(at(0), true);
    assert!(!plan.is_due(at(4), true), "a missing key does not hurry it within 5 s");
    assert!(plan.is_due(at(5), true) && !plan.is_due(at(299), false) && plan.is_due(at(300), false));
    plan.looked(at(300), false);
    assert!(!plan.is_due(at(304), false) && plan.is_due(at(305), false), "a failure is tried again soon");
    assert!(!plan.is_stale(at(3_600)) && plan.is_stale(at(3_601)));
    plan.looked(at(4_000), true);
    assert!(!plan.is_stale(at(4_001)));
}

#[tokio::test(start_paused = true)]
async fn keys_follow_their_file_and_are_forgotten_when_it_is_gone_for_too_long() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let mut keeper = keeper(&of_file(&path));
    assert!(keeper.activate().await.is_err(), "there is no file yet");
    assert_eq!(trusted(&keeper), 0);

    tokio::fs::write(&path, key_set(1)).await.unwrap();
    tokio::time::advance(AGAIN_AFTER).await;
    keeper.activate().await.unwrap();
    assert_eq!(trusted(&keeper), 1);

    tokio::fs::write(&path, key_set(2)).await.unwrap();
    tokio::time::advance(Duration::from_secs(301)).await;
    keeper.activate().await.unwrap();
    assert_eq!(trusted(&keeper), 2);

    tokio::fs::write(&path, "half a se").await.unwrap();
    tokio::time::advance(Duration::from_secs(301)).await;
    assert!(keeper.activate().await.is_err());
    assert_eq!(trusted(&keeper), 2, "old keys are better than none");
    tokio::time::advance(Duration::from_secs(3_600)).await;
    assert!(keeper.activate().await.is_err());
    assert_eq!(trusted(&keeper), 0, "but not for ever");

    tokio::fs::write(&path, key_set(3)).await.unwrap();
    tokio::time::advance(AGAIN_AFTER).await;
    keeper.activate().await.unwrap();
    assert_eq!(trusted(&keeper), 3);
}

/// Serves a set that has one key more on each look; `/hung` never answers, `/large` never ends.
async fn issuer() -> String {
    let looks = Arc::new(AtomicUsize::new(0));
    let set = move || {
        let looks = looks.fetch_add(1, Ordering::Relaxed) + 1;
        async move { key_set(looks) }
    };
    let app = axum::Router::new()
        .route("/jwks", axum::routing::get(set))
        .route("/hung", axum::routing::get(std::future::pending::<String>))
        .route("/large", axum::routing::get(async || " ".repeat(300 << 10)))
        .route("/moved", axum::routing::get(async || axum::response::Redirect::temporary("/jwks")));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    #[expect(clippy::disallowed_methods, reason = "the server of a test ends with its runtime")]
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

#[tokio::test]
async fn keys_come_over_http_within_bounds() {
    let issuer = issuer().await;
    let at = |path: &str| JwksConfig {
        source: format!("{issuer}{path}"),
        fetch_within: Duration::from_millis(500),
        ..JwksConfig::default()
    };
    let mut good = keeper(&at("/jwks"));
    good.activate().await.unwrap();
    assert_eq!(trusted(&good), 1);
    good.activate().await.unwrap();
    assert_eq!(trusted(&good), 1, "it is not time for a second look");

    for (path, why) in [("/hung", "in time"), ("/large", "256 KiB"), ("/moved", "307"), ("/nowhere", "404")] {
        let mut bad = keeper(&at(path));
        let told = format!("{:#}", bad.activate().await.unwrap_err());
        assert!(told.contains(why), "{path}: {told}");
        assert_eq!(trusted(&bad), 0);
    }
    let closed = JwksConfig { source: "http://127.0.0.1:1/jwks".to_owned(), ..JwksConfig::default() };
    assert!(keeper(&closed).activate().await.is_err());
}
