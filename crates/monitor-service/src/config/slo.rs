//! What was promised.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

use crate::rule::definition::is_metric;

/// Configures one objective: sections `slos.<name>`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SloConfig {
    /// Share that must go right, above 0 and below 1.
    pub objective: f64,
    /// Over how long.
    #[serde(with = "humantime_serde")]
    pub period: Duration,
    /// Counter of all that was asked.
    pub total: String,
    /// Only its series that have all of these; a value that ends with `*` matches what begins so.
    pub total_labels: BTreeMap<String, String>,
    /// Counter of what went wrong.
    pub bad: String,
    /// Only its series that have all of these.
    pub bad_labels: BTreeMap<String, String>,
    /// Least traffic in the long window of a pair before it may be an alert.
    pub min_traffic: f64,
}

impl Default for SloConfig {
    fn default() -> Self {
        Self {
            objective: 0.999,
            period: Duration::from_hours(24 * 30),
            total: String::new(),
            total_labels: BTreeMap::new(),
            bad: String::new(),
            bad_labels: BTreeMap::new(),
            min_traffic: 100.0,
        }
    }
}

impl SloConfig {
    pub(super) fn check(&self, name: &str, problems: &mut Problems) {
        let section = format!("slos.{name}");
        let legal = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
        problems.ensure(
            !name.is_empty() && name.len() <= 64 && name.chars().all(legal),
            &section,
            "must be a name of at most 64 letters a-z, digits and underscores",
        );
        let between = self.objective > 0.0 && self.objective < 1.0;
        problems.ensure(between, &format!("{section}.objective"), "must be above 0 and below 1");
        let day = Duration::from_hours(24);
        problems.duration(&format!("{section}.period"), self.period, day..=day * 400);
        for (field, metric) in [("total", &self.total), ("bad", &self.bad)] {
            problems.ensure(is_metric(metric), &format!("{section}.{field}"), "must be the name of a metric");
        }
        let traffic = self.min_traffic.is_finite() && self.min_traffic >= 0.0;
        problems.ensure(traffic, &format!("{section}.min_traffic"), "must not be negative");
    }
}
