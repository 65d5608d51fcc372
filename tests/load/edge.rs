//! Prints what the edge costs beside the bars it is held to: what it adds to a direct call, what it answers beside a bare
//! axum and tonic pair in the same run, merged answers, watchers of the dashboard, slow connections, weight of the page.

#![expect(clippy::print_stdout, reason = "a program for people: its output is the result")]
#![expect(
    clippy::disallowed_methods,
    reason = "measures real time, and is given its own address by its parent"
)]

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use mainstay_devstack::{Devstack, Ports, Service};
use mainstay_tests::Rest;

#[path = "edge/client.rs"]
mod client;
#[path = "edge/crowd.rs"]
mod crowd;
#[path = "cache/origin.rs"]
#[expect(dead_code, reason = "only its empty handler is of use here")]
mod origin;
#[path = "pace.rs"]
mod pace;
#[path = "edge/pair.rs"]
mod pair;
#[path = "cache/server.rs"]
#[expect(dead_code, reason = "the memory of the pair is nobody's question")]
mod server;
#[path = "edge/speed.rs"]
mod speed;

const MERGED_CALLS: usize = 200;
const MERGED_BAR_MS: f64 = 20.0;
const WEIGHT_BAR_BYTES: usize = 300 << 10;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["echo", address] => return origin::serve_empty(address.parse()?).await,
        ["axum", address, echo] => return pair::serve(address.parse()?, echo).await,
        _ => {}
    }
    let stack = Devstack::builder()
        .ports(Ports::Free)
        .redis(true)
        .postgres(true)
        .services(Service::ALL)
        .env(Service::EdgeGateway, "MAINSTAY__LIMITS__READ__QUOTA", "0")
        .env(Service::EdgeGateway, "MAINSTAY__HTTP__ACCESS_LOG", "false")
        .start()
        .await?;
    let edge = stack.edge()?;
    let key = stack.credentials().api_keys.operator.clone();
    let edge_pid = stack.service(Service::EdgeGateway)?.pid().context("the edge runs")?;
    let cache = stack.endpoints().services[Service::CacheService.name()].internal;
    let rest = Rest::new(edge).with_api_key(&key);
    rest.put("/cache/bench/key", "x".repeat(256)).await.ok();

    let token = &stack.credentials().service_token;
    speed::added((edge, &key), (cache, token)).await?;
    speed::beside_the_pair(edge, edge_pid, &key).await?;
    merged(&rest).await?;
    weight(edge).await?;
    crowd::watchers(edge, edge_pid, &key).await?;
    crowd::slow(edge, &key).await?;
    stack.stop().await?;
    Ok(())
}

async fn merged(rest: &Rest) -> anyhow::Result<()> {
    let mut took = Vec::new();
    for _ in 0..MERGED_CALLS {
        let began_at = std::time::Instant::now();
        let answer = rest.get("/monitoring/unified/metrics").await;
        took.push(began_at.elapsed().as_secs_f64() * 1e3);
        ensure!(answer.status == 200, "{}", answer.text());
    }
    println!("merged figures of all services, {MERGED_CALLS} calls one after the other");
    let p95 = percentile(&mut took, 0.95);
    bar("p95, ms", p95, &format!("< {MERGED_BAR_MS}"), p95 < MERGED_BAR_MS);
    Ok(())
}

/// Adds up the page and everything that it loads, as they come over the wire.
async fn weight(edge: SocketAddr) -> anyhow::Result<()> {
    let plain = Rest::new(edge).get("/dashboard").await.text();
    let packed = Rest::new(edge).with_header("accept-encoding", "gzip");
    let mut bytes = packed.get("/dashboard").await.body.len();
    let assets: Vec<&str> = plain.split('"').filter(|text| text.starts_with("/dashboard/assets/")).collect();
    ensure!(!assets.is_empty(), "the page loads nothing");
    for asset in &assets {
        let answer = packed.get(asset).await;
        ensure!(answer.status == 200, "{asset}");
        bytes += answer.body.len();
    }
    println!("the dashboard with its {} files, compressed", assets.len());
    bar("KiB", bytes as f64 / 1024.0, "< 300", bytes < WEIGHT_BAR_BYTES);
    Ok(())
}

fn percentile(times: &mut [f64], share: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    times[((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1]
}

fn figure(what: &str, is: impl AsRef<str>) {
    println!("  {what:<48} {:>10}", is.as_ref());
}

fn bar(what: &str, is: f64, bar: &str, met: bool) {
    println!("  {what:<48} {is:>10.2}    bar {bar:<10} {}", if met { "met" } else { "MISSED" });
}
