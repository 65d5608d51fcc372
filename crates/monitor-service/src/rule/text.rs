//! Texts of alerts: placeholders in braces.

use std::collections::BTreeMap;

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

const NAMES: [&str; 7] = ["rule", "metric", "value", "percent", "threshold", "service", "endpoint"];
/// Names of facts; empty where a rule has none of that name.
const FACTS: [&str; 6] = ["now", "expected", "lower", "upper", "limit", "earliest"];
const LABEL: &str = "label.";

/// Tells what is wrong with a text.
pub(super) fn check(text: &str) -> Result<(), String> {
    for part in parts(text) {
        match part {
            Part::Name(name)
                if NAMES.contains(&name)
                    || FACTS.contains(&name)
                    || name.strip_prefix(LABEL).is_some_and(|n| !n.is_empty()) => {}
            Part::Name(name) => {
                return Err(format!(
                    "has the unknown placeholder {{{name}}}; known are {} and label.NAME",
                    [&NAMES[..], &FACTS[..]].concat().join(", ")
                ));
            }
            Part::Open => return Err("has a { without }".to_owned()),
            Part::Text(_) => {}
        }
    }
    Ok(())
}

/// Fills a text in. A label that is not there is left empty.
pub(super) fn fill(text: &str, words: &Words<'_>) -> String {
    let label = |name: &str| words.labels.get(name).map(String::as_str).unwrap_or_default();
    let mut filled = String::with_capacity(text.len() + 32);
    for part in parts(text) {
        match part {
            Part::Text(text) => filled.push_str(text),
            Part::Name("rule") => filled.push_str(words.rule),
            Part::Name("metric") => filled.push_str(words.metric),
            Part::Name("value") => filled.push_str(&number(words.value)),
            // Of a share of one.
            Part::Name("percent") => filled.push_str(&format!("{:.1} %", words.value * 100.0)),
            Part::Name("threshold") => filled.push_str(&number(words.threshold)),
            Part::Name(name) if FACTS.contains(&name) => {
                filled.push_str(&words.facts.get(name).copied().map(number).unwrap_or_default());
            }
            Part::Name(name) => filled.push_str(label(name.strip_prefix(LABEL).unwrap_or(name))),
            Part::Open => {}
        }
    }
    filled
}

/// Writes a number with at most four digits that matter behind the point.
fn number(value: f64) -> String {
    let text = format!("{value:.4}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
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
        assert!(check("{nonsense}").is_err());
        assert!(check("{label.}").is_err());
        assert_eq!(check("{value"), Err("has a { without }".to_owned()));
    }
}
