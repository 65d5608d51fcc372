//! Which node answers a read.

use std::time::{Duration, Instant};

use crate::lsn::Position;

mod balance;
mod ewma;
mod refusal;
#[cfg(test)]
mod tests;

pub use balance::Strategy;
pub(crate) use balance::{FULL_WARMTH, warmth};
pub(crate) use ewma::PeakEwma;
pub(crate) use refusal::{Refusal, Refused};

use balance::Balance;

/// Chooses a node for each read among candidates that it is shown; does no I/O and reads no clock.
///
/// A node is never chosen that breaks a bound of the request; one is always chosen when any keeps all of them. Which of
/// several fit replicas it is says the [`Strategy`].
#[derive(Debug)]
pub(crate) struct Router {
    balance: Balance,
    /// Room for the fit replicas of a decision, kept from one to the next.
    fit: Vec<usize>,
}

/// Where the caller wants to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Prefer {
    /// A fit replica; the primary when there is none.
    #[default]
    Replica,
    /// The primary only.
    Primary,
}

/// What one read asks of a node.
#[derive(Debug, Clone)]
pub(crate) struct ReadNeeds {
    pub max_staleness: Duration,
    /// Not looked at when `None`.
    pub max_lag_bytes: Option<u64>,
    /// Only a node that shows this position may answer.
    pub after: Option<Position>,
    pub prefer: Prefer,
    pub primary_fallback: bool,
    /// Number of the zone whose replicas come first; `None` where all are equal.
    pub zone: Option<u16>,
}

/// A node as the router sees it; the position in the slice is its number.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// The reason why nothing may be sent there now, whatever is asked.
    pub barred: Option<Refusal>,
    pub place: Place,
    pub in_flight: u32,
    /// 0 takes a replica out of reads.
    pub weight: u32,
    /// Thousandths of its weight that count: fewer while a node that was down starts slowly.
    pub warmth: u32,
    /// How long it takes to answer; `None` when it has not answered yet.
    pub latency: Option<Duration>,
    /// Number of the zone that it is in; `None` when it is in none.
    pub zone: Option<u16>,
}

/// Where a candidate stands in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Primary {
        timeline: u32,
        /// Then somebody else may be it.
        believed_until: Instant,
    },
    Replica {
        /// Where it has replayed to, when its timeline is known.
        replayed: Option<Position>,
        /// It shows everything that was committed before; `None` when nothing is proven.
        proven_at: Option<Instant>,
        lag_bytes: Option<u64>,
    },
    Neither,
}

/// The outcome of one routing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    pub pick: Result<Pick, Refused>,
    /// Nodes that are fit in everything but what their next probe may tell: replicas that have not replayed the position asked
    /// for yet, and a primary that may not be it any more.
    pub hopeful: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pick {
    pub node: usize,
    pub reason: Reason,
}

/// Why the chosen node was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    Replica,
    PrimaryPreferred,
    /// No replica is fit, the primary took over.
    NoFitReplica,
    /// The fit replicas have not replayed the token yet, the primary took over.
    Token,
    /// A statement that writes.
    Write,
}

impl Router {
    /// `seed` starts the random numbers of the strategies that use some.
    pub(crate) fn new(strategy: Strategy, n_nodes: usize, seed: u64) -> Self {
        Self { balance: Balance::new(strategy, n_nodes, seed), fit: Vec::with_capacity(n_nodes) }
    }

    /// Decides where one read goes that is asked `now`.
    pub(crate) fn choose(&mut self, candidates: &[Candidate], needs: &ReadNeeds, now: Instant) -> Decision {
        let (mut primary, mut hopeful) = (None, Vec::new());
        self.fit.clear();
        for (index, candidate) in candidates.iter().enumerate() {
            match candidate.refusal(needs, now) {
                None if candidate.is_replica() => self.fit.push(index),
                None => primary = primary.or(Some(index)),
                Some(Refusal::TokenNotReplayed | Refusal::RoleUnproven) => hopeful.push(index),
                Some(_) => {}
            }
        }
        // A fit replica farther away is better than the primary, and than none.
        let is_near = |index: &usize| candidates[*index].zone == needs.zone;
        if needs.zone.is_some() && self.fit.iter().any(is_near) {
            self.fit.retain(is_near);
        }
        let pick = match (self.balance.choose(candidates, &self.fit), primary) {
            (Some(node), _) => Ok(Pick { node, reason: Reason::Replica }),
            (None, Some(node)) => Ok(Pick { node, reason: needs.primary_reason(&hopeful) }),
            (None, None) => {
                let refusal =
                    |candidate: &Candidate| candidate.refusal(needs, now).unwrap_or(Refusal::NotSeen);
                Err(Refused { refusals: candidates.iter().map(refusal).collect() })
            }
        };
        Decision { pick, hopeful }
    }
}

impl Candidate {
    fn is_replica(&self) -> bool {
        matches!(self.place, Place::Replica { .. })
    }

    /// Returns why this node may not answer `now`; `None` when it may.
    pub(crate) fn refusal(&self, needs: &ReadNeeds, now: Instant) -> Option<Refusal> {
        if self.barred.is_some() {
            return self.barred;
        }
        match &self.place {
            Place::Neither => Some(Refusal::Fenced),
            Place::Primary { timeline, believed_until } => {
                let unproven = || (now > *believed_until).then_some(Refusal::RoleUnproven);
                needs.refuse_primary(*timeline).or_else(unproven)
            }
            Place::Replica { .. } if needs.prefer == Prefer::Primary => Some(Refusal::PrimaryWanted),
            Place::Replica { .. } if self.weight == 0 => Some(Refusal::WeightZero),
            Place::Replica { replayed, lag_bytes, .. } => {
                needs.refuse_replica(*replayed, self.place.staleness(now), *lag_bytes)
            }
        }
    }
}

impl Place {
    /// Returns the proven upper bound of the staleness of a replica; `None` when nothing is proven.
    pub(crate) fn staleness(&self, now: Instant) -> Option<Duration> {
        match self {
            Self::Replica { proven_at, .. } => proven_at.map(|at| now.saturating_duration_since(at)),
            Self::Primary { .. } | Self::Neither => None,
        }
    }
}

impl ReadNeeds {
    fn refuse_primary(&self, timeline: u32) -> Option<Refusal> {
        if self.prefer == Prefer::Replica && !self.primary_fallback {
            Some(Refusal::PrimaryNotAllowed)
        } else if self.after.is_some_and(|after| after.timeline > timeline) {
            // The token is of a primary that this service has not met yet.
            Some(Refusal::OtherTimeline)
        } else {
            None
        }
    }

    fn refuse_replica(
        &self,
        replayed: Option<Position>,
        staleness: Option<Duration>,
        lag_bytes: Option<u64>,
    ) -> Option<Refusal> {
        let Some(replayed) = replayed else { return Some(Refusal::OtherTimeline) };
        let Some(staleness) = staleness else { return Some(Refusal::StalenessUnproven) };
        if staleness > self.max_staleness {
            return Some(Refusal::TooStale);
        }
        if self.max_lag_bytes.is_some_and(|most| lag_bytes.is_none_or(|bytes| bytes > most)) {
            return Some(Refusal::TooManyBytes);
        }
        match self.after {
            // What an older timeline had written may not be part of this one: only the primary can tell.
            Some(after) if after.timeline != replayed.timeline => Some(Refusal::OtherTimeline),
            Some(after) if after.lsn > replayed.lsn => Some(Refusal::TokenNotReplayed),
            _ => None,
        }
    }

    fn primary_reason(&self, lacking_token: &[usize]) -> Reason {
        if self.prefer == Prefer::Primary {
            Reason::PrimaryPreferred
        } else if lacking_token.is_empty() {
            Reason::NoFitReplica
        } else {
            Reason::Token
        }
    }
}

impl Reason {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Replica => "replica",
            Self::PrimaryPreferred => "primary_preferred",
            Self::NoFitReplica => "no_fit_replica",
            Self::Token => "token",
            Self::Write => "write",
        }
    }
}
