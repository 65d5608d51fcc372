//! Prints the numbers the house is built for: start to listening, idle memory, start and stop of the whole stack.

#![expect(clippy::print_stdout, reason = "a program for people: its output is the result")]
#![expect(clippy::disallowed_methods, reason = "measures real time")]

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mainstay_devstack::{Devstack, Ports, Service, http_get};
use mainstay_tests::{binary, resident_bytes};
use tokio::process::{Child, Command};

/// Starts measured per service; the median is printed.
const STARTS: usize = 5;
const LISTENING_BAR: Duration = Duration::from_millis(200);
const UP_BAR: Duration = Duration::from_secs(15);
const STOP_BAR: Duration = Duration::from_secs(10);
const IDLE_RSS_BAR_KIB: u64 = 30 * 1024;
/// How long a stack is left alone before its memory is read.
const SETTLE: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    println!("start to listening, median of {STARTS}, backends down (bar {LISTENING_BAR:?})");
    for service in Service::ALL {
        let mut took = Vec::new();
        for _ in 0..STARTS {
            took.push(start_once(service).await?);
        }
        took.sort();
        println!(
            "  {:<16} {:>8.1} ms  {}",
            service.name(),
            ms(took[STARTS / 2]),
            verdict(took[STARTS / 2] <= LISTENING_BAR)
        );
    }

    println!("whole stack with demo data (bars: ready {UP_BAR:?}, stopped {STOP_BAR:?})");
    let began_at = Instant::now();
    let stack = Devstack::builder()
        .ports(Ports::Free)
        .redis(true)
        .postgres(true)
        .pgbouncer(true)
        .demo_data(true)
        .services(Service::ALL)
        .start()
        .await?;
    let up = began_at.elapsed();
    println!("  {:<16} {:>8.1} s   {}", "ready after", up.as_secs_f64(), verdict(up <= UP_BAR));

    tokio::time::sleep(SETTLE).await;
    println!("idle memory, {SETTLE:?} after ready (bar {} MiB)", IDLE_RSS_BAR_KIB / 1024);
    for node in stack.services() {
        let pid = node.pid().with_context(|| format!("{} does not run", node.name()))?;
        let rss = resident_bytes(pid)? / 1024;
        let listening = format!("{:.1} MiB", rss as f64 / 1024.0);
        println!("  {:<16} {listening:>11}  {}", node.name(), verdict(rss <= IDLE_RSS_BAR_KIB));
    }

    let began_at = Instant::now();
    stack.stop().await?;
    let stopped = began_at.elapsed();
    println!("  {:<16} {:>8.1} s   {}", "stopped after", stopped.as_secs_f64(), verdict(stopped <= STOP_BAR));
    Ok(())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn verdict(holds: bool) -> &'static str {
    if holds { "ok" } else { "OVER THE BAR" }
}

/// Starts a service whose backends are all down, and gives the time until `/livez` answers.
async fn start_once(service: Service) -> anyhow::Result<Duration> {
    let (internal, outer, closed) = (free()?, free()?, free()?);
    let began_at = Instant::now();
    let mut child = Command::new(binary(service.name()))
        .env("MAINSTAY__SERVER__LISTEN", internal.to_string())
        .envs(backends(service, outer, closed))
        .current_dir(std::env::temp_dir())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", service.name()))?;
    while !matches!(http_get(internal, "/livez", Duration::from_secs(1)).await, Ok((200, _))) {
        ensure!(child.try_wait()?.is_none(), "{} ended", service.name());
        ensure!(began_at.elapsed() < Duration::from_secs(10), "{} does not listen", service.name());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = began_at.elapsed();
    end(&mut child).await?;
    Ok(took)
}

async fn end(child: &mut Child) -> anyhow::Result<()> {
    child.kill().await.context("ending a measured service")
}

fn backends(service: Service, outer: SocketAddr, closed: SocketAddr) -> Vec<(&'static str, String)> {
    match service {
        Service::CacheService => vec![
            ("MAINSTAY__REDIS__MODE", "sentinel".to_owned()),
            ("MAINSTAY__REDIS__SENTINELS", closed.to_string()),
        ],
        Service::WsGateway => vec![
            ("MAINSTAY__WEBSOCKET__LISTEN", outer.to_string()),
            ("MAINSTAY__AUTH__JWT_SECRET", "0123456789abcdef0123456789abcdef".to_owned()),
        ],
        Service::ReplicaService => vec![("MAINSTAY__NODES__PRIMARY__ADDRESS", closed.to_string())],
        Service::MonitorService => Vec::new(),
        Service::EdgeGateway => vec![("MAINSTAY__HTTP__LISTEN", outer.to_string())],
    }
}

/// Gives an address on which nothing listens now.
fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
