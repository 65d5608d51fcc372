//! All nodes, what is known about them, and who waits for news.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use mainstay_runtime::Context;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant as TokioInstant};

use crate::{
    cluster::{Change, Cluster, Limits, Moment, NodeId, Observation, Primary, Standing},
    config::{NodeConfig, ReplicaConfig},
    error::QueryError,
    metrics::Metrics,
    node::{Node, World},
    pool::Tls,
    route::{Candidate, ReadNeeds, Reason, Refusal, Router},
    topology::{Member, Topology},
};

/// Joins the pure decisions to the nodes that they are about.
pub(crate) struct Fleet {
    /// Under one lock, so that the nodes that are watched are always those of the topology.
    state: Mutex<State>,
    /// Of the next node.
    next_id: AtomicU32,
    pub world: World,
    /// Counts what was learned; who waits for a change of any node waits for this.
    news: watch::Sender<u64>,
}

struct State {
    topology: Arc<Topology>,
    cluster: Cluster,
    /// What the cluster says of each member, in their order: reads are routed far more often than nodes are probed.
    standings: Vec<Standing>,
    router: Router,
    /// Room for the members as one decision sees them.
    candidates: Vec<Candidate>,
}

/// A node for a statement, which stays what it is while the statement runs.
#[derive(Clone)]
pub(crate) struct Choice {
    pub node: Arc<Node>,
    pub reason: Reason,
    /// It is in another zone than the one that was wanted.
    pub elsewhere: bool,
}

/// Where one read goes.
pub(crate) struct Chosen {
    pub choice: Result<Choice, QueryError>,
    /// Nodes that the next probe may show to be fit.
    pub hopeful: Vec<Arc<Node>>,
}

impl Fleet {
    pub(crate) fn new(config: &ReplicaConfig, metrics: &Metrics, cx: &Context) -> anyhow::Result<Arc<Self>> {
        let world = World { tls: Tls::new(&config.postgres.tls)?, metrics: metrics.clone(), cx: cx.clone() };
        let nodes = config.nodes.iter().zip(0..);
        let node = |((name, node), id): ((&String, &NodeConfig), u32)| {
            Node::new(NodeId(id), name, node, config, &world)
        };
        let nodes = nodes.map(|node_and_id| node(node_and_id).map(Arc::new));
        let topology = Arc::new(Topology::new(config, nodes.collect::<anyhow::Result<_>>()?));
        let limits = Limits::of(config);
        let mut cluster = Cluster::new(limits.clone());
        cluster.watch(limits, &watched(&topology));
        let router = Router::new(config.routing.strategy, topology.members.len(), rand::random());
        Ok(Arc::new(Self {
            next_id: AtomicU32::new(topology.members.len() as u32),
            world,
            state: Mutex::new(State::new(topology, cluster, router)),
            news: watch::Sender::new(0),
        }))
    }

    /// Follows another configuration from now on; `before` is the one until now.
    ///
    /// A node that is where it was is the same one: its connections, its breaker, its figures and what is known of it
    /// stay. One that is configured no more gets no new statements. Fails before anything is changed.
    pub(crate) fn follow(
        &self,
        config: &ReplicaConfig,
        before: &ReplicaConfig,
    ) -> anyhow::Result<Arc<Topology>> {
        let old = self.topology();
        let node = |(name, wanted): (&String, &NodeConfig)| {
            let known = old.named(name).map(|member| &member.node);
            if let Some(node) = known.filter(|node| node.is_at(wanted)) {
                return Ok(Arc::clone(node));
            }
            let id = NodeId(self.next_id.fetch_add(1, Ordering::Relaxed));
            let node = Node::new(id, name, wanted, config, &self.world)?;
            // Whom an operator has taken out of reads stays out, wherever he moves it.
            node.set_drained(known.is_some_and(|node| node.is_drained()));
            anyhow::Ok(Arc::new(node))
        };
        let nodes = config.nodes.iter().map(node).collect::<anyhow::Result<Vec<_>>>()?;
        let topology = Arc::new(Topology::new(config, nodes));
        for node in topology.nodes().filter(|node| old.node(node.id).is_some()) {
            if config.opens_connections_unlike(before) {
                node.renew_pools(config);
            }
            if config.breaker != before.breaker {
                node.set_breaker(&config.breaker);
            }
        }
        let change = {
            let mut state = self.state.lock();
            state.topology = Arc::clone(&topology);
            state.router = Router::new(config.routing.strategy, topology.members.len(), rand::random());
            let change = state.cluster.watch(Limits::of(config), &watched(&topology));
            state.look_again();
            change
        };
        if let Some(change) = change {
            self.tell(&change, None);
        }
        self.news.send_modify(|n| *n += 1);
        Ok(topology)
    }

    /// Returns the nodes and rules of this moment.
    pub(crate) fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.state.lock().topology)
    }

    /// Takes in one probe of a node.
    pub(crate) fn observe(&self, node: NodeId, moment: Moment, result: Result<Observation, String>) {
        let failure = result.as_ref().err().cloned();
        let changes = {
            let mut state = self.state.lock();
            let changes = state.cluster.observe(node, moment, result);
            state.look_again();
            changes
        };
        for change in changes {
            self.tell(&change, failure.as_deref());
        }
        self.news.send_modify(|n| *n += 1);
    }

    pub(crate) fn observe_pgbouncer(&self, node: NodeId, result: Result<(), String>) {
        {
            let mut state = self.state.lock();
            state.cluster.observe_pgbouncer(node, result);
            state.look_again();
        }
        self.news.send_modify(|n| *n += 1);
    }

    /// Decides where a read goes; `tried` is left out.
    pub(crate) fn choose(&self, needs: &ReadNeeds, tried: Option<NodeId>) -> Chosen {
        let now = TokioInstant::now().into_std();
        let mut state = self.state.lock();
        let State { topology, standings, router, candidates, .. } = &mut *state;
        candidates.clear();
        candidates.extend(topology.members.iter().zip(&*standings).map(|(member, standing)| {
            let candidate = topology.candidate(standing, member, now);
            let barred = (Some(member.node.id) == tried).then_some(Refusal::AlreadyTried);
            Candidate { barred: barred.or(candidate.barred), ..candidate }
        }));
        let decision = router.choose(candidates, needs, now);
        let node = |index: usize| Arc::clone(&topology.members[index].node);
        let choice = match decision.pick {
            Ok(pick) => Ok(Choice {
                node: node(pick.node),
                reason: pick.reason,
                elsewhere: needs.zone.is_some() && candidates[pick.node].zone != needs.zone,
            }),
            Err(refused) => {
                let names = topology.nodes().map(|node| node.name.to_string());
                Err(QueryError::NoFitNode { refused: names.zip(refused.refusals).collect() })
            }
        };
        Chosen { choice, hopeful: decision.hopeful.into_iter().map(node).collect() }
    }

    /// Returns the node that takes writes; the flag of the error says that waiting does not help.
    pub(crate) fn primary(&self) -> Result<Arc<Node>, (QueryError, bool)> {
        let now = TokioInstant::now().into_std();
        self.look(|topology, cluster| match cluster.primary() {
            Primary::Node { node, .. } => match (cluster.barred(*node), topology.node(*node)) {
                (None, Some(_)) if cluster.believed_until().is_none_or(|until| now > until) => {
                    let why = Refusal::RoleUnproven;
                    Err((QueryError::NoPrimary(format!("{}: {why}", topology.name(*node))), false))
                }
                (None, Some(node)) => Ok(Arc::clone(node)),
                (refusal, _) => {
                    let why = refusal.unwrap_or(Refusal::NotSeen);
                    Err((QueryError::NoPrimary(format!("{}: {why}", topology.name(*node))), false))
                }
            },
            Primary::None => {
                let why = |id| {
                    cluster.barred(id).map_or_else(|| "a replica".to_owned(), |refusal| refusal.to_string())
                };
                let nodes: Vec<_> =
                    topology.nodes().map(|node| format!("{} is {}", node.name, why(node.id))).collect();
                Err((QueryError::NoPrimary(nodes.join(", ")), false))
            }
            Primary::SplitBrain(nodes) => {
                let nodes: Vec<_> = nodes.iter().map(|node| topology.name(*node)).collect();
                Err((QueryError::NoPrimary(format!("split brain of {}", nodes.join(" and "))), true))
            }
        })
    }

    /// Tells whether any node can answer a read that asks for nothing special.
    pub(crate) fn can_read(&self) -> bool {
        let now = TokioInstant::now().into_std();
        self.look(|topology, cluster| {
            topology.members.iter().any(|member| topology.takes_reads(cluster, member, now))
        })
    }

    /// Returns what a read needs that asks for nothing special.
    pub(crate) fn default_needs(&self) -> ReadNeeds {
        self.look(|topology, cluster| topology.needs_under(cluster.primary()))
    }

    /// Looks at what there is and what is known of it, at one moment.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Arc<Topology>, &Cluster) -> T) -> T {
        let state = self.state.lock();
        look(&state.topology, &state.cluster)
    }

    /// Subscribes to news about any node.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Waits until a node is down and another one could answer in its place. A node that is configured no more is not
    /// watched: what runs there ends there.
    pub(crate) async fn wait_replaceable(&self, node: NodeId, needs: &ReadNeeds) {
        let mut news = self.news();
        while !self.is_replaceable(node, needs) {
            if news.changed().await.is_err() {
                return;
            }
        }
    }

    fn is_replaceable(&self, id: NodeId, needs: &ReadNeeds) -> bool {
        let now = TokioInstant::now().into_std();
        self.look(|topology, cluster| {
            let fit = |member: &Member| topology.is_fit(cluster, member, needs, now);
            let mut others = topology.members.iter().filter(|member| member.node.id != id);
            cluster.is_down(id) && others.any(fit)
        })
    }

    fn tell(&self, change: &Change, failure: Option<&str>) {
        let topology = self.topology();
        match change {
            Change::Up(id) => {
                if let Some(node) = topology.node(*id) {
                    node.came_up(TokioInstant::now().into_std());
                    tracing::info!(node = &*node.name, "node is up");
                }
            }
            Change::Down(id) => {
                if let Some(node) = topology.node(*id) {
                    node.went_down(TokioInstant::now().into_std());
                    tracing::warn!(node = &*node.name, failure, "node is down");
                }
            }
            Change::Primary { to: Primary::Node { node, timeline }, .. } => {
                tracing::info!(node = topology.name(*node), timeline, "primary is known");
            }
            Change::Primary { to: Primary::None, .. } => tracing::warn!("no primary: writes are refused"),
            Change::Primary { to: Primary::SplitBrain(nodes), .. } => {
                let nodes: Vec<_> = nodes.iter().map(|node| topology.name(*node)).collect();
                tracing::error!(?nodes, "split brain: several primaries on one timeline, writes are refused");
            }
        }
    }
}

impl State {
    fn new(topology: Arc<Topology>, cluster: Cluster, router: Router) -> Self {
        let n_nodes = topology.members.len();
        let candidates = Vec::with_capacity(n_nodes);
        let mut state =
            Self { topology, cluster, standings: Vec::with_capacity(n_nodes), router, candidates };
        state.look_again();
        state
    }

    /// Takes over what the cluster says; to be called when it was told anything.
    fn look_again(&mut self) {
        self.standings.clear();
        self.standings.extend(self.topology.nodes().map(|node| self.cluster.standing(node.id)));
    }
}

impl Limits {
    fn of(config: &ReplicaConfig) -> Self {
        Self {
            down_after: config.health.down_after,
            up_after: config.health.up_after,
            max_staleness: config.routing.max_staleness,
            max_lag_bytes: config.routing.max_lag_bytes.as_u64(),
            evidence_for: config.health.evidence_for(),
        }
    }
}

fn watched(topology: &Topology) -> Vec<(NodeId, bool)> {
    topology.nodes().map(|node| (node.id, node.pgbouncer)).collect()
}
