//! One server as statements see it: its pools, its breaker, its figures.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use mainstay_resilience::breaker::{Breaker, Outcome, Permit, State};
use mainstay_rpc::BreakerSection;
use mainstay_runtime::{Context, Trigger};
use parking_lot::Mutex;
use tokio::time::Instant as TokioInstant;

use crate::{
    cluster::{Cluster, Health, NodeId, Verdict},
    config::{NodeConfig, ReplicaConfig, split_address},
    error::QueryError,
    figures::Figures,
    metrics::Metrics,
    pool::{Endpoint, Pool, PoolFigures, PoolStatus, ReadPool, Tls, WritePool},
    probe::PgBouncerFigures,
    route::PeakEwma,
};

/// A server that statements may be sent to; it lives until the last of them has ended, also when it is configured no more.
pub(crate) struct Node {
    pub id: NodeId,
    pub name: Arc<str>,
    /// Where queries go: the server, or the `PgBouncer` before it.
    pub address: String,
    pub host: String,
    pub port: u16,
    /// Whether `address` is that of a `PgBouncer`.
    pub pgbouncer: bool,
    /// What it was made of.
    place: NodePlace,
    reads: ReadPool,
    writes: WritePool,
    /// Past the `PgBouncer`, for writes that do not work behind it.
    direct: Option<WritePool>,
    /// Fingerprints of those.
    unpoolable: Mutex<HashSet<u64>>,
    load: Mutex<Load>,
    in_flight: AtomicU32,
    drained: AtomicBool,
    pgbouncer_figures: Mutex<Option<PgBouncerFigures>>,
    probe: Mutex<Option<Trigger>>,
}

/// Where a server is to be found; at another place it is another server.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NodePlace {
    address: String,
    pgbouncer: String,
}

struct Load {
    breaker: Breaker,
    /// Times that it opened.
    n_openings: u64,
    /// The SQLSTATE by which it refused the last log-in that counted for the breaker.
    refused_with: Option<String>,
    figures: Figures,
    latency: PeakEwma,
    /// It was down and came back then.
    back_at: Option<Instant>,
    was_down: bool,
}

/// What all nodes are made with.
pub(crate) struct World {
    pub tls: Tls,
    pub metrics: Metrics,
    pub cx: Context,
}

/// Roles of pools, as metrics name them.
pub(crate) const ROLES: [&str; 2] = [READ, WRITE];
const READ: &str = "read";
const WRITE: &str = "write";
/// Above this many the fingerprints are learned anew.
const MAX_UNPOOLABLE: usize = 4_096;

/// What the statements of a node have shown, for the next one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub is_breaker_open: bool,
    /// How long it takes to answer; `None` when it has not answered yet.
    pub latency: Option<Duration>,
    /// How long it has been back, if it was down.
    pub back_for: Option<Duration>,
}

/// What is known about the statements of a node.
#[derive(Debug, Clone)]
pub(crate) struct Traffic {
    pub queries: u64,
    pub errors: u64,
    pub mean_s: f64,
    pub breaker: State,
    pub n_openings: u64,
    /// The SQLSTATE by which it refused the last log-in that counted for the breaker.
    pub refused_with: Option<String>,
    pub in_flight: u32,
}

impl Node {
    /// Opens no connection yet.
    pub(crate) fn new(
        id: NodeId,
        name: &str,
        node: &NodeConfig,
        config: &ReplicaConfig,
        world: &World,
    ) -> anyhow::Result<Self> {
        let place = NodePlace::of(node);
        let pgbouncer = !place.pgbouncer.is_empty();
        let address = if pgbouncer { &place.pgbouncer } else { &place.address };
        let (host, port) = host_and_port(address)?;
        let name: Arc<str> = name.into();
        let World { tls, metrics, cx } = world;
        let endpoint = |address: &str, pgbouncer| {
            let (host, port) = host_and_port(address)?;
            anyhow::Ok(Endpoint {
                node: Arc::clone(&name),
                address: address.into(),
                host: host.into(),
                port,
                pgbouncer,
                tls: tls.clone(),
            })
        };
        let figures = |role| PoolFigures {
            cancels: metrics.cancels.clone(),
            wait_seconds: metrics.node.pools.wait_seconds(&name, role),
            kept: metrics.kept.clone(),
        };
        let writes = |endpoint| Pool::new(endpoint, &config.postgres, &config.pool, figures(WRITE), cx);
        let here = endpoint(address, pgbouncer)?;
        Ok(Self {
            id,
            address: address.clone(),
            host: host.to_owned(),
            port,
            pgbouncer,
            reads: Pool::new(here.clone(), &config.postgres, &config.pool, figures(READ), cx),
            writes: writes(here),
            direct: if pgbouncer { Some(writes(endpoint(&place.address, false)?)) } else { None },
            name,
            place,
            unpoolable: Mutex::default(),
            load: Mutex::new(Load::new(&config.breaker)),
            in_flight: AtomicU32::new(0),
            drained: AtomicBool::new(false),
            pgbouncer_figures: Mutex::default(),
            probe: Mutex::default(),
        })
    }

    /// Tells whether the configuration still means this server, at the place where it is.
    pub(crate) fn is_at(&self, node: &NodeConfig) -> bool {
        self.place == NodePlace::of(node)
    }

    /// Opens its connections in another way from now on; those in use are used to the end.
    pub(crate) fn renew_pools(&self, config: &ReplicaConfig) {
        self.reads.renew(&config.postgres, &config.pool);
        for writes in std::iter::once(&self.writes).chain(&self.direct) {
            writes.renew(&config.postgres, &config.pool);
        }
    }

    /// Judges failures by other limits from now on; what was counted is forgotten.
    pub(crate) fn set_breaker(&self, limits: &BreakerSection) {
        self.load.lock().breaker = Breaker::new(limits.clone().into());
    }

    /// Returns where connections for reads are to be had.
    pub(crate) fn reads(&self) -> &ReadPool {
        &self.reads
    }

    /// Returns the way for a write: the pool, and whether it leads through a `PgBouncer`.
    pub(crate) fn way(&self, sql: &str) -> (&WritePool, bool) {
        match &self.direct {
            Some(direct) if self.unpoolable.lock().contains(&fingerprint(sql)) => (direct, false),
            _ => (&self.writes, self.pgbouncer),
        }
    }

    /// Returns the way for writes that need a session of their own: past any `PgBouncer`.
    pub(crate) fn direct_writes(&self) -> &WritePool {
        self.direct.as_ref().unwrap_or(&self.writes)
    }

    /// Remembers that a statement does not work behind a `PgBouncer`.
    pub(crate) fn keep_from_pooler(&self, sql: &str) {
        let mut unpoolable = self.unpoolable.lock();
        if unpoolable.len() >= MAX_UNPOOLABLE {
            unpoolable.clear();
        }
        unpoolable.insert(fingerprint(sql));
    }

    /// Tells the node how to be probed at once.
    pub(crate) fn set_probe(&self, trigger: Trigger) {
        *self.probe.lock() = Some(trigger);
    }

    /// Asks for a probe now.
    pub(crate) fn probe_now(&self) {
        if let Some(trigger) = &*self.probe.lock() {
            trigger.fire();
        }
    }

    /// Begins one statement; its end must be told.
    pub(crate) fn begin(&self) -> Result<Flight<'_>, QueryError> {
        let begun_at = TokioInstant::now().into_std();
        let mut load = self.load.lock();
        let permit = load.breaker.admit(begun_at).map_err(|rejected| QueryError::Breaker {
            node: self.name.to_string(),
            retry_after: rejected.retry_after,
            refused_with: load.refused_with.clone(),
        })?;
        drop(load);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Flight { node: self, permit: Some(permit), begun_at })
    }

    /// Forgets past failures: the node is known to be back, and starts slowly.
    pub(crate) fn came_up(&self, now: Instant) {
        let mut load = self.load.lock();
        load.breaker.reset(now);
        load.latency = PeakEwma::default();
        if load.was_down {
            load.back_at = Some(now);
        }
    }

    /// Closes its idle connections, which are as dead as it is, and its breaker: that it is down says why nothing is sent.
    pub(crate) fn went_down(&self, now: Instant) {
        let mut load = self.load.lock();
        load.was_down = true;
        load.breaker.reset(now);
        drop(load);
        self.shed(Duration::ZERO);
    }

    /// Returns what its statements have shown; how long it takes only where that is wanted.
    pub(crate) fn pace(&self, now: Instant, latency: bool) -> Pace {
        let load = self.load.lock();
        Pace {
            is_breaker_open: load.breaker.state(now) == State::Open,
            latency: if latency { load.latency.estimate(now) } else { None },
            back_for: load.back_at.map(|at| now.saturating_duration_since(at)),
        }
    }

    pub(crate) fn is_breaker_open(&self, now: Instant) -> bool {
        self.load.lock().breaker.state(now) == State::Open
    }

    /// Notes what the `PgBouncer` before it says of itself, or that it says nothing.
    pub(crate) fn set_pgbouncer_figures(&self, figures: Option<PgBouncerFigures>) {
        *self.pgbouncer_figures.lock() = figures;
    }

    pub(crate) fn pgbouncer_figures(&self) -> Option<PgBouncerFigures> {
        *self.pgbouncer_figures.lock()
    }

    /// Tells whether an operator has taken it out of reads.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    /// Takes it out of reads, or back; returns whether that changed anything.
    pub(crate) fn set_drained(&self, drained: bool) -> bool {
        self.drained.swap(drained, Ordering::Relaxed) != drained
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns the state of the pools by role: for reads, and for writes, those past the `PgBouncer` included.
    pub(crate) fn pool_roles(&self) -> [(&'static str, PoolStatus); 2] {
        let direct = self.direct.as_ref().map(Pool::status).unwrap_or_default();
        [(READ, self.reads.status()), (WRITE, self.writes.status().plus(direct))]
    }

    pub(crate) fn traffic(&self, now: Instant) -> Traffic {
        let load = self.load.lock();
        Traffic {
            queries: load.figures.queries,
            errors: load.figures.errors,
            mean_s: load.figures.mean_s(),
            breaker: load.breaker.state(now),
            n_openings: load.n_openings,
            refused_with: load.refused_with.clone(),
            in_flight: self.in_flight(),
        }
    }

    /// Judges it: by what its probes found, and by how its statements ended.
    pub(crate) fn verdict(&self, cluster: &Cluster, now: Instant) -> Verdict {
        let (verdict, traffic) = (cluster.verdict(self.id, now), self.traffic(now));
        // Half open it waits for statements to try it, and there may be none.
        if verdict.health != Health::Healthy || traffic.breaker != State::Open {
            return verdict;
        }
        let why = traffic.refused_with.map(|state| format!(" with SQLSTATE {state}")).unwrap_or_default();
        let detail = format!("{}, but statements fail there{why}: none is sent for now", verdict.detail);
        Verdict { health: Health::Degraded, detail }
    }

    /// Closes idle connections older than `max_age`.
    pub(crate) fn shed(&self, max_age: Duration) {
        self.reads.shed(max_age);
        for writes in std::iter::once(&self.writes).chain(&self.direct) {
            writes.shed(max_age);
        }
    }
}

impl NodePlace {
    fn of(node: &NodeConfig) -> Self {
        Self { address: node.address.clone(), pgbouncer: node.pgbouncer.clone() }
    }
}

impl Load {
    fn new(limits: &BreakerSection) -> Self {
        Self {
            breaker: Breaker::new(limits.clone().into()),
            n_openings: 0,
            refused_with: None,
            figures: Figures::default(),
            latency: PeakEwma::default(),
            back_at: None,
            was_down: false,
        }
    }
}

fn host_and_port(address: &str) -> anyhow::Result<(&str, u16)> {
    split_address(address).ok_or_else(|| anyhow::anyhow!("{address:?} is not host:port"))
}

fn fingerprint(sql: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    sql.hash(&mut hasher);
    hasher.finish()
}

/// A statement on its way; dropped without [`end`](Self::end) it says nothing about the node.
pub(crate) struct Flight<'a> {
    node: &'a Node,
    permit: Option<Permit>,
    begun_at: Instant,
}

impl Flight<'_> {
    /// Tells how it ended.
    pub(crate) fn end<T>(self, result: &Result<T, QueryError>) {
        self.end_of(1, result);
    }

    /// Tells how so many statements ended that shared it, each with its part of the time.
    pub(crate) fn end_of<T>(mut self, n_statements: usize, result: &Result<T, QueryError>) {
        let now = TokioInstant::now().into_std();
        let took = (now - self.begun_at) / u32::try_from(n_statements).unwrap_or(u32::MAX).max(1);
        let blamed = result.as_ref().err().is_some_and(QueryError::blames_node);
        let outcome = if blamed { Outcome::Failure } else { Outcome::Success };
        let mut load = self.node.load.lock();
        (0..n_statements).for_each(|_| load.figures.record(took, result.is_ok()));
        match result {
            Ok(_) => load.refused_with = None,
            Err(error) if blamed => load.refused_with = error.refused_with(),
            Err(_) => {}
        }
        if result.is_ok() {
            load.latency.observe(took, now);
        }
        let transition =
            self.permit.take().and_then(|permit| load.breaker.record(permit, outcome, took, now));
        load.n_openings += u64::from(transition.is_some_and(|change| change.to == State::Open));
        drop(load);
        if let Some(change) = transition {
            tracing::warn!(node = &*self.node.name, from = %change.from, to = %change.to, "breaker changed");
        }
        if blamed {
            self.node.probe_now();
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.node.in_flight.fetch_sub(1, Ordering::Relaxed);
        if let Some(permit) = self.permit.take() {
            self.node.load.lock().breaker.cancel(permit, TokioInstant::now().into_std());
        }
    }
}
