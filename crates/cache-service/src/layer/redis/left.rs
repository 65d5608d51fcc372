use std::time::Duration;

/// The time that a caller has for Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) time: Duration,
    /// Waits beyond `redis.command_within` while Redis answers: then this process is late, and not Redis.
    pub(crate) patient: bool,
}

impl Left {
    /// For what costs a load at the origin if it is given up too early.
    pub(crate) fn patient(time: Duration) -> Self {
        Self { time, patient: true }
    }
}

impl From<Duration> for Left {
    fn from(time: Duration) -> Self {
        Self { time, patient: false }
    }
}
