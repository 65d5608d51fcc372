//! What the service tells about its nodes: components and gauges.

use std::time::Duration;

use mainstay_runtime::{Component, ComponentKind, Context};
use tokio::time::Instant;

use crate::{
    cluster::{Cluster, Health, Primary, Verdict},
    fleet::Fleet,
    metrics::{Metrics, NodeMetrics, OfNode},
};

/// Keeps components and gauges as the last probe found them.
///
/// Only `postgres` is critical: the service is ready while any node can answer reads. `primary` says whether there is
/// one for writes; `postgres.<node>` and `pgbouncer.<node>` say what is wrong where.
pub(crate) struct Reports {
    cluster: Component,
    primary: Component,
    nodes: Vec<NodeReport>,
    metrics: NodeMetrics,
}

struct NodeReport {
    node: Component,
    pgbouncer: Option<Component>,
    label: OfNode,
}

impl Reports {
    pub(crate) fn new(fleet: &Fleet, metrics: &Metrics, cx: &Context) -> Self {
        let report = |node: &crate::node::Node| NodeReport {
            node: cx.component(format!("postgres.{}", node.name), ComponentKind::Datastore, false),
            pgbouncer: node
                .pgbouncer
                .then(|| cx.component(format!("pgbouncer.{}", node.name), ComponentKind::Datastore, false)),
            label: OfNode { node: node.name.clone() },
        };
        Self {
            cluster: cx.component("postgres", ComponentKind::Datastore, true),
            primary: cx.component("primary", ComponentKind::Datastore, false),
            nodes: fleet.nodes.iter().map(report).collect(),
            metrics: metrics.node.clone(),
        }
    }

    /// Notes how long a probe took.
    pub(crate) fn latency(&self, index: usize, took: Duration) {
        self.nodes[index].node.latency(took);
    }

    /// Tells everything that is known now.
    pub(crate) fn publish(&self, fleet: &Fleet) {
        let now = Instant::now().into_std();
        let verdicts: Vec<_> = fleet.with_cluster(|cluster| {
            let verdict = |index| (cluster.verdict(index, now), cluster.pgbouncer_verdict(index));
            (0..self.nodes.len()).map(verdict).collect()
        });
        for (report, (node, pgbouncer)) in self.nodes.iter().zip(&verdicts) {
            tell(&report.node, node);
            if let (Some(component), Some(verdict)) = (&report.pgbouncer, pgbouncer) {
                tell(component, verdict);
            }
        }
        self.publish_cluster(fleet, &verdicts);
        for index in 0..self.nodes.len() {
            fleet.with_cluster(|cluster| self.gauge(fleet, cluster, index));
        }
    }

    fn publish_cluster(&self, fleet: &Fleet, verdicts: &[(Verdict, Option<Verdict>)]) {
        let primary = fleet.with_cluster(|cluster| cluster.primary().clone());
        let without = match &primary {
            Primary::Node { node, timeline } => {
                self.primary.healthy(format!("{} on timeline {timeline}", fleet.names[*node]));
                None
            }
            Primary::None => Some("no primary: writes are refused".to_owned()),
            Primary::SplitBrain(nodes) => {
                let nodes: Vec<_> = nodes.iter().map(|node| fleet.names[*node].as_str()).collect();
                Some(format!("split brain of {}: writes are refused", nodes.join(" and ")))
            }
        };
        if let Some(why) = &without {
            self.primary.unhealthy(why);
        }
        let wrong: Vec<_> = fleet
            .names
            .iter()
            .zip(verdicts)
            .filter(|(_, (verdict, _))| verdict.health != Health::Healthy)
            .map(|(name, (verdict, _))| format!("{name}: {}", verdict.detail))
            .collect();
        let detail = without.into_iter().chain(wrong).collect::<Vec<_>>().join("; ");
        if !fleet.can_read() {
            self.cluster.unhealthy(format!("no node can answer reads: {detail}"));
        } else if detail.is_empty() {
            self.cluster.healthy(format!("{} nodes", self.nodes.len()));
        } else {
            self.cluster.degraded(detail);
        }
    }

    fn gauge(&self, fleet: &Fleet, cluster: &Cluster, index: usize) {
        let (metrics, label) = (&self.metrics, &self.nodes[index].label);
        let is_primary = matches!(cluster.primary(), Primary::Node { node, .. } if *node == index);
        metrics.up.get_or_create(label).set(cluster.is_up(index).into());
        metrics.primary.get_or_create(label).set(is_primary.into());
        metrics.drained.get_or_create(label).set(fleet.nodes[index].is_drained().into());
        let lag = cluster.lag(index, Instant::now().into_std());
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
        for (role, status) in fleet.nodes[index].pool_roles() {
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
