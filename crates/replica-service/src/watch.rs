//! Which probes run, and how they log in.

use std::{collections::BTreeMap, sync::Arc};

use mainstay_runtime::{Context, Schedule, Secret};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::NodeId,
    config::{NodeConfig, ReplicaConfig, split_address},
    fleet::Fleet,
    node::Node,
    pool::base_login,
    probe::{Backoff, Line, NodeProbe, PgBouncerConsole, PgBouncerProbe},
    report::Reports,
    server_stats::{ServerStats, StatsReader},
};

/// Keeps every node that is configured under observation, and no other.
pub(crate) struct Watch {
    fleet: Arc<Fleet>,
    reports: Arc<Reports>,
    stats: Arc<ServerStats>,
    cx: Context,
    /// What ends the probes of each node.
    running: Mutex<BTreeMap<NodeId, CancellationToken>>,
}

/// The database of a `PgBouncer` in which it answers questions about itself.
const CONSOLE: &str = "pgbouncer";

impl Watch {
    /// Probes nothing yet.
    pub(crate) fn new(
        fleet: &Arc<Fleet>,
        reports: &Arc<Reports>,
        stats: &Arc<ServerStats>,
        cx: &Context,
    ) -> Self {
        Self {
            fleet: Arc::clone(fleet),
            reports: Arc::clone(reports),
            stats: Arc::clone(stats),
            cx: cx.clone(),
            running: Mutex::default(),
        }
    }

    /// Probes the nodes of this configuration, which the fleet follows already; `before` is the one until now.
    ///
    /// Probes of a node that stays go on, unless they would be made in another way.
    pub(crate) fn follow(&self, config: &ReplicaConfig, before: Option<&ReplicaConfig>) {
        let topology = self.fleet.topology();
        let same_way = before.is_some_and(|before| !config.probes_unlike(before));
        let mut running = self.running.lock();
        running.retain(|id, over| {
            let stays = same_way && topology.node(*id).is_some();
            if !stays {
                over.cancel();
            }
            stays
        });
        self.stats.follow(&topology);
        for (node, wanted) in topology.nodes().zip(config.nodes.values()) {
            running.entry(node.id).or_insert_with(|| {
                let over = self.cx.stopping().child_token();
                self.start(node, wanted, config, &over);
                over
            });
        }
    }

    fn start(&self, node: &Arc<Node>, wanted: &NodeConfig, config: &ReplicaConfig, over: &CancellationToken) {
        let (postgres, health, name) = (&config.postgres, &config.health, &node.name);
        let of_pools = (postgres.user.as_str(), &postgres.password);
        let of_probes = match health.user.as_str() {
            "" => of_pools,
            user => (user, &health.password),
        };
        let login = |address: &str, pgbouncer: bool, (user, password): (&str, &Secret)| {
            let (host, port) = split_address(address).expect("addresses are checked with the configuration");
            let mut login = base_login(host, port, postgres, user, password.expose());
            login.ssl_mode(postgres.tls.ssl_mode(pgbouncer));
            login
        };
        let line = |login, within| Line::new(login, self.fleet.world.tls.clone(), within, self.cx.clone());
        let schedule = Schedule::EveryOrTrigger(health.probe_every);
        let backoff = || Backoff::new(health.probe_every, health.probe_down_every);
        if node.pgbouncer {
            let probe = PgBouncerProbe {
                fleet: Arc::clone(&self.fleet),
                node: node.id,
                line: line(login(&wanted.pgbouncer, true, of_pools), health.probe_within),
                reports: Arc::clone(&self.reports),
                backoff: backoff(),
            };
            self.cx.background_until(over.clone(), format!("probe.pgbouncer.{name}"), schedule, probe);
            // Never as the role of the pools: an old PgBouncer that knows it by auth_query dies of its login to the console.
            if !health.pgbouncer_stats_every.is_zero() && !health.user.is_empty() {
                let mut login = login(&wanted.pgbouncer, true, of_probes);
                login.dbname(CONSOLE);
                let console = PgBouncerConsole {
                    node: Arc::clone(node),
                    reports: Arc::clone(&self.reports),
                    line: line(login, health.probe_within),
                    database: postgres.database.clone(),
                };
                let every = Schedule::Every(health.pgbouncer_stats_every);
                self.cx.background_until(over.clone(), format!("pgbouncer.{name}"), every, console);
            }
        }
        if let Some(every) = self.stats.every() {
            let reader = StatsReader {
                node: Arc::clone(node),
                line: line(login(&wanted.address, false, of_probes), self.stats.within()),
                stats: Arc::clone(&self.stats),
                cx: self.cx.clone(),
                over: over.clone(),
            };
            self.cx.background_until(over.clone(), format!("stats.{name}"), Schedule::Every(every), reader);
        }
        let probe = NodeProbe {
            fleet: Arc::clone(&self.fleet),
            node: node.id,
            line: line(login(&wanted.address, false, of_probes), health.probe_within),
            reports: Arc::clone(&self.reports),
            cx: self.cx.clone(),
            over: over.clone(),
            held_back: None,
            backoff: backoff(),
        };
        node.set_probe(self.cx.background_until(over.clone(), format!("probe.{name}"), schedule, probe));
    }
}
