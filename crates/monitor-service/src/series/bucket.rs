//! Samples of one step, as four figures.

use std::time::SystemTime;

/// Sums up the samples of one step; peaks survive in `min` and `max`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bucket {
    /// Start of the step.
    pub at: SystemTime,
    /// Smallest value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
    /// Arithmetic mean of the values.
    pub mean: f64,
    /// Value read last.
    pub last: f64,
}

/// Collects one [`Bucket`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Gathering {
    min: f64,
    max: f64,
    mean: f64,
    last: f64,
    n_samples: f64,
}

impl Gathering {
    pub(super) fn starting(value: f64) -> Self {
        Self { min: value, max: value, mean: value, last: value, n_samples: 1.0 }
    }

    /// Adds a value. The mean runs along instead of a sum, which could overflow.
    pub(super) fn add(&mut self, value: f64) {
        self.n_samples += 1.0;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.mean += value / self.n_samples - self.mean / self.n_samples;
        self.last = value;
    }

    /// Adds what was summed up before.
    pub(super) fn merge(&mut self, later: &Bucket, n_samples: f64) {
        self.n_samples += n_samples;
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        let share = n_samples / self.n_samples;
        self.mean = self.mean * (1.0 - share) + later.mean * share;
        self.last = later.last;
    }

    /// Starts with what was summed up before.
    pub(super) fn of(bucket: &Bucket, n_samples: f64) -> Self {
        Self { min: bucket.min, max: bucket.max, mean: bucket.mean, last: bucket.last, n_samples }
    }

    /// Counts the samples.
    pub(super) fn n_samples(&self) -> u32 {
        self.n_samples as u32
    }

    pub(super) fn finish(self, at: SystemTime) -> Bucket {
        Bucket { at, min: self.min, max: self.max, mean: self.mean, last: self.last }
    }
}
