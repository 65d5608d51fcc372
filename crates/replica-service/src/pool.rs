//! Connections to one node, and the rule that none goes back unless it is clean.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool::{
    Runtime,
    managed::{self, Hook, HookError, Object, PoolError, QueueMode, TimeoutType},
};
use mainstay_runtime::Context;
use parking_lot::RwLock;
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use tokio::time::{Instant, timeout};

use crate::{
    config::{PoolConfig, PostgresConfig},
    error::QueryError,
    metrics::KeptMetrics,
    wire::Wire,
};

mod cancel;
mod connection;
mod kept;
mod tls;

use connection::{Dial, Link};
pub(crate) use connection::{ForReads, ForWrites};
pub(crate) use kept::{Kept, Key, Named};
pub(crate) use tls::Tls;

pub(crate) type ReadPool = Pool<ForReads>;
pub(crate) type WritePool = Pool<ForWrites>;
pub(crate) type ReadLease = Lease<ForReads>;
pub(crate) type WriteLease = Lease<ForWrites>;

/// Hands out connections to one node for one kind of statement.
pub(crate) struct Pool<D: Dial> {
    /// Who has one keeps it until his statement has ended, also when it is replaced.
    inner: RwLock<managed::Pool<D>>,
    tally: Arc<Tally>,
    place: Arc<LeasePlace>,
}

/// What every connection of a pool has in common.
struct LeasePlace {
    endpoint: Endpoint,
    figures: PoolFigures,
    cx: Context,
}

/// What a pool counts itself, since the start of the service.
#[derive(Debug, Default)]
struct Tally {
    created: AtomicU64,
    recycled: AtomicU64,
    errors: AtomicU64,
    timeouts: AtomicU64,
    asked: AtomicU64,
    waited_us: AtomicU64,
}

/// Where a pool leads and what for.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub node: Arc<str>,
    /// `host:port`, where cancel requests go too.
    pub address: Arc<str>,
    pub host: Arc<str>,
    pub port: u16,
    pub pgbouncer: bool,
    pub tls: Tls,
}

/// Where a pool tells what it does.
#[derive(Clone)]
pub(crate) struct PoolFigures {
    /// Statements cancelled in the database.
    pub cancels: Counter,
    pub wait_seconds: Histogram,
    pub kept: KeptMetrics,
}

/// How full a pool is, and what it did since the start of the service.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PoolStatus {
    pub size: u32,
    pub max_size: u32,
    pub in_use: u32,
    pub waiting: u32,
    /// Connections opened.
    pub created: u64,
    /// Connections used once more.
    pub recycled: u64,
    /// Connections that could not be opened.
    pub errors: u64,
    /// Waits that ran out of time.
    pub timeouts: u64,
    /// Times that somebody asked for a connection and had it, or was told that there is none.
    pub asked: u64,
    /// How long all of them waited; opening a connection is part of it.
    pub waited: Duration,
}

pub(crate) const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
/// Cancel requests for one connection.
const CANCELS: usize = 3;
/// For a cancelled connection to be idle.
const IDLE_WITHIN: Duration = Duration::from_millis(250);

impl<D: Dial> Pool<D> {
    /// Opens no connection yet.
    pub(crate) fn new(
        endpoint: Endpoint,
        postgres: &PostgresConfig,
        pool: &PoolConfig,
        figures: PoolFigures,
        cx: &Context,
    ) -> Self {
        let tally = Arc::new(Tally::default());
        let inner = RwLock::new(build(&endpoint, postgres, pool, &tally));
        Self { inner, tally, place: Arc::new(LeasePlace { endpoint, figures, cx: cx.clone() }) }
    }

    /// Gives out other connections from now on. Those in use, and who waits for one of them, keep theirs to the end, so for
    /// that long there may be as many as both sizes together; idle ones are closed.
    ///
    /// The library's own `resize` takes away no permit of a pool that is not full, and gives new ones when it grows.
    pub(crate) fn renew(&self, postgres: &PostgresConfig, pool: &PoolConfig) {
        let new = build(&self.place.endpoint, postgres, pool, &self.tally);
        let old = std::mem::replace(&mut *self.inner.write(), new);
        old.retain(|_, _| false);
    }

    /// Takes a connection, or opens one.
    pub(crate) async fn lease(&self) -> Result<Lease<D>, QueryError> {
        let asked_at = Instant::now();
        let pool = self.inner.read().clone();
        let got = pool.get().await;
        self.note(asked_at.elapsed(), got.as_ref().err());
        let object = got.map_err(|error| {
            let node = self.place.endpoint.node.to_string();
            match error {
                PoolError::Timeout(TimeoutType::Wait) => QueryError::PoolExhausted { node },
                PoolError::Backend(source) => QueryError::Connect { node, source: Some(source.into()) },
                PoolError::Timeout(_)
                | PoolError::Closed
                | PoolError::NoRuntimeSpecified
                | PoolError::PostCreateHook(_) => QueryError::Connect { node, source: None },
            }
        })?;
        Ok(Lease { object: Some(object), place: Arc::clone(&self.place) })
    }

    fn note(&self, waited: Duration, failed: Option<&PoolError<D::Error>>) {
        self.place.figures.wait_seconds.observe(waited.as_secs_f64());
        self.tally.asked.fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.tally.waited_us.fetch_add(us, Ordering::Relaxed);
        let counter = match failed {
            None => return,
            Some(PoolError::Timeout(TimeoutType::Wait)) => &self.tally.timeouts,
            Some(_) => &self.tally.errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Closes idle connections that are too old, or all idle ones.
    pub(crate) fn shed(&self, older_than: Duration) {
        self.inner.read().retain(|_, metrics| metrics.age() < older_than);
    }

    pub(crate) fn status(&self) -> PoolStatus {
        let status = self.inner.read().status();
        let figure = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let total = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PoolStatus {
            size: figure(status.size),
            max_size: figure(status.max_size),
            in_use: figure(status.size.saturating_sub(status.available)),
            waiting: figure(status.waiting),
            created: total(&self.tally.created),
            recycled: total(&self.tally.recycled),
            errors: total(&self.tally.errors),
            timeouts: total(&self.tally.timeouts),
            asked: total(&self.tally.asked),
            waited: Duration::from_micros(total(&self.tally.waited_us)),
        }
    }
}

impl PoolStatus {
    #[must_use]
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            size: self.size + other.size,
            max_size: self.max_size + other.max_size,
            in_use: self.in_use + other.in_use,
            waiting: self.waiting + other.waiting,
            created: self.created + other.created,
            recycled: self.recycled + other.recycled,
            errors: self.errors + other.errors,
            timeouts: self.timeouts + other.timeouts,
            asked: self.asked + other.asked,
            waited: self.waited + other.waited,
        }
    }
}

/// A connection in use.
///
/// [`keep`](Self::keep) gives it back for the next statement. Dropped in any other way (a deadline, a caller that went
/// away, an error half-way) it leaves the pool at once, so that its slot is free, and what it still runs is cancelled
/// in the database.
pub(crate) struct Lease<D: Dial> {
    object: Option<Object<D>>,
    place: Arc<LeasePlace>,
}

impl<D: Dial> Lease<D> {
    /// Cancels what runs on the connection.
    pub(crate) async fn interrupt(&mut self) {
        self.place.figures.cancels.inc();
        let target = cancel::Target::of(&self.place.endpoint);
        cancel(&mut **self.object.as_mut().expect(HELD), target).await;
    }

    /// Gives the connection back; nothing runs on it and no state is left.
    pub(crate) fn keep(mut self) {
        drop(self.object.take());
    }

    /// Closes the connection; nothing runs on it, but what state it is in is not known.
    pub(crate) fn close(mut self) {
        if let Some(object) = self.object.take() {
            drop(Object::take(object));
        }
    }
}

impl ReadLease {
    pub(crate) fn wire(&mut self) -> &mut Wire {
        &mut self.object.as_mut().expect(HELD).wire
    }

    /// Returns what the connection keeps prepared.
    pub(crate) fn kept(&mut self) -> &mut Kept {
        &mut self.object.as_mut().expect(HELD).kept
    }

    /// Returns where to count what becomes of that.
    pub(crate) fn kept_metrics(&self) -> &KeptMetrics {
        &self.place.figures.kept
    }
}

impl WriteLease {
    pub(crate) fn client(&self) -> &tokio_postgres::Client {
        self.object.as_ref().expect(HELD)
    }
}

const HELD: &str = "a lease holds its connection until it is given back";

impl<D: Dial> Drop for Lease<D> {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        let LeasePlace { endpoint, figures, cx } = &*self.place;
        let connection = Object::take(object);
        figures.cancels.inc();
        cx.spawn_work(cancel_and_close(connection, cancel::Target::of(endpoint)));
    }
}

async fn cancel_and_close(mut connection: impl Link, target: cancel::Target) {
    cancel(&mut connection, target).await;
    // Only now: a closed connection would leave its statement running until it has something to send.
    drop(connection);
}

/// Cancels what a connection runs, and waits a little until it does not.
async fn cancel(connection: &mut impl Link, mut target: cancel::Target) {
    let token = connection.cancel_token();
    // A request that arrives before the statement, or between two, cancels nothing.
    for _ in 0..CANCELS {
        if let Err(error) = cancel::send(&token, &mut target).await {
            tracing::debug!(%error, address = &*target.address, "statement not cancelled");
        }
        if timeout(IDLE_WITHIN, connection.settle()).await.is_ok() {
            break;
        }
    }
}

fn build<D: Dial>(
    endpoint: &Endpoint,
    postgres: &PostgresConfig,
    pool: &PoolConfig,
    tally: &Arc<Tally>,
) -> managed::Pool<D> {
    let (created, recycled) = (Arc::clone(tally), Arc::clone(tally));
    let max_age = pool.max_age;
    managed::Pool::builder(D::to(endpoint, postgres, pool))
        .runtime(Runtime::Tokio1)
        .max_size(pool.max_size as usize)
        .wait_timeout(Some(pool.wait_within))
        .create_timeout(Some(postgres.connect_within))
        .recycle_timeout(Some(postgres.connect_within))
        .queue_mode(QueueMode::Lifo)
        .post_create(Hook::sync_fn(move |_, _| {
            created.created.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }))
        .post_recycle(Hook::sync_fn(move |_, _| {
            recycled.recycled.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }))
        .pre_recycle(Hook::sync_fn(move |_, metrics| {
            if metrics.age() < max_age { Ok(()) } else { Err(HookError::message("too old")) }
        }))
        .build()
        .expect("timeouts need a runtime, and nothing else is needed")
}

/// Describes a log-in to one server, without options.
pub(crate) fn base_login(
    host: &str,
    port: u16,
    postgres: &PostgresConfig,
    user: &str,
    password: &str,
) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host(host)
        .port(port)
        .dbname(&postgres.database)
        .user(user)
        .application_name("mainstay-replica")
        .connect_timeout(postgres.connect_within)
        .keepalives(true)
        .keepalives_idle(KEEPALIVE_AFTER);
    if !password.is_empty() {
        config.password(password);
    }
    config
}
