use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::put;
use mainstay_auth::Role;
use mainstay_tests::{Devstack, House, Service, eventually};
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinSet;

/// A table behind HTTP that takes the key `bad` only when it is told to.
#[derive(Default)]
struct Table {
    takes_all: AtomicBool,
    keys: Mutex<Vec<String>>,
}

impl Table {
    /// Serves for as long as the set lives, and returns where each key lies.
    async fn serve(self: &Arc<Self>, tasks: &mut JoinSet<std::io::Result<()>>) -> String {
        let store = async |State(table): State<Arc<Self>>, Path(key): Path<String>| {
            if key == "bad" && !table.takes_all.load(Ordering::Relaxed) {
                return StatusCode::UNPROCESSABLE_ENTITY;
            }
            table.keys.lock().push(key);
            StatusCode::NO_CONTENT
        };
        let router = Router::new().route("/rows/{key}", put(store)).with_state(Arc::clone(self));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tasks.spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}/rows/{{key}}")
    }

    fn has(&self, key: &str) -> bool {
        self.keys.lock().iter().any(|stored| stored == key)
    }
}

#[tokio::test]
async fn a_change_that_the_origin_refuses_is_listed_replayed_and_dropped_over_rest() {
    let table = Arc::<Table>::default();
    let builder = Devstack::builder().redis(true).services([Service::CacheService, Service::EdgeGateway]);
    let mut tasks = JoinSet::new();
    let url = table.serve(&mut tasks).await;
    let settings = [
        ("ORIGINS__TABLE__HTTP__URL", url.as_str()),
        ("NAMESPACES__ROWS__STRATEGY", "write_behind"),
        ("NAMESPACES__ROWS__ORIGIN", "table"),
        ("WRITE_BEHIND__ATTEMPTS", "2"),
        ("WRITE_BEHIND__RETRY_BASE", "1ms"),
        ("WRITE_BEHIND__RETRY_CAP", "10ms"),
    ];
    let builder = settings.into_iter().fold(builder, |builder, (key, value)| {
        builder.env(Service::CacheService, format!("MAINSTAY__{key}"), value)
    });
    let house = House::start(builder).await;
    let (rest, admin) = (house.rest(Role::Operator), house.rest(Role::Admin));
    let letters =
        async || rest.get("/cache/write-behind/rows/dead-letters").await.ok()["deadLetters"].clone();
    let dead = || async {
        let letters = letters().await;
        letters.get(0).cloned().ok_or_else(|| "no dead letter".to_owned())
    };

    eventually("a write that is queued", || async {
        let answer = rest.put("/cache/rows/bad", "1").await;
        if answer.status.is_success() { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    let letter = eventually("the refused change among the dead letters", dead).await;
    assert_eq!(
        (&letter["key"], &letter["delete"], &letter["attempts"]),
        (&json!("bad"), &json!(false), &json!(2))
    );
    assert!(letter["reason"].as_str().unwrap().contains("422"), "{letter}");
    rest.put("/cache/rows/good", "1").await.ok();
    eventually("what comes behind it to be stored", || async {
        table.has("good").then_some(()).ok_or_else(|| "not yet".to_owned())
    })
    .await;

    let ids = json!({ "ids": [letter["id"]] });
    house.rest(Role::Viewer).post("/cache/write-behind/rows/replay", &ids).await.problem(403, "ROLE_TOO_LOW");
    table.takes_all.store(true, Ordering::Relaxed);
    assert_eq!(rest.post("/cache/write-behind/rows/replay", &ids).await.ok()["settled"], 1);
    eventually("the replayed change to be stored", || async {
        table.has("bad").then_some(()).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    assert_eq!(letters().await, json!([]));

    table.takes_all.store(false, Ordering::Relaxed);
    rest.put("/cache/rows/bad", "2").await.ok();
    let letter = eventually("another dead letter", dead).await;
    let ids = json!({ "ids": [letter["id"]] });
    rest.post("/cache/write-behind/rows/drop", &ids).await.problem(403, "ROLE_TOO_LOW");
    assert_eq!(admin.post("/cache/write-behind/rows/drop", &ids).await.ok()["settled"], 1);
    assert_eq!(letters().await, json!([]));
    assert_eq!(admin.post("/cache/write-behind/rows/drop", &ids).await.ok()["settled"], 0);
}
