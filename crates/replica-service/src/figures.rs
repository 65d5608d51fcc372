//! What was measured about the statements of one node.

use std::time::Duration;

/// Counts statements and keeps the times of the last thousand.
#[derive(Debug)]
pub(crate) struct Figures {
    pub queries: u64,
    pub errors: u64,
    times_us: Box<[u32]>,
    next: usize,
    n_times: usize,
    sum_us: u64,
}

const KEPT: usize = 1_000;

impl Figures {
    pub(crate) fn record(&mut self, took: Duration, ok: bool) {
        self.queries += 1;
        self.errors += u64::from(!ok);
        let us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let slot = &mut self.times_us[self.next];
        if self.n_times == KEPT {
            self.sum_us -= u64::from(*slot);
        } else {
            self.n_times += 1;
        }
        *slot = us;
        self.sum_us += u64::from(us);
        self.next = (self.next + 1) % KEPT;
    }

    /// Returns the mean of the last up to 1,000 statements in seconds; 0 before the first.
    pub(crate) fn mean_s(&self) -> f64 {
        if self.n_times == 0 { 0.0 } else { self.sum_us as f64 / self.n_times as f64 / 1e6 }
    }
}

impl Default for Figures {
    fn default() -> Self {
        Self { queries: 0, errors: 0, times_us: vec![0; KEPT].into(), next: 0, n_times: 0, sum_us: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_that_of_the_last_thousand() {
        let mut figures = Figures::default();
        assert!(figures.mean_s().abs() < f64::EPSILON);
        for _ in 0..500 {
            figures.record(Duration::from_secs(9), false);
        }
        for _ in 0..1_000 {
            figures.record(Duration::from_millis(2), true);
        }
        assert!((figures.mean_s() - 0.002).abs() < 1e-9);
        assert_eq!((figures.queries, figures.errors), (1_500, 500));
    }
}
