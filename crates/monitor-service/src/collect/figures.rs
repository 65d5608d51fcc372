//! Figures that the monitor makes itself, in the shape of those it reads.

use mainstay_openmetrics::{Exposition, Family, Kind, Sample};

/// Gathers figures of one target.
#[derive(Debug, Default)]
pub(super) struct Figures(Exposition);

impl Figures {
    /// Adds a figure without labels.
    pub(super) fn add(&mut self, metric: &str, value: f64) {
        self.add_of(metric, &[], value);
    }

    /// Adds a figure of a part of the target.
    pub(super) fn add_of(&mut self, metric: &str, labels: &[(&str, &str)], value: f64) {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let sample = Sample { name: metric.to_owned(), labels, value, timestamp: None, exemplar: None };
        let same = self.0.families.iter_mut().find(|family| family.name == metric);
        match same {
            Some(family) => family.samples.push(sample),
            None => self.0.families.push(Family {
                name: metric.to_owned(),
                kind: Kind::Unknown,
                help: String::new(),
                unit: String::new(),
                samples: vec![sample],
            }),
        }
    }

    /// Adds a figure that may be missing.
    pub(super) fn add_known(&mut self, metric: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.add(metric, value);
        }
    }

    /// Returns what was gathered.
    pub(super) fn into_exposition(self) -> Exposition {
        self.0
    }
}
