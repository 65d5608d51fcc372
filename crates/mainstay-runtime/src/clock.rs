use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// Tells the time of day. Everything that stores or compares wall-clock time takes one, so that tests can move it.
///
/// For durations inside a process use `tokio::time::Instant`, which tests can pause.
#[derive(Clone, Debug)]
pub struct Clock {
    fixed: Option<Arc<Mutex<SystemTime>>>,
}

impl Clock {
    /// Returns the clock of the machine.
    pub fn system() -> Self {
        Self { fixed: None }
    }

    /// Returns a clock that stands at `at`, and the handle that moves it.
    pub fn fixed(at: SystemTime) -> (Self, ClockHandle) {
        let now = Arc::new(Mutex::new(at));
        (Self { fixed: Some(Arc::clone(&now)) }, ClockHandle { now })
    }

    /// Returns the present time.
    #[expect(clippy::disallowed_methods, reason = "the one place where the machine's clock is read")]
    pub fn now(&self) -> SystemTime {
        match &self.fixed {
            Some(now) => *now.lock(),
            None => SystemTime::now(),
        }
    }

    /// Returns whole seconds since the Unix epoch; 0 before it.
    pub fn unix_s(&self) -> u64 {
        self.now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

/// Moves a fixed [`Clock`].
#[derive(Clone, Debug)]
pub struct ClockHandle {
    now: Arc<Mutex<SystemTime>>,
}

impl ClockHandle {
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        *self.now.lock() += by;
    }

    /// Sets the clock, backward too, as an administrator or NTP may.
    pub fn set(&self, at: SystemTime) {
        *self.now.lock() = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_clock_moves_only_by_its_handle() {
        let (clock, handle) = Clock::fixed(UNIX_EPOCH + Duration::from_secs(100));
        assert_eq!(clock.unix_s(), 100);
        handle.advance(Duration::from_secs(5));
        assert_eq!(clock.unix_s(), 105);
        let copy = clock.clone();
        handle.set(UNIX_EPOCH);
        assert_eq!((clock.unix_s(), copy.unix_s()), (0, 0));
    }
}
