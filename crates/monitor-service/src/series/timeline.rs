//! When each pull of a target was made.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Holds the times of the last pulls, in milliseconds; older ones are forgotten.
///
/// Times need not grow: when the clock is set back, what was read keeps the time it was read at.
#[derive(Debug)]
pub(super) struct Timeline {
    first_tick: u64,
    at_ms: VecDeque<u64>,
    keep: usize,
    /// Times that are earlier than the one before them.
    n_backward: usize,
}

impl Timeline {
    pub(super) fn new(keep: NonZeroUsize) -> Self {
        Self { first_tick: 0, at_ms: VecDeque::new(), keep: keep.get(), n_backward: 0 }
    }

    /// Starts a tick and returns its number.
    pub(super) fn push(&mut self, at: SystemTime) -> u64 {
        if self.at_ms.len() == self.keep
            && let Some(oldest) = self.at_ms.pop_front()
        {
            self.first_tick += 1;
            self.n_backward -= usize::from(self.at_ms.front().is_some_and(|next| *next < oldest));
        }
        let at_ms = unix_ms(at);
        self.n_backward += usize::from(self.at_ms.back().is_some_and(|before| at_ms < *before));
        self.at_ms.push_back(at_ms);
        self.first_tick + self.at_ms.len() as u64 - 1
    }

    /// Returns when a tick was, while it is remembered.
    pub(super) fn at(&self, tick: u64) -> Option<SystemTime> {
        let index = tick.checked_sub(self.first_tick)?;
        let at_ms = self.at_ms.get(usize::try_from(index).ok()?)?;
        Some(UNIX_EPOCH + Duration::from_millis(*at_ms))
    }

    pub(super) fn first_tick(&self) -> u64 {
        self.first_tick
    }

    /// Returns the first tick at or after a moment; one past the last when there is none.
    pub(super) fn first_tick_since(&self, from: SystemTime) -> u64 {
        let from_ms = unix_ms(from);
        let before = match self.n_backward {
            0 => self.at_ms.partition_point(|at_ms| *at_ms < from_ms),
            _ => self.at_ms.iter().take_while(|at_ms| **at_ms < from_ms).count(),
        };
        self.first_tick + before as u64
    }

    /// Counts the ticks from one on.
    pub(super) fn n_since(&self, tick: u64) -> usize {
        let end = self.first_tick + self.at_ms.len() as u64;
        usize::try_from(end.saturating_sub(tick.max(self.first_tick))).unwrap_or_default()
    }

    pub(super) fn bytes(&self) -> usize {
        self.at_ms.capacity() * size_of::<u64>()
    }
}

fn unix_ms(at: SystemTime) -> u64 {
    let since_epoch = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
