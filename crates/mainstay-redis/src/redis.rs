use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use fred::clients::{Client, WithOptions};
use fred::types::{FromValue, Value};
use mainstay_runtime::Trigger;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::config::{Address, RedisConfig, RedisMode};
use crate::error::RedisError;
use crate::link::Link;
use crate::part::Part;
use crate::partition::{Partition, Partitions};
use crate::script::Script;
use crate::view::RedisView;
use crate::way::Way;

/// Failing commands ask for a look at the connection at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_millis(50);

/// Sends commands to the present primary: each with a deadline, over one connection that is replaced when it is bad.
///
/// What fred leaves open is closed here. It has no deadline unless told, an unbounded buffer unless told, sends a
/// command up to three times, and does not notice a server that holds its connection and says nothing. So: every
/// command has a deadline and one attempt, the number in flight is bounded, three timeouts in a row replace the
/// connection, and [`Watch`](crate::Watch) decides where to connect.
///
/// In a cluster there are many primaries, and each [`Part`] of the keys has its own way to one of them. Otherwise there is one.
#[derive(Debug)]
pub struct Redis {
    ways: Box<[Way]>,
    /// Present in a cluster.
    partitions: Option<Partitions>,
    /// What the keys of each partition begin with.
    prefixes: Box<[String]>,
    master_name: String,
    pub(crate) in_flight: Semaphore,
    most_in_flight: usize,
    view: ArcSwap<RedisView>,
    watch: OnceLock<Trigger>,
    complained_at: Mutex<Option<Instant>>,
    connections: AtomicU32,
    /// Messages of Sentinels that there is a new primary.
    switches: AtomicU32,
    /// Of a cluster: all there are, for those who are sent from one to another.
    links: ArcSwap<Vec<Arc<Link>>>,
    redirects: AtomicU32,
}

impl Redis {
    /// Starts without a connection; [`Watch`](crate::Watch) makes one.
    pub fn new(config: &RedisConfig) -> Self {
        let partitions = (config.mode == RedisMode::Cluster).then(|| Partitions::new(config.partitions));
        let prefixes: Box<[String]> = match &partitions {
            None => [config.prefix.clone()].into(),
            Some(partitions) => {
                partitions.tags().iter().map(|tag| format!("{}{{{tag}}}", config.prefix)).collect()
            }
        };
        Self {
            ways: prefixes.iter().map(|_| Way::default()).collect(),
            partitions,
            prefixes,
            master_name: config.master_name.clone(),
            in_flight: Semaphore::new(config.max_in_flight as usize),
            most_in_flight: config.max_in_flight as usize,
            view: ArcSwap::default(),
            watch: OnceLock::new(),
            complained_at: Mutex::new(None),
            connections: AtomicU32::new(0),
            switches: AtomicU32::new(0),
            links: ArcSwap::default(),
            redirects: AtomicU32::new(0),
        }
    }

    /// Says whom to wake when commands fail.
    pub fn watched_by(&self, trigger: Trigger) {
        // A second one would watch the same connection; the first is as good.
        let _ = self.watch.set(trigger);
    }

    /// Returns all there is, or, in a cluster, the part for what there is only one of.
    pub fn first(&self) -> Part<'_> {
        self.part(Partition::FIRST)
    }

    /// Runs one command, as [`Part::command`] of the [`first`](Redis::first) part does.
    ///
    /// # Errors
    /// As there.
    pub fn command<T, F>(
        &self,
        within: Duration,
        command: impl FnOnce(WithOptions<Client>) -> F,
    ) -> impl Future<Output = Result<T, RedisError>>
    where
        T: Send,
        F: Future<Output = Result<T, fred::error::Error>> + Send,
    {
        self.first().command(within, command)
    }

    /// Runs a script, as [`Part::run_script`] of the first part does.
    ///
    /// # Errors
    /// As there.
    pub fn run_script<T: FromValue + Send>(
        &self,
        script: &Script,
        keys: &[&str],
        arguments: Vec<Value>,
        within: Duration,
    ) -> impl Future<Output = Result<T, RedisError>> {
        self.first().run_script(script, keys, arguments, within)
    }

    /// Runs a script, as [`Part::run_script_at`] of the first part does.
    ///
    /// # Errors
    /// As there.
    pub fn run_script_at<T: FromValue + Send>(
        &self,
        script: &Script,
        keys: &[&str],
        arguments: impl Fn(&str) -> Vec<Value> + Send,
        within: Duration,
    ) -> impl Future<Output = Result<T, RedisError>> {
        self.first().run_script_at(script, keys, arguments, within)
    }

    /// Returns the address of the server that commands for the first part go to.
    pub fn primary(&self) -> Option<Address> {
        self.first().primary()
    }

    /// Returns the name under which a key of the first part lies in Redis: with the prefix.
    pub fn full(&self, key: &str) -> String {
        self.first().full(key)
    }

    /// Returns one of the [`Redis::partitions`].
    pub fn part(&self, partition: Partition) -> Part<'_> {
        let index = partition.index();
        Part { redis: self, way: &self.ways[index], prefix: &self.prefixes[index] }
    }

    /// Returns all partitions: one, but in a cluster.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> {
        Partition::all(self.ways.len())
    }

    /// Returns the partition of what is called so, with all that one step may have to read or change together with it.
    pub fn partition_of(&self, name: &str) -> Partition {
        self.partitions.as_ref().map_or(Partition::FIRST, |partitions| partitions.of(name))
    }

    /// Tells whether keys lie apart, so that one step cannot use just any of them.
    pub fn is_cluster(&self) -> bool {
        self.partitions.is_some()
    }

    /// Returns the name under which Sentinels know the primary.
    pub fn master_name(&self) -> &str {
        &self.master_name
    }

    /// Tells whether the last command or probe was answered; in a cluster, that of every partition.
    pub fn is_available(&self) -> bool {
        self.ways.iter().all(Way::is_available)
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

    /// Counts answers of a cluster that the keys are, or will be, at another node.
    pub fn n_redirects(&self) -> u32 {
        self.redirects.load(Ordering::Relaxed)
    }

    /// Returns the number of commands in flight.
    pub fn n_in_flight(&self) -> usize {
        self.most_in_flight.saturating_sub(self.in_flight.available_permits())
    }

    /// Notes such a message, and looks.
    pub(crate) fn heard_of_switch(&self) {
        self.switches.fetch_add(1, Ordering::Relaxed);
        self.look_again();
    }

    /// Asks for a look at the connection, at once.
    pub fn look_again(&self) {
        if let Some(watch) = self.watch.get() {
            watch.fire();
        }
    }

    /// Notes what a look at Redis found.
    pub(crate) fn saw(&self, view: RedisView) {
        self.view.store(Arc::new(view));
    }

    /// Notes that a connection was made.
    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts a connection in the place of the one before, which is closed.
    pub(crate) fn use_link(&self, link: Option<Arc<Link>>) {
        if link.is_some() {
            self.connected();
        }
        self.ways[0].replace(link);
    }

    pub(crate) fn way(&self, partition: Partition) -> &Way {
        &self.ways[partition.index()]
    }

    /// Takes note of all connections to a cluster.
    pub(crate) fn use_links(&self, links: Vec<Arc<Link>>) {
        self.links.store(Arc::new(links));
    }

    /// Notes that a node has sent us to another one, and returns the connection to that one, if there is one.
    pub(crate) fn redirected(&self, to: Option<&Address>) -> Option<Arc<Link>> {
        self.redirects.fetch_add(1, Ordering::Relaxed);
        self.complain();
        let links = self.links.load();
        links.iter().find(|link| Some(link.address()) == to && !link.is_closed()).cloned()
    }

    pub(crate) fn complain(&self) {
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
