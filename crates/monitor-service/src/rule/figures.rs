//! All rules about figures, and what became of them when they were last looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::definition::{Rule, RuleKind, RuleSpec};
use super::measure::{Evidence, Figure, measure};
use super::{stock, text};
use crate::alert::state::Timing;
use crate::alert::{Absence, Breach, Key, Severity};
use crate::config::AlertsConfig;
use crate::roster::Roster;
use crate::series::History;

/// Holds the rules in force: stock ones, replaced by configured ones, replaced by those set at run time.
#[derive(Debug)]
pub(crate) struct FigureRules {
    base: BTreeMap<String, (Rule, Origin)>,
    runtime: BTreeMap<String, Rule>,
    looks: BTreeMap<String, Look>,
    breaches: Vec<Breach>,
    looked_at: Option<SystemTime>,
}

/// Says where a rule comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Ours.
    Stock,
    /// The configuration.
    Config,
    /// Set at run time.
    Runtime,
}

/// Tells what a rule saw when it was last looked at.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Look {
    /// Series, or targets of sums.
    pub n_matched: usize,
    /// Why it cannot fire, if so.
    pub problem: &'static str,
    /// When.
    pub at: Option<SystemTime>,
}

/// Holds a rule with what became of it.
#[derive(Debug, Clone)]
pub(crate) struct RuleStatus {
    /// The rule.
    pub rule: Rule,
    /// Where it comes from.
    pub origin: Origin,
    /// What it saw.
    pub look: Look,
}

/// Holds an episode that a rule would have given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Episode {
    /// Whose.
    pub subject: String,
    /// As bad as it was.
    pub severity: Severity,
    /// When it would have fired.
    pub fired_at: SystemTime,
    /// When it would have been over.
    pub resolved_at: Option<SystemTime>,
    /// The most extreme value.
    pub value: f64,
}

/// Rules set at run time at most.
pub(crate) const RUNTIME_MAX: usize = 1_000;
/// Steps of a dry run at most.
const STEPS_MAX: u32 = 3_600;
const EPISODES_MAX: usize = 1_000;

impl Origin {
    /// Returns the lower-case name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Config => "config",
            Self::Runtime => "runtime",
        }
    }
}

impl FigureRules {
    /// Puts the rules together.
    pub(crate) fn new(
        imported: Vec<Rule>,
        configured: &BTreeMap<String, RuleSpec>,
        runtime: Vec<Rule>,
    ) -> Self {
        let stock = stock::stock().into_iter().map(|rule| (rule, Origin::Stock));
        let imported = imported.into_iter().map(|rule| (rule, Origin::Config));
        let configured = configured
            .iter()
            .map(|(name, spec)| (Rule { name: name.clone(), spec: spec.clone() }, Origin::Config));
        Self {
            base: stock
                .chain(imported)
                .chain(configured)
                .map(|(rule, origin)| (rule.name.clone(), (rule, origin)))
                .collect(),
            runtime: runtime.into_iter().map(|rule| (rule.name.clone(), rule)).collect(),
            looks: BTreeMap::new(),
            breaches: Vec::new(),
            looked_at: None,
        }
    }

    /// Lists the rules in force, by name.
    pub(crate) fn list(&self) -> Vec<RuleStatus> {
        self.in_force()
            .map(|(rule, origin)| {
                let look = self.looks.get(&rule.name).cloned().unwrap_or_default();
                RuleStatus { rule: rule.clone(), origin, look }
            })
            .collect()
    }

    /// Counts the rules in force by where they come from: stock, configured, set at run time.
    pub(crate) fn count(&self) -> [(Origin, usize); 3] {
        [Origin::Stock, Origin::Config, Origin::Runtime]
            .map(|origin| (origin, self.in_force().filter(|(_, of)| *of == origin).count()))
    }

    /// Tells whether all of these could be set at run time.
    pub(crate) fn has_room(&self, names: &BTreeSet<String>) -> bool {
        let n_new = names.iter().filter(|name| !self.runtime.contains_key(*name)).count();
        self.runtime.len() + n_new <= RUNTIME_MAX
    }

    /// Sets a rule at run time; false when there are too many.
    pub(crate) fn put(&mut self, rule: Rule) -> bool {
        if self.runtime.len() >= RUNTIME_MAX && !self.runtime.contains_key(&rule.name) {
            return false;
        }
        self.looks.remove(&rule.name);
        self.looked_at = None;
        self.runtime.insert(rule.name.clone(), rule);
        true
    }

    /// Removes a rule that was set at run time; false when there was none.
    pub(crate) fn delete(&mut self, name: &str) -> bool {
        self.looks.remove(name);
        self.looked_at = None;
        self.runtime.remove(name).is_some()
    }

    /// Looks at all rules, not more often than `every`; `open` tells how bad an open alert is.
    pub(crate) fn look(
        &mut self,
        history: &History,
        roster: &Roster,
        config: &AlertsConfig,
        (now, every): (SystemTime, Duration),
        open: impl Fn(&Key) -> Option<Severity>,
    ) {
        let rests = |at: SystemTime| now.duration_since(at).is_ok_and(|since| since < every);
        if self.looked_at.is_some_and(rests) {
            return;
        }
        self.looked_at = Some(now);
        let mut looks = BTreeMap::new();
        let mut breaches = Vec::new();
        for (rule, _) in self.in_force().filter(|(rule, _)| !rule.spec.disabled) {
            let evidence = evidence(&rule.spec, history, now, config);
            let from = begin(&rule.spec, now, config);
            let measured = measure(&rule.spec, &evidence, from, now);
            let problem = if measured.n_matched == 0 {
                "matches no series"
            } else if measured.n_quiet == measured.n_matched {
                "too little traffic"
            } else {
                ""
            };
            looks.insert(rule.name.clone(), Look { n_matched: measured.n_matched, problem, at: Some(now) });
            if rule.spec.kind == RuleKind::Absence {
                breaches.extend(absent(rule, &measured.figures, history, roster, config, from));
                continue;
            }
            breaches.extend(measured.figures.iter().filter_map(|figure| {
                let key = key(rule, figure);
                let (severity, threshold) = rule.spec.judge(figure.value, open(&key))?;
                Some(breach(rule, key, figure, severity, threshold, config))
            }));
        }
        self.looks = looks;
        self.breaches = breaches;
    }

    /// Returns what was broken at the last look.
    pub(crate) fn breaches(&self) -> impl Iterator<Item = Breach> + '_ {
        self.breaches.iter().cloned()
    }

    /// Tells what is known about an open alert that is not among the breaches; none if no rule here gave it.
    pub(crate) fn absence(
        &self,
        key: &Key,
        history: &History,
        roster: &Roster,
        now: SystemTime,
    ) -> Option<Absence> {
        let (rule, _) = self.in_force().find(|(rule, _)| rule.name == key.rule)?;
        if roster.isolated_since().is_some() && !key.endpoint.is_empty() {
            return Some(Absence::Unseen);
        }
        let first = history.first_at(&key.source, &key.endpoint);
        let needs = match rule.spec.kind {
            RuleKind::Threshold => Duration::ZERO,
            RuleKind::Rate
            | RuleKind::Ratio
            | RuleKind::Share
            | RuleKind::Quantile
            | RuleKind::Absence
            | RuleKind::Anomaly
            | RuleKind::Forecast
            | RuleKind::BurnRate => rule.spec.window,
        };
        let watched = first.is_some_and(|first| now.duration_since(first).unwrap_or_default() >= needs);
        if !watched && history.knows(&key.source, &key.endpoint) {
            return Some(Absence::Waiting);
        }
        let silent = roster.find(&key.source, &key.endpoint).is_some_and(|entry| entry.current().is_none());
        Some(if silent { Absence::Unseen } else { Absence::Fine(None) })
    }

    fn in_force(&self) -> impl Iterator<Item = (&Rule, Origin)> {
        let names: BTreeSet<&String> = self.base.keys().chain(self.runtime.keys()).collect();
        names.into_iter().filter_map(|name| {
            let runtime = self.runtime.get(name).map(|rule| (rule, Origin::Runtime));
            runtime.or_else(|| self.base.get(name).map(|(rule, origin)| (rule, *origin)))
        })
    }
}

/// Tells what a rule would have done over the history in memory, second by second; and what it sees now.
pub(crate) fn dry_run(
    rule: &Rule,
    history: &History,
    config: &AlertsConfig,
    now: SystemTime,
) -> (Look, Vec<Episode>) {
    let spec = &rule.spec;
    let all = gather(spec, history, SystemTime::UNIX_EPOCH);
    let starts = all.series.iter().chain(&all.divisor).filter_map(|series| series.samples.first());
    let Some(first) = starts.map(|(at, _)| *at).min() else {
        let problem = "matches no series";
        return (Look { n_matched: 0, problem, at: Some(now) }, Vec::new());
    };
    let length = now.duration_since(first).unwrap_or_default();
    let step = (length / STEPS_MAX).max(Duration::from_secs(1));
    let timing = timing(spec, config);
    let mut book = crate::alert::AlertBook::new(std::num::NonZeroUsize::MIN.saturating_add(EPISODES_MAX));
    let (mut at, mut n_matched, mut n_quiet) = (first, 0, 0);
    let mut extremes: BTreeMap<u64, f64> = BTreeMap::new();
    while at <= now && spec.kind != RuleKind::Absence {
        let measured = measure(spec, &all, begin(spec, at, config), at);
        (n_matched, n_quiet) = (measured.n_matched, measured.n_quiet);
        let breaches = measured.figures.iter().filter_map(|figure| {
            let key = key(rule, figure);
            let (severity, threshold) = spec.judge(figure.value, book.severity(&key))?;
            Some(Breach { timing, ..breach(rule, key, figure, severity, threshold, config) })
        });
        let breaches: Vec<Breach> = breaches.collect();
        book.evaluate(breaches, |_| Absence::Fine(None), at, uuid::Uuid::nil);
        for alert in book.page(&crate::alert::Filter::default(), None, EPISODES_MAX).alerts {
            let extreme = extremes.entry(alert.number).or_insert(alert.value);
            if spec.comparison.is_worse(alert.value, *extreme) {
                *extreme = alert.value;
            }
        }
        at += step;
    }
    let problem = match (n_matched, n_quiet) {
        (0, _) => "matches no series",
        (matched, quiet) if matched == quiet => "too little traffic",
        _ => "",
    };
    let page = book.page(&crate::alert::Filter::default(), None, EPISODES_MAX);
    let episodes = page.alerts.into_iter().filter_map(|alert| {
        Some(Episode {
            subject: alert.key.subject.clone(),
            severity: alert.severity,
            fired_at: alert.fired_at?,
            resolved_at: alert.resolved_at,
            value: extremes.get(&alert.number).copied().unwrap_or(alert.value),
        })
    });
    (Look { n_matched, problem, at: Some(now) }, episodes.collect())
}

/// Where the samples begin that count at `now`: of a threshold, only fresh ones.
fn begin(spec: &RuleSpec, now: SystemTime, config: &AlertsConfig) -> SystemTime {
    let back = if spec.kind == RuleKind::Threshold { config.missing_for } else { spec.window };
    now.checked_sub(back).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn evidence(spec: &RuleSpec, history: &History, now: SystemTime, config: &AlertsConfig) -> Evidence {
    gather(spec, history, begin(spec, now, config))
}

fn gather(spec: &RuleSpec, history: &History, from: SystemTime) -> Evidence {
    let bucket = format!("{}_bucket", spec.metric);
    let metric = if spec.kind == RuleKind::Quantile { &bucket } else { &spec.metric };
    let divisor = match spec.kind {
        RuleKind::Ratio | RuleKind::Share | RuleKind::BurnRate => {
            history.samples(&spec.divisor, &spec.divisor_labels, from)
        }
        _ => Vec::new(),
    };
    let series = match spec.kind {
        RuleKind::Threshold => history.fresh(metric, &spec.labels, from),
        _ => history.samples(metric, &spec.labels, from),
    };
    Evidence { series, divisor }
}

fn absent<'a>(
    rule: &'a Rule,
    present: &'a [Figure],
    history: &'a History,
    roster: &'a Roster,
    config: &'a AlertsConfig,
    from: SystemTime,
) -> impl Iterator<Item = Breach> + 'a {
    let entries = roster.entries().iter().filter(move |entry| {
        let has = present.iter().any(|figure| {
            figure.labels.get("service") == Some(&entry.target.service)
                && figure.labels.get("endpoint") == Some(&entry.target.endpoint)
        });
        let watched = history.first_at(&entry.target.service, &entry.target.endpoint);
        entry.target.service == rule.spec.service
            && entry.current().is_some()
            && !has
            && watched.is_some_and(|first| first <= from)
    });
    entries.map(move |entry| {
        let labels = [
            ("service".to_owned(), entry.target.service.clone()),
            ("endpoint".to_owned(), entry.target.endpoint.clone()),
        ];
        let figure = Figure { labels: labels.into(), value: 0.0, facts: BTreeMap::new() };
        breach(rule, key(rule, &figure), &figure, rule.spec.severity, 0.0, config)
    })
}

fn key(rule: &Rule, figure: &Figure) -> Key {
    let label = |name: &str| figure.labels.get(name).cloned().unwrap_or_default();
    let own = figure.labels.iter().filter(|(name, _)| !matches!(name.as_str(), "service" | "endpoint"));
    let own: Vec<String> = own.map(|(name, value)| format!("{name}={value}")).collect();
    let subject = if own.is_empty() { rule.spec.metric.clone() } else { own.join(",") };
    Key { rule: rule.name.clone().into(), source: label("service"), endpoint: label("endpoint"), subject }
}

fn breach(
    rule: &Rule,
    key: Key,
    figure: &Figure,
    severity: Severity,
    threshold: f64,
    config: &AlertsConfig,
) -> Breach {
    let text = match (rule.spec.summary.as_str(), rule.spec.kind) {
        ("", RuleKind::Absence) => "{service} at {endpoint} does not tell {metric}",
        ("", RuleKind::Anomaly) => {
            "{metric} of {service} is {now}, {value} deviations from the {expected} expected ({lower} to {upper})"
        }
        ("", RuleKind::Forecast) => {
            "{metric} of {service} is {now} and reaches {limit} in {value} s (at the earliest {earliest} s)"
        }
        ("", RuleKind::BurnRate) => {
            "the error budget of {service} is used up {value} times faster than allowed"
        }
        ("", _) => "{metric} of {service} is {value}; the level is {threshold}",
        (text, _) => text,
    };
    let words = text::Words {
        rule: &rule.name,
        metric: &rule.spec.metric,
        value: figure.value,
        threshold,
        labels: &figure.labels,
        facts: &figure.facts,
    };
    let mut labels = figure.labels.clone();
    labels.remove("service");
    labels.extend(rule.spec.annotations.clone());
    Breach {
        summary: text::fill(text, &words),
        key,
        severity,
        value: figure.value,
        threshold,
        labels,
        since: None,
        timing: timing(&rule.spec, config),
    }
}

fn timing(spec: &RuleSpec, config: &AlertsConfig) -> Timing {
    Timing {
        fires_after: spec.fires_after.unwrap_or(config.unhealthy_for),
        clears_after: spec.clears_after.unwrap_or(config.clear_for),
    }
}
