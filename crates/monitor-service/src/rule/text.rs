//! Texts of alerts: placeholders in braces.

use std::collections::BTreeMap;

use crate::analysis::words::{duration, number, percent};

/// Holds what a text may speak of.
#[derive(Debug)]
pub(super) struct Words<'w> {
    pub(super) rule: &'w str,
    pub(super) metric: &'w str,
    pub(super) value: f64,
    pub(super) threshold: f64,
    pub(super) labels: &'w BTreeMap<String, String>,
    /// Of anomalies and forecasts.
    pub(super) facts: &'w BTreeMap<&'static str, f64>,
}

const NAMES: [&str; 8] = ["rule", "metric", "series", "value", "percent", "threshold", "service", "endpoint"];
/// Names of facts; empty where a rule has none of that name.
const FACTS: [&str; 6] = ["now", "expected", "lower", "upper", "limit", "earliest"];
const LABEL: &str = "label.";
/// What may follow the name of a number: `{value:percent}`, `{threshold:duration}` of seconds.
const UNITS: [&str; 2] = ["percent", "duration"];

/// Tells what is wrong with a text.
pub(super) fn check(text: &str) -> Result<(), String> {
    for part in parts(text) {
        match part {
            Part::Name(name) if is_known(name) => {}
            Part::Name(name) => {
                return Err(format!(
                    "has the unknown placeholder {{{name}}}; known are {} and label.NAME, and of a number NAME:{}",
                    [&NAMES[..], &FACTS[..]].concat().join(", "),
                    UNITS.join(" and NAME:"),
                ));
            }
            Part::Open => return Err("has a { without }".to_owned()),
            Part::Text(_) => {}
        }
    }
    Ok(())
}

fn is_known(name: &str) -> bool {
    let is_number = |name: &str| matches!(name, "value" | "threshold") || FACTS.contains(&name);
    match name.split_once(':') {
        Some((name, unit)) => is_number(name) && UNITS.contains(&unit),
        None => {
            let is_label = name.strip_prefix(LABEL).is_some_and(|label| !label.is_empty());
            is_label || NAMES.contains(&name) || FACTS.contains(&name)
        }
    }
}

/// Fills a text in. A label that is not there is left empty.
pub(super) fn fill(text: &str, words: &Words<'_>) -> String {
    let label = |name: &str| words.labels.get(name).map(String::as_str).unwrap_or_default();
    let figure = |name: &str| match name {
        "value" => Some(words.value),
        "threshold" => Some(words.threshold),
        name => words.facts.get(name).copied(),
    };
    let mut filled = String::with_capacity(text.len() + 32);
    for part in parts(text) {
        match part {
            Part::Text(text) => filled.push_str(text),
            Part::Name("rule") => filled.push_str(words.rule),
            Part::Name("metric") => filled.push_str(words.metric),
            Part::Name("series") => filled.push_str(&series(words)),
            // Of a share of one.
            Part::Name("percent") => filled.push_str(&percent(words.value)),
            Part::Name(name) if matches!(name, "value" | "threshold") || FACTS.contains(&name) => {
                filled.push_str(&figure(name).map(number).unwrap_or_default());
            }
            Part::Name(name) if name.contains(':') => {
                let (name, unit) = name.split_once(':').unwrap_or((name, ""));
                let with_unit = if unit == "percent" { percent } else { duration };
                filled.push_str(&figure(name).map(with_unit).unwrap_or_default());
            }
            Part::Name(name) => filled.push_str(label(name.strip_prefix(LABEL).unwrap_or(name))),
            Part::Open => {}
        }
    }
    filled
}

/// Writes the metric with the labels that tell its series from others of the same target.
fn series(words: &Words<'_>) -> String {
    let own = words.labels.iter().filter(|(name, _)| !matches!(name.as_str(), "service" | "endpoint"));
    let own: Vec<String> = own.map(|(name, value)| format!("{name}={value}")).collect();
    if own.is_empty() { words.metric.to_owned() } else { format!("{} ({})", words.metric, own.join(", ")) }
}

enum Part<'t> {
    Text(&'t str),
    Name(&'t str),
    Open,
}

fn parts(mut text: &str) -> impl Iterator<Item = Part<'_>> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let Some(inside) = text.strip_prefix('{') else {
            let (plain, rest) = text.split_at(text.find('{').unwrap_or(text.len()));
            text = rest;
            return Some(Part::Text(plain));
        };
        let Some((name, rest)) = inside.split_once('}') else {
            text = "";
            return Some(Part::Open);
        };
        text = rest;
        Some(Part::Name(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in_and_unknown_ones_are_refused() {
        let labels = [("node", "replica1"), ("service", "replica-service")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let words = Words {
            rule: "lag",
            metric: "m",
            value: 12.50001,
            threshold: 10.0,
            labels: &labels,
            facts: &BTreeMap::new(),
        };
        let text = "{label.node} of {service}: {value} > {threshold}{label.none}";
        assert_eq!(fill(text, &words), "replica1 of replica-service: 12.5 > 10");
        assert_eq!(check(text), Ok(()));
        let half = Words { value: 0.5, ..words };
        assert_eq!(fill("{percent} of {metric}", &half), "50.0 % of m");
        assert_eq!(check("{percent}"), Ok(()));
        let units = "{series}: {value:percent} in {threshold:duration}, at the earliest {earliest:duration}";
        let facts = [("earliest", 90.0)].into();
        let words = Words { value: 0.5, threshold: 5_400.0, facts: &facts, ..half };
        assert_eq!(
            fill(units, &words),
            "m (node=replica1): 50.0 % in 1 h 30 min, at the earliest 1 min 30 s"
        );
        assert_eq!(check(units), Ok(()));
        for wrong in ["{value:feet}", "{rule:percent}", "{label.node:percent}", "{:percent}"] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
        assert!(check("{nonsense}").is_err());
        assert!(check("{label.}").is_err());
        assert_eq!(check("{value"), Err("has a { without }".to_owned()));
    }
}
