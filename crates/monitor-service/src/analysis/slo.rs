//! Objectives: how much may go wrong, and how much of that is used up.

use std::time::Duration;

/// Counts what was asked and what went wrong in a stretch of time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Outcome {
    /// All.
    pub total: f64,
    /// Those that went wrong.
    pub bad: f64,
}

/// Holds how an objective stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Share that went right; none without traffic.
    pub right: Option<f64>,
    /// Share of the error budget that is left; below zero when more went wrong than may.
    pub left: f64,
}

/// A pair of windows whose burn rates must both be above a level: the long one says that it matters, the short one that
/// it still goes on (Site Reliability Workbook, "Alerting on SLOs").
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// The long window.
    pub long: Duration,
    /// The short one.
    pub short: Duration,
    /// Times faster than the budget allows.
    pub burn: f64,
    /// Somebody must look now.
    pub is_urgent: bool,
}

const fn hours(hours: u64) -> Duration {
    Duration::from_hours(hours)
}

/// The pairs in common use for an objective over 30 days.
pub const PAIRS: [Pair; 3] = [
    Pair { long: hours(1), short: Duration::from_mins(5), burn: 14.4, is_urgent: true },
    Pair { long: hours(6), short: Duration::from_mins(30), burn: 6.0, is_urgent: true },
    Pair { long: hours(72), short: hours(6), burn: 1.0, is_urgent: false },
];

impl Outcome {
    /// Tells how many times faster than allowed the budget of an objective is used up; none without traffic.
    pub fn burn(&self, objective: f64) -> Option<f64> {
        (self.total > 0.0).then(|| self.bad / self.total / (1.0 - objective))
    }

    /// Tells how the budget of an objective stands at the end of its period.
    pub fn budget(&self, objective: f64) -> Budget {
        let used = self.burn(objective).unwrap_or_default();
        Budget { right: (self.total > 0.0).then(|| 1.0 - self.bad / self.total), left: 1.0 - used }
    }
}

/// Adds up how much a counter grew; one that fell began anew at zero.
pub fn increase(readings: impl IntoIterator<Item = f64>) -> f64 {
    let mut last: Option<f64> = None;
    readings.into_iter().fold(0.0, |sum, value| {
        let earlier = last.replace(value);
        sum + earlier.map_or(0.0, |earlier| if value >= earlier { value - earlier } else { value })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_is_what_may_go_wrong_less_what_did() {
        let half = Outcome { total: 10_000.0, bad: 5.0 }.budget(0.999);
        assert!((half.left - 0.5).abs() < 1e-9 && (half.right.unwrap() - 0.9995).abs() < 1e-12);
        let over = Outcome { total: 1_000.0, bad: 3.0 };
        assert!((over.budget(0.999).left + 2.0).abs() < 1e-9);
        assert!((over.burn(0.999).unwrap() - 3.0).abs() < 1e-9);
        let idle = Outcome::default();
        assert_eq!((idle.burn(0.999), idle.budget(0.999)), (None, Budget { right: None, left: 1.0 }));
    }

    #[test]
    fn restarts_of_a_counter_lose_nothing_that_was_read() {
        assert_eq!(increase([5.0, 8.0, 2.0, 3.0]), 6.0);
        assert_eq!(increase([7.0]), 0.0);
        assert_eq!(increase([]), 0.0);
    }
}
