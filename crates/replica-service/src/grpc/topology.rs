use std::time::Duration;

use mainstay_proto::{
    common::v1::Health as WireHealth,
    replica::v1::{
        Lag as WireLag, LagFormula, Node as WireNode, PgBouncerStats, Pool, ProbeState as WireProbeState,
        Role, TopologyResponse, Traffic,
    },
};
use tokio::time::Instant;

use crate::{
    cluster::{Cluster, Health, Lag, Primary, ProbeState},
    fleet::Fleet,
    lag::common::{Figure, Formula},
    node::Node,
    pool::PoolStatus,
    probe::PgBouncerFigures,
    route::Place,
    topology::{Member, Topology},
};

/// Describes every node as it is known now.
pub(super) fn describe(fleet: &Fleet) -> TopologyResponse {
    fleet.look(|topology, cluster| {
        let primary = match cluster.primary() {
            Primary::Node { node, .. } => topology.name(*node).to_owned(),
            Primary::None | Primary::SplitBrain(_) => String::new(),
        };
        TopologyResponse {
            nodes: topology.members.iter().map(|member| node(topology, cluster, member)).collect(),
            primary,
            strategy: topology.routing.strategy.as_str().to_owned(),
            max_staleness: wire(topology.routing.max_staleness),
            max_lag_bytes: topology.routing.max_lag_bytes.as_u64(),
        }
    })
}

/// Describes one node as it is known now; `None` where it is not configured.
pub(super) fn describe_node(fleet: &Fleet, name: &str) -> Option<WireNode> {
    fleet.look(|topology, cluster| topology.named(name).map(|member| node(topology, cluster, member)))
}

fn node(topology: &Topology, cluster: &Cluster, member: &Member) -> WireNode {
    let now = Instant::now().into_std();
    let (node, id) = (&member.node, member.node.id);
    let verdict = node.verdict(cluster, now);
    let last = cluster.last(id);
    let role = match cluster.place(id) {
        _ if !cluster.is_up(id) => Role::Unknown,
        Place::Primary { .. } => Role::Primary,
        Place::Replica { .. } => Role::Replica,
        Place::Neither => Role::Unknown,
    };
    let is_primary = role == Role::Primary;
    let [(_, reads), (_, writes)] = node.pool_roles();
    WireNode {
        name: node.name.to_string(),
        address: node.address.clone(),
        pgbouncer: node.pgbouncer,
        role: role.into(),
        health: health(verdict.health).into(),
        detail: verdict.detail,
        since: cluster.since(id).map(Into::into),
        seen_at: last.map(|(moment, _)| moment.wall.into()),
        probe_latency: last.and_then(|(moment, _)| wire(moment.took)),
        reads: topology.takes_reads(cluster, member, now),
        writes: is_primary && cluster.barred(id).is_none() && !node.is_breaker_open(now),
        server_version: last.map(|(_, seen)| seen.server_version.clone()).unwrap_or_default(),
        timeline: cluster.timeline(id).unwrap_or_default(),
        lsn: last.map(|(_, seen)| seen.lsn.to_string()).unwrap_or_default(),
        lag: cluster.lag(id, now).map(|found| lag(found, cluster.common_lag(id))),
        pool: Some(pool(reads.plus(writes))),
        read_pool: Some(pool(reads)),
        write_pool: Some(pool(writes)),
        traffic: Some(traffic(node)),
        drained: node.is_drained(),
        zone: member.zone.clone(),
        pgbouncer_stats: node.pgbouncer_figures().map(pgbouncer_stats),
        probe_state: probe_state(cluster.probe_state(id)).into(),
    }
}

fn probe_state(state: ProbeState) -> WireProbeState {
    match state {
        ProbeState::Down => WireProbeState::ProbeDown,
        ProbeState::Probation => WireProbeState::ProbeOnProbation,
        ProbeState::Suspect => WireProbeState::ProbeSuspect,
        ProbeState::Up => WireProbeState::ProbeUp,
    }
}

fn lag(lag: Lag, formulas: Vec<Formula>) -> WireLag {
    WireLag {
        bytes: lag.bytes.unwrap_or_default(),
        receive_bytes: lag.receive_bytes.unwrap_or_default(),
        staleness: lag.staleness.and_then(wire),
        evidence_age: wire(lag.evidence_age),
        replay_paused: lag.replay_paused,
        receiver: lag.receiver,
        naive: lag.naive.and_then(wire),
        formulas: formulas.into_iter().map(formula).collect(),
    }
}

fn formula(formula: Formula) -> LagFormula {
    let (seconds, bytes) = match formula.value {
        Some(Figure::Seconds(seconds)) => (Some(seconds.as_secs_f64()), None),
        Some(Figure::Bytes(bytes)) => (None, Some(bytes)),
        None => (None, None),
    };
    LagFormula {
        name: formula.name.to_owned(),
        sql: formula.sql.to_owned(),
        asked_of_primary: formula.asked_of_primary,
        seconds,
        bytes,
        misleads: formula.misleads.to_owned(),
    }
}

fn pgbouncer_stats(figures: PgBouncerFigures) -> PgBouncerStats {
    PgBouncerStats {
        clients_active: figures.clients_active,
        clients_waiting: figures.clients_waiting,
        servers_active: figures.servers_active,
        servers_idle: figures.servers_idle,
        servers_used: figures.servers_used,
        max_wait_seconds: figures.max_wait_s,
        transactions: figures.transactions,
        queries: figures.queries,
        received_bytes: figures.received_bytes,
        sent_bytes: figures.sent_bytes,
        query_seconds: figures.query_time_s,
        wait_seconds: figures.wait_time_s,
        clients: figures.clients,
        servers: figures.servers,
    }
}

fn pool(status: PoolStatus) -> Pool {
    Pool {
        size: status.size,
        max_size: status.max_size,
        in_use: status.in_use,
        waiting: status.waiting,
        created: status.created,
        timeouts: status.timeouts,
        recycled: status.recycled,
        errors: status.errors,
        asked: status.asked,
        wait_seconds: status.waited.as_secs_f64(),
    }
}

fn traffic(node: &Node) -> Traffic {
    let traffic = node.traffic(Instant::now().into_std());
    Traffic {
        queries: traffic.queries,
        errors: traffic.errors,
        seconds_mean: traffic.mean_s,
        breaker: traffic.breaker.as_str().to_owned(),
        in_flight: traffic.in_flight,
    }
}

fn health(health: Health) -> WireHealth {
    match health {
        Health::Healthy => WireHealth::Healthy,
        Health::Degraded => WireHealth::Degraded,
        Health::Unhealthy => WireHealth::Unhealthy,
        Health::Unknown => WireHealth::Unknown,
    }
}

fn wire(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}
