//! Prints what WebSocket connections and deliveries cost: memory and processor time per idle connection, connects per
//! second, deliveries per second and their latency.
//!
//! `bench-ws [CONNECTIONS] [--gateway PROGRAM]`: 10,000 connections by default. It starts a gateway of its own. Figures
//! per core are by the processor time the gateway used, so they hold on a machine that is busy with other things.
//!
//! `bench-ws --nodes 6 [CONNECTIONS] [--short]`: 100,000 connections by default (600 with `--short`), spread over so many
//! gateways with one Redis, and as many processes that hold them; each publication is for all of them.

//!
//! `bench-ws --channels 1000 [CONNECTIONS] [--short]`: deliveries where each channel has few subscribers, 10 by default.
//!
//! `bench-ws --storm [CLIENTS] [--short]`: 18,000 clients by default are cut off at once and come back for what they missed;
//! each counts by number. It fails when a message was lost or came twice.
//!
//! Each figure is printed with its bar, and whether it was met. Latencies count from when a publication was due to when
//! the generator has read it, at even distances. Beside those of the gateway stand those of threads that only write to
//! sockets, given the same publications in the same run: what the kernel and the generator need on this machine.

#![expect(clippy::print_stdout, reason = "a program for people: its output is the result")]
#![expect(clippy::disallowed_methods, reason = "measures real time and owns its tasks")]

#[path = "ws/bare.rs"]
mod bare;
#[path = "ws/channels.rs"]
mod channels;
#[path = "ws/client.rs"]
mod client;
#[path = "ws/gateway.rs"]
mod gateway;
#[path = "ws/latency.rs"]
mod latency;
#[path = "ws/nodes.rs"]
mod nodes;
#[path = "ws/storm.rs"]
mod storm;

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bare::Bare;
use client::{Client, Tally};
use gateway::Gateway;
use latency::{Audience, Target};
use mainstay_tests::binary;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

const DEFAULT_CONNECTIONS: usize = 10_000;
/// The same with several nodes, and in a run that only shows that all works.
const CONNECTIONS_OF_NODES: usize = 100_000;
const SHORT_CONNECTIONS: usize = 600;
/// Connections of each channel where there are many.
const CONNECTIONS_OF_CHANNEL: usize = 10;
/// Clients of a storm: the most that fit into the limit of open files of most systems.
const CLIENTS_OF_STORM: usize = 18_000;
const SHORT_FANOUT: Duration = Duration::from_secs(1);
/// Handshakes under way at once.
const OPENING: usize = 64;
/// How long things are left alone before they are measured.
const SETTLE: Duration = Duration::from_secs(3);
/// From the last connect until the first ping of every connection is over: from then on they come evenly.
const STEADY_AFTER: Duration = Duration::from_secs(30);
/// Every connection is pinged twice.
const IDLE: Duration = Duration::from_secs(50);
const FANOUT: Duration = Duration::from_secs(8);
/// Publications of one call when throughput is measured.
const BURST: usize = 32;
const DATA_BYTES: usize = 128;
/// Longest wait for what was published to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

const IDLE_BYTES_BAR: f64 = 4096.0;
const IDLE_CORE_BAR: f64 = 0.01;
const CONNECTS_BAR: f64 = 5_000.0;
const DELIVERIES_BAR: f64 = 300_000.0;
const LATENCY_BAR: Duration = Duration::from_millis(50);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::read()?;
    if let Some(address) = arguments.bare {
        return bare::serve(address);
    }
    if let Some((address, first, n_connections)) = arguments.generate {
        return nodes::generate(address, first, n_connections).await;
    }
    let program = arguments.gateway.unwrap_or_else(|| binary("ws-gateway"));
    if let Some(n_nodes) = arguments.nodes {
        let usual = if arguments.short { SHORT_CONNECTIONS } else { CONNECTIONS_OF_NODES };
        return nodes::run(&program, arguments.connections.unwrap_or(usual), n_nodes).await;
    }
    if arguments.storm {
        let usual = if arguments.short { SHORT_CONNECTIONS } else { CLIENTS_OF_STORM };
        return storm::run(&program, arguments.connections.unwrap_or(usual)).await;
    }
    if let Some(n_channels) = arguments.channels {
        let length = channels::Length(if arguments.short { SHORT_FANOUT } else { FANOUT });
        let n_connections = arguments.connections.unwrap_or(n_channels * CONNECTIONS_OF_CHANNEL);
        return channels::run(&program, n_connections, n_channels, length).await;
    }
    let n_connections = arguments.connections.unwrap_or(DEFAULT_CONNECTIONS);
    let gateway = Gateway::start(&program, &[]).await?;
    let tally = Arc::new(Tally::new());
    println!("{n_connections} connections, each with a token of its own and one subscription");
    let clients = connect(&gateway, n_connections, &tally).await?;
    idle(&gateway, n_connections, clients.before_bytes).await?;
    let per_second = throughput(&gateway, n_connections, &tally).await?;
    one_by_one(&gateway, n_connections, &tally).await?;
    let audience = Audience { n_channels: 1, each: n_connections };
    latency(&gateway, audience, per_second, FANOUT, &tally).await?;
    drop((clients, gateway));
    bare_latency(audience, per_second, FANOUT).await
}

/// What is asked for on the command line.
#[derive(Default)]
struct Arguments {
    connections: Option<usize>,
    gateway: Option<PathBuf>,
    nodes: Option<usize>,
    channels: Option<usize>,
    storm: bool,
    short: bool,
    /// Given to the processes that hold the connections of one node.
    generate: Option<(SocketAddr, usize, usize)>,
    /// Given to the process that only writes.
    bare: Option<SocketAddr>,
}

impl Arguments {
    fn read() -> anyhow::Result<Self> {
        let mut read = Self::default();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--gateway" => read.gateway = Some(value()?.into()),
                "--nodes" => read.nodes = Some(value()?.parse().context("--nodes")?),
                "--channels" => read.channels = Some(value()?.parse().context("--channels")?),
                "--storm" => read.storm = true,
                "--short" => read.short = true,
                "--bare" => read.bare = Some(value()?.parse().context("--bare")?),
                "--generate" => {
                    read.generate = Some((value()?.parse()?, value()?.parse()?, value()?.parse()?));
                }
                number => {
                    let parsed = number.parse().with_context(|| format!("{number} is no number"))?;
                    read.connections = Some(parsed);
                }
            }
        }
        ensure!(read.nodes != Some(0), "--nodes: at least one");
        ensure!(read.channels.is_none_or(|n_channels| n_channels > 1), "--channels: at least two");
        Ok(read)
    }
}

/// Connections that answer pings and count what they receive, until dropped.
struct Clients {
    _tasks: JoinSet<()>,
    before_bytes: u64,
}

async fn connect(gateway: &Gateway, n_connections: usize, tally: &Arc<Tally>) -> anyhow::Result<Clients> {
    let before_bytes = gateway.resident_bytes()?;
    let (cpu, began_at) = (gateway.cpu()?, Instant::now());
    let tasks = connect_all(gateway.websocket, 0, n_connections, 1, tally).await?;
    let (took, cpu) = (began_at.elapsed(), gateway.cpu()? - cpu);
    let per_core = n_connections as f64 / cpu.as_secs_f64();
    println!(
        "  connects            {:>10.0} /s, {per_core:.0} per core and second  {}",
        n_connections as f64 / took.as_secs_f64(),
        verdict(per_core >= CONNECTS_BAR, CONNECTS_BAR)
    );
    Ok(Clients { _tasks: tasks, before_bytes })
}

/// Opens connections, spread over the channels, that answer pings and count what they receive, until the tasks are dropped.
async fn connect_all(
    address: SocketAddr,
    first: usize,
    n_connections: usize,
    n_channels: usize,
    tally: &Arc<Tally>,
) -> anyhow::Result<JoinSet<()>> {
    let tokens: Vec<_> = (first..first + n_connections).map(gateway::token).collect();
    let slots = Arc::new(Semaphore::new(OPENING));
    let (mut opening, mut tasks) = (JoinSet::new(), JoinSet::new());
    for (index, token) in (first..).zip(tokens) {
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let counted = Arc::clone(tally);
        opening.spawn(async move {
            let channel = gateway::channel(index, n_channels);
            let client = Client::open(address, index, (&token, &channel), &counted).await;
            drop(slot);
            client
        });
        // Who is open answers pings at once: opening all of them may take longer than a pong may.
        while let Some(client) = opening.try_join_next() {
            tasks.spawn(client??.hold(Arc::clone(tally)));
        }
    }
    while let Some(client) = opening.join_next().await {
        tasks.spawn(client??.hold(Arc::clone(tally)));
    }
    Ok(tasks)
}

async fn idle(gateway: &Gateway, n_connections: usize, before_bytes: u64) -> anyhow::Result<()> {
    sleep(SETTLE).await;
    let held = gateway.resident_bytes()?.saturating_sub(before_bytes);
    let each = held as f64 / n_connections as f64;
    println!(
        "  memory, idle        {each:>10.0} bytes per connection  {}",
        verdict(each <= IDLE_BYTES_BAR, IDLE_BYTES_BAR)
    );
    sleep(STEADY_AFTER - SETTLE).await;
    let cpu = gateway.cpu()?;
    sleep(IDLE).await;
    let cores = (gateway.cpu()? - cpu).as_secs_f64() / IDLE.as_secs_f64();
    let per_ten_thousand = cores * 10_000.0 / n_connections as f64;
    println!(
        "  processor, idle     {:>10.2} % of a core per 10,000 connections  {}",
        per_ten_thousand * 100.0,
        verdict(per_ten_thousand <= IDLE_CORE_BAR, format_args!("{} %", IDLE_CORE_BAR * 100.0))
    );
    Ok(())
}

/// Publishes as fast as everybody can read; gives the deliveries per second of this run.
async fn throughput(gateway: &Gateway, n_connections: usize, tally: &Tally) -> anyhow::Result<f64> {
    let mut api = gateway.api().await?;
    let (received, cpu, began_at) = (tally.received(), gateway.cpu()?, Instant::now());
    let mut expected = received;
    while began_at.elapsed() < FANOUT {
        api.broadcast(gateway::burst(BURST, tally.now_us(), DATA_BYTES)).await?;
        expected += tally.will_receive(BURST * n_connections);
        // One burst may be on its way while the next is published; more would only fill the outboxes.
        arrived(tally, expected - (BURST * n_connections) as u64).await?;
    }
    arrived(tally, expected).await?;
    let (took, cpu) = (began_at.elapsed(), gateway.cpu()? - cpu);
    let deliveries = (expected - received) as f64;
    let (per_second, per_core) = (deliveries / took.as_secs_f64(), deliveries / cpu.as_secs_f64());
    println!(
        "  fan-out, bursts     {per_second:>10.0} deliveries/s, {per_core:.0} per core and second  {}",
        verdict(per_core >= DELIVERIES_BAR, DELIVERIES_BAR)
    );
    Ok(per_second)
}

/// Publishes one message at a time, each when all have the one before; prints what a delivery costs.
async fn one_by_one(gateway: &Gateway, n_connections: usize, tally: &Tally) -> anyhow::Result<()> {
    let mut api = gateway.api().await?;
    let (received, cpu, began_at) = (tally.received(), gateway.cpu()?, Instant::now());
    let mut expected = received;
    while began_at.elapsed() < FANOUT / 2 {
        api.broadcast(gateway::burst(1, tally.now_us(), DATA_BYTES)).await?;
        expected += tally.will_receive(n_connections);
        arrived(tally, expected).await?;
    }
    let deliveries = (expected - received) as f64;
    let cpu = (gateway.cpu()? - cpu).as_secs_f64();
    println!("  fan-out, one by one {:>10.2} us of processor time per delivery", cpu / deliveries * 1e6);
    Ok(())
}

/// Prints how long deliveries take at half and at a quarter of the greatest rate, and alone.
async fn latency(
    gateway: &Gateway,
    audience: Audience,
    per_second: f64,
    length: Duration,
    tally: &Arc<Tally>,
) -> anyhow::Result<()> {
    let target = Target::Gateway(gateway.internal());
    let half = latency::at_rate(target, audience, per_second / 2.0, length, tally).await?;
    println!(
        "  latency, half rate  {half}  {}",
        verdict(half.p99 <= LATENCY_BAR, format_args!("{LATENCY_BAR:?}"))
    );
    let quarter = latency::at_rate(target, audience, per_second / 4.0, length, tally).await?;
    println!("           a quarter  {quarter}");
    println!("           alone      {}", latency::alone(target, audience, tally).await?);
    all_arrived(tally).await
}

/// Prints the same of threads that only write to sockets.
async fn bare_latency(audience: Audience, per_second: f64, length: Duration) -> anyhow::Result<()> {
    let (bare, tally) = (Bare::start().await?, Arc::new(Tally::new()));
    let n_connections = audience.n_channels * audience.each;
    let _clients = connect_all(bare.address, 0, n_connections, audience.n_channels, &tally).await?;
    let target = Target::Bare(bare.address);
    let half = latency::at_rate(target, audience, per_second / 2.0, length, &tally).await?;
    println!("  bare writes, half   {half}");
    let quarter = latency::at_rate(target, audience, per_second / 4.0, length, &tally).await?;
    println!("           a quarter  {quarter}");
    println!("           alone      {}", latency::alone(target, audience, &tally).await?);
    all_arrived(&tally).await
}

/// Waits until nothing more can come, and looks whether everything came, once.
async fn all_arrived(tally: &Tally) -> anyhow::Result<()> {
    sleep(SETTLE).await;
    let (received, published) = (tally.received(), tally.published());
    ensure!(received == published, "{received} were received, {published} were to be received");
    ensure!(tally.lost() == 0, "{} connections were lost", tally.lost());
    Ok(())
}

async fn arrived(tally: &Tally, expected: u64) -> anyhow::Result<()> {
    let began_at = Instant::now();
    while tally.received() < expected {
        ensure!(began_at.elapsed() < ARRIVES_WITHIN, "{} of {expected} arrived", tally.received());
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

fn verdict(is_met: bool, bar: impl Display) -> String {
    format!("bar {bar}: {}", if is_met { "met" } else { "MISSED" })
}
