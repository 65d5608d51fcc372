use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mainstay_auth::Role;
use mainstay_tests::{Devstack, House, Service, eventually};

use tokio::task::JoinSet;

/// What a client that counts has seen.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    answered: AtomicU64,
    /// Answers other than success.
    refused: AtomicU64,
    /// Sent on an open connection and never answered: lost.
    lost: AtomicU64,
    /// The port was closed: never accepted.
    not_accepted: AtomicU64,
    /// With what each worker ended.
    last_errors: Mutex<Vec<String>>,
    last_refusal: Mutex<String>,
}

const WORKERS: usize = 8;

/// Sends GETs over kept-alive connections until told to stop or the door is closed.
async fn work(rest: mainstay_tests::Rest, tally: Arc<Tally>) {
    while !tally.stop.load(Ordering::Relaxed) {
        let outcome = rest.send(http::Method::GET, "/cache/drain/k", bytes::Bytes::new()).await;
        let counter = match &outcome {
            Ok(answer) if answer.status == 200 => &tally.answered,
            Ok(_) => &tally.refused,
            Err(error) if error.contains("onnection refused") => &tally.not_accepted,
            Err(_) => &tally.lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if let Ok(refused) = &outcome
            && refused.status != 200
        {
            *tally.last_refusal.lock().expect("no holder panics") = refused.text();
        }
        if let Err(error) = outcome {
            tally.last_errors.lock().expect("no holder panics").push(error);
            return;
        }
    }
}

async fn house_under_load() -> (House, Arc<Tally>, JoinSet<()>) {
    let services = [Service::CacheService, Service::EdgeGateway];
    let house = House::start(Devstack::builder().services(services)).await;
    house.rest(Role::Operator).put("/cache/drain/k", "v").await.ok();
    let tally = Arc::new(Tally::default());
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(work(house.rest(Role::Viewer), Arc::clone(&tally)));
    }
    let busy = eventually("the load to be on", || async {
        let answered = tally.answered.load(Ordering::Relaxed);
        if answered > 500 { Ok(()) } else { Err(format!("{answered} answers")) }
    });
    busy.await;
    (house, tally, workers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edge_stopped_under_load_loses_no_request_that_it_accepted() {
    let (house, tally, workers) = house_under_load().await;
    let edge = house.stack().service(Service::EdgeGateway).unwrap();
    edge.stop().await.unwrap();
    workers.join_all().await;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!(count(&tally.lost), 0, "of {} answered: {:?}", count(&tally.answered), tally.last_errors);
    assert_eq!(count(&tally.refused), 0, "a draining edge still serves: {:?}", tally.last_refusal);
    assert_eq!(count(&tally.not_accepted), WORKERS as u64, "every worker ends at the closed door");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_restarted_under_load_costs_refusals_but_no_lost_request() {
    let (house, tally, workers) = house_under_load().await;
    let cache = house.stack().service(Service::CacheService).unwrap();
    cache.restart().await.unwrap();
    let rest = house.rest(Role::Viewer);
    let back = eventually("the cache to answer again", || async {
        let answer = rest.get("/cache/stats").await;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    });
    back.await;
    tally.stop.store(true, Ordering::Relaxed);
    workers.join_all().await;
    assert_eq!(
        tally.lost.load(Ordering::Relaxed),
        0,
        "the edge answers every request, if only with a problem"
    );
    assert_eq!(tally.not_accepted.load(Ordering::Relaxed), 0, "the edge itself never closed");
}
