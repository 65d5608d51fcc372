use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::*;
use crate::testing::{Answers, GET, House, eventually, found_nothing, get, soon};
use crate::{Call, Upstream, UpstreamConfig};

const LIVEZ: &[u8] = b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n";

async fn connect(house: &House) -> TcpStream {
    TcpStream::connect(house.address).await.unwrap()
}

/// Reads one HTTP/1.1 answer whose body is `alive`.
async fn answer(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"alive") {
        let n = soon("an answer", stream.read_buf(&mut text)).await.unwrap();
        assert_ne!(n, 0, "closed after {:?}", String::from_utf8_lossy(&text));
    }
    String::from_utf8(text).unwrap()
}

/// Waits until the server has closed the connection, and returns what it said last.
async fn closed(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    // A reset is as good an end as a proper one.
    let _ = soon("the connection to be closed", stream.read_to_end(&mut rest)).await;
    String::from_utf8_lossy(&rest).into_owned()
}

#[tokio::test]
async fn peers_that_do_not_finish_a_request_head_are_cut_off() {
    let within = Duration::from_millis(200);
    let house = House::open_with(Answers::nothing(), |_, options| options.header_within = within).await;
    let starts: [&[u8]; 5] = [
        b"",
        b"PRI * HT",
        b"GET /",
        b"GET /livez HTTP/1.1\r\n",
        b"GET /livez HTTP/1.1\r\nhost: test\r\nx-slow: ",
    ];
    for start in starts {
        let started = Instant::now();
        let mut stream = connect(&house).await;
        stream.write_all(start).await.unwrap();
        let last_words = closed(&mut stream).await;
        assert!(last_words.is_empty() || last_words.starts_with("HTTP/1.1 408"), "{last_words}");
        assert!(started.elapsed() >= within, "{start:?} was cut after {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_a_while() {
    let house = House::open_with(Answers::nothing(), |_, options| {
        options.header_within = Duration::from_millis(200);
    })
    .await;
    let mut stream = connect(&house).await;
    for _ in 0..2 {
        stream.write_all(LIVEZ).await.unwrap();
        answer(&mut stream).await;
    }
    closed(&mut stream).await;
}

#[tokio::test]
async fn both_protocols_are_spoken_on_one_port() {
    let house = House::open(Answers::nothing()).await;
    let mut stream = connect(&house).await;
    stream.write_all(LIVEZ).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 OK"));
    let upstream = Upstream::try_new("cache", &UpstreamConfig::of([house.uri()])).unwrap();
    get(&upstream, Call::write(GET), "k").await.unwrap();
}

#[tokio::test]
async fn while_draining_answers_ask_to_close_and_are_still_given() {
    let house = House::open(Answers::nothing()).await;
    let mut stream = connect(&house).await;
    stream.write_all(LIVEZ).await.unwrap();
    assert!(!answer(&mut stream).await.contains("connection: close"));

    house.draining.cancel();
    stream.write_all(LIVEZ).await.unwrap();
    assert!(answer(&mut stream).await.contains("connection: close"));
    closed(&mut stream).await;

    let mut late = connect(&house).await;
    late.write_all(LIVEZ).await.unwrap();
    assert!(answer(&mut late).await.contains("connection: close"));
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight_and_refuses_what_comes_after() {
    let gate = Arc::new(Semaphore::new(0));
    let arrived = Arc::new(Notify::new());
    let (pass, tell) = (Arc::clone(&gate), Arc::clone(&arrived));
    let mut house = House::open(Answers::with(move |_| {
        let pass = Arc::clone(&pass);
        tell.notify_one();
        async move {
            pass.acquire().await.unwrap().forget();
            found_nothing()
        }
    }))
    .await;
    let upstream = Upstream::try_new("cache", &UpstreamConfig::of([house.uri()])).unwrap();
    let call = Call::write(GET).within(Duration::from_secs(10));
    let (in_flight, ()) = tokio::join!(get(&upstream, call, "k"), async {
        soon("the request to arrive", arrived.notified()).await;
        house.stopping.cancel();
        eventually("the port to be closed", || async {
            match TcpStream::connect(house.address).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        gate.add_permits(1);
    });
    in_flight.unwrap();
    house.ended().await;
}

#[tokio::test]
async fn connections_in_the_backlog_are_answered_at_a_stop() {
    let mut house = House::open(Answers::nothing()).await;
    // The runtime has one thread, so the server cannot accept between these blocking steps and the stop.
    let mut streams: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(house.address).unwrap()).collect();
    for stream in &mut streams {
        io::Write::write_all(stream, LIVEZ).unwrap();
    }
    house.stopping.cancel();
    house.ended().await;
    for mut stream in streams {
        let mut text = String::new();
        io::Read::read_to_string(&mut stream, &mut text).unwrap();
        assert!(text.ends_with("alive"), "{text:?}");
    }
}

#[tokio::test]
async fn an_abort_drops_what_is_in_flight() {
    let arrived = Arc::new(Notify::new());
    let tell = Arc::clone(&arrived);
    let house = House::open(Answers::with(move |_| {
        tell.notify_one();
        async { std::future::pending().await }
    }))
    .await;
    let upstream = Upstream::try_new("cache", &UpstreamConfig::of([house.uri()])).unwrap();
    let call = Call::write(GET).within(Duration::from_secs(30));
    let (result, ()) = tokio::join!(get(&upstream, call, "k"), async {
        soon("the request to arrive", arrived.notified()).await;
        house.stopping.cancel();
        house.kill().await;
    });
    result.unwrap_err();
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_counted() {
    let house = House::open_with(Answers::nothing(), |_, options| options.max_connections = 1).await;
    let mut first = connect(&house).await;
    first.write_all(LIVEZ).await.unwrap();
    answer(&mut first).await;

    let mut second = connect(&house).await;
    assert_eq!(closed(&mut second).await, "");
    assert!(house.metrics().contains(r#"mainstay_rpc_connections_refused_total{listener="test"} 1"#));

    drop(first);
    eventually("the slot to be free", || async {
        let mut third = connect(&house).await;
        third.write_all(LIVEZ).await.map_err(|error| error.to_string())?;
        let mut start = [0; 8];
        third.read_exact(&mut start).await.map_err(|error| error.to_string())?;
        assert_eq!(&start, b"HTTP/1.1");
        Ok::<_, String>(())
    })
    .await;
}
