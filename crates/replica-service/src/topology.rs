//! Which nodes there are, and by which rules reads find one: all of it as one configuration says.

use std::{sync::Arc, time::Instant};

use crate::{
    cluster::{Cluster, NodeId, Primary, Standing},
    config::{PoolConfig, ReplicaConfig, RoutingConfig},
    node::{Node, Pace},
    route::{Candidate, FULL_WARMTH, Prefer, ReadNeeds, Refusal, Strategy, warmth},
};

/// Never changes; another configuration makes another one, which may have nodes in common with it.
pub(crate) struct Topology {
    /// By name.
    pub members: Vec<Member>,
    /// All zones that nodes are in; their place is their number.
    zones: Vec<String>,
    pub routing: RoutingConfig,
    pub pool: PoolConfig,
}

/// A node and its part in the whole.
pub(crate) struct Member {
    pub node: Arc<Node>,
    pub weight: u32,
    /// Empty for none.
    pub zone: String,
    zone_number: Option<u16>,
}

impl Topology {
    /// Gives each node its part; `nodes` are those of the configuration, in its order.
    pub(crate) fn new(config: &ReplicaConfig, nodes: Vec<Arc<Node>>) -> Self {
        let zones = config.nodes.values().map(|node| &node.zone).filter(|zone| !zone.is_empty());
        let mut zones: Vec<_> = zones.cloned().collect();
        zones.sort_unstable();
        zones.dedup();
        let member = |(node, config): (Arc<Node>, &crate::config::NodeConfig)| Member {
            node,
            weight: config.weight,
            zone: config.zone.clone(),
            zone_number: number_of(&zones, &config.zone),
        };
        Self {
            members: nodes.into_iter().zip(config.nodes.values()).map(member).collect(),
            zones,
            routing: config.routing.clone(),
            pool: config.pool.clone(),
        }
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.members.iter().map(|member| &member.node)
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| &*member.node.name == name)
    }

    pub(crate) fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes().find(|node| node.id == id)
    }

    /// Returns the name of a node; none of these has ever had another one.
    pub(crate) fn name(&self, id: NodeId) -> &str {
        self.node(id).map_or("", |node| &node.name)
    }

    /// Returns the number of a zone; `None` when no node is in it.
    pub(crate) fn zone(&self, name: &str) -> Option<u16> {
        number_of(&self.zones, name)
    }

    /// Returns what a read needs that asks for nothing special.
    pub(crate) fn needs_under(&self, primary: &Primary) -> ReadNeeds {
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

    /// Shows a node to the router, as it is now.
    pub(crate) fn candidate(&self, standing: &Standing, member: &Member, now: Instant) -> Candidate {
        let node = &member.node;
        let Pace { is_breaker_open, latency, back_for } =
            node.pace(now, self.routing.strategy == Strategy::LatencyAware);
        let drained = || node.is_drained().then_some(Refusal::Drained);
        let open = || is_breaker_open.then_some(Refusal::BreakerOpen);
        Candidate {
            barred: standing.barred.or_else(drained).or_else(open),
            place: standing.place.clone(),
            in_flight: node.in_flight(),
            weight: member.weight,
            warmth: back_for.map_or(FULL_WARMTH, |back_for| warmth(back_for, self.routing.slow_start)),
            latency,
            zone: member.zone_number,
        }
    }

    /// Tells whether a node may answer a read now.
    pub(crate) fn is_fit(&self, cluster: &Cluster, member: &Member, needs: &ReadNeeds, now: Instant) -> bool {
        self.candidate(&cluster.standing(member.node.id), member, now).refusal(needs, now).is_none()
    }

    /// Tells whether reads that ask for nothing special may be sent to a node.
    pub(crate) fn takes_reads(&self, cluster: &Cluster, member: &Member, now: Instant) -> bool {
        self.is_fit(cluster, member, &self.needs_under(cluster.primary()), now)
    }
}

fn number_of(zones: &[String], name: &str) -> Option<u16> {
    zones.iter().position(|zone| zone == name).and_then(|number| u16::try_from(number).ok())
}
