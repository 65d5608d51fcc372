use std::fmt;

/// Says that no node may answer, and why not for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// One per candidate, in order.
    pub refusals: Vec<Refusal>,
}

/// Why one node may not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    NotSeen,
    Down,
    PgBouncerDown,
    /// Not in recovery, but not the primary either: an older timeline, or one of two primaries.
    Fenced,
    /// Belongs to another cluster (system identifier).
    ForeignCluster,
    /// Taken out by an operator.
    Drained,
    BreakerOpen,
    AlreadyTried,
    WeightZero,
    OtherTimeline,
    StalenessUnproven,
    TooStale,
    TooManyBytes,
    TokenNotReplayed,
    PrimaryNotAllowed,
    PrimaryWanted,
    /// Some node has not been asked for so long that another one may be the primary.
    RoleUnproven,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSeen => "not seen yet",
            Self::Down => "down",
            Self::PgBouncerDown => "its pgbouncer is down",
            Self::Fenced => "fenced: not in recovery, but not the primary",
            Self::ForeignCluster => "belongs to another cluster",
            Self::Drained => "drained",
            Self::BreakerOpen => "breaker open",
            Self::AlreadyTried => "already tried",
            Self::WeightZero => "weight is 0",
            Self::OtherTimeline => "on another timeline, or its timeline is not known",
            Self::StalenessUnproven => "staleness not proven yet",
            Self::TooStale => "too stale",
            Self::TooManyBytes => "too many WAL bytes behind",
            Self::TokenNotReplayed => "has not replayed the token",
            Self::PrimaryNotAllowed => "primary not allowed for this read",
            Self::RoleUnproven => "not known to be the primary still: some node was not asked for too long",
            Self::PrimaryWanted => "only the primary was asked for",
        })
    }
}
