//! Compares the gateway with other servers on this machine, in this run: memory per connection, deliveries per second and
//! processor time per delivery of one channel that everybody listens to. Prints a table.
//!
//! `bench-peers [CONNECTIONS] [--short] [--only NAME] [--gateway PROGRAM] [--nats PROGRAM] [--nginx PROGRAM]
//! [--nginx-modules FOLDER] [--sockudo PROGRAM]`: 5,000 connections by default. npm `ws` and `socket.io` are installed
//! into `tests/load/peers/node_modules` (`npm install` there); `nats-server` and `nginx` with nchan are Debian packages
//! of these names, sockudo comes by `cargo install`. What is not there is left out, and the table says so.
//!
//! Every server gets the same: plain TCP, one process, connections without a ping in the measured time, text of 128
//! bytes, publications in bursts of 32 with one burst on its way while the next is published.

#![expect(clippy::print_stdout, reason = "a program for people: its output is the result")]
#![expect(clippy::disallowed_methods, reason = "measures real time and owns its tasks")]

#[path = "peers/crowd.rs"]
mod crowd;
#[path = "peers/publisher.rs"]
mod publisher;
#[path = "peers/server.rs"]
mod server;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use crowd::Crowd;
use mainstay_tests::binary;
use publisher::Publisher;
use server::{Peer, Server};
use tokio::time::sleep;

const DEFAULT_CONNECTIONS: usize = 5_000;
const SHORT_CONNECTIONS: usize = 200;
/// How long things are left alone before they are measured.
const SETTLE: Duration = Duration::from_secs(3);
const MEASURE: Duration = Duration::from_secs(8);
const SHORT_MEASURE: Duration = Duration::from_secs(1);
/// Publications published at once.
const BURST: usize = 32;
/// Longest wait for what was published to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);

/// What is compared and how long.
struct Plan {
    n_connections: usize,
    measure: Duration,
    only: Option<String>,
    programs: Programs,
}

/// Where the servers are.
pub(crate) struct Programs {
    gateway: PathBuf,
    nats: PathBuf,
    nginx: PathBuf,
    nginx_modules: PathBuf,
    sockudo: PathBuf,
}

/// What one server did.
struct Figures {
    bytes_per_connection: f64,
    deliveries_per_second: f64,
    cpu_us_per_delivery: f64,
    cpu_us_one_by_one: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let plan = arguments()?;
    println!(
        "{} connections to one channel, 128 bytes, {:?} each; generator and server share the machine",
        plan.n_connections, plan.measure
    );
    println!("server          bytes/conn  deliveries/s  per core and s  us/delivery  us, one by one");
    for peer in Peer::ALL {
        if plan.only.as_deref().is_some_and(|only| only != peer.name()) {
            continue;
        }
        match Server::start(peer, &plan.programs).await? {
            None => println!("{:<14}  not installed: {}", peer.name(), peer.origin()),
            Some(server) => {
                let figures = measure(&server, &plan).await.with_context(|| peer.name().to_owned())?;
                println!(
                    "{:<14}  {:>10.0}  {:>12.0}  {:>14.0}  {:>11.2}  {:>14.2}",
                    peer.name(),
                    figures.bytes_per_connection,
                    figures.deliveries_per_second,
                    1e6 / figures.cpu_us_per_delivery,
                    figures.cpu_us_per_delivery,
                    figures.cpu_us_one_by_one
                );
            }
        }
    }
    Ok(())
}

fn arguments() -> anyhow::Result<Plan> {
    let mut plan = Plan {
        n_connections: DEFAULT_CONNECTIONS,
        measure: MEASURE,
        only: None,
        programs: Programs {
            gateway: PathBuf::new(),
            nats: "nats-server".into(),
            nginx: "nginx".into(),
            nginx_modules: "/usr/lib/nginx/modules".into(),
            sockudo: "sockudo".into(),
        },
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--short" => (plan.n_connections, plan.measure) = (SHORT_CONNECTIONS, SHORT_MEASURE),
            "--only" => plan.only = Some(value()?),
            "--gateway" => plan.programs.gateway = value()?.into(),
            "--nats" => plan.programs.nats = value()?.into(),
            "--nginx" => plan.programs.nginx = value()?.into(),
            "--nginx-modules" => plan.programs.nginx_modules = value()?.into(),
            "--sockudo" => plan.programs.sockudo = value()?.into(),
            number => {
                plan.n_connections = number.parse().with_context(|| format!("{number} is no number"))?
            }
        }
    }
    if plan.programs.gateway.as_os_str().is_empty() {
        plan.programs.gateway = binary("ws-gateway");
    }
    Ok(plan)
}

async fn measure(server: &Server, plan: &Plan) -> anyhow::Result<Figures> {
    sleep(SETTLE / 3).await;
    let before_bytes = server.resident_bytes()?;
    let crowd = Crowd::gather(server, plan.n_connections).await?;
    sleep(SETTLE).await;
    let held = server.resident_bytes()?.saturating_sub(before_bytes);
    let mut publisher = Publisher::connect(server).await?;
    // Buffers that are made once are made before anything is counted.
    publisher.publish(BURST).await?;
    arrived(&crowd, BURST * plan.n_connections).await?;
    let (deliveries_per_second, cpu_us_per_delivery) =
        fan_out(server, &crowd, &mut publisher, BURST, plan.measure).await?;
    let (_, cpu_us_one_by_one) = fan_out(server, &crowd, &mut publisher, 1, plan.measure / 2).await?;
    ensure!(crowd.lost() == 0, "{} connections were lost", crowd.lost());
    Ok(Figures {
        bytes_per_connection: held as f64 / plan.n_connections as f64,
        deliveries_per_second,
        cpu_us_per_delivery,
        cpu_us_one_by_one,
    })
}

/// Publishes as fast as everybody can read; gives deliveries per second, and microseconds of the processor for each.
async fn fan_out(
    server: &Server,
    crowd: &Crowd,
    publisher: &mut Publisher,
    burst: usize,
    measure: Duration,
) -> anyhow::Result<(f64, f64)> {
    let n_each = burst * crowd.len();
    let (before, cpu, began_at) = (crowd.received(), server.cpu()?, Instant::now());
    let mut expected = before;
    while began_at.elapsed() < measure {
        publisher.publish(burst).await?;
        expected += n_each;
        // One burst may be on its way while the next is published; more would only fill buffers.
        arrived(crowd, expected - if burst > 1 { n_each } else { 0 }).await?;
    }
    arrived(crowd, expected).await?;
    let (took, cpu) = (began_at.elapsed(), server.cpu()? - cpu);
    ensure!(crowd.received() == expected, "{} arrived, {expected} were published", crowd.received());
    let deliveries = (expected - before) as f64;
    Ok((deliveries / took.as_secs_f64(), cpu.as_secs_f64() * 1e6 / deliveries))
}

async fn arrived(crowd: &Crowd, expected: usize) -> anyhow::Result<()> {
    let began_at = Instant::now();
    while crowd.received() < expected {
        ensure!(began_at.elapsed() < ARRIVES_WITHIN, "{} of {expected} arrived", crowd.received());
        ensure!(crowd.lost() == 0, "{} connections were lost", crowd.lost());
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
