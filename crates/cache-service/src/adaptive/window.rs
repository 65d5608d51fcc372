use std::collections::VecDeque;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Sums over the last looks.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Since the start, as of the last look.
    before: Option<Totals>,
    looks: VecDeque<Look>,
}

/// Counts of one kind each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) loads: u64,
    pub(super) refreshes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    totals: Totals,
    n_reread: u64,
    n_unread: u64,
    took: Duration,
}

/// What happened in the window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Seen {
    pub(super) totals: Totals,
    pub(super) reread_share: f64,
    pub(super) window: Duration,
}

const MOST_LOOKS: usize = 6;

impl Window {
    /// Adds what came since the last look, given what came since the start; none at the first.
    pub(super) fn add(
        &mut self,
        totals: Totals,
        n_reread: u64,
        n_unread: u64,
        took: Duration,
    ) -> Option<Seen> {
        let before = self.before.replace(totals)?;
        if self.looks.len() == MOST_LOOKS {
            self.looks.pop_front();
        }
        self.looks.push_back(Look { totals: totals - before, n_reread, n_unread, took });
        let totals = self.looks.iter().fold(Totals::default(), |sum, look| sum + look.totals);
        let n_reread: u64 = self.looks.iter().map(|look| look.n_reread).sum();
        let n_settled: u64 = self.looks.iter().map(|look| look.n_reread + look.n_unread).sum();
        let reread_share = if n_settled == 0 { 1.0 } else { n_reread as f64 / n_settled as f64 };
        Some(Seen { totals, reread_share, window: self.looks.iter().map(|look| look.took).sum() })
    }

    /// Forgets all looks; what comes from now on counts.
    pub(super) fn restart(&mut self) {
        self.looks.clear();
    }
}

impl Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            reads: self.reads + other.reads,
            writes: self.writes + other.writes,
            loads: self.loads + other.loads,
            refreshes: self.refreshes + other.refreshes,
        }
    }
}

impl Sub for Totals {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            reads: self.reads.saturating_sub(other.reads),
            writes: self.writes.saturating_sub(other.writes),
            loads: self.loads.saturating_sub(other.loads),
            refreshes: self.refreshes.saturating_sub(other.refreshes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_six_looks_are_summed() {
        let mut window = Window::default();
        let second = Duration::from_secs(1);
        let totals = |reads| Totals { reads, ..Totals::default() };
        assert_eq!(window.add(totals(1_000), 0, 0, second), None);
        for look in 1..=10 {
            let seen = window.add(totals(1_000 + 10 * look), 1, 3, second).unwrap();
            assert_eq!(seen.totals.reads, 10 * look.min(6));
            assert_eq!(
                (seen.reread_share, seen.window),
                (0.25, second * u32::try_from(look.min(6)).unwrap())
            );
        }
        window.restart();
        let seen = window.add(totals(1_101), 0, 0, second).unwrap();
        assert_eq!((seen.totals.reads, seen.reread_share), (1, 1.0));
    }
}
