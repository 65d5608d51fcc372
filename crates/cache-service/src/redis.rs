//! The boundary to Redis: five commands, each with a deadline, over one connection that is replaced when it is bad.
//!
//! What fred leaves open is closed here. It has no deadline unless told, an unbounded buffer unless told, sends a
//! command up to three times, and does not notice a server that holds its connection and says nothing. So: every
//! command has a deadline and one attempt, the number in flight is bounded, three timeouts in a row replace the
//! connection, and [`Watch`] decides where to connect.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use fred::interfaces::{ClientLike as _, HashesInterface as _, KeysInterface as _};
use fred::types::Value;
use mainstay_runtime::Trigger;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::config::{Address, RedisConfig};
use crate::key::{Key, Tags};

mod entries;
mod error;
mod link;
mod log;
mod resp;
mod script;
mod sentinel;
mod view;
mod watch;

pub(crate) use entries::Invalidation;
use entries::Scripts;
pub(crate) use error::RedisError;
use link::Link;
pub(crate) use log::LogLink;
pub(crate) use script::Script;
pub(crate) use view::RedisView;
pub(crate) use watch::Watch;

/// So many commands in a row without an answer mean that the server does not hear us.
const TIMEOUTS_TO_REPLACE: u32 = 3;
/// fred marks a command that timed out so that it is not sent late; this gives it the time to.
const FRED_EXTRA: Duration = Duration::from_millis(50);
/// Failing commands ask for a look at the connection at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_millis(50);

/// Sends commands to the present primary.
#[derive(Debug)]
pub(crate) struct Redis {
    link: ArcSwapOption<Link>,
    prefix: String,
    master_name: String,
    in_flight: Semaphore,
    timeouts_in_a_row: AtomicU32,
    available: AtomicBool,
    view: ArcSwap<RedisView>,
    watch: OnceLock<Trigger>,
    complained_at: Mutex<Option<Instant>>,
    connections: AtomicU32,
    scripts: Scripts,
}

impl Redis {
    /// Starts without a connection; [`Watch`] makes one.
    pub(crate) fn new(config: &RedisConfig) -> Self {
        Self {
            link: ArcSwapOption::empty(),
            prefix: config.prefix.clone(),
            master_name: config.master_name.clone(),
            in_flight: Semaphore::new(config.max_in_flight as usize),
            timeouts_in_a_row: AtomicU32::new(0),
            available: AtomicBool::new(false),
            view: ArcSwap::default(),
            watch: OnceLock::new(),
            complained_at: Mutex::new(None),
            connections: AtomicU32::new(0),
            scripts: Scripts::new(config.log_length),
        }
    }

    /// Says whom to wake when commands fail.
    pub(crate) fn watched_by(&self, trigger: Trigger) {
        // A second one would watch the same connection; the first is as good.
        let _ = self.watch.set(trigger);
    }

    /// Reads what lies under a key, and up to which number its namespace is invalid.
    pub(crate) async fn get(
        &self,
        key: &Key,
        within: Duration,
    ) -> Result<(Option<Bytes>, Option<u64>), RedisError> {
        let link = self.link()?;
        let keys = vec![self.full(key.as_str()), self.full(&entries::floor_of(key.namespace()))];
        let client = link.commands(within);
        self.run(&link, within, client.mget(keys)).await
    }

    /// Returns the highest number up to which one of these tags is invalid; none when that was lost.
    pub(crate) async fn tag_barrier(
        &self,
        namespace: &str,
        tags: &Tags,
        within: Duration,
    ) -> Result<Option<u64>, RedisError> {
        let link = self.link()?;
        let fields: Vec<&str> = std::iter::once("").chain(tags.iter()).collect();
        let client = link.commands(within);
        let barriers = client.hmget(self.full(&entries::barriers_of(namespace)), fields);
        let barriers: Vec<Option<u64>> = self.run(&link, within, barriers).await?;
        let (marker, barriers) = barriers.split_first().unwrap_or((&None, &[]));
        Ok(marker.map(|_| barriers.iter().flatten().copied().max().unwrap_or(0)))
    }

    /// Returns all run-time policies, by namespace: version, a space, JSON.
    pub(crate) async fn policies(&self, within: Duration) -> Result<HashMap<String, String>, RedisError> {
        let link = self.link()?;
        let client = link.commands(within);
        self.run(&link, within, client.hgetall(self.full(entries::POLICIES))).await
    }

    /// Returns the text of INFO.
    async fn info(&self, within: Duration) -> Result<String, RedisError> {
        let link = self.link()?;
        let client = link.commands(within);
        self.run(&link, within, client.info(None)).await
    }

    /// Returns the address of the server that commands go to.
    pub(crate) fn primary(&self) -> Option<Address> {
        self.usable_link().map(|link| link.address().clone())
    }

    /// Returns the name under which Sentinels know the primary.
    pub(crate) fn master_name(&self) -> &str {
        &self.master_name
    }

    /// Tells whether the last command or probe was answered.
    pub(crate) fn is_available(&self) -> bool {
        self.available.load(Ordering::Relaxed)
    }

    /// Returns what the last look at Redis found.
    pub(crate) fn view(&self) -> Arc<RedisView> {
        self.view.load_full()
    }

    /// Counts connections made since the start.
    pub(crate) fn n_connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Puts a connection in the place of the one before, which is closed.
    fn use_link(&self, link: Option<Arc<Link>>) {
        if link.is_some() {
            self.connections.fetch_add(1, Ordering::Relaxed);
            self.timeouts_in_a_row.store(0, Ordering::Relaxed);
        }
        self.link.store(link);
    }

    fn usable_link(&self) -> Option<Arc<Link>> {
        self.link.load_full().filter(|link| !link.is_closed())
    }

    fn link(&self) -> Result<Arc<Link>, RedisError> {
        self.usable_link().ok_or_else(|| {
            self.failed();
            RedisError::NotConnected
        })
    }

    fn full(&self, key: &str) -> String {
        [&self.prefix, key].concat()
    }

    async fn run<T>(
        &self,
        link: &Arc<Link>,
        within: Duration,
        command: impl Future<Output = Result<T, fred::error::Error>>,
    ) -> Result<T, RedisError> {
        let _slot = self.in_flight.try_acquire().map_err(|_| RedisError::Overloaded)?;
        let answer = tokio::select! {
            biased;
            answer = timeout(within + FRED_EXTRA, command) => match answer {
                Ok(answer) => answer.map_err(RedisError::from_fred),
                Err(_) => Err(RedisError::Timeout),
            },
            () = link.closed() => Err(RedisError::Lost),
        };
        self.judge(link, within, &answer);
        answer
    }

    fn judge<T>(&self, link: &Arc<Link>, within: Duration, answer: &Result<T, RedisError>) {
        match answer {
            Ok(_) | Err(RedisError::Refused(_) | RedisError::NoScript) => self.answered(),
            Err(RedisError::WriteRefused(_)) => {
                self.answered();
                // The primary may have moved.
                self.complain();
            }
            Err(RedisError::Overloaded) => {}
            Err(RedisError::Timeout) => {
                self.failed();
                // A caller in a hurry proves nothing about the server.
                if within >= link.command_within() {
                    let in_a_row = self.timeouts_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
                    if in_a_row >= TIMEOUTS_TO_REPLACE {
                        self.give_up(link);
                    }
                }
            }
            Err(_) => self.failed(),
        }
    }

    fn answered(&self) {
        self.timeouts_in_a_row.store(0, Ordering::Relaxed);
        self.available.store(true, Ordering::Relaxed);
    }

    fn failed(&self) {
        self.available.store(false, Ordering::Relaxed);
        self.complain();
    }

    /// Drops a connection that no longer answers, unless it has been replaced already.
    fn give_up(&self, link: &Arc<Link>) {
        let before = self.link.compare_and_swap(link, None);
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, link)) {
            self.timeouts_in_a_row.store(0, Ordering::Relaxed);
            tracing::warn!(address = %link.address(), "redis does not answer, replacing the connection");
        }
        self.complain();
    }

    fn complain(&self) {
        let Some(watch) = self.watch.get() else { return };
        let now = Instant::now();
        let mut complained_at = self.complained_at.lock();
        if complained_at.is_none_or(|at| now.duration_since(at) >= COMPLAIN_EVERY) {
            *complained_at = Some(now);
            watch.fire();
        }
    }
}

/// Arguments of scripts are texts.
fn number(number: u64) -> Value {
    Value::from(number.to_string())
}
