//! What a long churn makes of the cache's memory: entries of changing sizes and ttls, ten times as many as fit.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use mainstay_devstack::{http_get, wait_until};
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::operation::Action;
use prost_types::Duration as Ttl;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::process::{Child, Command};
use tonic::transport::{Channel, Endpoint};

use crate::binaries::binary;

/// How much is written into how little.
#[derive(Debug, Clone, Copy)]
pub struct ChurnPlan {
    pub capacity_mib: u64,
    /// Each writes the whole memory full as often as it says, with values of other sizes than the one before.
    pub rounds: u32,
    pub turns_each: u32,
    /// Small entries by which the overhead of one is measured, in a process of their own.
    pub small_entries: u64,
}

/// What it came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChurnOutcome {
    pub capacity_bytes: u64,
    pub written_bytes: u64,
    /// Resident before the first entry.
    pub idle_bytes: u64,
    /// Highest resident size, with all that the process is.
    pub most_resident_bytes: u64,
    pub resident_bytes: u64,
    /// Highest size that the cache itself counted.
    pub most_counted_bytes: u64,
    pub expirations: u64,
    pub evictions: u64,
    pub overhead: Overhead,
}

/// Bytes of a small entry above key and value.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overhead {
    /// As the cache counts it.
    pub counted_bytes: f64,
    /// As the process grew.
    pub resident_bytes: f64,
}

/// Sizes of values, from and to: small ones leave holes that large ones do not fit into, and the other way round.
const SIZES: [(usize, usize); 4] = [(64, 512), (4_096, 16_384), (200, 2_000), (64, 32_768)];
/// Of keys that are used there are so many times as many as fit.
const KEYS_OVER_ROOM: u64 = 10;
const CLIENTS: usize = 4;
const OPERATIONS: usize = 100;
/// Of a hundred operations; the others are sets.
const GETS: u32 = 20;
const DELETES: u32 = 5;
/// Of a hundred sets so many end within seconds; the others outlive the run.
const SHORT_LIVED: u32 = 30;
const SHORT_TTL_MS: (i32, i32) = (200, 5_000);
const SMALL_VALUE_BYTES: usize = 100;
const READY_WITHIN: Duration = Duration::from_secs(15);
const CALL_WITHIN: Duration = Duration::from_secs(30);

impl ChurnPlan {
    /// Writes until all rounds are done.
    pub async fn run(self) -> anyhow::Result<ChurnOutcome> {
        let overhead = self.overhead().await?;
        let cache = Process::start(self.capacity_mib).await?;
        let capacity_bytes = self.capacity_mib << 20;
        let idle_bytes = cache.resident_bytes()?;
        let mut outcome = ChurnOutcome { capacity_bytes, idle_bytes, overhead, ..ChurnOutcome::default() };
        for round in 0..self.rounds {
            let sizes = SIZES[round as usize % SIZES.len()];
            for turn in 0..self.turns_each {
                let seed = u64::from(round) << 32 | u64::from(turn);
                let each = capacity_bytes / CLIENTS as u64;
                let writers = (0..CLIENTS as u64).map(|client| cache.write(each, sizes, seed << 8 | client));
                outcome.written_bytes += try_join_all(writers).await?.into_iter().sum::<u64>();
                outcome.look(&cache).await?;
            }
        }
        Ok(outcome)
    }

    /// Fills a process with small entries that all fit.
    async fn overhead(self) -> anyhow::Result<Overhead> {
        let cache = Process::start(self.capacity_mib).await?;
        let value = Bytes::from(vec![b'v'; SMALL_VALUE_BYTES]);
        let key = |number: u64| format!("small:{number:012}");
        // What the process itself needs to serve has been asked for then.
        cache.fill(0..self.small_entries / 20, key, &value).await?;
        let (n_before, resident_before) = (cache.memory().await?.entries, cache.resident_bytes()?);
        cache.fill(self.small_entries / 20..self.small_entries, key, &value).await?;
        let (memory, resident) = (cache.memory().await?, cache.resident_bytes()?);
        ensure!(memory.entries == self.small_entries && memory.evictions == 0, "they do not fit: {memory:?}");
        let payload = (NAMESPACE.len() + 1 + key(0).len() + SMALL_VALUE_BYTES) as f64;
        let n_grown = (memory.entries - n_before) as f64;
        Ok(Overhead {
            counted_bytes: memory.bytes as f64 / memory.entries as f64 - payload,
            resident_bytes: resident.saturating_sub(resident_before) as f64 / n_grown - payload,
        })
    }
}

impl ChurnOutcome {
    /// Resident size over the bound, at its highest.
    pub fn most_over_bound(&self) -> f64 {
        self.most_resident_bytes as f64 / self.capacity_bytes as f64
    }

    /// How far the most that was counted is from the bound, as a part of it: above it, or below it although ten times as much
    /// came.
    pub fn off_bound(&self) -> f64 {
        self.most_counted_bytes.abs_diff(self.capacity_bytes) as f64 / self.capacity_bytes as f64
    }

    async fn look(&mut self, cache: &Process) -> anyhow::Result<()> {
        self.resident_bytes = cache.resident_bytes()?;
        self.most_resident_bytes = self.most_resident_bytes.max(self.resident_bytes);
        let memory = cache.memory().await?;
        self.most_counted_bytes = self.most_counted_bytes.max(memory.bytes);
        (self.evictions, self.expirations) = (memory.evictions, memory.expirations);
        Ok(())
    }
}

impl fmt::Display for ChurnOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        writeln!(
            f,
            "bound {:.0} MiB, written {:.0} MiB; {} evicted, {} expired; counted at most {:.1} MiB",
            mib(self.capacity_bytes),
            mib(self.written_bytes),
            self.evictions,
            self.expirations,
            mib(self.most_counted_bytes),
        )?;
        write!(
            f,
            "resident before {:.1} MiB, at most {:.1} MiB ({:.2} of the bound), at the end {:.1} MiB; overhead of an entry \
             {:.0} bytes counted, {:.0} resident",
            mib(self.idle_bytes),
            mib(self.most_resident_bytes),
            self.most_over_bound(),
            mib(self.resident_bytes),
            self.overhead.counted_bytes,
            self.overhead.resident_bytes,
        )
    }
}

/// A cache-service without Redis or disk.
struct Process {
    child: Child,
    channel: Channel,
}

const NAMESPACE: &str = "churn";

impl Process {
    async fn start(capacity_mib: u64) -> anyhow::Result<Self> {
        let address = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.local_addr()?;
        let child = Command::new(binary("cache-service"))
            .env_clear()
            .env("MAINSTAY__SERVER__LISTEN", address.to_string())
            .env("MAINSTAY__MEMORY__CAPACITY", format!("{capacity_mib}MiB"))
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("starting cache-service")?;
        wait_until("the cache to be ready", Duration::from_millis(20), READY_WITHIN, || async {
            match http_get(address, "/readyz", Duration::from_secs(1)).await {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.timeout(CALL_WITHIN);
        Ok(Self { child, channel: endpoint.connect_lazy() })
    }

    /// Sets about so many bytes, and reads and removes some.
    async fn write(&self, n_bytes: u64, (least, most): (usize, usize), seed: u64) -> anyhow::Result<u64> {
        let mut random = StdRng::seed_from_u64(seed);
        let n_keys = KEYS_OVER_ROOM * n_bytes * CLIENTS as u64 / ((least + most) / 2) as u64;
        let value = Bytes::from(vec![b'v'; most]);
        let mut written = 0;
        while written < n_bytes {
            let operations = (0..OPERATIONS).map(|_| {
                let key = format!("churn:{}", random.random_range(0..n_keys));
                let action = match random.random_range(0..100) {
                    kind if kind < GETS => Action::Get(pb::GetAction {}),
                    kind if kind < GETS + DELETES => Action::Delete(pb::DeleteAction::default()),
                    _ => {
                        let value = value.slice(..random.random_range(least..=most));
                        written += value.len() as u64;
                        Action::Set(pb::SetAction {
                            value,
                            ttl: ttl(&mut random),
                            ..pb::SetAction::default()
                        })
                    }
                };
                pb::Operation { key, action: Some(action) }
            });
            let operations = operations.collect();
            self.batch(operations).await?;
        }
        Ok(written)
    }

    async fn fill(
        &self,
        numbers: std::ops::Range<u64>,
        key: impl Fn(u64) -> String,
        value: &Bytes,
    ) -> anyhow::Result<()> {
        let numbers: Vec<u64> = numbers.collect();
        for some in numbers.chunks(OPERATIONS) {
            let set = |number: &u64| pb::Operation {
                key: key(*number),
                action: Some(Action::Set(pb::SetAction { value: value.clone(), ..pb::SetAction::default() })),
            };
            self.batch(some.iter().map(set).collect()).await?;
        }
        Ok(())
    }

    async fn batch(&self, operations: Vec<pb::Operation>) -> anyhow::Result<()> {
        let request = pb::BatchRequest { namespace: NAMESPACE.to_owned(), operations };
        CacheServiceClient::new(self.channel.clone()).batch(request).await?;
        Ok(())
    }

    fn resident_bytes(&self) -> anyhow::Result<u64> {
        crate::resident_bytes(self.child.id().context("the cache has ended")?)
    }

    async fn memory(&self) -> anyhow::Result<pb::MemoryStats> {
        let mut client = CacheServiceClient::new(self.channel.clone());
        let stats = client.stats(pb::StatsRequest {}).await?.into_inner();
        stats.memory.context("no figures of memory")
    }
}

/// Returns the time that an entry has; none for that of its namespace.
fn ttl(random: &mut StdRng) -> Option<Ttl> {
    if random.random_range(0..100) >= SHORT_LIVED {
        return None;
    }
    let (least, most) = SHORT_TTL_MS;
    let ms = random.random_range(least..most);
    Some(Ttl { seconds: (ms / 1_000).into(), nanos: ms % 1_000 * 1_000_000 })
}
