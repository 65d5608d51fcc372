use std::time::Duration;

/// The time that a caller has for Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) time: Duration,
    /// Waits beyond `redis.command_within` while Redis answers: then this process is late, and not Redis.
    pub(crate) patient: bool,
    /// The answer comes when a replica has the change, or when that took too long: how long says nothing of Redis.
    pub(crate) waits_for_replica: bool,
}

impl Left {
    /// For what costs a load at the origin if it is given up too early.
    pub(crate) fn patient(time: Duration) -> Self {
        Self { time, patient: true, waits_for_replica: false }
    }
}

impl From<Duration> for Left {
    fn from(time: Duration) -> Self {
        Self { time, patient: false, waits_for_replica: false }
    }
}
