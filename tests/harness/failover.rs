//! The failover contract of the cache: what becomes of writes while the Redis primary goes.
//!
//! Writes go through a cache-service process at a steady rate: every other one sets a key of its own, the rest increment a
//! counter of their own under an idempotency key. Afterwards Redis itself is asked what became of each.

mod cluster;
mod ledger;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mainstay_devstack::{Devstack, Redis, Service, http_get, wait_until};
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::counter_service_client::CounterServiceClient;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use ledger::Ledger;

use crate::binaries::bin_dir;

/// What happens to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailoverEvent {
    /// As operators are told to do it: `deploy/redis/failover.sh`.
    Planned,
    /// `SENTINEL FAILOVER` alone, which promotes a replica while the primary goes on taking writes.
    Unprepared,
    /// SIGKILL; it is started again after `away_for`.
    Killed,
    /// SIGSTOP, and SIGCONT after `away_for`.
    Frozen,
}

/// How long the writes go on, and what is done when.
#[derive(Debug, Clone, Copy)]
pub struct FailoverPlan {
    pub writes_per_second: u32,
    /// Silence after which a Sentinel thinks a server dead.
    pub down_after: Duration,
    /// Writes before the event.
    pub quiet_for: Duration,
    pub away_for: Duration,
    /// Writes after the primary is back.
    pub settle_for: Duration,
}

/// What became of the writes.
#[derive(Debug, Clone, Default)]
pub struct FailoverOutcome {
    pub sent: usize,
    /// Confirmed as made in Redis.
    pub acknowledged: usize,
    /// Told that Redis has not confirmed: degraded sets, and errors.
    pub errors: usize,
    /// Of the errors, increments that may have been made; each was settled by its idempotency key.
    pub unknown: usize,
    /// Longest time in which nothing was acknowledged.
    pub gap: Duration,
    /// From the event until the Sentinels named another primary: no client that trusts them can be back sooner.
    pub named_after: Duration,
    /// Acknowledged, and not in Redis.
    pub lost: usize,
    /// Made twice: counters above one, sets that are in the log twice.
    pub doubled: usize,
}

impl FailoverOutcome {
    /// Tells whether nothing was lost or doubled, and the gap was shorter than `bar`.
    pub fn holds(&self, bar: Duration) -> bool {
        self.gap < bar && self.lost == 0 && self.doubled == 0
    }
}

/// Longer than the service itself takes to say that Redis does not answer.
const CALL_WITHIN: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_mins(2);
const OFTEN: Duration = Duration::from_millis(25);
const NAMESPACE: &str = "failover";
/// Of all keys in Redis; in a cluster the tag of the partition follows.
const PREFIX: &str = "mainstay:";

impl FailoverEvent {
    pub const ALL: [Self; 4] = [Self::Planned, Self::Unprepared, Self::Killed, Self::Frozen];
}

impl fmt::Display for FailoverEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Planned => "planned failover",
            Self::Unprepared => "SENTINEL FAILOVER alone",
            Self::Killed => "kill -9 of the primary",
            Self::Frozen => "primary frozen",
        })
    }
}

impl FailoverPlan {
    /// The plan of the published table.
    pub const FULL: Self = Self {
        writes_per_second: 100,
        down_after: Duration::from_secs(1),
        quiet_for: Duration::from_secs(4),
        away_for: Duration::from_secs(9),
        settle_for: Duration::from_secs(5),
    };

    /// Starts Redis with replica and Sentinels and a cache-service, and does `event` to them under load.
    pub async fn run(self, event: FailoverEvent) -> anyhow::Result<FailoverOutcome> {
        let builder =
            Devstack::builder().redis(true).down_after(self.down_after).services([Service::CacheService]);
        let stack = builder
            .env(Service::CacheService, "MAINSTAY__SERVER__TOKEN", "")
            .bin_dir(bin_dir())
            .start()
            .await?;
        let channel = connect(&stack).await?;
        let redis = stack.redis().context("the stack has redis")?;
        let ledger = Arc::new(Ledger::default());
        let (written, named_after) =
            tokio::join!(self.write(&channel, &ledger, 0..), self.strike(event, redis));
        let named_after = named_after?;
        ensure!(written > 0, "nothing was written");
        ledger.settle(&channel).await?;
        redis.wait_settled().await?;
        let outcome = ledger.audit(redis.primary().await?, PREFIX).await?;
        stack.stop().await?;
        Ok(FailoverOutcome { named_after, ..outcome })
    }

    /// Writes until the plan is over, and waits for every answer. Returns how many there were.
    async fn write(
        &self,
        channel: &Channel,
        ledger: &Arc<Ledger>,
        numbers: impl Iterator<Item = usize>,
    ) -> usize {
        let until = Instant::now() + self.quiet_for + self.away_for + self.settle_for;
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / self.writes_per_second);
        let (mut writes, mut n_written) = (JoinSet::new(), 0);
        for number in numbers {
            ticks.tick().await;
            if Instant::now() >= until {
                break;
            }
            let (channel, ledger) = (channel.clone(), Arc::clone(ledger));
            writes.spawn(async move {
                let answer = write(channel, number).await;
                ledger.note(number, answer);
            });
            n_written += 1;
        }
        while writes.join_next().await.is_some() {}
        n_written
    }

    /// Does it, undoes it after its time, and returns how long the Sentinels took to name another primary.
    async fn strike(&self, event: FailoverEvent, redis: &Redis) -> anyhow::Result<Duration> {
        let (primary, replica) = (redis.first_primary(), redis.first_replica());
        tokio::time::sleep(self.quiet_for).await;
        let struck_at = tokio::time::Instant::now();
        let back_at = struck_at + self.away_for;
        let strike = async {
            match event {
                FailoverEvent::Planned => fail_over(redis).await?,
                FailoverEvent::Unprepared => redis.promote(replica).await?,
                FailoverEvent::Killed => primary.kill().await?,
                FailoverEvent::Frozen => primary.pause().await?,
            }
            anyhow::Ok(())
        };
        let named = wait_until("another primary to be named", OFTEN, PATIENCE, || async {
            let named = redis.primary().await.map_err(|error| error.to_string())?.public_address();
            if named == replica.public_address() { Ok(struck_at.elapsed()) } else { Err(named.to_string()) }
        });
        let (struck, named_after) = tokio::join!(strike, named);
        struck?;
        tokio::time::sleep_until(back_at).await;
        match event {
            FailoverEvent::Planned | FailoverEvent::Unprepared => {}
            FailoverEvent::Killed => primary.start().await?,
            FailoverEvent::Frozen => primary.resume().await?,
        }
        Ok(named_after?)
    }
}

/// Waits until the cache of a stack is ready.
async fn connect(stack: &Devstack) -> anyhow::Result<Channel> {
    let address = stack.service(Service::CacheService)?.address();
    wait_until("the cache to be ready", OFTEN, PATIENCE, || async {
        match http_get(address, "/readyz", CALL_WITHIN).await {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    Ok(Endpoint::from_shared(format!("http://{address}"))?.timeout(CALL_WITHIN).connect().await?)
}

/// Runs the script that operators have.
async fn fail_over(redis: &Redis) -> anyhow::Result<()> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/redis/failover.sh");
    let sentinel = redis.sentinel_addresses().first().context("the stack has Sentinels")?;
    let run = Command::new("sh")
        .arg(script)
        .args([sentinel.ip().to_string(), sentinel.port().to_string()])
        .env("REDIS_PASSWORD", redis.password())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, run).await.context("failover.sh does not end")??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "failover.sh: {}: {said}", output.status);
    Ok(())
}

/// How one write was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Acknowledged,
    NotMade,
    /// An increment that may have been made.
    Unknown,
}

fn is_set(number: usize) -> bool {
    number.is_multiple_of(2)
}

fn key(number: usize) -> String {
    format!("k{number}")
}

async fn write(channel: Channel, number: usize) -> Answer {
    if !is_set(number) {
        return increment(channel, number).await;
    }
    let request = pb::SetRequest {
        namespace: NAMESPACE.to_owned(),
        key: key(number),
        value: key(number).into(),
        ..pb::SetRequest::default()
    };
    match CacheServiceClient::new(channel).set(request).await {
        Ok(answer) if !answer.get_ref().degraded => Answer::Acknowledged,
        Ok(_) | Err(_) => Answer::NotMade,
    }
}

async fn increment(channel: Channel, number: usize) -> Answer {
    let request = pb::IncrementCounterRequest {
        name: key(number),
        idempotency_key: key(number),
        ..pb::IncrementCounterRequest::default()
    };
    match CounterServiceClient::new(channel).increment(request).await {
        Ok(_) => Answer::Acknowledged,
        Err(status) => {
            let failure = mainstay_rpc::Failure::from(status);
            if failure.reason() == "REDIS_UNAVAILABLE" { Answer::NotMade } else { Answer::Unknown }
        }
    }
}

/// Prints one line for each event.
impl fmt::Display for FailoverOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, acknowledged, errors, unknown, gap, named_after, lost, doubled } = self;
        let (gap, named_after) = (gap.as_secs_f64(), named_after.as_secs_f64());
        write!(
            f,
            "gap {gap:>5.2} s (named after {named_after:.2} s), sent {sent:>5}, acknowledged {acknowledged:>5}, errors {errors:>4}, of them unknown and \
             settled {unknown:>4}, lost {lost}, doubled {doubled}"
        )
    }
}
