//! Prints what the cache costs beside the bars it is held to: CPU time of its process against that of an empty tonic
//! handler and of redis-server in the same run, rounds of all taking turns, medians; and the memory that an entry takes.
//!
//! CPU time and not throughput: client and server share the machine.

#![expect(clippy::print_stdout, reason = "a program for people: its output is the result")]
#![expect(
    clippy::disallowed_methods,
    reason = "measures real time, and is given its own address by its parent"
)]

use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::ensure;
use futures_util::future::try_join_all;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use tokio::net::TcpListener;

#[path = "cache/many.rs"]
mod many;
#[path = "cache/origin.rs"]
mod origin;
#[path = "pace.rs"]
mod pace;
#[path = "cache/redis.rs"]
mod redis;
#[path = "cache/server.rs"]
mod server;
#[path = "cache/unary.rs"]
mod unary;

use many::{BATCHES_IN_FLIGHT, KEYS_PER_BATCH, WINDOW_KEYS, fill};
use origin::Slow;
use server::Server;
use unary::{CONNECTIONS, Call, IN_FLIGHT_EACH};

const KEYS: usize = 10_000;
const VALUE_BYTES: usize = 256;
const ENTRIES: usize = 300_000;
const ROUNDS: usize = 5;
const COLD_CALLERS: usize = 100;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if let Some(address) = std::env::args().nth(1) {
        return origin::serve_empty(address.parse()?).await;
    }
    let cache = Server::cache(None).await?;
    fill(&cache, KEYS, VALUE_BYTES).await?;
    let address = Server::free()?;
    let program = std::env::current_exe()?;
    let empty = Server::spawn(&program, &[&address.to_string()], Vec::new(), address).await?;
    calls(&cache, &empty).await?;
    keys(&cache).await?;
    latency(&cache, &empty).await?;
    drop(empty);
    stampede().await?;
    memory().await
}

async fn calls(cache: &Server, empty: &Server) -> anyhow::Result<()> {
    println!("unary, {CONNECTIONS} connections with {IN_FLIGHT_EACH} in flight; us of server CPU per call");
    let (mut get, mut nothing) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        nothing.push(unary::cpu_us(empty, Call::Empty).await?);
        get.push(unary::cpu_us(cache, Call::Get).await?);
    }
    let (get, nothing) = (median(get), median(nothing));
    figure("empty handler of a plain tonic server", format!("{nothing:.1}"));
    figure("GET, L1 hit", format!("{get:.1}"));
    bar("GET against the empty handler", get / nothing, "<= 1.10", get <= 1.1 * nothing);
    Ok(())
}

async fn keys(cache: &Server) -> anyhow::Result<()> {
    println!("{WINDOW_KEYS} keys in flight; us of server CPU per key");
    let redis = redis::start().await?;
    let (mut theirs, mut batched) = (Vec::new(), Vec::new());
    let mut streamed: Vec<(usize, Vec<f64>)> = [16, 64].map(|keys| (keys, Vec::new())).into();
    for _ in 0..ROUNDS {
        theirs.push(redis::get_us(&redis).await?);
        for (keys_per_message, figures) in &mut streamed {
            figures.push(many::stream_us(cache, *keys_per_message).await?);
        }
        batched.push(many::batch_us(cache).await?);
    }
    let theirs = median(theirs);
    figure("redis-server, GET, pipeline 64, 16 connections", format!("{theirs:.3}"));
    let batch = format!("Batch of {KEYS_PER_BATCH}, {BATCHES_IN_FLIGHT} in flight");
    let streamed = streamed
        .into_iter()
        .map(|(keys, figures)| (format!("Stream, {keys} keys a message"), figures))
        .chain([(batch, batched)]);
    for (what, figures) in streamed {
        let ours = median(figures);
        figure(&what, format!("{ours:.3}"));
        bar("  keys/s per core of the server", 1e6 / ours, ">= 700000", ours <= 1e6 / 700_000.0);
        bar("  against redis-server", ours / theirs, "< 1", ours < theirs);
    }
    Ok(())
}

async fn latency(cache: &Server, empty: &Server) -> anyhow::Result<()> {
    println!("unary GET at 15,000/s from when it was due; the load of the machine decides as much as we do");
    let (mut times, mut nothing) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        nothing.push(unary::p99(empty, Call::Empty).await?.as_secs_f64() * 1e3);
        times.push(unary::p99(cache, Call::Get).await?.as_secs_f64() * 1e3);
    }
    let best = times.iter().copied().fold(f64::MAX, f64::min);
    figure("p99 of each round, ms", format!("{times:.2?}"));
    figure("the same of the empty handler, ms", format!("{nothing:.2?}"));
    figure("load average", std::fs::read_to_string("/proc/loadavg")?.trim());
    bar("p99 of the calmest round, ms", best, "< 1", best < 1.0);
    Ok(())
}

/// Many callers ask for one key that only the origin has.
async fn stampede() -> anyhow::Result<()> {
    let origin = Slow::default();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut config = tempfile::NamedTempFile::new()?;
    writeln!(
        config,
        "[namespaces.cold]\nstrategy = \"read_through\"\norigin = \"slow\"\n\n[origins.slow.grpc]\nendpoints = [\"http://{}\"]",
        listener.local_addr()?
    )?;
    let cache = Server::cache(Some(config.path())).await?;
    let client = CacheServiceClient::new(cache.channel()?);
    let callers = try_join_all((0..COLD_CALLERS).map(|_| {
        let mut client = client.clone();
        let (namespace, key) = ("cold".to_owned(), "key".to_owned());
        async move { client.get(pb::GetRequest { namespace, key, ..pb::GetRequest::default() }).await }
    }));
    let answers = tokio::select! {
        answers = callers => answers?,
        ended = origin.serve(listener) => return ended,
    };
    ensure!(answers.iter().all(|answer| answer.get_ref().entry.is_some()), "a miss");
    let n_loads = origin.n_loads.load(Ordering::Relaxed);
    println!("{COLD_CALLERS} callers of one key that only the origin has");
    bar("calls of the origin", n_loads as f64, "1", n_loads == 1);
    Ok(())
}

async fn memory() -> anyhow::Result<()> {
    println!("memory, {ENTRIES} entries of 100 bytes");
    let fresh = Server::cache(None).await?;
    fill(&fresh, 1_000, 100).await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = fresh.rss_bytes()?;
    fill(&fresh, ENTRIES, 100).await?;
    let texts: usize = (0..ENTRIES).map(|number| "bench:".len() + key(number).len() + 100).sum();
    let taken = fresh.rss_bytes()?.saturating_sub(before) as f64;
    let overhead = (taken - texts as f64) / ENTRIES as f64;
    bar("bytes per entry above key and value", overhead, "<= 150", overhead <= 150.0);
    Ok(())
}

fn key(number: usize) -> String {
    format!("key:{number:012}")
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn figure(what: &str, is: impl AsRef<str>) {
    println!("  {what:<48} {:>10}", is.as_ref());
}

fn bar(what: &str, is: f64, bar: &str, met: bool) {
    let is = if is >= 1_000.0 { format!("{is:.0}") } else { format!("{is:.2}") };
    println!("  {what:<48} {is:>10}    bar {bar:<10} {}", if met { "met" } else { "MISSED" });
}
