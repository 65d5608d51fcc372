//! Services that hang, that are all gone, and an edge with more requests than it takes: what a caller of the REST door sees.

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use mainstay_auth::Role;
use mainstay_tests::{Answer, Devstack, House, Rest, Service, Watcher, binary, eventually};
use serde_json::json;
use tokio::process::Command;
use tokio::time::Instant;

/// Far above every deadline of the edge, far below its patience with a client.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// Asks a service for something through the edge.
async fn ask(rest: &Rest, service: Service) -> Answer {
    match service {
        Service::CacheService => rest.get("/cache/outages/k").await,
        Service::WsGateway => rest.get("/realtime/channels").await,
        Service::ReplicaService => rest.post("/database/query", &json!({ "sql": "select 1" })).await,
        Service::MonitorService => rest.get("/monitoring/alerts/rules").await,
        Service::EdgeGateway => rest.get("/health/liveness").await,
    }
}

const BEHIND: [Service; 4] =
    [Service::CacheService, Service::WsGateway, Service::ReplicaService, Service::MonitorService];

#[tokio::test]
async fn a_service_that_hangs_is_answered_for_and_the_others_go_on() {
    let house = House::start(Devstack::builder().postgres(true).services(Service::ALL)).await;
    house.healthy().await;
    let rest = house.rest(Role::Admin);
    rest.put("/cache/outages/k", "v").await.ok();
    for hanging in BEHIND {
        let process = house.stack().service(hanging).unwrap();
        process.pause().await.unwrap();
        let asked_at = Instant::now();
        let answer = ask(&rest, hanging).await;
        assert!(
            matches!(answer.status.as_u16(), 503 | 504),
            "{hanging:?}: {} {}",
            answer.status,
            answer.text()
        );
        assert_eq!(answer.header("content-type"), "application/problem+json", "{hanging:?}");
        let merged = rest.get("/monitoring/unified/metrics").await;
        assert_eq!(merged.status, 200, "{hanging:?}: {}", merged.text());
        assert_eq!(merged.header("x-mainstay-completeness"), "partial", "{hanging:?}: {}", merged.text());
        assert!(asked_at.elapsed() < ANSWERED_WITHIN, "{hanging:?}: after {:?}", asked_at.elapsed());
        for other in BEHIND.into_iter().filter(|other| *other != hanging) {
            let answer = ask(&rest, other).await;
            assert_eq!(answer.status, 200, "{other:?} while {hanging:?} hangs: {}", answer.text());
        }
        process.resume().await.unwrap();
        eventually(format!("{hanging:?} to answer again"), || async {
            let answer = ask(&rest, hanging).await;
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        })
        .await;
    }
}

#[tokio::test]
async fn with_all_services_gone_the_edge_says_so_and_who_watched_hears_what_was_missed() {
    let house = House::start(Devstack::builder().postgres(true).services(Service::ALL)).await;
    house.healthy().await;
    let rest = house.rest(Role::Admin);
    // Somebody must watch, or nothing is asked for.
    let mut stays = Watcher::of(&rest).await;
    let seen = stays.figures().await["id"].clone();

    house.stack().service(Service::WsGateway).unwrap().kill().await.unwrap();
    let alert = async {
        loop {
            let event = stays.next().await;
            if event["event"] == "alert" {
                break event;
            }
        }
    };
    let missed = tokio::time::timeout(Duration::from_mins(2), alert).await.expect("an alert is told");
    let mut returned = Watcher::of(&rest.clone().with_header("last-event-id", &seen)).await;
    assert_eq!(returned.next().await, missed, "whoever comes back is told first what happened meanwhile");

    for service in [Service::CacheService, Service::ReplicaService, Service::MonitorService] {
        house.stack().service(service).unwrap().kill().await.unwrap();
    }
    for gone in BEHIND {
        let answer = ask(&rest, gone).await;
        assert_eq!(answer.status, 503, "{gone:?}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json", "{gone:?}");
    }
    let health = rest.get("/monitoring/unified/health").await.ok();
    assert_eq!(health["status"], "unhealthy", "{health}");
    assert_eq!(rest.get("/health/liveness").await.status, 200);
    assert_eq!(rest.get("/dashboard").await.status, 200);
}

#[tokio::test]
async fn more_requests_than_the_edge_takes_are_shed_and_health_is_answered() {
    let services = [Service::CacheService, Service::ReplicaService, Service::EdgeGateway];
    let builder = Devstack::builder().postgres(true).services(services);
    let house = House::start(builder.env(Service::EdgeGateway, "MAINSTAY__HTTP__MAX_IN_FLIGHT", "2")).await;
    let rest = house.rest(Role::Admin);

    // Two slow ones after the other take all there is, until the others have seen it.
    let crowd = async {
        let slow = json!({ "sql": "select pg_sleep(2)::text" });
        loop {
            tokio::join!(rest.post("/database/query", &slow), rest.post("/database/query", &slow));
        }
    };
    let others = async {
        for path in ["/cache/outages/k", "/database/info"] {
            let shed = eventually(format!("{path} to be shed"), || async {
                let answer = rest.get(path).await;
                if answer.status == 503 { Ok(answer) } else { Err(answer.text()) }
            })
            .await;
            assert_eq!(shed.problem(503, "OVERLOADED")["status"], 503);
            assert_eq!(shed.header("retry-after"), "1");
        }
        assert_eq!(rest.get("/health/liveness").await.status, 200);
        let metrics = rest.get("/health/metrics").await.text();
        let shed = metrics.lines().find_map(|line| line.strip_prefix("mainstay_edge_shed_total"));
        let n_shed = shed.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        assert!(n_shed.is_some_and(|n| n >= 2.0), "{shed:?}");
    };
    tokio::select! {
        () = others => {}
        never = crowd => never,
    }
    eventually("requests to be taken again", || async {
        let answer = rest.get("/database/info").await;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
}

#[tokio::test]
async fn a_path_that_will_go_says_so_on_every_answer() {
    let folder = tempfile::tempdir().unwrap();
    let free = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let (door, inner) = (free().unwrap(), free().unwrap());
    let config = format!(
        r#"
        http.listen = "{door}"
        server.listen = "{inner}"
        [http.deprecated."/health/liveness"]
        since = "2026-01-31T00:00:00Z"
        sunset = "2036-01-31T00:00:00Z"
        successor = "/health/readiness"
        "#
    );
    let path = folder.path().join("edge.toml");
    std::fs::write(&path, config).unwrap();
    let mut edge = Command::new(binary("edge-gateway"));
    edge.arg("--config").arg(&path).env_clear().current_dir(folder.path());
    edge.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let _edge = edge.spawn().unwrap();
    let rest = Rest::new(door);
    let answer =
        eventually("the edge to answer", || rest.send(Method::GET, "/health/liveness", Bytes::new())).await;
    let [deprecation, sunset, link] = ["deprecation", "sunset", "link"].map(|name| answer.header(name));
    assert_eq!((deprecation, sunset), ("@1769817600", "Thu, 31 Jan 2036 00:00:00 GMT"));
    assert_eq!(link, "</health/readiness>; rel=\"successor-version\"");
    assert_eq!(rest.get("/health/readiness").await.header("deprecation"), "");
    let document = rest.get("/openapi.json").await.json();
    assert_eq!(document["paths"]["/health/liveness"]["get"]["deprecated"], true);
}
