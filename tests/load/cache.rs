//! Prints what the cache costs, as CPU time of its process in one run: a unary GET against an empty handler in the same
//! stack, a streamed GET against redis-server with pipeline 64, and the memory that an entry takes.
//!
//! CPU time and not throughput: client and server share the machine.

#![expect(clippy::print_stdout, reason = "a program for people: its output is the result")]
#![expect(
    clippy::disallowed_methods,
    reason = "measures real time, and is given its own address by its parent"
)]

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use mainstay_devstack::http_get;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::operation::Action;
use mainstay_proto::cache::v1::origin_client::OriginClient;
use mainstay_tests::binary;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

#[path = "cache/empty.rs"]
mod empty;

const KEYS: usize = 10_000;
const VALUE_BYTES: usize = 256;
const CONNECTIONS: usize = 8;
const IN_FLIGHT_EACH: usize = 8;
const UNARY_CALLS: usize = 60_000;
const STREAMED_KEYS: usize = 3_000_000;
const KEYS_PER_MESSAGE: usize = 16;
const WINDOW: usize = 64;
const ENTRIES: usize = 300_000;
/// Rounds of which the best counts: other work on the machine only ever adds.
const ROUNDS: usize = 3;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if let Some(address) = std::env::args().nth(1) {
        return empty::serve(address.parse()?).await;
    }
    let cache = Server::start(&binary("cache-service"), &[], |address| {
        vec![
            ("MAINSTAY__SERVER__LISTEN", address.to_string()),
            ("MAINSTAY__MEMORY__CAPACITY", "512MiB".to_owned()),
        ]
    })
    .await?;
    let address = Server::free()?;
    let empty =
        Server::spawn(&std::env::current_exe()?, &[&address.to_string()], Vec::new(), address).await?;
    fill(&cache, KEYS, VALUE_BYTES).await?;

    println!("unary, {CONNECTIONS} connections with {IN_FLIGHT_EACH} in flight, best of {ROUNDS}");
    let (mut get_us, mut empty_us) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        empty_us = empty_us.min(unary(&empty, true).await?);
        get_us = get_us.min(unary(&cache, false).await?);
    }
    println!("  empty handler    {empty_us:>8.2} us of server CPU per call");
    println!("  GET, L1 hit      {get_us:>8.2} us of server CPU per call");
    println!("  ratio            {:>8.2}    (bar 1.10)", get_us / empty_us);

    println!(
        "stream, window {WINDOW}, {KEYS_PER_MESSAGE} keys per message; redis-server, pipeline 64; best of {ROUNDS}"
    );
    let redis = redis_server().await?;
    let (mut stream_us, mut redis_us) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        redis_us = redis_us.min(redis_get(&redis).await?);
        stream_us = stream_us.min(stream(&cache).await?);
    }
    println!("  redis-server GET {redis_us:>8.3} us of server CPU per key");
    println!("  streamed GET     {stream_us:>8.3} us of server CPU per key");
    println!("  ratio            {:>8.2}    (bar 1.00)", stream_us / redis_us);
    println!("  keys/s per core  {:>8.0}    (bar 700000)", 1e6 / stream_us);

    println!("memory, {ENTRIES} entries of 100 bytes");
    let fresh = Server::start(&binary("cache-service"), &[], |address| {
        vec![
            ("MAINSTAY__SERVER__LISTEN", address.to_string()),
            ("MAINSTAY__MEMORY__CAPACITY", "512MiB".to_owned()),
        ]
    })
    .await?;
    fill(&fresh, 1_000, 100).await?;
    let before = fresh.rss_bytes()?;
    fill(&fresh, ENTRIES, 100).await?;
    let texts: usize = (0..ENTRIES).map(|number| "bench:".len() + key(number).len() + 100).sum();
    let taken = fresh.rss_bytes()?.saturating_sub(before) as f64;
    println!(
        "  overhead         {:>8.1} bytes per entry above key and value (bar 150)",
        (taken - texts as f64) / ENTRIES as f64
    );
    Ok(())
}

fn key(number: usize) -> String {
    format!("key:{number:012}")
}

/// A server process that is measured.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn free() -> anyhow::Result<SocketAddr> {
        Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
    }

    async fn start(
        program: &Path,
        arguments: &[&str],
        environment: impl FnOnce(SocketAddr) -> Vec<(&'static str, String)>,
    ) -> anyhow::Result<Self> {
        let address = Self::free()?;
        Self::spawn(program, arguments, environment(address), address).await
    }

    async fn spawn(
        program: &Path,
        arguments: &[&str],
        environment: Vec<(&'static str, String)>,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            .envs(environment)
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let began_at = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            ensure!(child.try_wait()?.is_none(), "{} ended", program.display());
            ensure!(began_at.elapsed() < Duration::from_secs(10), "{} does not listen", program.display());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let _ = http_get(address, "/livez", Duration::from_secs(1)).await;
        Ok(Self { child, address })
    }

    fn channel(&self) -> anyhow::Result<Channel> {
        Ok(Endpoint::from_shared(format!("http://{}", self.address))?.tcp_nodelay(true).connect_lazy())
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        let pid = self.child.id().context("the server has ended")?;
        Ok(std::fs::read_to_string(format!("/proc/{pid}/{file}"))?)
    }

    /// CPU time used so far; the kernel counts in hundredths of a second.
    fn cpu_us(&self) -> anyhow::Result<f64> {
        let stat = self.proc("stat")?;
        let (_, behind_name) = stat.rsplit_once(')').context("stat")?;
        let fields: Vec<&str> = behind_name.split_whitespace().collect();
        Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) * 1e4)
    }

    fn rss_bytes(&self) -> anyhow::Result<u64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
    }
}

async fn unary(server: &Server, is_empty: bool) -> anyhow::Result<f64> {
    let before = server.cpu_us()?;
    let each = UNARY_CALLS / CONNECTIONS / IN_FLIGHT_EACH;
    let channels = (0..CONNECTIONS).map(|_| server.channel()).collect::<anyhow::Result<Vec<_>>>()?;
    let callers =
        channels.iter().flat_map(|channel| (0..IN_FLIGHT_EACH).map(move |at| (channel.clone(), at)));
    let calls = callers.map(|(channel, at)| async move {
        let (mut cache, mut empty) = (CacheServiceClient::new(channel.clone()), OriginClient::new(channel));
        for number in 0..each {
            let (namespace, key) = ("bench".to_owned(), key((at * each + number) % KEYS));
            if is_empty {
                empty.load(pb::LoadRequest { namespace, key }).await?;
            } else {
                let request = pb::GetRequest { namespace, key, ..pb::GetRequest::default() };
                ensure!(cache.get(request).await?.into_inner().entry.is_some(), "a miss");
            }
        }
        anyhow::Ok(())
    });
    try_join_all(calls).await?;
    Ok((server.cpu_us()? - before) / UNARY_CALLS as f64)
}

/// Keeps a window of requests in flight on one stream.
async fn stream(server: &Server) -> anyhow::Result<f64> {
    let before = server.cpu_us()?;
    let n_messages = STREAMED_KEYS / KEYS_PER_MESSAGE;
    let batches = (0..n_messages).map(|message| {
        let get = |at| (key((message * KEYS_PER_MESSAGE + at) * 7 % KEYS), Action::Get(pb::GetAction {}));
        (0..KEYS_PER_MESSAGE).map(get).collect()
    });
    let n_found = exchange(
        server,
        batches,
        |result| matches!(result, pb::outcome::Result::Get(get) if get.entry.is_some()),
    )
    .await?;
    ensure!(n_found == n_messages * KEYS_PER_MESSAGE, "only {n_found} found");
    Ok((server.cpu_us()? - before) / n_found as f64)
}

async fn fill(server: &Server, n_entries: usize, value_bytes: usize) -> anyhow::Result<()> {
    let value = Bytes::from(vec![7; value_bytes]);
    let numbers: Vec<usize> = (0..n_entries).collect();
    let batches = numbers.chunks(100).map(|some| {
        let set = |&number: &usize| {
            let set = pb::SetAction {
                value: value.clone(),
                ttl: Some(Duration::from_hours(1).try_into().expect("an hour fits")),
                ..pb::SetAction::default()
            };
            (key(number), Action::Set(set))
        };
        some.iter().map(set).collect()
    });
    let n_set = exchange(server, batches, |result| matches!(result, pb::outcome::Result::Set(_))).await?;
    ensure!(n_set == n_entries, "only {n_set} set");
    Ok(())
}

async fn exchange(
    server: &Server,
    batches: impl Iterator<Item = Vec<(String, Action)>>,
    is_good: impl Fn(&pb::outcome::Result) -> bool,
) -> anyhow::Result<usize> {
    let (requests, queued) = mpsc::channel(WINDOW);
    let mut client = CacheServiceClient::new(server.channel()?);
    let mut answers = client.stream(ReceiverStream::new(queued)).await?.into_inner();
    let mut requests = Some(requests);
    let (mut batches, mut id, mut n_open, mut n_good) = (batches, 0, 0, 0);
    loop {
        while n_open < WINDOW
            && let Some(to_send) = &requests
        {
            let Some(operations) = batches.next() else {
                requests = None;
                break;
            };
            id += 1;
            n_open += 1;
            let operations =
                operations.into_iter().map(|(key, action)| pb::Operation { key, action: Some(action) });
            let batch = pb::BatchRequest { namespace: "bench".to_owned(), operations: operations.collect() };
            to_send.send(pb::StreamRequest { id, batch: Some(batch), within: None }).await?;
        }
        let Some(answer) = answers.message().await? else { return Ok(n_good) };
        n_open -= usize::from(answer.last);
        n_good += answer
            .outcomes
            .iter()
            .filter_map(|outcome| outcome.result.as_ref())
            .filter(|r| is_good(r))
            .count();
    }
}

async fn redis_server() -> anyhow::Result<Server> {
    let address = Server::free()?;
    let port = address.port().to_string();
    let arguments = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    let server = Server::spawn(Path::new("redis-server"), &arguments, Vec::new(), address).await?;
    redis_benchmark(&server, "set", 200_000).await?;
    Ok(server)
}

async fn redis_get(server: &Server) -> anyhow::Result<f64> {
    let before = server.cpu_us()?;
    redis_benchmark(server, "get", STREAMED_KEYS).await?;
    Ok((server.cpu_us()? - before) / STREAMED_KEYS as f64)
}

async fn redis_benchmark(server: &Server, operation: &str, n: usize) -> anyhow::Result<()> {
    let (port, n) = (server.address.port().to_string(), n.to_string());
    let (bytes, keys) = (VALUE_BYTES.to_string(), KEYS.to_string());
    let status = Command::new("redis-benchmark")
        .args([
            "-p", &port, "-t", operation, "-n", &n, "-P", "64", "-c", "16", "-d", &bytes, "-r", &keys, "-q",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await?;
    ensure!(status.success(), "redis-benchmark failed");
    Ok(())
}
