//! What a rule would have done.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime};

use super::definition::{Rule, RuleKind};
use super::figures::Look;
use super::look::{begin, breach, gather, key, problem, timing};
use super::measure::measure;
use crate::alert::{Absence, AlertBook, Breach, Filter, Severity};
use crate::config::AlertsConfig;
use crate::series::History;

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

/// Steps of a dry run at most.
const STEPS_MAX: u32 = 3_600;
const EPISODES_MAX: usize = 1_000;

/// Tells what a rule would have done over the history in memory, second by second; and what it sees now.
pub(crate) fn dry_run(
    rule: &Rule,
    history: &History,
    config: &AlertsConfig,
    now: SystemTime,
) -> (Look, Vec<Episode>) {
    let spec = &rule.spec;
    let all = gather(spec, history.all(), SystemTime::UNIX_EPOCH);
    let starts = all.series.iter().chain(&all.divisor).filter_map(|series| series.samples.first());
    let Some(first) = starts.map(|(at, _)| *at).min() else {
        return (Look { n_matched: 0, problem: problem(0, 0), at: Some(now) }, Vec::new());
    };
    let length = now.duration_since(first).unwrap_or_default();
    let step = (length / STEPS_MAX).max(Duration::from_secs(1));
    let timing = timing(spec, config);
    let mut book = AlertBook::new(NonZeroUsize::MIN.saturating_add(EPISODES_MAX));
    let (mut at, mut n_matched, mut n_quiet) = (first, 0, 0);
    let mut extremes: BTreeMap<u64, f64> = BTreeMap::new();
    while at <= now && spec.kind != RuleKind::Absence {
        let measured = measure(spec, &all, begin(spec, at, config), at);
        (n_matched, n_quiet) = (measured.n_matched, measured.n_quiet);
        let breaches = measured.figures.iter().filter_map(|figure| {
            let key = key(rule, figure);
            let judged = spec.judge(figure.value, book.severity(&key))?;
            Some(Breach { timing, ..breach(rule, key, figure, judged, config) })
        });
        let breaches: Vec<Breach> = breaches.collect();
        book.evaluate(breaches, |_| Absence::Fine(None), at, uuid::Uuid::nil);
        for alert in book.page(&Filter::default(), None, EPISODES_MAX).alerts {
            let extreme = extremes.entry(alert.number).or_insert(alert.value);
            if spec.comparison.is_worse(alert.value, *extreme) {
                *extreme = alert.value;
            }
        }
        at += step;
    }
    let problem = problem(n_matched, n_quiet);
    let page = book.page(&Filter::default(), None, EPISODES_MAX);
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
