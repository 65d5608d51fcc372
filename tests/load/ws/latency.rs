//! How long deliveries take, from when each publication was due.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mainstay_tests::cpu_time;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::bare::GREETING;
use super::client::Tally;
use super::gateway::{self, Api};
use super::{DATA_BYTES, SETTLE, arrived};

/// Calls begun per second at most: with more publications than that, each call has several, for channels of their own.
const CALLS_PER_SECOND: f64 = 1_000.0;
/// Publications one after the other, each when the one before has arrived everywhere.
const ALONE: usize = 40;

/// Who is published to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Audience {
    pub(crate) n_channels: usize,
    /// Subscribers of each channel.
    pub(crate) each: usize,
}

/// Where is published.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    Gateway(SocketAddr),
    /// To writers that do nothing else.
    Bare(SocketAddr),
}

/// How long deliveries took, and what the generator had to do for it.
pub(crate) struct Latency {
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
    /// Of a core.
    generator: f64,
}

impl Display for Latency {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { median, p99, generator } = self;
        write!(f, "{median:>10.1?} median, {p99:.1?} p99 (generator {:.0} % of a core)", generator * 100.0)
    }
}

/// Publishes at even distances, whether or not what came before has arrived, for so many deliveries per second.
///
/// A thread of its own keeps the time and publishes, so that reading what arrives does not hold it up.
pub(crate) async fn at_rate(
    target: Target,
    audience: Audience,
    per_second: f64,
    length: Duration,
    tally: &Arc<Tally>,
) -> anyhow::Result<Latency> {
    let publications_per_second = per_second / audience.each as f64;
    let per_call = (publications_per_second / CALLS_PER_SECOND).ceil().clamp(1.0, audience.n_channels as f64);
    let every = Duration::from_secs_f64(per_call / publications_per_second);
    let (n_calls, per_call) = (length.div_duration_f64(every) as usize, per_call as usize);
    sleep(SETTLE).await;
    tally.forget_latencies();
    let expected = tally.received() + tally.will_receive(n_calls * per_call * audience.each);
    let (cpu, began_at) = (cpu_time(std::process::id())?, Instant::now());
    let clock = Arc::clone(tally);
    let channels = move |number: usize| {
        let names = (0..per_call).map(|place| number * per_call + place);
        names.map(|index| gateway::channel(index, audience.n_channels)).collect()
    };
    let publisher = std::thread::Builder::new().name("publisher".to_owned()).spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(publish_evenly(target, channels, (every, n_calls), &clock))
    })?;
    arrived(tally, expected).await?;
    let (took, cpu) = (began_at.elapsed(), cpu_time(std::process::id())? - cpu);
    publisher.join().ok().context("the publisher broke")??;
    let (median, p99) = tally.latencies();
    Ok(Latency { median, p99, generator: cpu.div_duration_f64(took) })
}

/// Publishes to everybody, each time when all have what came before.
pub(crate) async fn alone(target: Target, audience: Audience, tally: &Tally) -> anyhow::Result<Latency> {
    sleep(SETTLE).await;
    tally.forget_latencies();
    let mut inlet = Inlet::open(target).await?;
    let all: Vec<_> =
        (0..audience.n_channels).map(|index| gateway::channel(index, audience.n_channels)).collect();
    let (cpu, began_at) = (cpu_time(std::process::id())?, Instant::now());
    for _ in 0..ALONE {
        let expected = tally.received() + tally.will_receive(audience.n_channels * audience.each);
        inlet.publish(all.clone(), tally.now_us()).await?;
        arrived(tally, expected).await?;
    }
    inlet.finish().await?;
    let (took, cpu) = (began_at.elapsed(), cpu_time(std::process::id())? - cpu);
    let (median, p99) = tally.latencies();
    Ok(Latency { median, p99, generator: cpu.div_duration_f64(took) })
}

async fn publish_evenly(
    target: Target,
    channels: impl Fn(usize) -> Vec<String>,
    (every, n_calls): (Duration, usize),
    tally: &Tally,
) -> anyhow::Result<()> {
    let mut inlet = Inlet::open(target).await?;
    let (due_tx, mut due_rx) = mpsc::channel(64);
    let clock = std::thread::Builder::new().name("clock".to_owned()).spawn(move || {
        let started = Instant::now() + every;
        for number in 0..n_calls {
            let due = started + every.mul_f64(number as f64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if due_tx.blocking_send((number, due)).is_err() {
                return;
            }
        }
    })?;
    while let Some((number, due)) = due_rx.recv().await {
        let due_us = tally.now_us().saturating_sub(due.elapsed().as_micros() as u64);
        inlet.publish(channels(number), due_us).await?;
    }
    clock.join().ok().context("the clock broke")?;
    inlet.finish().await
}

/// An open way to publish. It belongs to the runtime in which it was opened.
enum Inlet {
    Gateway { api: Api, calls: JoinSet<anyhow::Result<()>> },
    Bare(TcpStream),
}

impl Inlet {
    async fn open(target: Target) -> anyhow::Result<Self> {
        Ok(match target {
            Target::Gateway(address) => {
                Self::Gateway { api: gateway::api(address).await?, calls: JoinSet::new() }
            }
            Target::Bare(address) => {
                let mut stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                stream.write_all(GREETING).await?;
                Self::Bare(stream)
            }
        })
    }

    /// Begins to publish, and does not wait until it is done.
    async fn publish(&mut self, channels: Vec<String>, due_us: u64) -> anyhow::Result<()> {
        match self {
            Self::Gateway { api, calls } => {
                let mut api = api.clone();
                calls.spawn(async move {
                    api.broadcast(gateway::publication(channels, due_us, DATA_BYTES)).await?;
                    Ok(())
                });
                while let Some(ended) = calls.try_join_next() {
                    ended??;
                }
            }
            Self::Bare(stream) => {
                let data = gateway::data(due_us, DATA_BYTES);
                stream.write_all(format!("{}\t{data}\n", channels.join(" ")).as_bytes()).await?;
            }
        }
        Ok(())
    }

    async fn finish(self) -> anyhow::Result<()> {
        if let Self::Gateway { calls, .. } = self {
            calls.join_all().await.into_iter().collect::<anyhow::Result<()>>()?;
        }
        Ok(())
    }
}
