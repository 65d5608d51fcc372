use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The last 1,000 operations of one kind: how long each took, and whether a layer had an answer. Without a lock.
pub(crate) struct Window {
    /// Nanoseconds, shifted by two; a bit for a hit; a bit that says that there is something.
    samples: Box<[AtomicU64]>,
    n_added: AtomicUsize,
}

/// What a [`Window`] shows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct WindowFigures {
    pub(crate) n_operations: u64,
    pub(crate) n_hits: u64,
    pub(crate) mean: Duration,
    pub(crate) p50: Duration,
    pub(crate) p95: Duration,
    pub(crate) p99: Duration,
}

const TAKEN: u64 = 1;
const HIT: u64 = 2;

impl Window {
    const LENGTH: usize = 1_000;

    /// Adds operations that took the same.
    pub(crate) fn add(&self, took: Duration, is_hit: bool, n: usize) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX >> 2);
        let sample = nanos << 2 | if is_hit { HIT } else { 0 } | TAKEN;
        let first = self.n_added.fetch_add(n, Ordering::Relaxed) % Self::LENGTH;
        for at in (0..Self::LENGTH).cycle().skip(first).take(n.min(Self::LENGTH)) {
            self.samples[at].store(sample, Ordering::Relaxed);
        }
    }

    /// Forgets all of them.
    pub(crate) fn reset(&self) {
        for sample in &self.samples {
            sample.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn figures(&self) -> WindowFigures {
        let samples = self.samples.iter().map(|sample| sample.load(Ordering::Relaxed));
        let mut samples: Vec<u64> = samples.filter(|sample| *sample != 0).collect();
        samples.sort_unstable();
        let Some(last) = samples.len().checked_sub(1) else { return WindowFigures::default() };
        // The smallest time that so many of a hundred do not exceed.
        let percentile = |percent: usize| {
            let rank = (samples.len() * percent).div_ceil(100);
            Duration::from_nanos(samples[rank.saturating_sub(1).min(last)] >> 2)
        };
        let sum: u64 = samples.iter().fold(0, |sum, sample| sum.saturating_add(sample >> 2));
        WindowFigures {
            n_operations: samples.len() as u64,
            n_hits: samples.iter().filter(|sample| **sample & HIT != 0).count() as u64,
            mean: Duration::from_nanos(sum / samples.len() as u64),
            p50: percentile(50),
            p95: percentile(95),
            p99: percentile(99),
        }
    }
}

impl WindowFigures {
    /// Returns none when nothing is in the window.
    pub(crate) fn hit_ratio(&self) -> Option<f64> {
        (self.n_operations > 0).then(|| self.n_hits as f64 / self.n_operations as f64)
    }
}

impl Default for Window {
    fn default() -> Self {
        let samples = (0..Self::LENGTH).map(|_| AtomicU64::new(0)).collect();
        Self { samples, n_added: AtomicUsize::new(0) }
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("figures", &self.figures()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_shows_the_last_thousand_operations() {
        let window = Window::default();
        assert_eq!((window.figures(), window.figures().hit_ratio()), (WindowFigures::default(), None));
        for _ in 0..500 {
            window.add(Duration::from_secs(1), false, 1);
        }
        for number in 1..=1_000 {
            window.add(Duration::from_millis(number), number % 4 == 0, 1);
        }
        let figures = window.figures();
        let ms = Duration::from_millis;
        assert_eq!((figures.p50, figures.p95, figures.p99), (ms(500), ms(950), ms(990)));
        assert_eq!((figures.n_operations, figures.mean), (1_000, Duration::from_micros(500_500)));
        assert_eq!(figures.hit_ratio(), Some(0.25));
        window.reset();
        assert_eq!(window.figures(), WindowFigures::default());
        window.add(ms(7), true, 1);
        let alone = window.figures();
        assert_eq!((alone.p50, alone.p99, alone.hit_ratio()), (ms(7), ms(7), Some(1.0)));
    }
}
