use std::time::{Duration, Instant};

/// Estimates how long a node takes to answer: jumps up with a slow answer, comes down slowly with fast ones (peak-EWMA,
/// as in Finagle). Without answers it fades, so that a node that was slow once is tried again.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PeakEwma {
    seconds: f64,
    at: Option<Instant>,
}

/// After this long an old estimate counts for a third.
const FADE: Duration = Duration::from_secs(10);

impl PeakEwma {
    /// Takes in one answer.
    pub(crate) fn observe(&mut self, took: Duration, now: Instant) {
        let took = took.as_secs_f64();
        self.seconds = match self.at {
            Some(_) if took < self.seconds => {
                let kept = self.kept(now);
                self.seconds * kept + took * (1.0 - kept)
            }
            _ => took,
        };
        self.at = Some(now);
    }

    /// Returns the estimate; `None` before the first answer.
    pub(crate) fn estimate(&self, now: Instant) -> Option<Duration> {
        self.at?;
        Some(Duration::from_secs_f64(self.seconds * self.kept(now)))
    }

    fn kept(&self, now: Instant) -> f64 {
        let age = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        (-age.as_secs_f64() / FADE.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_time::origin;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_peak_counts_at_once_and_fades_slowly() {
        let (now, mut ewma) = (origin(), PeakEwma::default());
        assert_eq!(ewma.estimate(now), None);
        ewma.observe(MS, now);
        ewma.observe(MS * 100, now + MS);
        assert!(ewma.estimate(now + MS).unwrap() > MS * 99);
        ewma.observe(MS, now + MS * 2);
        assert!(ewma.estimate(now + MS * 2).unwrap() > MS * 90);
        assert!(ewma.estimate(now + FADE * 5).unwrap() < MS);
    }

    proptest! {
        #[test]
        fn an_estimate_lies_below_the_slowest_answer(
            answers in prop::collection::vec((1_u32..10_000, 0_u32..1_000), 1..100),
        ) {
            let (mut now, mut ewma) = (origin(), PeakEwma::default());
            for (took, pause) in &answers {
                now += MS * *pause;
                ewma.observe(MS * *took, now);
            }
            let slowest = answers.iter().map(|(took, _)| MS * *took).max().unwrap();
            prop_assert!(ewma.estimate(now).unwrap() <= slowest + Duration::from_nanos(10));
        }
    }
}
