//! Puts the parts together.

use std::sync::{Arc, OnceLock};

use mainstay_proto::replica::v1::{
    configuration_service_server::ConfigurationServiceServer,
    database_stats_service_server::DatabaseStatsServiceServer, node_service_server::NodeServiceServer,
    partition_service_server::PartitionServiceServer, query_batch_service_server::QueryBatchServiceServer,
    query_cache_service_server::QueryCacheServiceServer, replica_service_server::ReplicaServiceServer,
    slow_log_service_server::SlowLogServiceServer, statement_service_server::StatementServiceServer,
    switchover_service_server::SwitchoverServiceServer,
};
use mainstay_rpc::Routes;
use mainstay_runtime::{Context, Schedule};

use crate::{
    cache::QueryCache,
    config::{PairConfig, ReplicaConfig},
    engine::{Engine, Hedge},
    fleet::Fleet,
    grpc::{
        BatchDoor, CacheDoor, ConfigurationDoor, Door, NodeDoor, PartitionDoor, SlowLogDoor, StatementDoor,
        StatsDoor, Stepping, SwitchoverDoor,
    },
    insight::Insight,
    metrics::Metrics,
    reload::Reloader,
    report::Reports,
    server_stats::ServerStats,
    slow_log::SlowLog,
    switchover::{self, Pair, Runner, Steps},
    watch::Watch,
};

/// A statement of the largest legal size and as many parameters.
const MAX_REQUEST_BYTES: usize = 32 << 20;
/// How often idle connections are looked at for their age.
const SHED_EVERY: std::time::Duration = std::time::Duration::from_secs(30);
/// How soon the cache is told again what it could not be told.
const DELIVER_EVERY: std::time::Duration = std::time::Duration::from_secs(1);
/// How soon another process knows of a step.
const STEPS_EVERY: std::time::Duration = std::time::Duration::from_millis(500);

/// Starts the service: it listens at once, and becomes ready when a node can answer reads.
pub async fn start(cx: Context, config: ReplicaConfig) -> anyhow::Result<()> {
    if config.are_replicas_passed_over() {
        tracing::warn!(
            "routing.max_staleness is below two health.probe_every: replicas cannot prove that often how fresh they are"
        );
    }
    // 1. Figures, and the nodes; no connection is made yet.
    let metrics = cx.metrics(Metrics::register);
    let fleet = Fleet::new(&config, &metrics, &cx)?;
    let reports = Arc::new(Reports::new(&fleet, &metrics, &cx));

    // 2. Probes find out who is who, and go on finding out; of other nodes when the configuration is read again.
    let stats = ServerStats::new(&config.stats, &metrics.database);
    let watch = Watch::new(&fleet, &reports, &stats, &cx);
    watch.follow(&config, None);
    let reloader = Reloader::new(&fleet, &reports, watch, &config, &cx);
    reloader.listen()?;

    // 3. Old idle connections are closed even when nobody asks for one.
    let idle = Arc::clone(&fleet);
    cx.background("pools", Schedule::Every(SHED_EVERY), move || {
        let topology = idle.topology();
        topology.nodes().for_each(|node| node.shed(topology.pool.max_age));
        std::future::ready(Ok(()))
    });

    // 4. Pairs of tables are compared in the background, and taken over where asked for.
    let insight = Insight::new(config.insight.max_statements as usize);
    let hedge = Hedge::new(&config.hedge);
    let slow_log = SlowLog::new(&config.slow_log);
    let engine =
        Arc::new(Engine { fleet: Arc::clone(&fleet), metrics, insight, slow_log, hedge, cx: cx.clone() });
    let pairs = compare(&cx, &config, &engine);

    // 5. The query cache, and what it must still be told of writes.
    let cache = keep_answers(&cx, &config, &engine)?;

    // 6. The doors.
    let stepping = take_steps(&cx, &config, &engine, &pairs);
    let nodes = NodeServiceServer::new(NodeDoor::new(Arc::clone(&engine.fleet)));
    let answers = QueryCacheServiceServer::new(CacheDoor::new(Arc::clone(&cache)));
    let slow_log = SlowLogServiceServer::new(SlowLogDoor::new(Arc::clone(&engine), &config));
    let door = Arc::new(Door::new(engine, cache, &config, pairs.clone()));
    let batches = BatchDoor::new(Arc::clone(&door), &config.batches, cx.stopping());
    let batches = QueryBatchServiceServer::new(batches).max_decoding_message_size(MAX_REQUEST_BYTES);
    let statements = StatementServiceServer::new(StatementDoor::new(Arc::clone(&door)));
    let server = ReplicaServiceServer::from_arc(door).max_decoding_message_size(MAX_REQUEST_BYTES);
    let partitions = PartitionServiceServer::new(PartitionDoor::new(pairs));
    let switchover = SwitchoverServiceServer::new(SwitchoverDoor::new(stepping));
    let stats = DatabaseStatsServiceServer::new(StatsDoor::new(fleet, stats));
    let configuration = ConfigurationDoor::new(reloader, cx.identity().instance.clone());
    let configuration = ConfigurationServiceServer::new(configuration);
    let routes =
        Routes::new(server).add_service(partitions).add_service(switchover).add_service(configuration);
    let routes = routes.add_service(stats).add_service(batches);
    let routes = routes.add_service(nodes).add_service(answers).add_service(slow_log).add_service(statements);
    cx.serve(routes).await
}

fn compare(cx: &Context, config: &ReplicaConfig, engine: &Arc<Engine>) -> Vec<Arc<Pair>> {
    let start = |(name, pair): (&String, &PairConfig)| {
        let pair = Arc::new(Pair::new(name, pair, &config.parity, &config.advance, &engine.metrics.pair, cx));
        let watch = switchover::Watch::new(Arc::clone(&pair), Arc::clone(engine), &config.parity);
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
