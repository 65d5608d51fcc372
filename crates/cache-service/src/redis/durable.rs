//! Changes that count as made when a replica has them too.
//!
//! `WAIT` speaks of what its own connection wrote, and holds that connection up. So such changes have a connection of their
//! own: those that come while one `WAIT` goes on are sent together, and the next `WAIT` is for all of them. The server
//! that answers it is the one that made the changes; a new primary is asked only for changes that it makes itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fred::interfaces::{ClientLike as _, LuaInterface as _};
use fred::types::{ClusterHash, CustomCommand, Value};
use futures_util::future::join_all;
use mainstay_redis::{Link, Partition, RedisError, Script, number};
use mainstay_runtime::Context;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Redis;
use crate::config::RedisConfig;

/// Changes that wait to be sent; more are refused.
const MOST_WAITING: usize = 4_096;
/// Changes of one `WAIT`.
const MOST_AT_ONCE: usize = 256;

/// A change that a node of a cluster sends elsewhere is made anew after so long.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// What the scripts of changes answer: what was done, version, set-at, whether there was an entry.
pub(super) type Answer = (u64, u64, u64, u64);

/// A script that changes something.
pub(super) struct Change<'a> {
    pub(super) partition: Partition,
    pub(super) script: &'a Script,
    pub(super) keys: Vec<&'a str>,
    pub(super) arguments: Vec<Value>,
    pub(super) replica_ack: bool,
}

/// Where changes that a replica is to confirm are handed over.
#[derive(Debug)]
pub(super) struct Durable {
    jobs: mpsc::Sender<Job>,
    /// Until somebody does them.
    taken: Mutex<Option<mpsc::Receiver<Job>>>,
}

#[derive(Debug)]
struct Job {
    script: &'static str,
    keys: Vec<String>,
    arguments: Vec<Value>,
    answer: oneshot::Sender<Result<(Answer, bool), RedisError>>,
    /// Until then a replica may confirm it.
    confirmed_by: Instant,
}

impl Durable {
    pub(super) fn new() -> Self {
        let (jobs, taken) = mpsc::channel(MOST_WAITING);
        Self { jobs, taken: Mutex::new(Some(taken)) }
    }
}

impl Redis {
    /// Makes a change and tells whether it is as durable as was asked for.
    pub(super) async fn run_change(
        &self,
        change: Change<'_>,
        within: Duration,
    ) -> Result<(Answer, bool), RedisError> {
        let Change { partition, script, keys, arguments, replica_ack } = change;
        let part = self.part(partition);
        if !replica_ack {
            return Ok((part.run_script(script, &keys, arguments, within).await?, true));
        }
        let keys: Vec<String> = keys.iter().map(|key| part.full(key)).collect();
        let now = Instant::now();
        // The rest of the time is for the answer: the caller is to hear that no replica confirmed it, and not nothing.
        let (until, confirmed_by) = (now + within, now + within / 2);
        loop {
            let (answer, answered) = oneshot::channel();
            let (keys, arguments) = (keys.clone(), arguments.clone());
            let job = Job { script: script.text(), keys, arguments, answer, confirmed_by };
            self.durable[partition.index()].jobs.try_send(job).map_err(|refused| match refused {
                mpsc::error::TrySendError::Full(_) => RedisError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => RedisError::NotConnected,
            })?;
            let left = until.saturating_duration_since(Instant::now());
            match timeout(left, answered).await {
                // Nothing was done there.
                Ok(Ok(Err(error))) if error.is_redirect() && left > AGAIN_AFTER => {
                    self.look_again();
                    sleep(AGAIN_AFTER).await;
                }
                Ok(answer) => return answer.unwrap_or(Err(RedisError::Lost)),
                Err(_) => return Err(RedisError::Timeout),
            }
        }
    }

    /// Makes changes of a partition that replicas are to confirm, for as long as the service runs.
    pub(crate) async fn make_durable_changes(
        self: Arc<Self>,
        partition: Partition,
        config: RedisConfig,
        cx: Context,
    ) -> anyhow::Result<()> {
        let Some(mut jobs) = self.durable[partition.index()].taken.lock().take() else { return Ok(()) };
        let (stopping, mut maker) = (cx.stopping(), Maker { redis: self, partition, config, cx, link: None });
        let mut some = Vec::new();
        while next_jobs(&mut jobs, &mut some, &stopping, maker.config.command_within).await {
            maker.make(&mut some).await;
        }
        Ok(())
    }
}

/// Waits for jobs; false when the service stops and nobody has one any longer.
async fn next_jobs(
    jobs: &mut mpsc::Receiver<Job>,
    some: &mut Vec<Job>,
    stopping: &CancellationToken,
    last_within: Duration,
) -> bool {
    let n_jobs = tokio::select! {
        biased;
        n_jobs = jobs.recv_many(some, MOST_AT_ONCE) => n_jobs,
        () = stopping.cancelled() => timeout(last_within, jobs.recv_many(some, MOST_AT_ONCE)).await.unwrap_or(0),
    };
    n_jobs > 0
}

/// Makes changes over a connection of its own.
struct Maker {
    redis: Arc<Redis>,
    partition: Partition,
    config: RedisConfig,
    cx: Context,
    link: Option<WriteLink>,
}

struct WriteLink {
    link: Link,
    /// Of the scripts that this server knows by now.
    hashes: HashMap<&'static str, String>,
}

impl Maker {
    async fn make(&mut self, jobs: &mut Vec<Job>) {
        // Who gave up was told that the outcome is unknown; it had better not be made now.
        jobs.retain(|job| !job.answer.is_closed());
        let within = self.config.command_within;
        let Some(link) = self.link(jobs).await else {
            for job in jobs.drain(..) {
                let _ = job.answer.send(Err(RedisError::NotConnected));
            }
            return;
        };
        let answers = join_all(jobs.iter().map(|job| link.run(job, within))).await;
        let is_bad = answers.iter().any(|answer| {
            answer.as_ref().is_err_and(|error| error.is_outage() || matches!(error, RedisError::NoScript))
        });
        let acked = if answers.iter().any(Result::is_ok) {
            // Who came while another `WAIT` went on has waited for that already, and still gets a fair time.
            let now = Instant::now();
            let most = jobs.iter().map(|job| job.confirmed_by.saturating_duration_since(now)).min();
            link.wait_for_replica(most.unwrap_or_default().max(within / 4), within).await
        } else {
            Ok(false)
        };
        for (job, answer) in jobs.drain(..).zip(answers) {
            let acked = matches!(acked, Ok(true));
            let _ = job.answer.send(answer.map(|answer| (answer, acked)));
        }
        if is_bad || acked.is_err() {
            self.link = None;
        }
    }

    /// Returns the connection to the present primary, which knows the scripts of these jobs.
    async fn link(&mut self, jobs: &[Job]) -> Option<&WriteLink> {
        let primary = self.redis.part(self.partition).primary();
        let is_good =
            |there: &WriteLink| !there.link.is_closed() && Some(there.link.address()) == primary.as_ref();
        if !self.link.as_ref().is_some_and(is_good) {
            self.link = None;
            let link = Link::open(primary?, &self.config, &self.cx).await.ok()?;
            self.link = Some(WriteLink { link, hashes: HashMap::new() });
        }
        let there = self.link.as_mut()?;
        for script in jobs.iter().map(|job| job.script) {
            if !there.hashes.contains_key(script) {
                let client = there.link.commands(self.config.command_within);
                let load = client.script_load(script);
                let hash: String = there.link.run(self.config.command_within, load).await.ok()?;
                there.hashes.insert(script, hash);
            }
        }
        self.link.as_ref()
    }
}

impl WriteLink {
    async fn run(&self, job: &Job, within: Duration) -> Result<Answer, RedisError> {
        let client = self.link.commands(within);
        let hash = self.hashes.get(job.script).map(String::as_str).unwrap_or_default();
        let run = client.evalsha(hash, job.keys.clone(), job.arguments.clone());
        self.link.run(within, run).await
    }

    /// Tells whether a replica has all that was written over this connection.
    async fn wait_for_replica(&self, wait: Duration, within: Duration) -> Result<bool, RedisError> {
        let within = wait + within;
        let client = self.link.commands(within);
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        let command = CustomCommand::new_static("WAIT", ClusterHash::FirstKey, false);
        let n_replicas: u64 =
            self.link.run(within, client.custom(command, vec![number(1), number(wait_ms)])).await?;
        Ok(n_replicas > 0)
    }
}
