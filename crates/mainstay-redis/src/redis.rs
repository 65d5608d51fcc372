use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use fred::clients::{Client, WithOptions};
use fred::interfaces::ClientLike as _;
use fred::types::Value;
use mainstay_runtime::Trigger;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::config::{Address, RedisConfig};
use crate::error::RedisError;
use crate::link::Link;
use crate::view::RedisView;

/// So many commands in a row without an answer mean that the server does not hear us.
const TIMEOUTS_TO_REPLACE: u32 = 3;
/// So many do, even if the server answers on another connection.
const TIMEOUTS_AT_MOST: u32 = 12;
/// Failing commands ask for a look at the connection at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_millis(50);

/// Sends commands to the present primary: each with a deadline, over one connection that is replaced when it is bad.
///
/// What fred leaves open is closed here. It has no deadline unless told, an unbounded buffer unless told, sends a
/// command up to three times, and does not notice a server that holds its connection and says nothing. So: every
/// command has a deadline and one attempt, the number in flight is bounded, three timeouts in a row replace the
/// connection, and [`Watch`](crate::Watch) decides where to connect.
#[derive(Debug)]
pub struct Redis {
    link: ArcSwapOption<Link>,
    prefix: String,
    master_name: String,
    in_flight: Semaphore,
    most_in_flight: usize,
    timeouts_in_a_row: AtomicU32,
    available: AtomicBool,
    view: ArcSwap<RedisView>,
    watch: OnceLock<Trigger>,
    complained_at: Mutex<Option<Instant>>,
    connections: AtomicU32,
    /// Messages of Sentinels that there is a new primary.
    switches: AtomicU32,
}

impl Redis {
    /// Starts without a connection; [`Watch`](crate::Watch) makes one.
    pub fn new(config: &RedisConfig) -> Self {
        Self {
            link: ArcSwapOption::empty(),
            prefix: config.prefix.clone(),
            master_name: config.master_name.clone(),
            in_flight: Semaphore::new(config.max_in_flight as usize),
            most_in_flight: config.max_in_flight as usize,
            timeouts_in_a_row: AtomicU32::new(0),
            available: AtomicBool::new(false),
            view: ArcSwap::default(),
            watch: OnceLock::new(),
            complained_at: Mutex::new(None),
            connections: AtomicU32::new(0),
            switches: AtomicU32::new(0),
        }
    }

    /// Says whom to wake when commands fail.
    pub fn watched_by(&self, trigger: Trigger) {
        // A second one would watch the same connection; the first is as good.
        let _ = self.watch.set(trigger);
    }

    /// Runs one command, which ends after `within`; `command` is given the client to send it with.
    ///
    /// After [`RedisError::Timeout`], [`RedisError::Lost`] or [`RedisError::Connection`] it may have been done or not.
    ///
    /// # Errors
    /// Fails when there is no connection, when it is lost, when the server refuses, and at the deadline.
    pub async fn command<T, F>(
        &self,
        within: Duration,
        command: impl FnOnce(WithOptions<Client>) -> F,
    ) -> Result<T, RedisError>
    where
        T: Send,
        F: Future<Output = Result<T, fred::error::Error>> + Send,
    {
        let link = self.link()?;
        let answer = command(link.commands(within));
        self.run(&link, within, answer).await
    }

    /// Returns the text of INFO.
    pub(crate) async fn info(&self, within: Duration) -> Result<String, RedisError> {
        self.command(within, |client| async move { client.info(None).await }).await
    }

    /// Returns the address of the server that commands go to.
    pub fn primary(&self) -> Option<Address> {
        self.usable_link().map(|link| link.address().clone())
    }

    /// Returns the name under which Sentinels know the primary.
    pub fn master_name(&self) -> &str {
        &self.master_name
    }

    /// Tells whether the last command or probe was answered.
    pub fn is_available(&self) -> bool {
        self.available.load(Ordering::Relaxed)
    }

    /// Asks, on a thread and a connection of their own, how long the server takes to answer; none when it does not, or
    /// there is no connection to one. What is slower than that was late in this process.
    pub async fn pulse(&self) -> Option<Duration> {
        self.usable_link()?.pulse().ask().await
    }

    /// Returns what the last look at Redis found.
    pub fn view(&self) -> Arc<RedisView> {
        self.view.load_full()
    }

    /// Counts connections made since the start.
    pub fn n_connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts messages of Sentinels that there is a new primary.
    pub fn n_switches(&self) -> u32 {
        self.switches.load(Ordering::Relaxed)
    }

    /// Notes such a message, and looks.
    pub(crate) fn heard_of_switch(&self) {
        self.switches.fetch_add(1, Ordering::Relaxed);
        self.look_again();
    }

    /// Asks for a look at the connection, at once.
    pub(crate) fn look_again(&self) {
        if let Some(watch) = self.watch.get() {
            watch.fire();
        }
    }

    /// Notes what a look at Redis found.
    pub(crate) fn saw(&self, view: RedisView) {
        self.view.store(Arc::new(view));
    }

    /// Puts a connection in the place of the one before, which is closed.
    pub(crate) fn use_link(&self, link: Option<Arc<Link>>) {
        if link.is_some() {
            self.connections.fetch_add(1, Ordering::Relaxed);
            self.timeouts_in_a_row.store(0, Ordering::Relaxed);
        }
        self.link.store(link);
    }

    fn usable_link(&self) -> Option<Arc<Link>> {
        self.link.load_full().filter(|link| !link.is_closed())
    }

    pub(crate) fn link(&self) -> Result<Arc<Link>, RedisError> {
        self.usable_link().ok_or_else(|| {
            self.failed();
            RedisError::NotConnected
        })
    }

    /// Returns the number of commands in flight.
    pub fn n_in_flight(&self) -> usize {
        self.most_in_flight.saturating_sub(self.in_flight.available_permits())
    }

    /// Returns the name under which a key lies in Redis: with the prefix.
    pub fn full(&self, key: &str) -> String {
        [&self.prefix, key].concat()
    }

    pub(crate) fn run<'a, T: Send + 'a>(
        &'a self,
        link: &'a Arc<Link>,
        within: Duration,
        command: impl Future<Output = Result<T, fred::error::Error>> + Send + 'a,
    ) -> impl Future<Output = Result<T, RedisError>> + Send + 'a {
        let command = link.run(within, command);
        async move {
            let _slot = self.in_flight.try_acquire().map_err(|_| RedisError::Overloaded)?;
            let answer = command.await;
            self.judge(link, within, &answer);
            answer
        }
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
                    if in_a_row >= TIMEOUTS_AT_MOST {
                        self.give_up(link);
                    } else if in_a_row >= TIMEOUTS_TO_REPLACE {
                        // It may be this process that takes answers late.
                        link.doubt();
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

/// Turns a number into an argument of a script; these are texts.
pub fn number(number: u64) -> Value {
    Value::from(number.to_string())
}
