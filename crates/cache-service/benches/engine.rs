//! Prints what the engine costs without its doors: a hit of memory beside quick_cache, and a hit of Redis beside the same
//! GET by fred alone, in one run, taking turns, medians.

#![expect(clippy::print_stdout, reason = "a program for people: its output is the result")]
#![expect(clippy::disallowed_methods, reason = "measures real time")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use bytesize::ByteSize;
use cache_service::{CacheConfig, MeasuredEngine, NamespaceOverrides, RedisConfig, RedisMode};
use fred::interfaces::{ClientLike as _, KeysInterface as _};
use fred::types::Builder;
use fred::types::config::{Config, Server, ServerConfig};
use mainstay_devstack::{Devstack, MinReplicas};
use mainstay_runtime::{Context, Secret};
use quick_cache::sync::Cache;
use tokio::time::sleep;

const VALUE_BYTES: usize = 100;
const READS: usize = 200_000;
const BATCH: usize = 64;
const ROUNDS: usize = 7;
const L2_READS: usize = 2_000;
const L2_KEYS: usize = 1_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    for n_keys in [1_000, 100_000, 300_000] {
        memory(n_keys).await?;
    }
    redis().await?;
    println!("  load average  {}", std::fs::read_to_string("/proc/loadavg")?.trim());
    Ok(())
}

fn key(number: usize) -> String {
    format!("key:{number:012}")
}

/// Numbers without an order that a processor could guess.
fn numbers(below: usize) -> impl Iterator<Item = usize> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    })
}

async fn memory(n_keys: usize) -> anyhow::Result<()> {
    let cx = Context::for_test("bench");
    let mut config = CacheConfig::default();
    config.memory.capacity = ByteSize::mib(512);
    let engine = MeasuredEngine::start(&cx, &config)?;
    let other: Cache<String, Bytes> = Cache::new(2 * n_keys);
    for number in 0..n_keys {
        let value = Bytes::from(vec![7; VALUE_BYTES]);
        engine.set("bench", &key(number), value.clone()).await?;
        other.insert(key(number), value);
    }
    let keys: Vec<String> = numbers(n_keys).take(READS).map(key).collect();
    let [mut hit, mut get, mut many, mut others] = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        let (took, n_bytes) = cpu_ns(async || {
            let mut n_bytes = 0;
            for key in &keys {
                n_bytes += engine.get("bench", key).await?.len();
            }
            anyhow::Ok(n_bytes)
        })
        .await?;
        anyhow::ensure!(n_bytes == READS * VALUE_BYTES, "misses");
        get.push(took / READS as f64);
        let (took, n_bytes) = cpu_ns(async || {
            anyhow::Ok(keys.iter().filter_map(|key| engine.hit("bench", key)).sum::<usize>())
        })
        .await?;
        anyhow::ensure!(n_bytes == READS * VALUE_BYTES, "misses");
        hit.push(took / READS as f64);
        let (took, n_bytes) = cpu_ns(async || {
            anyhow::Ok(keys.chunks(BATCH).map(|keys| engine.look("bench", keys)).sum::<usize>())
        })
        .await?;
        anyhow::ensure!(n_bytes == READS * VALUE_BYTES, "misses");
        many.push(took / READS as f64);
        let (took, n_bytes) = cpu_ns(async || {
            let sizes = keys.iter().filter_map(|key| other.get(key)).map(|value| black_box(value).len());
            anyhow::Ok(sizes.sum::<usize>())
        })
        .await?;
        anyhow::ensure!(n_bytes == READS * VALUE_BYTES, "quick_cache misses");
        others.push(took / READS as f64);
    }
    let [hit, get, many, others] = [hit, get, many, others].map(median);
    println!("memory, {n_keys} keys read at random; ns of CPU per read");
    println!("  quick_cache, look-up alone    {others:>8.0}");
    println!("  hit, as a call makes it       {hit:>8.0}    bar < 500    {}", verdict(hit < 500.0));
    println!("  get, where the call has to wait {get:>6.0}");
    println!("  in a batch of {BATCH}              {many:>8.0}    bar < 500    {}", verdict(many < 500.0));
    cx.shut_down().await;
    Ok(())
}

async fn redis() -> anyhow::Result<()> {
    let stack = Devstack::builder().redis(true).min_replicas(MinReplicas::Off).start().await?;
    let redis = stack.redis().context("asked for above")?;
    let address = redis.first_primary().public_address();
    let cx = Context::for_test("bench");
    let mut config = CacheConfig {
        redis: RedisConfig {
            mode: RedisMode::Single,
            address: address.to_string(),
            password: Secret::from(redis.password()),
            ..RedisConfig::default()
        },
        ..CacheConfig::default()
    };
    let below = NamespaceOverrides { memory: Some(false), ..NamespaceOverrides::default() };
    config.namespaces.insert("below".to_owned(), below);
    let engine = MeasuredEngine::start(&cx, &config)?;
    let deadline = Instant::now() + Duration::from_secs(15);
    while engine.set("below", "first", Bytes::from_static(b"v")).await.is_err() {
        anyhow::ensure!(Instant::now() < deadline, "no connection to Redis");
        sleep(Duration::from_millis(20)).await;
    }
    for number in 0..L2_KEYS {
        engine.set("below", &key(number), Bytes::from(vec![7; VALUE_BYTES])).await?;
    }
    let server = Server::new(address.ip().to_string(), address.port());
    let fred = Builder::from_config(Config {
        server: ServerConfig::Centralized { server },
        password: Some(redis.password().to_owned()),
        ..Config::default()
    })
    .build()?;
    fred.init().await?;
    let keys: Vec<String> = numbers(L2_KEYS).take(L2_READS).map(key).collect();
    let full: Vec<String> = keys.iter().map(|key| format!("{}below:{key}", config.redis.prefix)).collect();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // Turns within a round too: whatever else the machine does hits both.
    for _ in 0..ROUNDS {
        let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
        for (key, full) in keys.iter().zip(&full) {
            let started = Instant::now();
            let value: Option<Bytes> = fred.get(full).await?;
            their_times.push(started.elapsed().as_secs_f64() * 1e6);
            anyhow::ensure!(value.is_some(), "fred misses");
            let started = Instant::now();
            engine.get("below", key).await?;
            our_times.push(started.elapsed().as_secs_f64() * 1e6);
        }
        ours.push(median(our_times));
        theirs.push(median(their_times));
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!("Redis, one read at a time; us until the answer");
    println!("  fred alone                    {theirs:>8.1}");
    println!("  get, L2 hit                   {ours:>8.1}");
    let ratio = ours / theirs;
    println!("  ratio                         {ratio:>8.2}    bar <= 1.30  {}", verdict(ratio <= 1.3));
    fred.quit().await?;
    cx.shut_down().await;
    stack.stop().await?;
    Ok(())
}

/// Returns the CPU time of this thread alone, which nobody else's work adds to.
async fn cpu_ns<T>(work: impl AsyncFnOnce() -> anyhow::Result<T>) -> anyhow::Result<(f64, T)> {
    let now = || -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
        Ok(stat.split_whitespace().next().context("schedstat")?.parse()?)
    };
    let before = now()?;
    let result = work().await?;
    Ok((now()? - before, result))
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}
