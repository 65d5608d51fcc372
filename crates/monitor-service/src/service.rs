//! How the service is put together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mainstay_redis::{Redis, Watch};
use mainstay_rpc::Routes;
use mainstay_runtime::{Activate, Component, ComponentKind, Context, Schedule};
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::collect;
use crate::config::Config;
use crate::grpc::{AccessGrpc, AnalysisGrpc, MonitorGrpc};
use crate::host::Host;
use crate::metrics::MonitorMetrics;
use crate::monitor::{Monitor, Parts};
use crate::notify::{self, Channel, Dispatch, Keeper, Outbox, Shared, Terms};
use crate::roster::Reach;
use crate::rule;
use crate::said::Sharer;
use crate::store::{self, Copies, Opened, Store, Surroundings};

/// How often other monitors are told that alerts fire on, and asked what people said.
const KEPT_EVERY: Duration = Duration::from_secs(1);
/// Least time between the beginnings of two evaluations.
const JUDGED_APART: Duration = Duration::from_millis(50);
/// How often the memory of the history is measured.
const MEASURED_EVERY: Duration = Duration::from_secs(30);
/// How often it is looked how the objectives stand.
const ACCOUNTED_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked whether a step of history has ended.
const ROLLED_EVERY: Duration = Duration::from_secs(1);

/// Holds the state, and what keeps it.
pub(crate) struct State {
    /// What the monitor knows and decides.
    pub monitor: Arc<Monitor>,
    /// Where what must survive goes; its task runs.
    pub store: Store,
    /// Where messages wait.
    pub outbox: Outbox,
    access: Arc<Access>,
}

/// Starts everything and returns; what was started ends with the context.
pub async fn start(cx: Context, config: Config) -> anyhow::Result<()> {
    // 1. State: what an earlier process stored, who is watched, what is remembered, which alerts there are.
    let State { monitor, store, outbox, access } = open(&cx, &config).await?;

    // 2. Collection: one task per target, and one for the host.
    collect::begin(&cx, &config, &monitor)?;
    if config.host.enabled {
        read_host(&cx, &config, &monitor);
    }
    cx.spawn("roll-up", roll_up(Arc::clone(&monitor), cx.stopping()));

    // 3. Judgement: rules, alerts, and what the monitor says about itself.
    let collector = cx.component("collector", ComponentKind::Internal, false);
    let judge = Judge { monitor: Arc::clone(&monitor), collector, rests_until: Instant::now() };
    let schedule = Schedule::EveryOrTrigger(config.alerts.evaluate_every);
    monitor.judged_by(cx.background("evaluate", schedule, judge));
    let measured = Arc::clone(&monitor);
    cx.background("measure", Schedule::Every(MEASURED_EVERY), move || {
        measured.measure();
        std::future::ready(Ok(()))
    });

    if !config.slos.is_empty() {
        let accountant = Arc::clone(&monitor);
        cx.background("slos", Schedule::Every(ACCOUNTED_EVERY), move || {
            let accountant = Arc::clone(&accountant);
            async move { accountant.look_at_slos().await.context("objectives") }
        });
    }

    // 4. Notification: one task per channel.
    let shared = join_others(&cx, &config, &outbox, &monitor);
    let channels = open_channels(&cx, &config, (&outbox, &store), shared.as_ref())?;

    // 5. Doors.
    let analysis = AnalysisGrpc::new(Arc::clone(&monitor)).into_server();
    let monitor = MonitorGrpc::new(monitor, channels, cx.stopping()).into_server();
    let access = AccessGrpc::new(access).into_server();
    cx.serve(Routes::new(monitor).add_service(analysis).add_service(access)).await
}

/// Opens the store, and goes on from what is in it.
pub(crate) async fn open(cx: &Context, config: &Config) -> anyhow::Result<State> {
    let metrics = cx.metrics(MonitorMetrics::register);
    let (settings, registered, now) = (config.store.clone(), metrics.clone(), cx.clock().now());
    let opened = tokio::task::spawn_blocking(move || store::open(&settings, registered, now));
    let Opened { store, writer, mut restored } = opened.await?.context("store")?;
    if config.store.is_copied() {
        let (from, to) = (config.store.path.clone(), config.store.copy_to.clone());
        let copies = Copies { from, to, clock: cx.clock().clone(), metrics: metrics.clone() };
        cx.background("store-copies", Schedule::Every(config.store.copy_every), copies);
    }
    let (files, keep) = (config.alerts.rule_files.clone(), config.history.keep);
    let imported = tokio::task::spawn_blocking(move || rule::import::read_all(&files, keep)).await?;
    // The configuration was checked, so a problem here is of a file that has changed since.
    let imported = imported.map_err(|problems| {
        let problems = problems.into_iter().map(|(index, problem)| format!("{index}: {problem}"));
        anyhow::anyhow!("alerts.rule_files.{}", problems.collect::<Vec<_>>().join("; "))
    })?;
    let outbox = Outbox::new(&config.notify, metrics.clone());
    let parts = Parts {
        config: config.clone(),
        clock: cx.clock().clone(),
        metrics,
        store: store.clone(),
        outbox: outbox.clone(),
        imported,
    };
    let keys = std::mem::take(&mut restored.keys);
    let access = Access::new(keys, store.clone(), cx.clock().clone());
    let monitor = Arc::new(Monitor::new(parts, restored));
    let around = Surroundings {
        clock: cx.clock().clone(),
        component: cx.component("store", ComponentKind::Datastore, false),
        outbox: outbox.clone(),
        stopping: cx.stopping(),
    };
    cx.spawn("store", writer.run(around));
    Ok(State { monitor, store, outbox, access })
}

fn read_host(cx: &Context, config: &Config, monitor: &Arc<Monitor>) {
    let (monitor, host) = (Arc::clone(monitor), Arc::new(Mutex::new(Host::new(&config.host))));
    cx.background("collect.host", Schedule::Every(config.collect.every), move || {
        let (monitor, host) = (Arc::clone(&monitor), Arc::clone(&host));
        // A network file system may hang: not on a thread that others need.
        let read = tokio::task::spawn_blocking(move || monitor.host_read(&host.lock().read()));
        async move { read.await.context("reading the host") }
    });
}

/// Stores every step of history that has ended, and on the way out the one under way.
async fn roll_up(monitor: Arc<Monitor>, stopping: CancellationToken) -> anyhow::Result<()> {
    let mut next = None;
    let mut tick = tokio::time::interval(ROLLED_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let all = tokio::select! {
            () = stopping.cancelled() => true,
            _ = tick.tick() => false,
        };
        next = Some(monitor.roll_up(next, all));
        if all {
            return Ok(());
        }
    }
}

/// Prepares the way to the other monitors, where there is one.
fn join_others(
    cx: &Context,
    config: &Config,
    outbox: &Outbox,
    monitor: &Arc<Monitor>,
) -> Option<Arc<Shared>> {
    let settings = &config.notify;
    let redis = Arc::new(Redis::new(&settings.redis));
    let watch = Watch::new(Arc::clone(&redis), &settings.redis, cx, false)?;
    redis.watched_by(cx.background("redis.watch", Schedule::EveryOrTrigger(Watch::EVERY), watch));
    let terms = Terms {
        lease: settings.lease,
        within: settings.redis.command_within,
        remembered: settings.give_up_after,
    };
    let component = cx.component("notify.shared", ComponentKind::Internal, false);
    let shared = Arc::new(Shared::new(redis, terms, component, outbox.metrics().clone()));
    let told = Arc::clone(monitor);
    let firing = move || told.told_and_firing();
    let keeper = Keeper { shared: Arc::clone(&shared), outbox: outbox.clone(), firing };
    cx.background("notify.shared", Schedule::Every(KEPT_EVERY), keeper);
    let sharer = Sharer::new(Arc::clone(&shared), Arc::clone(monitor));
    monitor.shared_by(cx.background("notify.said", Schedule::EveryOrTrigger(KEPT_EVERY), sharer));
    Some(shared)
}

fn open_channels(
    cx: &Context,
    config: &Config,
    (outbox, store): (&Outbox, &Store),
    shared: Option<&Arc<Shared>>,
) -> anyhow::Result<BTreeMap<String, Arc<Channel>>> {
    let mut channels = BTreeMap::new();
    if config.notify.channels.is_empty() {
        return Ok(channels);
    }
    let tls = notify::client_tls().context("notify: TLS")?;
    for (name, settings) in &config.notify.channels {
        let channel = Arc::new(Channel::new(name, settings, Arc::clone(&tls)));
        let dispatch = Dispatch {
            channel: Arc::clone(&channel),
            outbox: outbox.clone(),
            store: store.clone(),
            shared: shared.cloned(),
            component: cx.component(format!("channel.{name}"), ComponentKind::Upstream, false),
            clock: cx.clock().clone(),
            config: config.notify.clone(),
            stopping: cx.stopping(),
        };
        cx.spawn("notify", notify::run(dispatch));
        channels.insert(name.clone(), channel);
    }
    Ok(channels)
}

/// Evaluates the rules: when something was read, and now and then because time passes.
struct Judge {
    monitor: Arc<Monitor>,
    collector: Component,
    /// Before then it does not begin again.
    rests_until: Instant,
}

impl Activate for Judge {
    /// What is read together is judged together, so that many targets do not cost many evaluations; and it rests as long as it
    /// worked, so that whoever else needs the locks gets them also where an evaluation takes long.
    async fn activate(&mut self) -> anyhow::Result<()> {
        tokio::time::sleep_until(self.rests_until).await;
        let began_at = Instant::now();
        self.monitor.evaluate();
        self.rests_until = began_at + JUDGED_APART.max(began_at.elapsed() * 2);
        tell(&self.collector, self.monitor.reach());
        Ok(())
    }
}

fn tell(collector: &Component, reach: Reach) {
    let Reach { n_targets, n_answering, n_failing } = reach;
    let detail = format!("{n_answering} of {n_targets} targets answer");
    if n_targets == 0 {
        collector.degraded("nothing to watch: targets.* names no endpoint");
    } else if n_answering == n_targets {
        collector.healthy(detail);
    } else if n_failing == n_targets {
        collector.unhealthy(format!("{detail}; the monitor may be cut off"));
    } else if n_failing > 0 {
        collector.degraded(detail);
    }
}
