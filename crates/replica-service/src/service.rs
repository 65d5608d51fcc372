//! Puts the parts together.

use std::sync::{Arc, OnceLock};

use mainstay_proto::replica::v1::{
    node_service_server::NodeServiceServer, partition_service_server::PartitionServiceServer,
    query_cache_service_server::QueryCacheServiceServer, replica_service_server::ReplicaServiceServer,
    slow_log_service_server::SlowLogServiceServer, statement_service_server::StatementServiceServer,
    switchover_service_server::SwitchoverServiceServer,
};
use mainstay_rpc::Routes;
use mainstay_runtime::{Context, Schedule};

use crate::{
    cache::QueryCache,
    config::{PairConfig, ReplicaConfig, split_address},
    engine::{Engine, Hedge},
    fleet::Fleet,
    grpc::{CacheDoor, Door, NodeDoor, PartitionDoor, SlowLogDoor, StatementDoor, Stepping, SwitchoverDoor},
    insight::Insight,
    metrics::{Metrics, PgBouncerMetrics},
    pool::base_login,
    probe::{Line, NodeProbe, PgBouncerConsole, PgBouncerProbe},
    report::Reports,
    slow_log::SlowLog,
    switchover::{Pair, Runner, Steps, Watch},
};

/// A statement of the largest legal size and as many parameters.
const MAX_REQUEST_BYTES: usize = 32 << 20;
/// How often idle connections are looked at for their age.
const SHED_EVERY: std::time::Duration = std::time::Duration::from_secs(30);
/// The database of a `PgBouncer` in which it answers questions about itself.
const CONSOLE: &str = "pgbouncer";
/// How soon the cache is told again what it could not be told.
const DELIVER_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
/// How soon another process knows of a step.
const STEPS_EVERY: std::time::Duration = std::time::Duration::from_millis(500);

/// Starts the service: it listens at once, and becomes ready when a node can answer reads.
pub async fn start(cx: Context, config: ReplicaConfig) -> anyhow::Result<()> {
    // 1. Figures, and the nodes; no connection is made yet.
    let metrics = cx.metrics(Metrics::register);
    let fleet = Fleet::new(&config, &metrics, &cx)?;
    let reports = Arc::new(Reports::new(&fleet, &metrics, &cx));

    // 2. Probes find out who is who, and go on finding out.
    watch(&cx, &config, &fleet, &reports, &metrics.pgbouncer)?;

    // 3. Old idle connections are closed even when nobody asks for one.
    let (idle, max_age) = (Arc::clone(&fleet), config.pool.max_age);
    cx.background("pools", Schedule::Every(SHED_EVERY), move || {
        idle.nodes.iter().for_each(|node| node.shed(max_age));
        std::future::ready(Ok(()))
    });

    // 4. Pairs of tables are compared in the background, and taken over where asked for.
    let insight = Insight::new(config.insight.max_statements as usize, fleet.nodes.len());
    let hedge = Hedge::new(&config.hedge);
    let slow_log = SlowLog::new(&config.slow_log);
    let engine = Arc::new(Engine { fleet, metrics, insight, slow_log, hedge, cx: cx.clone() });
    let pairs = compare(&cx, &config, &engine);

    // 5. The query cache, and what it must still be told of writes.
    let cache = keep_answers(&cx, &config, &engine)?;

    // 6. The doors.
    let stepping = take_steps(&cx, &config, &engine, &pairs);
    let nodes = NodeServiceServer::new(NodeDoor::new(Arc::clone(&engine.fleet)));
    let answers = QueryCacheServiceServer::new(CacheDoor::new(Arc::clone(&cache)));
    let slow_log = SlowLogServiceServer::new(SlowLogDoor::new(Arc::clone(&engine), &config));
    let door = Arc::new(Door::new(engine, cache, &config, pairs.clone()));
    let statements = StatementServiceServer::new(StatementDoor::new(Arc::clone(&door)));
    let server = ReplicaServiceServer::from_arc(door).max_decoding_message_size(MAX_REQUEST_BYTES);
    let partitions = PartitionServiceServer::new(PartitionDoor::new(pairs));
    let switchover = SwitchoverServiceServer::new(SwitchoverDoor::new(stepping));
    let routes = Routes::new(server).add_service(partitions).add_service(switchover);
    let routes = routes.add_service(nodes).add_service(answers).add_service(slow_log).add_service(statements);
    cx.serve(routes).await
}

fn compare(cx: &Context, config: &ReplicaConfig, engine: &Arc<Engine>) -> Vec<Arc<Pair>> {
    let start = |(name, pair): (&String, &PairConfig)| {
        let pair = Arc::new(Pair::new(name, pair, &config.parity, &config.advance, &engine.metrics.pair, cx));
        let watch = Watch::new(Arc::clone(&pair), Arc::clone(engine), &config.parity);
        cx.background(format!("switchover.{name}"), Schedule::Every(config.parity.check_every), watch);
        pair
    };
    config.switchover.iter().map(start).collect()
}

fn keep_answers(
    cx: &Context,
    config: &ReplicaConfig,
    engine: &Arc<Engine>,
) -> anyhow::Result<Arc<QueryCache>> {
    let cache = Arc::new(QueryCache::new(Arc::clone(engine), config, cx)?);
    let delivering = Arc::clone(&cache);
    let deliver = move || {
        let cache = Arc::clone(&delivering);
        async move { cache.deliver().await }
    };
    cache.set_trigger(cx.background("cache.marks", Schedule::EveryOrTrigger(DELIVER_EVERY), deliver));
    Ok(cache)
}

fn take_steps(
    cx: &Context,
    config: &ReplicaConfig,
    engine: &Arc<Engine>,
    pairs: &[Arc<Pair>],
) -> Vec<Stepping> {
    let start = |pair: &Arc<Pair>| {
        let steps = Arc::new(Steps {
            pair: Arc::clone(pair),
            engine: Arc::clone(engine),
            config: config.steps.clone(),
        });
        let again = Arc::new(OnceLock::new());
        let runner = Runner::new(Arc::clone(&steps), Arc::clone(&again));
        let name = format!("switchover.{}.steps", pair.name);
        let trigger = cx.background(name, Schedule::EveryOrTrigger(STEPS_EVERY), runner);
        // Set once, right here.
        let _ = again.set(trigger.clone());
        Stepping { steps, trigger }
    };
    pairs.iter().map(start).collect()
}

fn watch(
    cx: &Context,
    config: &ReplicaConfig,
    fleet: &Arc<Fleet>,
    reports: &Arc<Reports>,
    pgbouncers: &PgBouncerMetrics,
) -> anyhow::Result<()> {
    let (postgres, health) = (&config.postgres, &config.health);
    let (user, password) = match health.user.as_str() {
        "" => (postgres.user.as_str(), &postgres.password),
        user => (user, &health.password),
    };
    for (index, (name, node)) in config.nodes.iter().enumerate() {
        let line = |address: &str, user: &str, password: &str, pgbouncer: bool| {
            let (host, port) =
                split_address(address).ok_or_else(|| anyhow::anyhow!("{address:?} is not host:port"))?;
            let mut login = base_login(host, port, postgres, user, password);
            login.ssl_mode(postgres.tls.ssl_mode(pgbouncer));
            anyhow::Ok(Line::new(login, fleet.tls.clone(), health.probe_within, cx.clone()))
        };
        let line_to_node = line(&node.address, user, password.expose(), false)?;
        let schedule = Schedule::EveryOrTrigger(health.probe_every);
        if !node.pgbouncer.is_empty() {
            let line = line(&node.pgbouncer, &postgres.user, postgres.password.expose(), true)?;
            let probe =
                PgBouncerProbe { fleet: Arc::clone(fleet), index, line, reports: Arc::clone(reports) };
            cx.background(format!("probe.pgbouncer.{name}"), schedule, probe);
            // Never as the role of the pools: an old PgBouncer that knows it by auth_query dies of its login to the console.
            if !health.pgbouncer_stats_every.is_zero() && !health.user.is_empty() {
                let (host, port) = split_address(&node.pgbouncer).expect("it was split above");
                let mut login = base_login(host, port, postgres, user, password.expose());
                login.dbname(CONSOLE).ssl_mode(postgres.tls.ssl_mode(true));
                let console = PgBouncerConsole {
                    fleet: Arc::clone(fleet),
                    index,
                    line: Line::new(login, fleet.tls.clone(), health.probe_within, cx.clone()),
                    database: postgres.database.clone(),
                    metrics: pgbouncers.clone(),
                };
                let every = Schedule::Every(health.pgbouncer_stats_every);
                cx.background(format!("pgbouncer.{name}"), every, console);
            }
        }
        let probe = NodeProbe {
            fleet: Arc::clone(fleet),
            index,
            line: line_to_node,
            reports: Arc::clone(reports),
            cx: cx.clone(),
            held_back: None,
        };
        fleet.nodes[index].set_probe(cx.background(format!("probe.{name}"), schedule, probe));
    }
    Ok(())
}
