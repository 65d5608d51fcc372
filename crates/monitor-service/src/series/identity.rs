//! What makes two samples belong to the same series.

use std::collections::BTreeMap;

use crate::target::Target;

/// Holds one figure as it was read from a target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reading<'r> {
    /// Name of the sample, e.g. `mainstay_cache_hits_total`.
    pub metric: &'r str,
    /// Labels in any order, without the target's.
    pub labels: &'r [(String, String)],
    /// What was read.
    pub value: f64,
}

/// Labels that every series gets from its target.
const SERVICE: &str = "service";
const ENDPOINT: &str = "endpoint";

impl Reading<'_> {
    /// Writes the text that is the same for the same series: the metric, then its labels in order.
    pub(super) fn write_canonical(&self, text: &mut String) {
        text.clear();
        text.push_str(self.metric);
        text.push('{');
        for (name, value) in self.sorted() {
            text.push_str(name);
            text.push('=');
            for letter in value.chars() {
                if matches!(letter, '\\' | ',') {
                    text.push('\\');
                }
                text.push(letter);
            }
            text.push(',');
        }
    }

    fn sorted(&self) -> Vec<(&str, &str)> {
        let mut labels: Vec<(&str, &str)> =
            self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        labels.sort_unstable();
        labels
    }
}

/// Tells whether a series has all the labels asked for; a value that ends with `*` matches what begins so.
pub(crate) fn has_labels(own: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(name, value)| match (own.get(name), value.strip_suffix('*')) {
        (Some(own), Some(start)) => own.starts_with(start),
        (Some(own), None) => own == value,
        (None, _) => false,
    })
}

/// Tells by its name whether a metric only grows.
pub(crate) fn is_counter(metric: &str) -> bool {
    ["_total", "_count", "_sum", "_bucket"].iter().any(|suffix| metric.ends_with(suffix))
}

/// Returns how the canonical text of every series of a metric starts.
pub(super) fn start(metric: &str) -> String {
    format!("{metric}{{")
}

/// Returns the metric of a canonical text.
pub(super) fn metric(canonical: &str) -> &str {
    canonical.split_once('{').map_or(canonical, |(metric, _)| metric)
}

/// Joins the labels of a series with those of its target; one that the target also sets is kept under `exported_<name>`.
pub(super) fn all_labels(reading: &Reading<'_>, target: &Target) -> BTreeMap<String, String> {
    let renamed = |name: &str| match name {
        SERVICE | ENDPOINT => format!("exported_{name}"),
        name => name.to_owned(),
    };
    let own = reading.labels.iter().map(|(name, value)| (renamed(name), value.clone()));
    let targets =
        [(SERVICE.to_owned(), target.service.clone()), (ENDPOINT.to_owned(), target.endpoint.clone())];
    own.chain(targets).collect()
}
