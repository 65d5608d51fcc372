//! Figures at even steps.

use std::time::{Duration, SystemTime};

/// Holds one figure per step; a step without a sample is `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct Steps {
    /// Start of the first step.
    pub from: SystemTime,
    /// Width of a step.
    pub step: Duration,
    /// Oldest first.
    pub values: Vec<Option<f64>>,
}

impl Steps {
    /// Sorts points into steps; of several points in a step the last one stays. Points outside are passed over.
    pub fn new(
        (from, to): (SystemTime, SystemTime),
        step: Duration,
        points: impl IntoIterator<Item = (SystemTime, f64)>,
    ) -> Self {
        let width = to.duration_since(from).unwrap_or_default();
        let n = width.as_nanos().div_ceil(step.as_nanos().max(1));
        let mut values = vec![None; usize::try_from(n).unwrap_or_default()];
        for (at, value) in points {
            let Ok(since) = at.duration_since(from) else { continue };
            let index = usize::try_from(since.as_nanos() / step.as_nanos().max(1)).unwrap_or(usize::MAX);
            if let Some(slot) = values.get_mut(index).filter(|_| value.is_finite()) {
                *slot = Some(value);
            }
        }
        Self { from, step, values }
    }

    /// Turns the readings of a counter into its increase per second, step by step; one that fell began anew at zero.
    #[must_use]
    pub fn per_second(&self) -> Self {
        let mut last: Option<(usize, f64)> = None;
        let mut rates = Vec::with_capacity(self.values.len());
        for (index, value) in self.values.iter().enumerate() {
            let rate = value.and_then(|value| {
                let (before, earlier) = last.replace((index, value))?;
                let grown = if value >= earlier { value - earlier } else { value };
                Some(grown / (self.step.as_secs_f64() * (index - before) as f64))
            });
            rates.push(rate);
        }
        Self { values: rates, ..self.clone() }
    }

    /// Returns the start of a step.
    pub fn at(&self, index: usize) -> SystemTime {
        self.from + self.step * u32::try_from(index).unwrap_or(u32::MAX)
    }

    /// Walks the steps that have a figure: index and figure.
    pub fn present(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.values.iter().enumerate().filter_map(|(index, value)| value.map(|value| (index, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn counter_becomes_a_rate_across_gaps_and_restarts() {
        let points = [(at(0), 5.0), (at(10), 25.0), (at(30), 65.0), (at(40), 10.0), (at(50), f64::NAN)];
        let steps = Steps::new((at(0), at(60)), Duration::from_secs(10), points);
        assert_eq!(steps.values, [Some(5.0), Some(25.0), None, Some(65.0), Some(10.0), None]);
        assert_eq!(steps.per_second().values, [None, Some(2.0), None, Some(2.0), Some(1.0), None]);
    }
}
