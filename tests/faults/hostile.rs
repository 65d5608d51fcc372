use std::time::Duration;

use mainstay_auth::Role;
use mainstay_tests::{Devstack, House, Service, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Connections that send a byte now and then; ten thousand of them differ only in number.
const SLOW: usize = 400;
const HEADER_WITHIN: Duration = Duration::from_secs(1);

async fn house() -> House {
    let edge = Service::EdgeGateway;
    let builder = Devstack::builder()
        .services([Service::CacheService, edge])
        .env(edge, "MAINSTAY__HTTP__HEADER_WITHIN", "1s")
        .env(edge, "MAINSTAY__HTTP__REQUEST_WITHIN", "2s")
        .env(edge, "MAINSTAY__HTTP__MAX_BODY_SIZE", "4KiB");
    House::start(builder).await
}

/// Sends bytes as they are, and gives the whole of what comes back until the connection ends.
async fn raw(house: &House, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(house.edge()).await.expect("the edge accepts");
    stream.write_all(bytes).await.expect("the edge reads");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    // A reset is as good an end as a proper one.
    let _ = read.expect("the edge ends the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn slow_connections_are_cut_and_keep_nobody_else_waiting() {
    let house = house().await;
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let mut stream = TcpStream::connect(house.edge()).await.unwrap();
        stream.write_all(b"GET /health/liveness HTTP/1.1\r\nx-slow: ").await.unwrap();
        slow.push(stream);
    }
    let began_at = tokio::time::Instant::now();
    let viewer = house.rest(Role::Viewer);
    while began_at.elapsed() < HEADER_WITHIN / 2 {
        for stream in &mut slow {
            // Already cut on a slow machine: that is what is wanted.
            let _ = stream.write_all(b"x").await;
        }
        assert_eq!(viewer.get("/cache/stats").await.status, 200);
    }
    for mut stream in slow {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "a slow connection is still open after {:?}", began_at.elapsed());
    }
    assert_eq!(viewer.get("/cache/stats").await.status, 200);
}

#[tokio::test]
async fn malformed_requests_are_answered_or_cut_and_hurt_nobody() {
    let house = house().await;
    let key = house.stack().credentials().api_keys.admin.clone();
    let head = |first: &str, more: &str| {
        format!("{first} HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n{more}connection: close\r\n\r\n")
    };
    let large = "x".repeat(5_000);
    let table: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("not HTTP", b"\x16\x03\x01 hello\r\n\r\n".to_vec(), &["", "400"]),
        (
            "a body that is declared too large",
            head("PUT /cache/a/b", "content-length: 99999999\r\n").into(),
            &["413"],
        ),
        (
            "a body that is too large",
            (head("PUT /cache/a/b", "content-length: 5000\r\n") + &large).into(),
            &["413"],
        ),
        (
            "a body that breaks off",
            (head("PUT /cache/a/b", "content-length: 100\r\n") + "short").into(),
            &["", "400", "504"],
        ),
        (
            "two lengths",
            (head("PUT /cache/a/b", "content-length: 1\r\ncontent-length: 2\r\n") + "ab").into(),
            &["400"],
        ),
        (
            "length and chunks",
            (head("PUT /cache/a/b", "content-length: 3\r\ntransfer-encoding: chunked\r\n") + "0\r\n\r\n")
                .into(),
            &["", "400", "200"],
        ),
        ("two credentials", head("GET /cache/stats", "authorization: Bearer a.b.c\r\n").into(), &["401"]),
        ("path traversal", head("GET /cache/../../etc/passwd", "").into(), &["404", "400"]),
        (
            "encoded path traversal",
            head("GET /dashboard/assets/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "").into(),
            &["404"],
        ),
        ("bytes that are no UTF-8 in a path", head("GET /cache/a/%ff%fe", "").into(), &["400", "404"]),
        (
            "bytes that are no UTF-8 in JSON",
            [
                head("POST /database/query", "content-type: application/json\r\ncontent-length: 11\r\n")
                    .as_bytes(),
                b"{\"sql\":\"\xff\"}",
            ]
            .concat(),
            &["400"],
        ),
        (
            "JSON that ends early",
            (head("POST /realtime/publish", "content-type: application/json\r\ncontent-length: 6\r\n")
                + "{\"a\":1")
                .into(),
            &["400"],
        ),
        (
            "another type of content",
            (head("POST /realtime/publish", "content-type: text/xml\r\ncontent-length: 4\r\n") + "<a/>")
                .into(),
            &["415"],
        ),
        ("a method that nobody knows", head("BREW /cache/stats", "").into(), &["405"]),
        (
            "a huge header",
            head("GET /cache/stats", &format!("x-huge: {}\r\n", "y".repeat(600_000))).into(),
            &["", "431", "200"],
        ),
    ];
    for (what, bytes, expected) in table {
        let answer = raw(&house, &bytes).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(expected.contains(&status), "{what}: {}", answer.chars().take(400).collect::<String>());
        assert!(!answer.contains("root:"), "{what}");
    }
    let liveness = house.anonymous().get("/health/liveness").await;
    assert_eq!(liveness.status, 200, "{}", liveness.text());
}

/// A service that answers every connection with something that is not gRPC.
async fn babbler() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    #[expect(clippy::disallowed_methods, reason = "ends with the runtime of its test")]
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
            let _ = stream.read(&mut [0; 512]).await;
        }
    });
    address
}

#[tokio::test]
async fn services_that_are_dead_or_talk_garbage_are_problems_and_never_a_crash() {
    let garbage = babbler().await;
    let edge = Service::EdgeGateway;
    let mut builder = Devstack::builder().services([edge]);
    for section in ["CACHE", "REALTIME"] {
        let key = format!("MAINSTAY__UPSTREAMS__{section}__ENDPOINTS");
        builder = builder.env(edge, key, format!("http://{garbage}"));
    }
    for section in ["REPLICA", "MONITOR"] {
        builder =
            builder.env(edge, format!("MAINSTAY__UPSTREAMS__{section}__ENDPOINTS"), "http://127.0.0.1:1");
    }
    let house = House::start(builder).await;
    let rest = house.rest(Role::Admin);
    for path in
        ["/cache/stats", "/cache/a/b", "/realtime/channels", "/database/info", "/monitoring/unified/alerts"]
    {
        let answer = rest.get(path).await;
        assert!([500, 502, 503, 504].contains(&answer.status.as_u16()), "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
    }
    let merged = rest.get("/monitoring/unified/metrics").await;
    assert_eq!((merged.status.as_u16(), merged.header("x-mainstay-completeness")), (200, "partial"));
    assert_eq!(house.anonymous().get("/health/liveness").await.status, 200);
    eventually("not ready", || async {
        let readiness = house.anonymous().get("/health/readiness").await;
        if readiness.status == 503 { Ok(()) } else { Err(readiness.text()) }
    })
    .await;
}
