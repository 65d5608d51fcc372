//! All nodes, what is known about them, and who waits for news.

use std::{sync::Arc, time::Instant};

use mainstay_runtime::Context;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant as TokioInstant};

use crate::{
    cluster::{Change, Cluster, Limits, Moment, Observation, Primary},
    config::{NodeConfig, ReplicaConfig, RoutingConfig},
    metrics::Metrics,
    node::Node,
    pool::Tls,
    route::{Candidate, Decision, FULL_WARMTH, Prefer, ReadNeeds, Refusal, Router, warmth},
};

/// Joins the pure decisions to the nodes that they are about.
pub(crate) struct Fleet {
    pub nodes: Vec<Node>,
    pub names: Vec<String>,
    /// All zones that nodes are in; their place is their number.
    zones: Vec<String>,
    /// Of each node.
    zone_of: Vec<Option<u16>>,
    pub routing: RoutingConfig,
    pub tls: Tls,
    state: Mutex<State>,
    /// Counts what was learned; who waits for a change of any node waits for this.
    news: watch::Sender<u64>,
}

struct State {
    cluster: Cluster,
    router: Router,
}

impl Fleet {
    pub(crate) fn new(config: &ReplicaConfig, metrics: &Metrics, cx: &Context) -> anyhow::Result<Arc<Self>> {
        let tls = Tls::new(&config.postgres.tls)?;
        let node = |(name, node): (&String, &NodeConfig)| Node::new(name, node, config, &tls, metrics, cx);
        let nodes = config.nodes.iter().map(node).collect::<anyhow::Result<Vec<_>>>()?;
        let mut zones: Vec<_> =
            nodes.iter().map(|node| node.zone.clone()).filter(|zone| !zone.is_empty()).collect();
        zones.sort_unstable();
        zones.dedup();
        let limits = Limits {
            down_after: config.health.down_after,
            up_after: config.health.up_after,
            max_staleness: config.routing.max_staleness,
            max_lag_bytes: config.routing.max_lag_bytes.as_u64(),
        };
        let with_pgbouncer: Vec<_> = nodes.iter().map(|node| node.pgbouncer).collect();
        let cluster = Cluster::new(limits, &with_pgbouncer);
        let router = Router::new(config.routing.strategy, nodes.len(), rand::random());
        Ok(Arc::new(Self {
            names: nodes.iter().map(|node| node.name.clone()).collect(),
            zone_of: nodes.iter().map(|node| number_of(&zones, &node.zone)).collect(),
            zones,
            nodes,
            tls,
            routing: config.routing.clone(),
            state: Mutex::new(State { cluster, router }),
            news: watch::Sender::new(0),
        }))
    }

    /// Takes in one probe of a node.
    pub(crate) fn observe(&self, index: usize, moment: Moment, result: Result<Observation, String>) {
        let failure = result.as_ref().err().cloned();
        let changes = self.state.lock().cluster.observe(index, moment, result);
        for change in changes {
            self.tell(&change, failure.as_deref());
        }
        self.news.send_modify(|n| *n += 1);
    }

    pub(crate) fn observe_pgbouncer(&self, index: usize, result: Result<(), String>) {
        self.state.lock().cluster.observe_pgbouncer(index, result);
        self.news.send_modify(|n| *n += 1);
    }

    /// Decides where a read goes; `tried` is left out.
    pub(crate) fn choose(&self, needs: &ReadNeeds, tried: Option<usize>) -> Decision {
        let now = TokioInstant::now().into_std();
        let mut state = self.state.lock();
        let mut candidates = self.candidates(&state.cluster, now);
        if let Some(tried) = tried {
            candidates[tried].barred = Some(Refusal::AlreadyTried);
        }
        state.router.choose(&candidates, needs)
    }

    /// Tells whether any node can answer a read that asks for nothing special.
    pub(crate) fn can_read(&self) -> bool {
        let now = TokioInstant::now().into_std();
        let state = self.state.lock();
        let needs = self.needs_under(state.cluster.primary());
        let candidate = |index| self.candidate(&state.cluster, index, now);
        (0..self.nodes.len()).any(|index| candidate(index).refusal(&needs).is_none())
    }

    /// Returns what a read needs that asks for nothing special.
    pub(crate) fn default_needs(&self) -> ReadNeeds {
        self.needs_under(self.state.lock().cluster.primary())
    }

    /// Returns the number of a zone; `None` when no node is in it.
    pub(crate) fn zone(&self, name: &str) -> Option<u16> {
        number_of(&self.zones, name)
    }

    /// Tells whether a node is in another zone than the one that a read wants.
    pub(crate) fn is_elsewhere(&self, index: usize, needs: &ReadNeeds) -> bool {
        needs.zone.is_some() && self.zone_of[index] != needs.zone
    }

    /// Looks at what is known.
    pub(crate) fn with_cluster<T>(&self, look: impl FnOnce(&Cluster) -> T) -> T {
        look(&self.state.lock().cluster)
    }

    /// Tells whether reads that ask for nothing special may be sent to a node.
    pub(crate) fn takes_reads(&self, cluster: &Cluster, index: usize, now: Instant) -> bool {
        self.candidate(cluster, index, now).refusal(&self.needs_under(cluster.primary())).is_none()
    }

    /// Subscribes to news about any node.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Waits until a node is down and another one could answer in its place.
    pub(crate) async fn wait_replaceable(&self, index: usize, needs: &ReadNeeds) {
        let mut news = self.news();
        while !self.is_replaceable(index, needs) {
            if news.changed().await.is_err() {
                return;
            }
        }
    }

    fn is_replaceable(&self, index: usize, needs: &ReadNeeds) -> bool {
        let now = TokioInstant::now().into_std();
        self.with_cluster(|cluster| {
            let fit = |other| self.candidate(cluster, other, now).refusal(needs).is_none();
            !cluster.is_up(index) && (0..self.nodes.len()).any(|other| other != index && fit(other))
        })
    }

    fn needs_under(&self, primary: &Primary) -> ReadNeeds {
        let routing = &self.routing;
        let max_staleness = match primary {
            Primary::Node { .. } => routing.max_staleness,
            Primary::None | Primary::SplitBrain(_) => routing.max_staleness_without_primary,
        };
        ReadNeeds {
            max_staleness,
            max_lag_bytes: Some(routing.max_lag_bytes.as_u64()),
            after: None,
            prefer: Prefer::Replica,
            primary_fallback: routing.primary_fallback,
            zone: self.zone(&routing.zone),
        }
    }

    fn candidates(&self, cluster: &Cluster, now: Instant) -> Vec<Candidate> {
        (0..self.nodes.len()).map(|index| self.candidate(cluster, index, now)).collect()
    }

    fn candidate(&self, cluster: &Cluster, index: usize, now: Instant) -> Candidate {
        let node = &self.nodes[index];
        let (latency, back_for) = node.pace(now);
        let drained = || node.is_drained().then_some(Refusal::Drained);
        let open = || node.is_breaker_open(now).then_some(Refusal::BreakerOpen);
        Candidate {
            barred: cluster.barred(index).or_else(drained).or_else(open),
            place: cluster.place(index, Some(now)),
            in_flight: node.in_flight(),
            weight: node.weight,
            warmth: back_for.map_or(FULL_WARMTH, |back_for| warmth(back_for, self.routing.slow_start)),
            latency,
            zone: self.zone_of[index],
        }
    }

    fn tell(&self, change: &Change, failure: Option<&str>) {
        match change {
            Change::Up(index) => {
                self.nodes[*index].came_up(TokioInstant::now().into_std());
                tracing::info!(node = self.names[*index], "node is up");
            }
            Change::Down(index) => {
                self.nodes[*index].went_down();
                tracing::warn!(node = self.names[*index], failure, "node is down");
            }
            Change::Primary { to: Primary::Node { node, timeline }, .. } => {
                tracing::info!(node = self.names[*node], timeline, "primary is known");
            }
            Change::Primary { to: Primary::None, .. } => tracing::warn!("no primary: writes are refused"),
            Change::Primary { to: Primary::SplitBrain(nodes), .. } => {
                let nodes: Vec<_> = nodes.iter().map(|node| self.names[*node].as_str()).collect();
                tracing::error!(?nodes, "split brain: several primaries on one timeline, writes are refused");
            }
        }
    }
}

fn number_of(zones: &[String], name: &str) -> Option<u16> {
    zones.iter().position(|zone| zone == name).and_then(|number| u16::try_from(number).ok())
}
