//! What is known about the nodes, and who the primary is.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    lag::{
        LsnTimeline,
        common::{Formula, Sender, formulas, sender_of},
    },
    lsn::{Lsn, Position, WalShape},
    route::{Place, Refusal},
    token::Token,
};

mod reach;
#[cfg(test)]
mod tests;
mod verdict;

pub(crate) use reach::ProbeState;
pub(crate) use verdict::{Health, Verdict};

use reach::Reach;

/// Turns probe results into roles; does no I/O and reads no clock.
///
/// The primary is the node that is not in recovery and has the highest timeline ever seen on such a node. A promotion
/// always begins a higher timeline, so an old primary that comes back, or never left, is fenced: it gets no write and
/// no read. Two nodes out of recovery on one timeline are a split brain: there is no primary until one of them is gone.
/// What is known of the primary holds for a while only: somebody else may have been promoted since the others last answered.
#[derive(Debug)]
pub(crate) struct Cluster {
    limits: Limits,
    nodes: BTreeMap<NodeId, Node>,
    log: LsnTimeline,
    /// Of the cluster that this service serves: that of the first primary.
    identity: Option<Identity>,
    primary: Primary,
    /// Whose positions `log` holds.
    log_of: Option<(NodeId, u32)>,
}

/// Names a server for as long as the process lives: one that is gone gives its number to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeId(pub u32);

/// What all servers of one cluster have in common.
#[derive(Debug, Clone, Copy)]
struct Identity {
    system_identifier: u64,
    shape: WalShape,
}

/// When a node is down, and when a replica is too far behind to be called healthy.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub down_after: u32,
    pub up_after: u32,
    pub max_staleness: Duration,
    pub max_lag_bytes: u64,
    /// How old the last answer of a node that is up may be before nobody is believed to be the primary; longer than it takes
    /// to find a node down.
    pub evidence_for: Duration,
}

/// Who takes writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Primary {
    #[default]
    None,
    Node {
        node: NodeId,
        timeline: u32,
    },
    /// These are all out of recovery on the same, highest timeline.
    SplitBrain(Vec<NodeId>),
}

/// What one probe of a node brought home.
#[derive(Debug, Clone)]
pub(crate) struct Observation {
    pub in_recovery: bool,
    pub system_identifier: u64,
    /// Of the log that it writes or replays; `None` when a replica may not tell or does not know.
    pub timeline: Option<u32>,
    /// End of its log on a primary, replayed position on a replica.
    pub lsn: Lsn,
    /// Position up to which the log of a primary is on disk; no replica is sent more.
    pub flushed: Option<Lsn>,
    /// Received position of a replica.
    pub received: Option<Lsn>,
    /// State of the WAL receiver; empty when there is none.
    pub receiver: String,
    pub replay_paused: bool,
    /// `now() - pg_last_xact_replay_timestamp()`, for comparison.
    pub naive: Option<Duration>,
    /// Since a replica heard its primary last, for comparison.
    pub last_message: Option<Duration>,
    /// By which the primary knows a replica: its slot, and the name of its connection.
    pub slot: Option<String>,
    pub application: Option<String>,
    /// What a primary says of those who take its log, for comparison.
    pub senders: Vec<Sender>,
    pub server_version: String,
    pub shape: WalShape,
    /// The connection was made for this probe, so the server may have restarted since the last one.
    pub fresh: bool,
}

impl Observation {
    /// Returns where the log on disk ends, if the primary has written more than that.
    pub(crate) fn held_back(&self) -> Option<Lsn> {
        self.flushed.filter(|flushed| *flushed < self.lsn)
    }
}

/// When a probe was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Before the question was sent.
    pub asked_at: Instant,
    pub wall: SystemTime,
    pub took: Duration,
}

/// Tells what a probe changed, for logs and for whoever waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Up(NodeId),
    Down(NodeId),
    Primary { from: Primary, to: Primary },
}

/// What is known of a node that decides where reads go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Why nothing may be sent there, whatever is asked.
    pub barred: Option<Refusal>,
    pub place: Place,
}

/// How far a replica is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lag {
    pub bytes: Option<u64>,
    pub receive_bytes: Option<u64>,
    pub staleness: Option<Duration>,
    pub evidence_age: Duration,
    pub replay_paused: bool,
    pub receiver: String,
    pub naive: Option<Duration>,
}

#[derive(Debug, Default)]
struct Node {
    reach: Reach,
    last: Option<(Moment, Observation)>,
    timeline: Option<u32>,
    /// When it came up, went down or changed its role.
    since: Option<SystemTime>,
    pgbouncer: Option<Reach>,
}

impl Cluster {
    /// Starts with no nodes.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            nodes: BTreeMap::new(),
            log: LsnTimeline::default(),
            identity: None,
            primary: Primary::None,
            log_of: None,
        }
    }

    /// Watches these nodes from now on, by these limits; the flag says whether queries go through a `PgBouncer`.
    ///
    /// What is known of a node that stays is kept, also what it was the primary of: a node that is not watched any more
    /// fences an older one all the same.
    pub(crate) fn watch(&mut self, limits: Limits, nodes: &[(NodeId, bool)]) -> Option<Change> {
        let mut known = std::mem::take(&mut self.nodes);
        for &(id, pgbouncer) in nodes {
            let mut node = known
                .remove(&id)
                .unwrap_or_else(|| Node { pgbouncer: pgbouncer.then(Reach::default), ..Node::default() });
            if (limits.down_after, limits.up_after) != (self.limits.down_after, self.limits.up_after) {
                for reach in std::iter::once(&mut node.reach).chain(&mut node.pgbouncer) {
                    reach.turn_by(&limits);
                }
            }
            self.nodes.insert(id, node);
        }
        self.limits = limits;
        self.elect()
    }

    /// Takes in the result of one probe of a node.
    pub(crate) fn observe(
        &mut self,
        node: NodeId,
        moment: Moment,
        result: Result<Observation, String>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        // A probe may have been under way when its node was taken out.
        let Some(state) = self.nodes.get_mut(&node) else { return changes };
        let (was_up, had_role) = (state.is_up(), state.in_recovery());
        state.reach.observe(result.as_ref().err(), &self.limits);
        if let Ok(seen) = result {
            // A receiver that is gone no longer tells its timeline, but what it told still holds: timelines only
            // grow, until the server restarts.
            let known = state.timeline.filter(|_| !seen.fresh && seen.in_recovery);
            state.timeline = known.max(seen.timeline);
            state.last = Some((moment, seen));
        }
        if (was_up, had_role) != (state.is_up(), state.in_recovery()) || state.since.is_none() {
            state.since = Some(moment.wall);
        }
        match (was_up, state.is_up()) {
            (false, true) => changes.push(Change::Up(node)),
            (true, false) => changes.push(Change::Down(node)),
            _ => {}
        }
        changes.extend(self.elect());
        self.extend_log(node);
        changes
    }

    /// Takes in whether a node's PgBouncer answered.
    pub(crate) fn observe_pgbouncer(&mut self, node: NodeId, result: Result<(), String>) {
        if let Some(reach) = self.nodes.get_mut(&node).and_then(|node| node.pgbouncer.as_mut()) {
            reach.observe(result.err().as_ref(), &self.limits);
        }
    }

    pub(crate) fn primary(&self) -> &Primary {
        &self.primary
    }

    pub(crate) fn system_identifier(&self) -> Option<u64> {
        self.identity.map(|identity| identity.system_identifier)
    }

    /// Makes the token of a position that a primary of this cluster told; `None` before the first one is known.
    pub(crate) fn token(&self, position: Position) -> Option<Token> {
        let Identity { system_identifier, shape } = self.identity?;
        let lsn = position.lsn.end_of_record(shape);
        Some(Token { system_identifier, position: Position { lsn, ..position } })
    }

    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(Node::is_up)
    }

    /// Tells how steadily a node answers.
    pub(crate) fn probe_state(&self, node: NodeId) -> ProbeState {
        self.nodes.get(&node).map_or(ProbeState::Down, |node| node.reach.state())
    }

    /// Tells whether a node that is watched is down.
    pub(crate) fn is_down(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| !node.is_up())
    }

    /// Tells whether a node that is watched has answered once and does not any more.
    pub(crate) fn is_lost(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.reach.is_lost())
    }

    /// Tells whether there is somebody who takes writes.
    pub(crate) fn has_primary(&self) -> bool {
        matches!(self.primary, Primary::Node { .. })
    }

    /// Tells of the PgBouncer of a node that is watched whether it has answered once and does not any more.
    pub(crate) fn is_pgbouncer_lost(&self, node: NodeId) -> bool {
        let pgbouncer = self.nodes.get(&node).and_then(|node| node.pgbouncer.as_ref());
        pgbouncer.is_some_and(Reach::is_lost)
    }

    /// Returns until when the primary is believed to be it: a service that stood still since then, or whose probes did, has to
    /// ask all nodes first.
    pub(crate) fn believed_until(&self) -> Option<Instant> {
        let asked_at = |node: &Node| node.last.as_ref().map(|(moment, _)| moment.asked_at);
        let oldest = self.nodes.values().filter(|node| node.is_up()).filter_map(asked_at).min()?;
        Some(oldest + self.limits.evidence_for)
    }

    /// Returns the last answer of a node and when it was asked for.
    pub(crate) fn last(&self, node: NodeId) -> Option<(&Moment, &Observation)> {
        self.nodes.get(&node)?.last.as_ref().map(|(moment, seen)| (moment, seen))
    }

    /// Returns since when a node is as it is: up or down, in recovery or not.
    pub(crate) fn since(&self, node: NodeId) -> Option<SystemTime> {
        self.nodes.get(&node)?.since
    }

    /// Returns the position that lacks so many bytes of what the primary had written when it was last looked at.
    pub(crate) fn position_behind(&self, bytes: u64) -> Option<Position> {
        let latest = self.log.latest()?;
        Some(Position { timeline: self.log_timeline(), lsn: Lsn(latest.0.saturating_sub(bytes)) })
    }

    /// Returns the timeline of a node's log as far as it is known.
    pub(crate) fn timeline(&self, node: NodeId) -> Option<u32> {
        self.nodes.get(&node)?.timeline
    }

    /// Returns why nothing may be sent to a node, whatever is asked.
    pub(crate) fn barred(&self, node: NodeId) -> Option<Refusal> {
        let Some(state) = self.nodes.get(&node) else { return Some(Refusal::NotSeen) };
        if state.last.is_none() {
            return Some(if state.reach.probed { Refusal::Down } else { Refusal::NotSeen });
        }
        if !state.is_up() {
            return Some(Refusal::Down);
        }
        if self.is_foreign(node) {
            return Some(Refusal::ForeignCluster);
        }
        if state.pgbouncer.as_ref().is_some_and(|reach| !reach.is_up()) {
            return Some(Refusal::PgBouncerDown);
        }
        (self.place(node) == Place::Neither).then_some(Refusal::Fenced)
    }

    /// Returns what a read must know of a node; it holds until something is observed.
    pub(crate) fn standing(&self, node: NodeId) -> Standing {
        Standing { barred: self.barred(node), place: self.place(node) }
    }

    /// Returns where a node stands.
    pub(crate) fn place(&self, node: NodeId) -> Place {
        let Some((moment, seen)) = self.last(node) else { return Place::Neither };
        match self.primary {
            Primary::Node { node: primary, timeline } if primary == node => {
                let believed_until = self.believed_until().unwrap_or(moment.asked_at);
                Place::Primary { timeline, believed_until }
            }
            _ if !seen.in_recovery => Place::Neither,
            _ => {
                let replayed =
                    self.comparable(node).then(|| Position { timeline: self.log_timeline(), lsn: seen.lsn });
                Place::Replica {
                    replayed,
                    proven_at: replayed.and_then(|at| self.log.proven_at(at.lsn)),
                    lag_bytes: replayed.and_then(|at| Some(self.log.latest()?.bytes_since(at.lsn))),
                }
            }
        }
    }

    /// Returns how far a replica is behind; `None` for any other node.
    pub(crate) fn lag(&self, node: NodeId, now: Instant) -> Option<Lag> {
        let (moment, seen) = self.last(node)?;
        let place = self.place(node);
        let Place::Replica { lag_bytes, .. } = place else { return None };
        let replica_age = now.saturating_duration_since(moment.asked_at);
        let receive = || Some(self.log.latest()?.bytes_since(seen.received?));
        Some(Lag {
            bytes: lag_bytes,
            receive_bytes: lag_bytes.and_then(|_| receive()),
            staleness: place.staleness(now),
            evidence_age: self.log.age(now).map_or(replica_age, |age| age.max(replica_age)),
            replay_paused: seen.replay_paused,
            receiver: seen.receiver.clone(),
            naive: seen.naive,
        })
    }

    /// Returns what common formulas make of the lag of a replica; nothing for any other node.
    pub(crate) fn common_lag(&self, node: NodeId) -> Vec<Formula> {
        let Some((_, seen)) = self.last(node).filter(|_| matches!(self.place(node), Place::Replica { .. }))
        else {
            return Vec::new();
        };
        let primary = match &self.primary {
            Primary::Node { node, .. } => self.last(*node),
            Primary::None | Primary::SplitBrain(_) => None,
        };
        let sender = primary.and_then(|(_, primary)| sender_of(seen, &primary.senders));
        formulas(seen, sender).into()
    }

    /// Tells whether the positions of a replica and of the known log belong to one history.
    fn comparable(&self, node: NodeId) -> bool {
        self.log_of.is_some_and(|(_, timeline)| self.timeline(node) == Some(timeline))
    }

    fn log_timeline(&self) -> u32 {
        self.log_of.map_or(0, |(_, timeline)| timeline)
    }

    fn is_foreign(&self, node: NodeId) -> bool {
        let own = self.last(node).map(|(_, seen)| seen.system_identifier);
        own.zip(self.system_identifier()).is_some_and(|(own, wanted)| own != wanted)
    }

    fn elect(&mut self) -> Option<Change> {
        let out_of_recovery = |node: &NodeId| {
            let seen = self.last(*node).is_some_and(|(_, seen)| !seen.in_recovery);
            seen && self.is_up(*node) && !self.is_foreign(*node)
        };
        let holders: Vec<_> = self.nodes.keys().copied().filter(out_of_recovery).collect();
        let timeline_of = |node: &NodeId| self.timeline(*node).unwrap_or(0);
        let highest = holders.iter().map(timeline_of).max().unwrap_or(0);
        let newest: Vec<_> = holders.into_iter().filter(|node| timeline_of(node) == highest).collect();
        let primary = match newest[..] {
            // The highest timeline is gone with its node: what is left is older and stays fenced.
            _ if highest < self.log_timeline() => Primary::None,
            [] => Primary::None,
            [node] => Primary::Node { node, timeline: highest },
            _ => Primary::SplitBrain(newest),
        };
        if primary == self.primary {
            return None;
        }
        let from = std::mem::replace(&mut self.primary, primary.clone());
        Some(Change::Primary { from, to: primary })
    }

    fn extend_log(&mut self, node: NodeId) {
        let Primary::Node { node: primary, timeline } = self.primary else { return };
        let Some(state) = self.nodes.get(&node) else { return };
        let Some((moment, seen)) = state.last.as_ref() else { return };
        if primary != node || state.reach.failure.is_some() {
            return;
        }
        if self.log_of != Some((node, timeline)) {
            self.log.clear();
            self.log_of = Some((node, timeline));
        }
        let Observation { system_identifier, shape, .. } = *seen;
        self.identity.get_or_insert(Identity { system_identifier, shape });
        self.log.record(moment.asked_at, seen.lsn);
    }
}

impl Node {
    fn is_up(&self) -> bool {
        self.reach.is_up()
    }

    fn in_recovery(&self) -> Option<bool> {
        self.last.as_ref().map(|(_, seen)| seen.in_recovery)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Primary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Node { node, timeline } => write!(f, "node {node} on timeline {timeline}"),
            Self::SplitBrain(nodes) => write!(f, "split brain of nodes {nodes:?}"),
        }
    }
}
