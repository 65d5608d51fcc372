use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use mainstay_rpc::{QuickMethod, Routes, ServeOptions, ServerConfig, ServerMetrics};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use crate::background::{Activate, Background, Schedule, Trigger};
use crate::clock::Clock;
use crate::component::{Component, ComponentKind, Components};
use crate::config::{self, ServiceConfig, Sources};
use crate::identity::Identity;
use crate::internal;
use crate::lifecycle::Lifecycle;
use crate::metrics::{Metrics, RuntimeMetrics};
use crate::readiness::{Latch, Readiness};
use crate::telemetry::ErrorGroups;

/// What a service is given to live with: clocks, tasks, ports, health, metrics. Clones speak of the same process.
#[derive(Clone)]
pub struct Context {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) identity: Identity,
    pub(crate) server: ServerConfig,
    /// Where the configuration was read from.
    sources: Sources,
    config_fingerprint: Mutex<String>,
    pub(crate) clock: Clock,
    pub(crate) started_at: SystemTime,
    pub(crate) lifecycle: Arc<Lifecycle>,
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) components: Arc<Components>,
    pub(crate) background: Background,
    pub(crate) metrics: Metrics,
    pub(crate) runtime_metrics: RuntimeMetrics,
    pub(crate) server_metrics: ServerMetrics,
    pub(crate) errors: Arc<ErrorGroups>,
    /// False once it is known that no span leaves the process.
    pub(crate) records_spans: AtomicBool,
    listening: Mutex<Vec<Listening>>,
    internal: Mutex<Option<TcpListener>>,
}

/// A port the process listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Purpose, e.g. `internal`, `http`, `websocket`.
    pub name: &'static str,
    /// Address as bound: a configured port 0 shows as the port that was given.
    pub address: SocketAddr,
}

/// Connections the kernel holds for us while we are busy; a burst of WebSocket clients is large.
const BACKLOG: u32 = 4096;

impl Context {
    pub(crate) fn new(identity: Identity, server: ServerConfig, sources: Sources, clock: Clock) -> Self {
        let started_at = clock.now();
        let metrics = Metrics::default();
        let runtime_metrics = metrics.register(|registry| RuntimeMetrics::register(registry, started_at));
        let server_metrics = metrics.register(ServerMetrics::register);
        let components = Components::new(runtime_metrics.component_health.clone());
        let inner = Inner {
            identity,
            server,
            sources,
            config_fingerprint: Mutex::default(),
            started_at,
            lifecycle: Lifecycle::new(runtime_metrics.work_panics.clone()),
            readiness: Readiness::new(Arc::clone(&components), runtime_metrics.ready.clone()),
            components,
            background: Background::new(runtime_metrics.background.clone()),
            errors: ErrorGroups::new(clock.clone()),
            clock,
            metrics,
            runtime_metrics,
            server_metrics,
            records_spans: AtomicBool::new(true),
            listening: Mutex::default(),
            internal: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Returns a context without signals and without telemetry, for tests of services. [`Context::serve`] takes a free
    /// port of loopback; [`Context::shut_down`] ends what was spawned.
    pub fn for_test(service: &'static str) -> Self {
        Self::for_test_at(service, Clock::system())
    }

    /// Returns a context for tests that lives by `clock`.
    pub fn for_test_at(service: &'static str, clock: Clock) -> Self {
        Self::for_test_as(service, "", clock)
    }

    /// Returns a context for tests that goes by a name of its own; empty: a new one.
    pub fn for_test_as(service: &'static str, instance: &str, clock: Clock) -> Self {
        Self::for_test_of(Identity::new(service, instance, Self::ANY_PORT), Sources::default(), clock)
    }

    /// Returns a context for tests that reads the configuration again from `file`, and from no environment.
    pub fn for_test_from(service: &'static str, file: PathBuf) -> Self {
        let sources = Sources { file: Some(file), ..Sources::default() };
        Self::for_test_of(Identity::new(service, "", Self::ANY_PORT), sources, Clock::system())
    }

    const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    fn for_test_of(identity: Identity, sources: Sources, clock: Clock) -> Self {
        let server =
            ServerConfig { listen: Self::ANY_PORT, drain_delay: Duration::ZERO, ..ServerConfig::default() };
        Self::new(identity, server, sources, clock)
    }

    /// Reads the configuration again from where it was read at the start, or returns everything that is wrong with it,
    /// one line each. Nothing is changed by it. Reads files, and waits for them.
    pub fn read_config<C: ServiceConfig>(&self) -> Result<C, Vec<String>> {
        config::load(&self.inner.sources)
    }

    /// Says by which configuration the process lives from now on, for introspection.
    pub fn adopt_config<C: ServiceConfig>(&self, config: &C) {
        *self.inner.config_fingerprint.lock() = config::fingerprint(config);
    }

    pub(crate) fn config_fingerprint(&self) -> String {
        self.inner.config_fingerprint.lock().clone()
    }

    /// Returns who this process is.
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// Returns the clock of the process.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Tells whether spans leave the process at all.
    pub fn records_spans(&self) -> bool {
        self.inner.records_spans.load(Ordering::Relaxed)
    }

    /// Returns when the process started.
    pub fn started_at(&self) -> SystemTime {
        self.inner.started_at
    }

    /// Returns the token that asks to take no new work and to finish what was begun.
    pub fn stopping(&self) -> CancellationToken {
        self.inner.lifecycle.stopping()
    }

    /// Returns the token that says that time is up. Spawned tasks are dropped at the same moment.
    pub fn aborting(&self) -> CancellationToken {
        self.inner.lifecycle.aborting()
    }

    /// Runs a long-lived task. An error or a panic is a crash: it is logged under `name` and the process stops with
    /// exit code 1. Returning `Ok` is fine. At shutdown the task is waited for, then dropped when the grace is over.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.inner.lifecycle.spawn(name, task);
    }

    /// Runs a piece of work, e.g. one connection. A panic is logged and counted. Ends at shutdown as named tasks do.
    pub fn spawn_work<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.inner.lifecycle.spawn_work(task);
    }

    /// Keeps the process from being ready until the latch is released or dropped.
    pub fn latch(&self, name: &'static str) -> Latch {
        self.inner.readiness.latch(name)
    }

    /// Adds a component, in state unknown. While a critical one is unknown or unhealthy the process is not ready.
    pub fn component(&self, name: impl Into<String>, kind: ComponentKind, critical: bool) -> Component {
        let inner = &self.inner;
        inner.components.add(name.into(), kind, critical, &inner.clock, &inner.readiness)
    }

    /// Runs a background job by its schedule until shutdown. See [`Activate`].
    pub fn background<T: Activate>(&self, name: impl Into<String>, schedule: Schedule, task: T) -> Trigger {
        self.background_until(self.stopping(), name, schedule, task)
    }

    /// Runs a background job until `over`, which is best a child of [`stopping`](Self::stopping); then it is forgotten.
    pub fn background_until<T: Activate>(
        &self,
        over: CancellationToken,
        name: impl Into<String>,
        schedule: Schedule,
        task: T,
    ) -> Trigger {
        let name = name.into();
        let (driver, trigger) = self.inner.background.add(name.clone(), schedule, self.inner.clock.clone());
        let cx = self.clone();
        self.inner.lifecycle.spawn(name, async move {
            let job = driver.job();
            driver.run(task, over).await;
            if !cx.stopping().is_cancelled() {
                cx.inner.background.remove(&job);
            }
            Ok(())
        });
        trigger
    }

    /// Registers metrics with the registry of the process, which has no prefix.
    pub fn metrics<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        self.inner.metrics.register(register)
    }

    /// Binds a port, which shows under `name` in introspection. The error tells `key`, the place to correct it.
    pub async fn bind(
        &self,
        name: &'static str,
        key: &'static str,
        address: SocketAddr,
    ) -> anyhow::Result<TcpListener> {
        let listener = listen_on(address).with_context(|| format!("{key}: cannot listen on {address}"))?;
        let address = listener.local_addr().with_context(|| format!("{key}: the port has no address"))?;
        tracing::info!(name, %address, "listening");
        self.inner.listening.lock().push(Listening { name, address });
        Ok(listener)
    }

    /// Returns the ports bound so far.
    pub fn listening(&self) -> Vec<Listening> {
        self.inner.listening.lock().clone()
    }

    pub(crate) async fn bind_internal(&self) -> anyhow::Result<()> {
        let listener = self.bind("internal", "server.listen", self.inner.server.listen).await?;
        *self.inner.internal.lock() = Some(listener);
        Ok(())
    }

    /// Serves the internal port: `routes`, introspection, gRPC health and reflection behind the stack of
    /// `mainstay-rpc`, and beside it `/livez`, `/readyz` and `/metrics` for everybody. Call it once.
    pub async fn serve(&self, routes: Routes) -> anyhow::Result<()> {
        self.serve_quick(routes, Vec::new()).await
    }

    /// Does the same, with methods of these routes that can be answered at once.
    pub async fn serve_quick(&self, routes: Routes, quick: Vec<QuickMethod>) -> anyhow::Result<()> {
        if self.inner.internal.lock().is_none() {
            self.bind_internal().await?;
        }
        let listener = self.inner.internal.lock().take().context("the internal port is served already")?;
        let (app, quick) = internal::app(self, routes, quick).await?;
        let server = &self.inner.server;
        let tls = mainstay_rpc::server_tls(&server.tls).context("server.tls: cannot be used")?;
        let options = ServeOptions {
            tls,
            max_connections: server.max_connections,
            max_streams: server.max_in_flight,
            header_within: server.header_within,
            quick: Some(quick),
            ..ServeOptions::new("internal")
        };
        self.serve_http(listener, app, options);
        Ok(())
    }

    pub(crate) fn ensure_served(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.inner.internal.lock().is_none(),
            "nobody serves the internal port: Context::serve was not called"
        );
        Ok(())
    }

    /// Serves an HTTP app on a port of its own, with the same life. `metrics` and `draining` of the options are set here.
    pub fn serve_http(&self, listener: TcpListener, app: axum::Router, mut options: ServeOptions) {
        options.metrics = self.inner.server_metrics.clone();
        options.draining = self.inner.readiness.draining().clone();
        let (name, stopping, aborting) = (options.name, self.stopping(), self.aborting());
        self.spawn(name, async move {
            mainstay_rpc::serve(listener, app, options, stopping, aborting)
                .await
                .with_context(|| format!("port {name}"))
        });
    }

    /// Tells whether the process can serve, as `/readyz` does.
    pub fn is_ready(&self) -> bool {
        self.inner.readiness.is_ready()
    }

    /// Returns what keeps the process from being ready, as `name: reason`; empty when it is.
    pub fn not_ready_because(&self) -> Vec<String> {
        let obstacles = self.inner.readiness.obstacles();
        obstacles.into_iter().map(|obstacle| format!("{}: {}", obstacle.name, obstacle.reason)).collect()
    }

    /// Ends the process's work in order: not ready, drain delay, stop, in-flight up to the grace, drop the rest.
    /// [`run`](crate::run()) calls it; so do tests of services.
    pub async fn shut_down(&self) {
        self.shut_down_until(&CancellationToken::new()).await;
    }

    /// Does the same; `hurry` cuts every wait short.
    pub(crate) async fn shut_down_until(&self, hurry: &CancellationToken) {
        self.inner.readiness.drain();
        tokio::select! {
            () = hurry.cancelled() => {}
            () = tokio::time::sleep(self.inner.server.drain_delay) => {}
        }
        self.inner.lifecycle.stop(self.inner.server.grace, hurry).await;
    }
}

fn listen_on(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restarted process gets its port back although old connections linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
