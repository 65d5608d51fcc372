//! What is known about the nodes, and who the primary is.

use std::{
    fmt,
    time::{Duration, Instant, SystemTime},
};

use mainstay_resilience::hysteresis::Flip;

use crate::{
    lag::{
        LsnTimeline,
        common::{Formula, Sender, formulas, sender_of},
    },
    lsn::{Lsn, Position, WalShape},
    route::{Place, Refusal},
};

#[cfg(test)]
mod tests;
mod verdict;

pub(crate) use verdict::{Health, Verdict};

/// Turns probe results into roles; does no I/O and reads no clock.
///
/// The primary is the node that is not in recovery and has the highest timeline ever seen on such a node. A promotion
/// always begins a higher timeline, so an old primary that comes back, or never left, is fenced: it gets no write and
/// no read. Two nodes out of recovery on one timeline are a split brain: there is no primary until one of them is gone.
#[derive(Debug)]
pub(crate) struct Cluster {
    limits: Limits,
    nodes: Vec<Node>,
    log: LsnTimeline,
    /// Of the cluster that this service serves: that of the first primary.
    system_identifier: Option<u64>,
    primary: Primary,
    /// Whose positions `log` holds.
    log_of: Option<(usize, u32)>,
}

/// When a node is down, and when a replica is too far behind to be called healthy.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub down_after: u32,
    pub up_after: u32,
    pub max_staleness: Duration,
    pub max_lag_bytes: u64,
}

/// Who takes writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Primary {
    #[default]
    None,
    Node {
        node: usize,
        timeline: u32,
    },
    /// These are all out of recovery on the same, highest timeline.
    SplitBrain(Vec<usize>),
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
    Up(usize),
    Down(usize),
    Primary { from: Primary, to: Primary },
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

/// Whether something answers, steadily.
#[derive(Debug, Default)]
struct Reach {
    /// `None` until the first answer, which is believed at once; only changes of mind need more.
    flip: Option<Flip>,
    /// Why the last probe failed; `None` when it did not.
    failure: Option<String>,
    probed: bool,
}

impl Cluster {
    /// Starts knowing nothing; `with_pgbouncer` says for each node whether queries go through one.
    pub(crate) fn new(limits: Limits, with_pgbouncer: &[bool]) -> Self {
        let node = |&pgbouncer: &bool| Node { pgbouncer: pgbouncer.then(Reach::default), ..Node::default() };
        Self {
            limits,
            nodes: with_pgbouncer.iter().map(node).collect(),
            log: LsnTimeline::default(),
            system_identifier: None,
            primary: Primary::None,
            log_of: None,
        }
    }

    /// Takes in the result of one probe of a node.
    pub(crate) fn observe(
        &mut self,
        node: usize,
        moment: Moment,
        result: Result<Observation, String>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let state = &mut self.nodes[node];
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
    pub(crate) fn observe_pgbouncer(&mut self, node: usize, result: Result<(), String>) {
        if let Some(reach) = &mut self.nodes[node].pgbouncer {
            reach.observe(result.err().as_ref(), &self.limits);
        }
    }

    pub(crate) fn primary(&self) -> &Primary {
        &self.primary
    }

    pub(crate) fn system_identifier(&self) -> Option<u64> {
        self.system_identifier
    }

    pub(crate) fn is_up(&self, node: usize) -> bool {
        self.nodes[node].is_up()
    }

    /// Returns the last answer of a node and when it was asked for.
    pub(crate) fn last(&self, node: usize) -> Option<(&Moment, &Observation)> {
        self.nodes[node].last.as_ref().map(|(moment, seen)| (moment, seen))
    }

    /// Returns since when a node is as it is: up or down, in recovery or not.
    pub(crate) fn since(&self, node: usize) -> Option<SystemTime> {
        self.nodes[node].since
    }

    /// Returns the timeline of a node's log as far as it is known.
    pub(crate) fn timeline(&self, node: usize) -> Option<u32> {
        self.nodes[node].timeline
    }

    /// Returns why nothing may be sent to a node, whatever is asked.
    pub(crate) fn barred(&self, node: usize) -> Option<Refusal> {
        let state = &self.nodes[node];
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
        (self.place(node, None) == Place::Neither).then_some(Refusal::Fenced)
    }

    /// Returns where a node stands; the staleness is proven for `now`, and nothing of it without a `now`.
    pub(crate) fn place(&self, node: usize, now: Option<Instant>) -> Place {
        let Some((_, seen)) = &self.nodes[node].last else { return Place::Neither };
        match self.primary {
            Primary::Node { node: primary, timeline } if primary == node => Place::Primary { timeline },
            _ if !seen.in_recovery => Place::Neither,
            _ => {
                let replayed =
                    self.comparable(node).then(|| Position { timeline: self.log_timeline(), lsn: seen.lsn });
                Place::Replica {
                    replayed,
                    staleness: replayed.zip(now).and_then(|(at, now)| self.log.staleness(at.lsn, now)),
                    lag_bytes: replayed.and_then(|at| Some(self.log.latest()?.bytes_since(at.lsn))),
                }
            }
        }
    }

    /// Returns how far a replica is behind; `None` for any other node.
    pub(crate) fn lag(&self, node: usize, now: Instant) -> Option<Lag> {
        let (moment, seen) = self.nodes[node].last.as_ref()?;
        let Place::Replica { staleness, lag_bytes, .. } = self.place(node, Some(now)) else { return None };
        let replica_age = now.saturating_duration_since(moment.asked_at);
        let receive = || Some(self.log.latest()?.bytes_since(seen.received?));
        Some(Lag {
            bytes: lag_bytes,
            receive_bytes: lag_bytes.and_then(|_| receive()),
            staleness,
            evidence_age: self.log.age(now).map_or(replica_age, |age| age.max(replica_age)),
            replay_paused: seen.replay_paused,
            receiver: seen.receiver.clone(),
            naive: seen.naive,
        })
    }

    /// Returns what common formulas make of the lag of a replica; nothing for any other node.
    pub(crate) fn common_lag(&self, node: usize) -> Vec<Formula> {
        let Some((_, seen)) =
            self.last(node).filter(|_| matches!(self.place(node, None), Place::Replica { .. }))
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
    fn comparable(&self, node: usize) -> bool {
        self.log_of.is_some_and(|(_, timeline)| self.nodes[node].timeline == Some(timeline))
    }

    fn log_timeline(&self) -> u32 {
        self.log_of.map_or(0, |(_, timeline)| timeline)
    }

    fn is_foreign(&self, node: usize) -> bool {
        let own = self.nodes[node].last.as_ref().map(|(_, seen)| seen.system_identifier);
        own.zip(self.system_identifier).is_some_and(|(own, wanted)| own != wanted)
    }

    fn elect(&mut self) -> Option<Change> {
        let out_of_recovery = |node: &usize| {
            let state = &self.nodes[*node];
            let seen = state.last.as_ref().is_some_and(|(_, seen)| !seen.in_recovery);
            seen && state.is_up() && !self.is_foreign(*node)
        };
        let holders: Vec<_> = (0..self.nodes.len()).filter(out_of_recovery).collect();
        let timeline_of = |node: &usize| self.nodes[*node].timeline.unwrap_or(0);
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

    fn extend_log(&mut self, node: usize) {
        let Primary::Node { node: primary, timeline } = self.primary else { return };
        let Some((moment, seen)) = self.nodes[node].last.as_ref() else { return };
        if primary != node || self.nodes[node].reach.failure.is_some() {
            return;
        }
        if self.log_of != Some((node, timeline)) {
            self.log.clear();
            self.log_of = Some((node, timeline));
        }
        self.system_identifier.get_or_insert(seen.system_identifier);
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

impl Reach {
    fn observe(&mut self, failure: Option<&String>, limits: &Limits) {
        self.probed = true;
        self.failure = failure.cloned();
        match &mut self.flip {
            Some(flip) => {
                flip.observe(failure.is_none());
            }
            None if failure.is_none() => self.flip = Some(Flip::new(limits.down_after, limits.up_after)),
            None => {}
        }
    }

    fn is_up(&self) -> bool {
        self.flip.as_ref().is_some_and(Flip::is_up)
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
