//! Looking at one target with all rules about figures.
//!
//! No figure is made of two targets: series are judged one by one, and sums are per target. So rules need to look only at what
//! was just read, and cost as much in a second as there is read in it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::SystemTime;

use super::definition::{Comparison, Rule, RuleKind, RuleSpec};
use super::measure::{Evidence, Figure, measure};
use super::text;
use crate::alert::state::Timing;
use crate::alert::{Breach, Key, Severity};
use crate::config::AlertsConfig;
use crate::roster::Roster;
use crate::series::{History, View};
use crate::target::Target;

/// Holds all that the rules about figures may look at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'s> {
    /// What was read.
    pub history: &'s History,
    /// Who answers.
    pub roster: &'s Roster,
    /// How long things may last where a rule does not say so.
    pub config: &'s AlertsConfig,
    /// The moment of which they speak.
    pub now: SystemTime,
}

/// Holds what the rules saw of one target when they last looked at it.
#[derive(Debug)]
pub(super) struct Seen {
    /// When.
    pub(super) at: SystemTime,
    /// By rule, of those that found something to look at.
    pub(super) matched: BTreeMap<String, Matched>,
    /// What was broken.
    pub(super) breaches: Vec<Breach>,
}

/// Counts what a rule found to look at.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Matched {
    /// Series, or targets of sums.
    pub(super) n: usize,
    /// Those of them with less traffic than the rule asks for.
    pub(super) n_quiet: usize,
}

/// Looks at a target; `open` tells how bad an open alert is.
pub(super) fn look<'r>(
    rules: impl Iterator<Item = &'r Rule>,
    target: &Target,
    scene: &Scene<'_>,
    open: impl Fn(&Key) -> Option<Severity>,
) -> Seen {
    let mut seen = Seen { at: scene.now, matched: BTreeMap::new(), breaches: Vec::new() };
    let Some(history) = scene.history.of(target.index) else { return seen };
    for rule in rules.filter(|rule| !rule.spec.disabled) {
        let from = begin(&rule.spec, scene.now, scene.config);
        let evidence = match rule.spec.kind {
            RuleKind::Threshold => {
                let newest = history.newest(&rule.spec.metric, &rule.spec.labels, (from, scene.now));
                Evidence { series: newest, divisor: Vec::new() }
            }
            _ => gather(&rule.spec, history, from),
        };
        let measured = measure(&rule.spec, &evidence, from, scene.now);
        if measured.n_matched > 0 {
            let matched = Matched { n: measured.n_matched, n_quiet: measured.n_quiet };
            seen.matched.insert(rule.name.clone(), matched);
        }
        if rule.spec.kind == RuleKind::Absence {
            seen.breaches.extend(absent(rule, !measured.figures.is_empty(), target, scene, from));
            continue;
        }
        // Most figures are well on the good side, whether an alert is open or not: which one it would be need not be found.
        let may_matter = |figure: &&Figure| rule.spec.judge(figure.value, Some(Severity::Critical)).is_some();
        seen.breaches.extend(measured.figures.iter().filter(may_matter).filter_map(|figure| {
            let key = key(rule, figure);
            let judged = rule.spec.judge(figure.value, open(&key))?;
            Some(breach(rule, key, figure, judged, scene.config))
        }));
    }
    seen
}

/// Tells why a rule cannot fire, if so.
pub(super) fn problem(n_matched: usize, n_quiet: usize) -> &'static str {
    match (n_matched, n_quiet) {
        (0, _) => "matches no series",
        (matched, quiet) if matched == quiet => "too little traffic",
        _ => "",
    }
}

/// Where the samples begin that count at `now`: of a threshold, only fresh ones.
pub(super) fn begin(spec: &RuleSpec, now: SystemTime, config: &AlertsConfig) -> SystemTime {
    let back = if spec.kind == RuleKind::Threshold { config.missing_for } else { spec.window };
    now.checked_sub(back).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Takes what a rule looks at out of history.
pub(super) fn gather(spec: &RuleSpec, history: View<'_>, from: SystemTime) -> Evidence {
    let metric = match spec.kind {
        RuleKind::Quantile => Cow::from(format!("{}_bucket", spec.metric)),
        _ => Cow::from(&spec.metric),
    };
    let divisor = match spec.kind {
        RuleKind::Ratio | RuleKind::Share | RuleKind::BurnRate => {
            history.samples(&spec.divisor, &spec.divisor_labels, from)
        }
        _ => Vec::new(),
    };
    let series = match spec.kind {
        RuleKind::Threshold => history.fresh(&metric, &spec.labels, from),
        _ => history.samples(&metric, &spec.labels, from),
    };
    Evidence { series, divisor }
}

/// Finds that a target lacks a metric, once it has been watched for as long as the window.
fn absent(rule: &Rule, has: bool, target: &Target, scene: &Scene<'_>, from: SystemTime) -> Option<Breach> {
    let answers = || scene.roster.find(&target.service, &target.endpoint)?.current();
    let watched = || scene.history.first_at(&target.service, &target.endpoint);
    if has || target.service != rule.spec.service || answers().is_none() || watched()? > from {
        return None;
    }
    let labels = BTreeMap::from([
        ("service".to_owned(), target.service.clone()),
        ("endpoint".to_owned(), target.endpoint.clone()),
    ]);
    let figure = Figure { labels: labels.into(), value: 0.0, facts: BTreeMap::new() };
    Some(breach(rule, key(rule, &figure), &figure, (rule.spec.severity, 0.0), scene.config))
}

/// Names the alert that a figure may be.
pub(super) fn key(rule: &Rule, figure: &Figure) -> Key {
    let label = |name: &str| figure.labels.get(name).cloned().unwrap_or_default();
    let own = figure.labels.iter().filter(|(name, _)| !matches!(name.as_str(), "service" | "endpoint"));
    let own: Vec<String> = own.map(|(name, value)| format!("{name}={value}")).collect();
    let subject = if own.is_empty() { rule.spec.metric.clone() } else { own.join(",") };
    Key { rule: rule.name.clone().into(), source: label("service"), endpoint: label("endpoint"), subject }
}

/// Tells that a figure is beyond a level.
pub(super) fn breach(
    rule: &Rule,
    key: Key,
    figure: &Figure,
    (severity, threshold): (Severity, f64),
    config: &AlertsConfig,
) -> Breach {
    let text = match rule.spec.summary.as_str() {
        "" => sentence(&rule.spec),
        text => text.to_owned(),
    };
    let words = text::Words {
        rule: &rule.name,
        metric: &rule.spec.metric,
        value: figure.value,
        threshold,
        labels: &figure.labels,
        facts: &figure.facts,
    };
    let mut labels = (*figure.labels).clone();
    labels.remove("service");
    labels.extend(rule.spec.annotations.clone());
    Breach {
        summary: text::fill(&text, &words),
        key,
        severity,
        value: figure.value,
        threshold,
        labels,
        since: None,
        timing: timing(&rule.spec, config),
    }
}

/// Says what a figure is and what it is compared with, for a rule that does not say it itself.
fn sentence(spec: &RuleSpec) -> String {
    let than = match spec.comparison {
        Comparison::Above => "above {threshold}",
        Comparison::Below => "below {threshold}",
        Comparison::Equal => "which it should not be",
        Comparison::Unequal => "and should be {threshold}",
        Comparison::Beyond => "farther from zero than {threshold}",
    };
    match spec.kind {
        RuleKind::Threshold => format!("{{series}} of {{service}} is {{value}}, {than}"),
        RuleKind::Rate => format!("{{series}} of {{service}} grows by {{value}} per second, {than}"),
        RuleKind::Ratio => format!("{} per {} of {{service}} is {{value}}, {than}", spec.metric, spec.divisor),
        RuleKind::Share => {
            format!("the share of {} among {} of {{service}} is {{value}}, {than}", spec.metric, spec.divisor)
        }
        RuleKind::Quantile => {
            let rank = spec.quantile * 100.0;
            format!("p{rank} of {{metric}} of {{service}} is {{value}}, {than}")
        }
        RuleKind::Absence => "{service} at {endpoint} does not tell {metric}".to_owned(),
        RuleKind::Anomaly => "{series} of {service} is {now}, {value} deviations from the {expected} expected ({lower} to {upper})".to_owned(),
        RuleKind::Forecast => {
            "{series} of {service} is {now} and reaches {limit} in {value:duration}, at the earliest in {earliest:duration}"
                .to_owned()
        }
        RuleKind::BurnRate => {
            "the error budget of {service} is used up {value} times faster than allowed".to_owned()
        }
    }
}

pub(super) fn timing(spec: &RuleSpec, config: &AlertsConfig) -> Timing {
    Timing {
        fires_after: spec.fires_after.unwrap_or(config.unhealthy_for),
        clears_after: spec.clears_after.unwrap_or(config.clear_for),
    }
}
