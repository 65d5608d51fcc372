use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::*;

/// Answers each byte with the same byte, in this process, until dropped.
struct Echo {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind(local(0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        Self { address, _tasks: tasks }
    }
}

async fn echo_and_proxy() -> (Echo, ChaosProxy) {
    let echo = Echo::start().await;
    let proxy = ChaosProxy::start(echo.address).unwrap();
    (echo, proxy)
}

async fn round_trip(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer).await?;
    assert_eq!(answer, bytes);
    Ok(())
}

#[tokio::test]
async fn bytes_pass_unchanged_and_are_counted() {
    let (_echo, proxy) = echo_and_proxy().await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut stream, &[7; 10_000]).await.unwrap();
    let counts = proxy.counts();
    assert_eq!((counts.accepted, counts.open, counts.broken), (1, 1, 0));
    assert_eq!((counts.bytes_upstream, counts.bytes_downstream), (10_000, 10_000));
}

#[tokio::test]
async fn half_close_is_passed_on_and_ends_in_order() {
    let (_echo, proxy) = echo_and_proxy().await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    stream.write_all(b"last words").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "last words");
    wait_until("the connection to end", Duration::from_millis(5), Duration::from_secs(5), || async {
        let counts = proxy.counts();
        if counts.open == 0 { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await
    .unwrap();
    assert_eq!(proxy.counts().broken, 0);
}

#[tokio::test]
async fn cut_resets_open_connections_and_refuses_new_ones_until_restored() {
    let (_echo, proxy) = echo_and_proxy().await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut stream, b"before").await.unwrap();
    proxy.cut().await.unwrap();
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!((proxy.counts().open, proxy.counts().broken), (0, 1));
    proxy.restore().await.unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut stream, b"after").await.unwrap();
}

#[tokio::test]
async fn stalled_connection_is_accepted_and_delivers_once_unstalled() {
    let (_echo, proxy) = echo_and_proxy().await;
    proxy.stall(Direction::Downstream);
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    wait_until("the byte to go up", Duration::from_millis(5), Duration::from_secs(5), || async {
        let counts = proxy.counts();
        if counts.bytes_upstream == 1 { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await
    .unwrap();
    assert!(timeout(Duration::from_millis(100), stream.read_u8()).await.is_err());
    proxy.unstall(Direction::Downstream);
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn delay_moves_bytes_in_time_without_adding_up() {
    let (_echo, proxy) = echo_and_proxy().await;
    proxy.delay(Direction::Downstream, Duration::from_millis(150));
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let began = Instant::now();
    // Many chunks: each is late by the delay, all together still by about one delay.
    round_trip(&mut stream, &[1; 200_000]).await.unwrap();
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(150), "{took:?}");
    assert!(took < Duration::from_millis(1_500), "{took:?}");
}

#[tokio::test]
async fn throttle_holds_the_rate() {
    let (_echo, proxy) = echo_and_proxy().await;
    proxy.throttle(Direction::Upstream, 100_000);
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let began = Instant::now();
    round_trip(&mut stream, &[1; 30_000]).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
}

#[tokio::test]
async fn connection_breaks_after_exactly_the_allowed_bytes() {
    let (_echo, proxy) = echo_and_proxy().await;
    proxy.drop_after(Direction::Upstream, 1_000);
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    stream.write_all(&[1; 5_000]).await.unwrap();
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer).await;
    assert!(ended.is_err(), "a reset, not an orderly end");
    assert_eq!(proxy.counts().bytes_upstream, 1_000);
    let mut fresh = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut fresh, &[2; 900]).await.unwrap();
}

#[tokio::test]
async fn unreachable_target_ends_the_connection() {
    let closed = StdListener::bind(local(0)).unwrap().local_addr().unwrap();
    let proxy = ChaosProxy::start(closed).unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(stream.read_u8().await.is_err());
}

#[test]
fn proxy_outlives_the_runtime_that_made_it() {
    let runtime = || runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let echo_runtime = runtime();
    let echo = echo_runtime.block_on(Echo::start());
    let proxy = runtime().block_on(async { ChaosProxy::start(echo.address).unwrap() });
    runtime().block_on(async {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        round_trip(&mut stream, b"still here").await.unwrap();
    });
}
