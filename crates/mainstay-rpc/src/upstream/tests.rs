use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::testing::{Answers, GET, House, dead_address, eventually, found_nothing, get, soon};
use crate::{Caller, Deadline};

mod mtls;

fn upstream(endpoints: impl IntoIterator<Item = String>) -> Upstream {
    Upstream::try_new("cache", &UpstreamConfig::of(endpoints)).unwrap()
}

fn read() -> Call {
    Call::read(GET)
}

fn write() -> Call {
    Call::write(GET)
}

#[tokio::test]
async fn a_call_is_answered_and_carries_caller_and_deadline() {
    let (seen_tx, mut seen_rx) = mpsc::channel(1);
    let house = House::open(Answers::with(move |request| {
        let seen = (Caller::of(&request), Deadline::of(&request).map(|deadline| deadline.left()));
        seen_tx.try_send(seen).unwrap();
        async { found_nothing() }
    }))
    .await;
    let caller = Caller {
        subject: "Zoë, \u{1f41e}".to_owned(),
        role: "admin".to_owned(),
        scopes: vec!["a b".to_owned(), "c".to_owned()],
    };
    let upstream = upstream([house.uri()]);
    get(&upstream, read().by(caller.clone()).within(Duration::from_secs(7)), "k").await.unwrap();

    let (seen_caller, left) = seen_rx.try_recv().unwrap();
    assert_eq!(seen_caller, Some(caller));
    let left = left.expect("the stack names a deadline");
    assert!(left > Duration::from_secs(5) && left <= Duration::from_secs(7), "{left:?}");
    let snapshot = &upstream.snapshot().endpoints[0];
    assert_eq!((snapshot.calls, snapshot.failures, snapshot.in_flight), (1, 0, 0));
    assert_eq!((snapshot.breaker, snapshot.uri.as_str()), ("closed", house.uri().as_str()));
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_the_handler_is_dropped() {
    struct Tell(mpsc::Sender<()>);
    impl Drop for Tell {
        fn drop(&mut self) {
            let _ = self.0.try_send(());
        }
    }
    let (dropped_tx, mut dropped_rx) = mpsc::channel(1);
    let house = House::open(Answers::with(move |_| {
        let tell = Tell(dropped_tx.clone());
        async move {
            std::future::pending::<()>().await;
            drop(tell);
            found_nothing()
        }
    }))
    .await;
    let started = Instant::now();
    let call = write().within(Duration::from_millis(150));
    let failure = soon("the deadline", get(&upstream([house.uri()]), call, "k")).await.unwrap_err();
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::DeadlineExceeded, DEADLINE_EXCEEDED));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    soon("the handler to be dropped", dropped_rx.recv()).await.unwrap();
}

#[tokio::test]
async fn a_stalled_endpoint_costs_the_deadline_and_not_more() {
    // The kernel accepts for a listener that nobody serves.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream([format!("http://{}", listener.local_addr().unwrap())]);
    let started = Instant::now();
    let failure = get(&upstream, read().within(Duration::from_millis(200)), "k").await.unwrap_err();
    assert_eq!(failure.code(), ErrorCode::DeadlineExceeded);
    assert_eq!(failure.message(), "cache did not answer within 200ms");
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_millis(200) && elapsed < Duration::from_secs(2), "{elapsed:?}");
}

#[tokio::test]
async fn the_deadline_of_the_request_behind_a_call_comes_first() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream([format!("http://{}", listener.local_addr().unwrap())]);
    let started = Instant::now();
    let call = read().within(Duration::from_secs(60)).before(Deadline::within(Duration::from_millis(50)));
    let failure = soon("the deadline", get(&upstream, call, "k")).await.unwrap_err();
    assert_eq!(failure.code(), ErrorCode::DeadlineExceeded);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_server_killed_in_the_middle_of_a_write_is_unavailable_at_once() {
    let arrived = Arc::new(Notify::new());
    let tell = Arc::clone(&arrived);
    let house = House::open(Answers::with(move |_| {
        tell.notify_one();
        async { std::future::pending().await }
    }))
    .await;
    let upstream = upstream([house.uri()]);
    let started = Instant::now();
    let (result, ()) = tokio::join!(get(&upstream, write().within(Duration::from_secs(30)), "k"), async {
        soon("the request to arrive", arrived.notified()).await;
        house.kill().await;
    });
    let failure = result.unwrap_err();
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::Unavailable, UPSTREAM_UNAVAILABLE));
    assert_eq!(failure.message(), "cache did not answer");
    assert!(failure.cause_chain().is_some());
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn the_breaker_opens_on_a_dead_endpoint_and_closes_when_it_is_back() {
    let address = dead_address().await;
    let upstream = upstream([format!("http://{address}")]);
    for _ in 0..10 {
        let failure = get(&upstream, read(), "k").await.unwrap_err();
        assert_eq!((failure.code(), failure.reason()), (ErrorCode::Unavailable, UPSTREAM_UNAVAILABLE));
    }
    let held_back = get(&upstream, read(), "k").await.unwrap_err();
    assert_eq!(held_back.message(), "cache is not answering; calls are held back");
    assert!(held_back.retry_delay().is_some_and(|delay| delay <= Duration::from_secs(2)));
    assert_eq!(upstream.snapshot().endpoints[0].breaker, "open");

    let _house = House::open_at(address, Answers::nothing(), |_, _| {}).await;
    eventually("an answer", || get(&upstream, read(), "k")).await;
    eventually("a closed breaker", || async {
        let _ = get(&upstream, read(), "k").await;
        let breaker = upstream.snapshot().endpoints[0].breaker;
        if breaker == "closed" { Ok(()) } else { Err(breaker) }
    })
    .await;
}

async fn until_breaker(upstream: &Upstream, expected: &str) {
    eventually(expected, || async {
        let breaker = upstream.snapshot().endpoints[0].breaker;
        if breaker == expected { Ok(()) } else { Err(breaker) }
    })
    .await;
}

#[tokio::test]
async fn probes_that_are_dropped_make_room_for_others() {
    let address = dead_address().await;
    let upstream = upstream([format!("http://{address}")]);
    for _ in 0..10 {
        get(&upstream, write(), "k").await.unwrap_err();
    }
    let arrived = Arc::new(Notify::new());
    let tell = Arc::clone(&arrived);
    let answers = Answers::with(move |request| {
        let hangs = request.get_ref().key == "hang";
        let tell = Arc::clone(&tell);
        async move {
            if hangs {
                tell.notify_one();
                std::future::pending::<()>().await;
            }
            found_nothing()
        }
    });
    let _house = House::open_at(address, answers, |_, _| {}).await;
    until_breaker(&upstream, "half_open").await;
    for _ in 0..5 {
        tokio::select! {
            result = get(&upstream, write().within(Duration::from_secs(30)), "hang") => panic!("{result:?}"),
            () = soon("the probe to arrive", arrived.notified()) => {}
        }
    }
    get(&upstream, write(), "k").await.unwrap();
}

#[tokio::test]
async fn a_connection_that_stalls_is_replaced_when_the_breaker_opens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = UpstreamConfig::of([format!("http://{}", listener.local_addr().unwrap())]);
    config.deadline = Duration::from_millis(400);
    let upstream = Upstream::try_new("cache", &config).unwrap();
    for _ in 0..20 {
        let hurried = write().within(Duration::from_millis(20));
        assert_eq!(get(&upstream, hurried, "k").await.unwrap_err().code(), ErrorCode::DeadlineExceeded);
    }
    assert_eq!(upstream.snapshot().endpoints[0].breaker, "closed", "20 ms say nothing where 400 are given");
    for _ in 0..5 {
        assert_eq!(get(&upstream, write(), "k").await.unwrap_err().code(), ErrorCode::DeadlineExceeded);
    }
    assert_eq!(upstream.snapshot().endpoints[0].breaker, "open");
    let _stalled = soon("the first connection", listener.accept()).await.unwrap();
    let _house = House::open_on(listener, Answers::nothing(), |_, _| {});
    until_breaker(&upstream, "half_open").await;
    eventually("an answer", || get(&upstream, read().within(Duration::from_secs(5)), "k")).await;
}

#[tokio::test]
async fn the_callers_mistakes_do_not_open_the_breaker() {
    let house = House::open(Answers::with(|request| async move {
        Err(match request.get_ref().key.as_str() {
            "bad" => Failure::invalid("key", "is bad"),
            "gone" => Failure::new(ErrorCode::NotFound, "NOT_FOUND", "no such key"),
            _ => Failure::new(ErrorCode::Unavailable, "REDIS_UNAVAILABLE", "redis is down"),
        }
        .into())
    }))
    .await;
    let upstream = upstream([house.uri()]);
    for key in ["bad", "gone", "down"].repeat(10) {
        let failure = get(&upstream, write(), key).await.unwrap_err();
        let expected = match key {
            "bad" => ErrorCode::InvalidArgument,
            "gone" => ErrorCode::NotFound,
            _ => ErrorCode::Unavailable,
        };
        assert_eq!(failure.code(), expected);
        assert_ne!(failure.reason(), UPSTREAM_UNAVAILABLE);
    }
    let snapshot = &upstream.snapshot().endpoints[0];
    assert_eq!((snapshot.breaker, snapshot.failures), ("closed", 0));
}

#[tokio::test]
async fn with_one_of_two_endpoints_dead_reads_and_writes_succeed() {
    let house = House::open(Answers::nothing()).await;
    let upstream = upstream([format!("http://{}", dead_address().await), house.uri()]);
    for n in 0..100 {
        let call = if n % 2 == 0 { read() } else { write() };
        get(&upstream, call, "k").await.unwrap();
    }
    let endpoints = upstream.snapshot().endpoints;
    assert_eq!(endpoints[1].calls, 100);
    assert!(endpoints[0].failures >= 1 && endpoints[0].failures == endpoints[0].calls, "{endpoints:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_writes_survives_a_dead_endpoint_beyond_the_retry_budget() {
    let house = House::open(Answers::nothing()).await;
    let mut config = UpstreamConfig::of([format!("http://{}", dead_address().await), house.uri()]);
    config.retry_ratio = 0.0;
    let upstream = Upstream::try_new("cache", &config).unwrap();
    let mut burst = JoinSet::new();
    for _ in 0..200 {
        let upstream = upstream.clone();
        burst.spawn(async move { get(&upstream, write(), "k").await });
    }
    for result in soon("the burst", burst.join_all()).await {
        result.unwrap();
    }
}

/// Accepts, takes in a request and hangs up, again and again.
async fn breaking_endpoint(tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            let mut taken = 0;
            // Preface and settings come first; a request's headers make it more than this.
            while taken < 150 {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => taken += n,
                }
            }
        }
    });
    uri
}

#[tokio::test]
async fn a_read_that_may_have_arrived_is_repeated_elsewhere_and_a_write_never() {
    let handled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    let house = House::open(Answers::with(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        async { found_nothing() }
    }))
    .await;
    let mut tasks = JoinSet::new();
    let breaking = breaking_endpoint(&mut tasks).await;
    let mut config = UpstreamConfig::of([breaking, house.uri()]);
    config.breaker.consecutive_failures = 0;
    config.breaker.min_calls = 10_000;
    config.retry_ratio = 1.0;
    let upstream = Upstream::try_new("cache", &config).unwrap();
    for _ in 0..40 {
        get(&upstream, read(), "k").await.unwrap();
    }
    assert_eq!(handled.load(Ordering::Relaxed), 40);

    let mut succeeded = 0;
    for _ in 0..40 {
        match get(&upstream, write(), "k").await {
            Ok(_) => succeeded += 1,
            Err(failure) => assert_eq!(failure.message(), "cache did not answer"),
        }
    }
    assert_eq!(handled.load(Ordering::Relaxed), 40 + succeeded, "a write was sent twice");
    assert!(succeeded < 40, "the breaking endpoint was never chosen");
}

#[tokio::test]
async fn retries_of_a_lone_endpoint_stay_within_the_budget() {
    let mut tasks = JoinSet::new();
    let mut config = UpstreamConfig::of([breaking_endpoint(&mut tasks).await]);
    config.breaker.consecutive_failures = 0;
    config.breaker.min_calls = 10_000;
    config.retry_ratio = 0.1;
    let upstream = Upstream::try_new("cache", &config).unwrap();
    for _ in 0..100 {
        get(&upstream, read(), "k").await.unwrap_err();
    }
    let attempts = upstream.snapshot().endpoints[0].calls;
    // One per second over ten seconds, and a tenth of a hundred; a slow run may see the window move on.
    assert!((110..=140).contains(&attempts), "{attempts}");
}

#[tokio::test]
async fn a_dropped_call_leaves_no_trace_at_the_endpoint() {
    let arrived = Arc::new(Notify::new());
    let tell = Arc::clone(&arrived);
    let house = House::open(Answers::with(move |_| {
        tell.notify_one();
        async { std::future::pending().await }
    }))
    .await;
    let upstream = upstream([house.uri()]);
    tokio::select! {
        _ = get(&upstream, read(), "k") => panic!("the handler never answers"),
        () = soon("the request to arrive", arrived.notified()) => {}
    }
    let snapshot = &upstream.snapshot().endpoints[0];
    assert_eq!((snapshot.in_flight, snapshot.calls, snapshot.failures), (0, 0, 0));
    eventually("the handler's end to be counted", || async {
        let metrics = house.metrics();
        if metrics.contains(r#"code="CANCELLED"} 1"#) { Ok(()) } else { Err(metrics) }
    })
    .await;
}

#[tokio::test]
async fn load_goes_to_the_endpoint_that_is_less_busy() {
    let release = Arc::new(Notify::new());
    let wait = Arc::clone(&release);
    let stuck = House::open(Answers::with(move |_| {
        let wait = Arc::clone(&wait);
        async move {
            wait.notified().await;
            found_nothing()
        }
    }))
    .await;
    let quick = House::open(Answers::nothing()).await;
    let upstream = upstream([stuck.uri(), quick.uri()]);
    let mut waiting = JoinSet::new();
    {
        let upstream = upstream.clone();
        waiting.spawn(async move {
            loop {
                get(&upstream, read().within(Duration::from_secs(30)), "k").await.unwrap();
            }
        });
    }
    eventually("one call to be stuck", || async {
        let in_flight = upstream.snapshot().endpoints[0].in_flight;
        if in_flight == 1 { Ok(()) } else { Err(in_flight) }
    })
    .await;
    for _ in 0..50 {
        get(&upstream, read(), "k").await.unwrap();
    }
    assert_eq!(upstream.snapshot().endpoints[0].in_flight, 1);
    release.notify_waiters();
}

#[tokio::test]
async fn a_refused_service_token_is_our_problem_and_not_the_callers() {
    let house = House::open_with(Answers::nothing(), |config, _| config.token = Secret::from("right")).await;
    for token in ["", "wrong"] {
        let mut config = UpstreamConfig::of([house.uri()]);
        config.token = Secret::from(token);
        let failure = get(&Upstream::try_new("cache", &config).unwrap(), read(), "k").await.unwrap_err();
        assert_eq!((failure.code(), failure.reason()), (ErrorCode::Unavailable, "UPSTREAM_REFUSED_TOKEN"));
    }
    let mut config = UpstreamConfig::of([house.uri()]);
    config.token = Secret::from("right");
    get(&Upstream::try_new("cache", &config).unwrap(), read(), "k").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_is_lost_when_servers_restart_one_after_the_other() {
    let handled = Arc::new(AtomicUsize::new(0));
    let answers = {
        let handled = Arc::clone(&handled);
        Answers::with(move |_| {
            handled.fetch_add(1, Ordering::Relaxed);
            async {
                tokio::task::yield_now().await;
                found_nothing()
            }
        })
    };
    let mut houses = [House::open(answers.clone()).await, House::open(answers.clone()).await];
    let upstream = upstream(houses.iter().map(House::uri));
    let done = CancellationToken::new();
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let (upstream, done) = (upstream.clone(), done.clone());
        clients.spawn(async move {
            let mut succeeded = 0;
            while !done.is_cancelled() {
                get(&upstream, write(), "k").await.unwrap();
                succeeded += 1;
            }
            succeeded
        });
    }
    let answered = |n: usize| {
        let endpoint = upstream.snapshot().endpoints.swap_remove(n);
        (endpoint.calls - endpoint.failures, endpoint.breaker)
    };
    for n in [0, 1, 0, 1, 0, 1] {
        let address = houses[n].address;
        houses[n].stopping.cancel();
        houses[n].ended().await;
        houses[n] = House::open_at(address, answers.clone(), |_, _| {}).await;
        let before = answered(n).0;
        eventually("the restarted server to be used again", || async {
            let (now, breaker) = answered(n);
            if now > before + 100 && breaker == "closed" { Ok(()) } else { Err((now - before, breaker)) }
        })
        .await;
    }
    done.cancel();
    let succeeded: usize = soon("the clients to end", clients.join_all()).await.into_iter().sum();
    assert_eq!(handled.load(Ordering::Relaxed), succeeded, "answered and handled writes differ");
}

#[test]
fn impossible_configurations_are_refused() {
    let refused = |config: &UpstreamConfig| Upstream::try_new("cache", config).unwrap_err().to_string();
    assert_eq!(refused(&UpstreamConfig::default()), "no endpoint is configured");
    assert_eq!(refused(&UpstreamConfig::of(["https://cache:1"])), "https://cache:1/ needs tls.ca");
    assert!(refused(&UpstreamConfig::of(["cache"])).contains("is not of the form"));
    let mut config = UpstreamConfig::of(["http://cache:1"]);
    config.token = Secret::from("a b");
    assert!(refused(&config).starts_with("token must be"));
}
