use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::join_all;
use mainstay_tests::cpu_time;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::{bar, figure, percentile};

const WATCHERS: usize = 500;
const WATCHED_FOR: Duration = Duration::from_secs(10);
const CORE_BAR: f64 = 0.1;
const SLOW: usize = 10_000;
const SLOW_CALLS: usize = 200;
/// The edge cuts who does not send a whole head within `http.header_within`, 5 s, and then some.
const CUT_WITHIN: Duration = Duration::from_secs(40);

/// What people who watch the dashboard cost the edge.
pub(crate) async fn watchers(edge: SocketAddr, edge_pid: u32, key: &str) -> anyhow::Result<()> {
    let mut watching = JoinSet::new();
    for _ in 0..WATCHERS {
        let mut stream = TcpStream::connect(edge).await?;
        let head = format!("GET /monitoring/live HTTP/1.1\r\nhost: bench\r\nx-api-key: {key}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        watching.spawn(async move {
            let (mut bytes, mut buffer) = (0, vec![0; 16 << 10]);
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                bytes += n;
                if bytes > (1 << 30) {
                    break;
                }
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = cpu_time(edge_pid)?;
    tokio::time::sleep(WATCHED_FOR).await;
    let share = (cpu_time(edge_pid)? - before).as_secs_f64() / WATCHED_FOR.as_secs_f64();
    ensure!(watching.try_join_next().is_none(), "a watcher was sent away");
    println!("{WATCHERS} watchers of the live figures, {WATCHED_FOR:?}");
    bar("share of a core", share, "< 0.10", share < CORE_BAR);
    Ok(())
}

/// Connections that never send a whole request: who sends one is answered all the same, and they are cut.
pub(crate) async fn slow(edge: SocketAddr, key: &str) -> anyhow::Result<()> {
    let began_at = Instant::now();
    let mut slow = Vec::with_capacity(SLOW);
    for number in 0..SLOW {
        let mut stream = TcpStream::connect(edge).await.with_context(|| format!("connection {number}"))?;
        stream.write_all(b"GET /health/liveness HTTP/1.1\r\nx-slow: ").await?;
        slow.push(stream);
    }
    let mut took = Vec::new();
    let mut client = Client::connect(edge, "/cache/bench/key", key).await?;
    for _ in 0..SLOW_CALLS {
        let asked_at = Instant::now();
        client.ask().await?;
        took.push(asked_at.elapsed().as_secs_f64() * 1e3);
    }
    println!("{SLOW} connections that never end their request");
    figure("p95 of others meanwhile, ms", format!("{:.2}", percentile(&mut took, 0.95)));
    let cut = slow.into_iter().map(|mut stream| async move {
        let mut rest = Vec::new();
        tokio::time::timeout(CUT_WITHIN, stream.read_to_end(&mut rest)).await.is_ok()
    });
    let n_cut = join_all(cut).await.into_iter().filter(|cut| *cut).count();
    figure("all cut after, s", format!("{:.1}", began_at.elapsed().as_secs_f64()));
    bar("connections cut", n_cut as f64, "10000", n_cut == SLOW);
    Ok(())
}
