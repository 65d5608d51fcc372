use std::time::Instant;

use super::{Cluster, NodeId};
use crate::route::{Place, Refusal};

/// How well one node does its work, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub health: Health,
    /// One line for a person.
    pub detail: String,
}

/// How well something does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    Healthy,
    Degraded,
    Unhealthy,
    Unknown,
}

const UNSTEADY: &str = "answers again, not steadily enough yet";

impl Cluster {
    /// Judges one node at `now`.
    pub(crate) fn verdict(&self, node: NodeId, now: Instant) -> Verdict {
        match self.barred(node) {
            Some(Refusal::NotSeen) => Verdict::new(Health::Unknown, "not probed yet"),
            Some(Refusal::Down) => {
                let failure = self.reach_failure(node);
                let detail = failure
                    .map_or_else(|| UNSTEADY.to_owned(), |failure| format!("does not answer: {failure}"));
                Verdict::new(Health::Unhealthy, detail)
            }
            Some(Refusal::PgBouncerDown) => {
                let reach = self.nodes.get(&node).and_then(|node| node.pgbouncer.as_ref());
                let failure = reach.and_then(|reach| reach.failure.as_deref());
                Verdict::new(
                    Health::Unhealthy,
                    format!("its pgbouncer is down: {}", failure.unwrap_or("not probed yet")),
                )
            }
            Some(Refusal::Fenced) => Verdict::new(Health::Unhealthy, self.fenced(node)),
            Some(refusal) => Verdict::new(Health::Unhealthy, refusal.to_string()),
            None => self.fit(node, now),
        }
    }

    /// Judges the PgBouncer of a node; `None` when it has none.
    pub(crate) fn pgbouncer_verdict(&self, node: NodeId) -> Option<Verdict> {
        let reach = self.nodes.get(&node)?.pgbouncer.as_ref()?;
        Some(match &reach.failure {
            _ if !reach.probed => Verdict::new(Health::Unknown, "not probed yet"),
            None if reach.is_up() => Verdict::new(Health::Healthy, "answers"),
            None => Verdict::new(Health::Unhealthy, UNSTEADY),
            Some(failure) if reach.is_up() => {
                Verdict::new(Health::Degraded, format!("last probe failed: {failure}"))
            }
            Some(failure) => Verdict::new(Health::Unhealthy, format!("does not answer: {failure}")),
        })
    }

    fn fit(&self, node: NodeId, now: Instant) -> Verdict {
        if let Some(failure) = self.reach_failure(node) {
            return Verdict::new(Health::Degraded, format!("last probe failed: {failure}"));
        }
        let Some(lag) = self.lag(node, now) else { return Verdict::new(Health::Healthy, "primary") };
        let limits = &self.limits;
        let why = match (lag.staleness, lag.bytes) {
            _ if lag.replay_paused => "replay is paused".to_owned(),
            _ if matches!(self.place(node), Place::Replica { replayed: None, .. }) => {
                "its timeline is not known to be the primary's".to_owned()
            }
            (None, _) => "staleness not proven yet".to_owned(),
            (Some(staleness), _) if staleness > limits.max_staleness => {
                format!(
                    "up to {:.1} s stale, above {:.1} s",
                    staleness.as_secs_f64(),
                    limits.max_staleness.as_secs_f64()
                )
            }
            (_, Some(bytes)) if bytes > limits.max_lag_bytes => {
                format!("{bytes} WAL bytes behind, above {}", limits.max_lag_bytes)
            }
            (Some(_), _) => return Verdict::new(Health::Healthy, "replica"),
        };
        let receiver = if lag.receiver.is_empty() { ", WAL receiver not connected" } else { "" };
        Verdict::new(Health::Degraded, format!("{why}{receiver}"))
    }

    fn reach_failure(&self, node: NodeId) -> Option<&str> {
        self.nodes.get(&node)?.reach.failure.as_deref()
    }

    fn fenced(&self, node: NodeId) -> String {
        match &self.primary {
            super::Primary::SplitBrain(nodes) if nodes.contains(&node) => format!(
                "split brain: {} nodes are out of recovery on timeline {}",
                nodes.len(),
                self.timeline(node).unwrap_or(0)
            ),
            _ => format!(
                "fenced: out of recovery on timeline {}, but the cluster has been on {}",
                self.timeline(node).unwrap_or(0),
                self.log_timeline()
            ),
        }
    }
}

impl Verdict {
    fn new(health: Health, detail: impl Into<String>) -> Self {
        Self { health, detail: detail.into() }
    }
}
