//! The two times of the cache: the time of day for what is told, a steady one for what expires.

use std::ops::Add;
use std::time::{Duration, UNIX_EPOCH};

use mainstay_runtime::Clock;
use tokio::time::Instant;

/// Tells both times.
#[derive(Debug, Clone)]
pub(crate) struct Time {
    clock: Clock,
    /// None in tests, where the clock moves both times.
    origin: Option<Instant>,
}

impl Time {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, origin: Some(Instant::now()) }
    }

    #[cfg(test)]
    pub(crate) fn by_clock_alone(clock: Clock) -> Self {
        Self { clock, origin: None }
    }

    /// Returns the steady time: a step of the system clock neither revives nor kills an entry.
    pub(crate) fn now(&self) -> Moment {
        Moment(self.origin.map_or_else(|| self.unix_ms(), |origin| millis(origin.elapsed())))
    }

    /// Returns the steady time of a moment that was just noted.
    pub(crate) fn at(&self, noted: Instant) -> Moment {
        Moment(self.origin.map_or_else(|| self.unix_ms(), |origin| millis(noted - origin)))
    }

    /// Returns the time of day.
    pub(crate) fn unix_ms(&self) -> u64 {
        self.since_epoch(|since| since.as_millis())
    }

    /// Returns the time of day, as fine as versions need it.
    pub(crate) fn unix_us(&self) -> u64 {
        self.since_epoch(|since| since.as_micros())
    }

    fn since_epoch(&self, unit: impl FnOnce(Duration) -> u128) -> u64 {
        let since = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(unit(since)).unwrap_or(u64::MAX)
    }
}

/// A point of the steady time, in milliseconds since some origin of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    pub(crate) fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    pub(crate) fn as_millis(self) -> u64 {
        self.0
    }

    /// Returns the time from this moment to `now`; zero when it is still to come.
    pub(crate) fn left_until(self, now: Self) -> Duration {
        now.left(self)
    }

    /// Returns the time from `now` to this moment; zero when it is past.
    pub(crate) fn left(self, now: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(now.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis(by)))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_the_system_clock_does_not_move_the_steady_time() {
        let (clock, handle) = Clock::fixed(UNIX_EPOCH + Duration::from_hours(1));
        let time = Time::new(clock);
        let before = time.now();
        handle.set(UNIX_EPOCH);
        assert!(time.now() >= before);
        assert_eq!(time.unix_ms(), 0);
        handle.set(UNIX_EPOCH + Duration::from_hours(100));
        assert!((before + Duration::from_mins(1)) > time.now());
    }
}
