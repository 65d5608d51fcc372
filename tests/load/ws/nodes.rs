//! Many connections over several gateway processes with one Redis: all of them receive every publication, whichever node
//! it was given to. A process may open 20,000 files here, so each node has a generator process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mainstay_devstack::{Devstack, MinReplicas};
use mainstay_proto::realtime::v1::NodesRequest;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::client::Tally;
use super::gateway::{self, Gateway};
use super::{ARRIVES_WITHIN, DATA_BYTES, SETTLE, connect_all};

/// Publications, one after the other, each given to another node.
const PUBLICATIONS: usize = 12;
/// Longest wait for all connections.
const CONNECTED_WITHIN: Duration = Duration::from_mins(5);
/// How often a generator looks whether it has something to tell.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A process that holds the connections of one node. Dropping it ends it.
struct Generator {
    _child: Child,
    _reading: JoinSet<()>,
    told: Arc<Told>,
}

/// What a generator told last.
#[derive(Default)]
struct Told {
    connected: AtomicUsize,
    received: AtomicUsize,
    lost: AtomicUsize,
}

/// Opens connections over all nodes, publishes, and prints how long it takes until everybody has it.
pub(crate) async fn run(program: &Path, n_connections: usize, n_nodes: usize) -> anyhow::Result<()> {
    let stack = Devstack::builder().redis(true).min_replicas(MinReplicas::Off).start().await?;
    let redis = stack.redis().context("a devstack with Redis")?;
    let settings = [
        ("MAINSTAY__REDIS__MODE", "single".to_owned()),
        ("MAINSTAY__REDIS__ADDRESS", redis.first_primary().public_address().to_string()),
        ("MAINSTAY__REDIS__PASSWORD", redis.password().to_owned()),
    ];
    let mut nodes = Vec::new();
    for number in 0..n_nodes {
        let name = ("MAINSTAY__SERVER__INSTANCE", format!("bench-{number}"));
        nodes.push(Gateway::start(program, &[&settings[..], &[name]].concat()).await?);
    }
    know_each_other(&nodes).await?;
    let before_bytes = resident_bytes(&nodes)?;
    println!("{n_connections} connections over {n_nodes} gateways with one Redis");

    let began_at = Instant::now();
    let mut generators = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let first = number * n_connections / n_nodes;
        let n_here = (number + 1) * n_connections / n_nodes - first;
        generators.push(Generator::start(node.websocket, first, n_here)?);
    }
    wait(&generators, "connected", CONNECTED_WITHIN, |told| &told.connected, n_connections).await?;
    println!(
        "  connects            {:>10.0} /s, all nodes together",
        n_connections as f64 / began_at.elapsed().as_secs_f64()
    );
    sleep(SETTLE).await;
    let each = (resident_bytes(&nodes)? - before_bytes) as f64 / n_connections as f64;
    println!("  memory, idle        {each:>10.0} bytes per connection");

    let mut times = Vec::new();
    for number in 0..PUBLICATIONS {
        let mut api = nodes[number % n_nodes].api().await?;
        let began_at = Instant::now();
        api.broadcast(gateway::burst(1, 0, DATA_BYTES)).await?;
        let expected = (number + 1) * n_connections;
        wait(&generators, "received", ARRIVES_WITHIN, |told| &told.received, expected).await?;
        times.push(began_at.elapsed());
    }
    times.sort_unstable();
    println!(
        "  one to everybody    {:>10.1?} until the last has it, median of {PUBLICATIONS}; {:.1?} at most",
        times[PUBLICATIONS / 2],
        times[PUBLICATIONS - 1]
    );
    sleep(SETTLE).await;
    let received = sum(&generators, |told| &told.received);
    ensure!(received == PUBLICATIONS * n_connections, "{received} were received: some came twice");
    ensure!(sum(&generators, |told| &told.lost) == 0, "connections were lost");
    drop((generators, nodes));
    stack.stop().await?;
    Ok(())
}

/// Is such a process: opens connections, and tells how many there are and what they have received, until it is ended.
pub(crate) async fn generate(address: SocketAddr, first: usize, n_connections: usize) -> anyhow::Result<()> {
    let tally = Arc::new(Tally::new());
    let _tasks = connect_all(address, first, n_connections, 1, &tally).await?;
    println!("{n_connections} 0 0");
    let mut told = (0, 0);
    let mut parent = tokio::io::stdin();
    let mut nothing = [0; 1];
    loop {
        tokio::select! {
            // The one who started it has ended.
            _ = parent.read(&mut nothing) => return Ok(()),
            () = sleep(LOOK_EVERY) => {}
        }
        let now = (tally.received(), tally.lost());
        if now != told {
            println!("{n_connections} {} {}", now.0, now.1);
            told = now;
        }
    }
}

impl Generator {
    fn start(address: SocketAddr, first: usize, n_connections: usize) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--generate")
            .args([address.to_string(), first.to_string(), n_connections.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting a generator")?;
        let told = Arc::new(Told::default());
        let mut reading = JoinSet::new();
        reading.spawn(read(child.stdout.take().context("its output is a pipe")?, Arc::clone(&told)));
        Ok(Self { _child: child, _reading: reading, told })
    }
}

async fn read(output: ChildStdout, told: Arc<Told>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let numbers: Vec<usize> = line.split(' ').filter_map(|number| number.parse().ok()).collect();
        if let [connected, received, lost] = numbers[..] {
            told.connected.store(connected, Ordering::Relaxed);
            told.received.store(received, Ordering::Relaxed);
            told.lost.store(lost, Ordering::Relaxed);
        }
    }
    // Its connections have gone with it.
    told.lost.fetch_add(1, Ordering::Relaxed);
}

async fn wait(
    generators: &[Generator],
    what: &str,
    within: Duration,
    figure: impl Fn(&Told) -> &AtomicUsize,
    expected: usize,
) -> anyhow::Result<()> {
    let began_at = Instant::now();
    loop {
        let now = sum(generators, &figure);
        if now >= expected {
            return Ok(());
        }
        ensure!(sum(generators, |told| &told.lost) == 0, "connections were lost");
        ensure!(began_at.elapsed() < within, "{what}: {now} of {expected}");
        sleep(Duration::from_millis(1)).await;
    }
}

fn sum(generators: &[Generator], figure: impl Fn(&Told) -> &AtomicUsize) -> usize {
    generators.iter().map(|generator| figure(&generator.told).load(Ordering::Relaxed)).sum()
}

/// Waits until every node knows all others and hears them.
async fn know_each_other(nodes: &[Gateway]) -> anyhow::Result<()> {
    let began_at = Instant::now();
    for node in nodes {
        let mut api = node.api().await?;
        loop {
            let answer = api.nodes(NodesRequest {}).await?.into_inner();
            let all_hear = answer.nodes.iter().all(|node| !node.deaf);
            if answer.nodes.len() == nodes.len() && !answer.stale && all_hear {
                break;
            }
            ensure!(began_at.elapsed() < CONNECTED_WITHIN, "the nodes do not know each other: {answer:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

fn resident_bytes(nodes: &[Gateway]) -> anyhow::Result<u64> {
    nodes.iter().map(Gateway::resident_bytes).sum()
}
