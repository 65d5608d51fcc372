//! What the service tells about its nodes: components and gauges.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mainstay_runtime::{Component, ComponentKind, Context};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    cluster::{Cluster, Health, NodeId, Primary, Verdict},
    fleet::Fleet,
    metrics::{Metrics, OfNode},
    node::Node,
    probe::PgBouncerFigures,
    topology::Topology,
};

/// Keeps components and gauges as the last probe found them.
///
/// Only `postgres` is critical: the service is ready while any node can answer reads. `primary` says whether there is
/// one for writes; `postgres.<node>` and `pgbouncer.<node>` say what is wrong where.
pub(crate) struct Reports {
    cluster: Component,
    primary: Component,
    /// Of the nodes that are configured; held while anything is told of them, so that nothing is told of one that is gone.
    nodes: Mutex<BTreeMap<NodeId, NodeReport>>,
    metrics: Metrics,
    cx: Context,
}

struct NodeReport {
    name: String,
    node: Component,
    pgbouncer: Option<Component>,
}

impl Reports {
    pub(crate) fn new(fleet: &Fleet, metrics: &Metrics, cx: &Context) -> Self {
        let reports = Self {
            cluster: cx.component("postgres", ComponentKind::Datastore, true),
            primary: cx.component("primary", ComponentKind::Datastore, false),
            nodes: Mutex::default(),
            metrics: metrics.clone(),
            cx: cx.clone(),
        };
        reports.follow(&fleet.topology());
        reports
    }

    /// Tells of these nodes from now on, and of no others.
    pub(crate) fn follow(&self, topology: &Topology) {
        let mut nodes = self.nodes.lock();
        let gone: Vec<_> = nodes.keys().copied().filter(|id| topology.node(*id).is_none()).collect();
        for NodeReport { name, node, pgbouncer } in gone.into_iter().filter_map(|id| nodes.remove(&id)) {
            std::iter::once(node).chain(pgbouncer).for_each(Component::remove);
            self.metrics.node.forget(&name, topology.named(&name).is_some());
            self.metrics.pgbouncer.forget(&name);
        }
        for node in topology.nodes() {
            nodes.entry(node.id).or_insert_with(|| self.report(node));
        }
    }

    fn report(&self, node: &Node) -> NodeReport {
        let component =
            |of: &str| self.cx.component(format!("{of}.{}", node.name), ComponentKind::Datastore, false);
        NodeReport {
            name: node.name.to_string(),
            node: component("postgres"),
            pgbouncer: node.pgbouncer.then(|| component("pgbouncer")),
        }
    }

    /// Notes how long a probe took.
    pub(crate) fn latency(&self, node: NodeId, took: Duration) {
        if let Some(report) = self.nodes.lock().get(&node) {
            report.node.latency(took);
        }
    }

    /// Tells everything that is known now.
    pub(crate) fn publish(&self, fleet: &Fleet) {
        let now = Instant::now().into_std();
        let nodes = self.nodes.lock();
        let (topology, verdicts) = fleet.look(|topology, cluster| {
            let verdict =
                |node: &Arc<Node>| (node.id, node.verdict(cluster, now), cluster.pgbouncer_verdict(node.id));
            (Arc::clone(topology), topology.nodes().map(verdict).collect::<Vec<_>>())
        });
        for (id, node, pgbouncer) in &verdicts {
            let Some(report) = nodes.get(id) else { continue };
            tell(&report.node, node);
            if let (Some(component), Some(verdict)) = (&report.pgbouncer, pgbouncer) {
                tell(component, verdict);
            }
        }
        self.publish_cluster(fleet, &topology, &verdicts);
        for node in topology.nodes().filter(|node| nodes.contains_key(&node.id)) {
            fleet.look(|_, cluster| self.gauge(node, cluster));
        }
    }

    /// Tells what the PgBouncer of a node says of itself, or that it says nothing.
    pub(crate) fn pgbouncer(&self, node: &Node, figures: Option<&PgBouncerFigures>) {
        if self.nodes.lock().contains_key(&node.id) {
            self.metrics.pgbouncer.tell(&node.name, figures);
        }
    }

    fn publish_cluster(
        &self,
        fleet: &Fleet,
        topology: &Topology,
        verdicts: &[(NodeId, Verdict, Option<Verdict>)],
    ) {
        let primary = fleet.look(|_, cluster| cluster.primary().clone());
        let n_primaries = match &primary {
            Primary::None => 0,
            Primary::Node { .. } => 1,
            Primary::SplitBrain(nodes) => nodes.len(),
        };
        self.metrics.primaries.set(n_primaries as i64);
        let without = match &primary {
            Primary::Node { node, timeline } => {
                self.primary.healthy(format!("{} on timeline {timeline}", topology.name(*node)));
                None
            }
            Primary::None => Some("no primary: writes are refused".to_owned()),
            Primary::SplitBrain(nodes) => {
                let nodes: Vec<_> = nodes.iter().map(|node| topology.name(*node)).collect();
                Some(format!("split brain of {}: writes are refused", nodes.join(" and ")))
            }
        };
        if let Some(why) = &without {
            self.primary.unhealthy(why);
        }
        let wrong: Vec<_> = verdicts
            .iter()
            .filter(|(_, verdict, _)| verdict.health != Health::Healthy)
            .map(|(id, verdict, _)| format!("{}: {}", topology.name(*id), verdict.detail))
            .collect();
        let detail = without.into_iter().chain(wrong).collect::<Vec<_>>().join("; ");
        if !fleet.can_read() {
            self.cluster.unhealthy(format!("no node can answer reads: {detail}"));
        } else if detail.is_empty() {
            self.cluster.healthy(format!("{} nodes", topology.members.len()));
        } else {
            self.cluster.degraded(detail);
        }
    }

    fn gauge(&self, node: &Node, cluster: &Cluster) {
        let (metrics, label) = (&self.metrics.node, &OfNode { node: node.name.to_string() });
        let is_primary = matches!(cluster.primary(), Primary::Node { node: id, .. } if *id == node.id);
        metrics.up.get_or_create(label).set(cluster.is_up(node.id).into());
        metrics.probe_state.get_or_create(label).set(cluster.probe_state(node.id) as i64);
        metrics.primary.get_or_create(label).set(is_primary.into());
        metrics.drained.get_or_create(label).set(node.is_drained().into());
        let traffic = node.traffic(Instant::now().into_std());
        metrics.breaker_state.get_or_create(label).set(traffic.breaker.level().into());
        let openings = metrics.breaker_openings.get_or_create(label);
        // Probes of several nodes may report at once.
        openings.inner().fetch_max(traffic.n_openings, Ordering::Relaxed);
        drop(openings);
        let lag = cluster.lag(node.id, Instant::now().into_std());
        match lag.as_ref().and_then(|lag| lag.bytes) {
            Some(bytes) => {
                metrics.lag_bytes.get_or_create(label).set(i64::try_from(bytes).unwrap_or(i64::MAX));
            }
            None => {
                metrics.lag_bytes.remove(label);
            }
        }
        match lag.as_ref().and_then(|lag| lag.staleness) {
            Some(staleness) => {
                metrics.staleness_seconds.get_or_create(label).set(staleness.as_secs_f64());
            }
            None => {
                metrics.staleness_seconds.remove(label);
            }
        }
        for (role, status) in node.pool_roles() {
            metrics.pools.tell(&label.node, role, &status);
        }
    }
}

fn tell(component: &Component, verdict: &Verdict) {
    match verdict.health {
        Health::Healthy => component.healthy(&verdict.detail),
        Health::Degraded => component.degraded(&verdict.detail),
        Health::Unhealthy => component.unhealthy(&verdict.detail),
        Health::Unknown => {}
    }
}
