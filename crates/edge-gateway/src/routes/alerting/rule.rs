//! Rules as they are written and shown over REST.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_proto::monitor::v1 as wire;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Problem;
use crate::routes::words::{rfc3339, severity, severity_of, wire_duration};

/// All rules, by name.
#[derive(Serialize, ToSchema)]
pub(crate) struct Rules {
    pub(super) rules: Vec<RuleStatus>,
}

/// A rule, and what it saw when it was last looked at.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RuleStatus {
    name: String,
    /// `stock`, `config` or `runtime`.
    origin: &'static str,
    rule: RuleBody,
    /// Series, or targets of sums, that it looked at.
    matched: u32,
    /// Says so when it can never fire; null when all is well.
    problem: Option<String>,
    evaluated_at: Option<String>,
}

/// The rule that was set, or looked at.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RulePut {
    status: RuleStatus,
    /// Only of a dry run: what the rule would have given over the history in memory.
    episodes: Option<Vec<Episode>>,
}

/// An alert that a rule would have given.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Episode {
    subject: String,
    level: &'static str,
    fired_at: Option<String>,
    /// Null while it would still fire.
    resolved_at: Option<String>,
    /// The most extreme value.
    value: f64,
}

/// Which figures are looked at, and when they are an alert.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RuleBody {
    /// `threshold`, `rate`, `ratio`, `share`, `quantile`, `absence`, `anomaly`, `forecast` or `burn_rate`.
    kind: String,
    metric: String,
    /// Only series that have all of these.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Of a ratio or burn rate: what it is divided by; of a share, what is added to it before (what did not fail).
    #[serde(default)]
    divisor: String,
    #[serde(default)]
    divisor_labels: BTreeMap<String, String>,
    /// Of an absence: the service whose targets should have the metric.
    #[serde(default)]
    service: String,
    /// Of a quantile: above 0, below 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quantile: Option<f64>,
    /// `above`, `below`, `equal`, `unequal`, or `beyond`: farther from zero, on either side.
    #[serde(default = "above")]
    comparison: String,
    #[serde(default)]
    warning: Option<f64>,
    #[serde(default)]
    critical: Option<f64>,
    /// An open alert stays while the figure is beyond this.
    #[serde(default)]
    clear: Option<f64>,
    /// Of an absence: `critical`, `warning` or `info`.
    #[serde(default = "warning")]
    level: String,
    /// How much of history is looked at.
    #[serde(default = "minute", with = "humantime_serde")]
    #[schema(value_type = String, example = "1m")]
    window: Duration,
    /// How long it must hold.
    #[serde(default, with = "humantime_serde")]
    #[schema(value_type = Option<String>, example = "10s")]
    fires_after: Option<Duration>,
    /// How long it must be gone.
    #[serde(default, with = "humantime_serde")]
    #[schema(value_type = Option<String>, example = "30s")]
    clears_after: Option<Duration>,
    /// Of a ratio, share, burn rate or quantile: least traffic in the window before it may fire.
    #[serde(default)]
    min_traffic: f64,
    /// One line with `{metric}`, `{series}`, `{value}`, `{percent}`, `{threshold}`, `{service}`, `{endpoint}`, `{rule}` and
    /// `{label.NAME}`; numbers also as `{value:percent}` and `{threshold:duration}`. Empty: a text that fits the kind.
    #[serde(default)]
    summary: String,
    /// Added to its alerts.
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    disabled: bool,
    /// Of an anomaly: `ewma`, `holt_winters` or `seasonal`.
    #[serde(default = "ewma")]
    method: String,
    /// Of an anomaly: length of a season; it must fit into the window twice.
    #[serde(default, with = "humantime_serde")]
    #[schema(value_type = Option<String>, example = "10m")]
    season: Option<Duration>,
    /// Of a forecast: the level whose time is foretold.
    #[serde(default)]
    limit: Option<f64>,
    /// Of a burn rate: share that must go right.
    #[serde(default)]
    objective: Option<f64>,
}

const KINDS: [(&str, wire::RuleKind); 9] = [
    ("threshold", wire::RuleKind::Threshold),
    ("rate", wire::RuleKind::Rate),
    ("ratio", wire::RuleKind::Ratio),
    ("share", wire::RuleKind::Share),
    ("quantile", wire::RuleKind::Quantile),
    ("absence", wire::RuleKind::Absence),
    ("anomaly", wire::RuleKind::Anomaly),
    ("forecast", wire::RuleKind::Forecast),
    ("burn_rate", wire::RuleKind::BurnRate),
];
const COMPARISONS: [(&str, wire::Comparison); 5] = [
    ("above", wire::Comparison::Above),
    ("below", wire::Comparison::Below),
    ("equal", wire::Comparison::Equal),
    ("unequal", wire::Comparison::Unequal),
    ("beyond", wire::Comparison::Beyond),
];

pub(in crate::routes) const METHODS: [(&str, wire::BandMethod); 3] = [
    ("ewma", wire::BandMethod::Ewma),
    ("holt_winters", wire::BandMethod::HoltWinters),
    ("seasonal", wire::BandMethod::Seasonal),
];

fn ewma() -> String {
    "ewma".to_owned()
}

fn above() -> String {
    "above".to_owned()
}

fn warning() -> String {
    "warning".to_owned()
}

fn minute() -> Duration {
    Duration::from_mins(1)
}

pub(in crate::routes) fn word<T: Copy>(words: &[(&str, T)], word: &str, field: &str) -> Result<T, Problem> {
    let found = words.iter().find_map(|(known, value)| (*known == word).then_some(*value));
    found.ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(known, _)| *known).collect();
        Problem::invalid(field, format!("must be one of {}; is {word:?}", known.join(", ")))
    })
}

fn name_of<T: Copy + PartialEq>(words: &[(&'static str, T)], value: &T) -> String {
    words.iter().find(|(_, known)| known == value).map_or("", |(word, _)| word).to_owned()
}

impl RuleBody {
    /// Gives the rule as the monitor takes it.
    pub(super) fn into_wire(self, name: String) -> Result<wire::Rule, Problem> {
        let level = severity_of(&self.level)
            .ok_or_else(|| Problem::invalid("level", "must be critical, warning or info"))?;
        Ok(wire::Rule {
            name,
            kind: word(&KINDS, &self.kind, "kind")?.into(),
            metric: self.metric,
            labels: self.labels.into_iter().collect(),
            divisor: self.divisor,
            divisor_labels: self.divisor_labels.into_iter().collect(),
            service: self.service,
            quantile: self.quantile.unwrap_or_default(),
            comparison: word(&COMPARISONS, &self.comparison, "comparison")?.into(),
            warning: self.warning,
            critical: self.critical,
            clear: self.clear,
            severity: level.into(),
            window: Some(wire_duration(self.window)),
            fires_after: self.fires_after.map(wire_duration),
            clears_after: self.clears_after.map(wire_duration),
            min_traffic: self.min_traffic,
            summary: self.summary,
            annotations: self.annotations.into_iter().collect(),
            disabled: self.disabled,
            method: word(&METHODS, &self.method, "method")?.into(),
            season: self.season.map(wire_duration),
            limit: self.limit,
            objective: self.objective.unwrap_or_default(),
        })
    }
}

impl From<wire::Rule> for RuleBody {
    fn from(rule: wire::Rule) -> Self {
        let time = |time: Option<prost_types::Duration>| time.and_then(|time| Duration::try_from(time).ok());
        Self {
            kind: name_of(&KINDS, &rule.kind()),
            comparison: name_of(&COMPARISONS, &rule.comparison()),
            quantile: (rule.kind() == wire::RuleKind::Quantile).then_some(rule.quantile),
            method: name_of(&METHODS, &rule.method()),
            objective: (rule.kind() == wire::RuleKind::BurnRate).then_some(rule.objective),
            metric: rule.metric,
            labels: rule.labels.into_iter().collect(),
            divisor: rule.divisor,
            divisor_labels: rule.divisor_labels.into_iter().collect(),
            service: rule.service,
            warning: rule.warning,
            critical: rule.critical,
            clear: rule.clear,
            level: severity(rule.severity).to_owned(),
            window: time(rule.window).unwrap_or_default(),
            fires_after: time(rule.fires_after),
            clears_after: time(rule.clears_after),
            min_traffic: rule.min_traffic,
            summary: rule.summary,
            annotations: rule.annotations.into_iter().collect(),
            disabled: rule.disabled,
            season: time(rule.season),
            limit: rule.limit,
        }
    }
}

impl RuleStatus {
    pub(super) fn is(&self, name: &str) -> bool {
        self.name == name
    }
}

impl From<wire::RuleStatus> for RuleStatus {
    fn from(status: wire::RuleStatus) -> Self {
        let origin = match status.origin() {
            wire::RuleOrigin::Stock | wire::RuleOrigin::Unspecified => "stock",
            wire::RuleOrigin::Config => "config",
            wire::RuleOrigin::Runtime => "runtime",
        };
        let rule = status.rule.unwrap_or_default();
        Self {
            name: rule.name.clone(),
            origin,
            rule: rule.into(),
            matched: status.matched,
            problem: Some(status.problem).filter(|problem| !problem.is_empty()),
            evaluated_at: rfc3339(status.evaluated_at),
        }
    }
}

impl RulePut {
    pub(super) fn new(answer: wire::PutRuleResponse, dry_run: bool) -> Self {
        let episode = |episode: wire::Episode| Episode {
            subject: episode.subject,
            level: severity(episode.severity),
            fired_at: rfc3339(episode.fired_at),
            resolved_at: rfc3339(episode.resolved_at),
            value: episode.value,
        };
        let episodes = answer.episodes.into_iter().map(episode).collect();
        Self { status: answer.status.unwrap_or_default().into(), episodes: dry_run.then_some(episodes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_that_is_shown_can_be_sent_back() {
        let written = serde_json::json!({
            "kind": "quantile", "metric": "wait_seconds", "quantile": 0.5, "comparison": "below",
            "warning": 1.5, "critical": 0.5, "window": "5m", "firesAfter": "10s", "minTraffic": 7.0,
        });
        let body: RuleBody = serde_json::from_value(written).unwrap();
        let wire = body.into_wire("slow".to_owned()).unwrap();
        let shown = serde_json::to_value(RuleBody::from(wire.clone())).unwrap();
        assert_eq!(shown["firesAfter"], "10s");
        let again: RuleBody = serde_json::from_value(shown).unwrap();
        assert_eq!(again.into_wire("slow".to_owned()).unwrap(), wire);
    }

    #[test]
    fn words_that_mean_nothing_are_refused_with_those_that_do() {
        let body = |kind: &str, level: &str| {
            let written = serde_json::json!({ "kind": kind, "metric": "m", "level": level });
            serde_json::from_value::<RuleBody>(written).unwrap().into_wire("r".to_owned())
        };
        let told = body("treshold", "warning").unwrap_err().detail().to_owned();
        assert!(told.starts_with("kind: must be one of threshold, rate"), "{told}");
        assert!(body("threshold", "loud").unwrap_err().detail().starts_with("level:"));
    }
}
