//! The built-in rules: pure functions from what is known to what is broken.
//!
//! | rule | about | severity | fires after |
//! |---|---|---|---|
//! | `monitor_isolated` | no target answers | critical | `alerts.missing_for` |
//! | `instance_down` | one target does not answer | critical | `alerts.missing_for` |
//! | `not_ready` | a target is not ready, and no component says why | warning | `alerts.missing_for` |
//! | `component_unhealthy` | a component does not do its work | critical if it is critical, else warning | `alerts.unhealthy_for` |
//! | `component_degraded` | a component works with less than is configured | warning | `alerts.unhealthy_for` |
//! | `replica_lag` | a PostgreSQL replica is stale | warning, critical | `alerts.unhealthy_for` |
//! | `history_full` | new series are refused | warning | `alerts.unhealthy_for` |
//! | `slo_burn` | the error budget of an objective is used up too fast | warning, critical | at once |
//! | `probe_failed` | a probe has failed as often in a row as it may | its `severity` | its `failures` |
//! | `series_limit` | a target has more series than its `max_series` | warning | `alerts.unhealthy_for` |
//! | `store_failing` | what happens is not stored, or the file was damaged | warning | `alerts.missing_for` |
//! | `channel_failing` | notifications do not get through a channel | warning | `alerts.missing_for` |
//!
//! Rules about figures are data: see [`definition`], [`figures`], [`look`] and the stock ones in `stock.rs`.

pub(crate) mod definition;
mod dry_run;
mod figure;
pub(crate) mod figures;
pub(crate) mod import;
mod insight;
mod look;
mod measure;
mod objective;
mod presence;
mod report;
mod stock;
mod stranger;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::alert::state::Timing;
use crate::alert::{Absence, Breach, Key, Severity};
use crate::config::AlertsConfig;
use crate::roster::{Entry, Roster};
use crate::series::Latest;
use crate::target::Target;

pub(crate) use definition::Rule;
pub(crate) use dry_run::{Episode, dry_run};
pub(crate) use figure::REPLICA_LAG_METRIC;
pub(crate) use figures::{FigureRules, Look, Origin, RuleStatus};
pub(crate) use look::Scene;
pub(crate) use objective::{Burning, SLO_BURN};

/// Holds all that the rules may look at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'f> {
    /// What is known of the targets.
    pub roster: &'f Roster,
    /// The newest values of [`REPLICA_LAG_METRIC`].
    pub replica_lags: &'f [Latest],
    /// Series that the history has no room for.
    pub refused_series: usize,
    /// Series that it has room for.
    pub max_series: usize,
    /// Targets that have more series than they may, and how many too many.
    pub capped: &'f [(Arc<Target>, usize)],
    /// Notification channels that do not get through.
    pub failing_channels: &'f [FailingChannel],
    /// What is wrong with the store.
    pub store_trouble: Option<&'f StoreTrouble>,
    /// Objectives whose budget is used up too fast.
    pub burning: &'f [Burning],
    /// The moment of which they speak.
    pub now: SystemTime,
}

/// Tells that a notification channel does not get through.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FailingChannel {
    /// Its name.
    pub name: String,
    /// Since when.
    pub since: SystemTime,
    /// Why.
    pub reason: String,
}

/// Tells that what happens is not stored, or that what was stored is not there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoreTrouble {
    /// Since when.
    pub since: SystemTime,
    /// What is wrong.
    pub reason: String,
}

/// Names of the rules in this file.
pub(crate) const BUILT_IN: [&str; 12] = [
    presence::MONITOR_ISOLATED,
    presence::INSTANCE_DOWN,
    report::NOT_READY,
    report::COMPONENT_UNHEALTHY,
    report::COMPONENT_DEGRADED,
    figure::REPLICA_LAG,
    figure::HISTORY_FULL,
    CHANNEL_FAILING,
    STORE_FAILING,
    SLO_BURN,
    stranger::PROBE_FAILED,
    stranger::SERIES_LIMIT,
];

/// The rule about channels; its alerts go through the others.
pub(crate) const CHANNEL_FAILING: &str = "channel_failing";

/// The rule about the store.
const STORE_FAILING: &str = "store_failing";

/// What alerts about the monitor itself name as their source.
pub(crate) const MONITOR: &str = "monitor-service";

/// Finds everything that is broken now.
pub(crate) fn find(facts: &Facts<'_>, config: &AlertsConfig) -> Vec<Breach> {
    let rules = [
        presence::isolated,
        presence::down,
        report::not_ready,
        report::components,
        figure::replica_lag,
        figure::history_full,
        channel_failing,
        store_failing,
        objective::slo_burn,
        stranger::probe_failed,
        stranger::series_limit,
    ];
    rules.iter().flat_map(|rule| rule(facts, config)).collect()
}

/// Tells what is known about a subject that [`find`] did not name.
///
/// A target that does not answer has nothing new to say about its parts: their alerts stay as they are.
pub(crate) fn absence(facts: &Facts<'_>, key: &Key) -> Absence {
    if key.endpoint.is_empty() {
        let unasked = facts.roster.entries().iter().any(|entry| entry.pulls == 0);
        return if unasked { Absence::Waiting } else { Absence::Fine(None) };
    }
    if facts.roster.isolated_since().is_some() {
        return Absence::Unseen;
    }
    let Some(entry) = facts.roster.find(&key.source, &key.endpoint) else {
        return Absence::Fine(None);
    };
    if entry.pulls == 0 {
        return Absence::Waiting;
    }
    if key.rule == presence::INSTANCE_DOWN {
        return Absence::Fine(None);
    }
    let Some(current) = entry.current() else {
        return Absence::Unseen;
    };
    match &*key.rule {
        report::COMPONENT_UNHEALTHY | report::COMPONENT_DEGRADED => {
            Absence::Fine(current.component(&key.subject).map(|component| component.since))
        }
        figure::REPLICA_LAG if figure::explained(current, &key.subject) => Absence::Unseen,
        _ => Absence::Fine(None),
    }
}

fn channel_failing(facts: &Facts<'_>, config: &AlertsConfig) -> Vec<Breach> {
    let breach = |channel: &FailingChannel| Breach {
        key: own_key(CHANNEL_FAILING, &channel.name),
        severity: Severity::Warning,
        summary: format!("notifications through {} do not arrive: {}", channel.name, channel.reason),
        value: seconds_since(channel.since, facts.now),
        threshold: config.missing_for.as_secs_f64(),
        labels: BTreeMap::new(),
        since: Some(channel.since),
        timing: timing(config.missing_for, config),
    };
    facts.failing_channels.iter().map(breach).collect()
}

fn store_failing(facts: &Facts<'_>, config: &AlertsConfig) -> Vec<Breach> {
    let breach = |trouble: &StoreTrouble| Breach {
        key: own_key(STORE_FAILING, "store"),
        severity: Severity::Warning,
        summary: trouble.reason.clone(),
        value: seconds_since(trouble.since, facts.now),
        threshold: config.missing_for.as_secs_f64(),
        labels: BTreeMap::new(),
        since: Some(trouble.since),
        timing: timing(config.missing_for, config),
    };
    facts.store_trouble.into_iter().map(breach).collect()
}

/// Starts a breach about a target, labelled with where it comes from.
fn key_of(rule: &'static str, entry: &Entry, subject: impl Into<String>) -> Key {
    Key {
        rule: rule.into(),
        source: entry.target.service.clone(),
        endpoint: entry.target.endpoint.clone(),
        subject: subject.into(),
    }
}

/// Starts a breach about the monitor itself.
fn own_key(rule: &'static str, subject: &str) -> Key {
    Key {
        rule: rule.into(),
        source: MONITOR.to_owned(),
        endpoint: String::new(),
        subject: subject.to_owned(),
    }
}

fn labels_of(entry: &Entry) -> BTreeMap<String, String> {
    // What is no service of ours has no name of its own.
    let named = entry.report.as_ref().filter(|report| !report.instance.is_empty());
    let instance = named.map(|report| ("instance".to_owned(), report.instance.clone()));
    let endpoint = ("endpoint".to_owned(), entry.target.endpoint.clone());
    instance.into_iter().chain([endpoint]).collect()
}

fn timing(fires_after: Duration, config: &AlertsConfig) -> Timing {
    Timing { fires_after, clears_after: config.clear_for }
}

fn seconds_since(since: SystemTime, now: SystemTime) -> f64 {
    now.duration_since(since).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod shipped;
#[cfg(test)]
mod tests;
