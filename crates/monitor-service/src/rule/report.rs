//! What targets say about themselves and their components.

use mainstay_runtime::{ComponentKind, Health};

use crate::alert::{Breach, Severity};
use crate::analysis::words::because;
use crate::config::AlertsConfig;
use crate::roster::{ComponentReport, Entry, Report};
use crate::target::TargetKind;

use super::{Facts, key_of, labels_of, seconds_since, timing};

pub(super) const COMPONENT_UNHEALTHY: &str = "component_unhealthy";
pub(super) const COMPONENT_DEGRADED: &str = "component_degraded";
pub(super) const NOT_READY: &str = "not_ready";

pub(super) fn components(facts: &Facts<'_>, config: &AlertsConfig) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (entry, report) in answering(facts) {
        breaches.extend(
            report.components.iter().filter_map(|component| of_component(facts, config, entry, component)),
        );
    }
    breaches
}

fn of_component(
    facts: &Facts<'_>,
    config: &AlertsConfig,
    entry: &Entry,
    component: &ComponentReport,
) -> Option<Breach> {
    if is_watched_itself(facts, component) {
        return None;
    }
    let (rule, severity) = match component.health {
        Health::Unhealthy if component.critical => (COMPONENT_UNHEALTHY, Severity::Critical),
        Health::Unhealthy => (COMPONENT_UNHEALTHY, Severity::Warning),
        Health::Degraded => (COMPONENT_DEGRADED, Severity::Warning),
        Health::Healthy | Health::Unknown => return None,
    };
    Some(Breach {
        key: key_of(rule, entry, &component.name),
        severity,
        summary: because(&format!("{} is {}", component.name, component.health.as_str()), &component.detail),
        value: seconds_since(component.since, facts.now),
        threshold: config.unhealthy_for.as_secs_f64(),
        labels: labels_of(entry),
        since: Some(component.since),
        timing: timing(config.unhealthy_for, config),
    })
}

/// What another service says of a service that is pulled here adds nothing: one cause is one alert.
fn is_watched_itself(facts: &Facts<'_>, component: &ComponentReport) -> bool {
    let service = component.name.split('@').next().unwrap_or_default();
    component.kind == ComponentKind::Upstream
        && facts.roster.entries().iter().any(|entry| entry.target.service == service)
}

/// A critical component that is unhealthy has its own alert; one that is unknown has none and does not explain.
pub(super) fn not_ready(facts: &Facts<'_>, config: &AlertsConfig) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (entry, report) in answering(facts) {
        let explains =
            |component: &ComponentReport| component.critical && component.health == Health::Unhealthy;
        let is_probe = entry.target.terms.kind == TargetKind::Probe;
        if is_probe || report.ready || report.draining || report.components.iter().any(explains) {
            continue;
        }
        breaches.push(Breach {
            key: key_of(NOT_READY, entry, &entry.target.service),
            severity: Severity::Warning,
            summary: because(
                &format!("{} is not ready", entry.target.service),
                &report.not_ready_because.join(", "),
            ),
            value: 0.0,
            threshold: 1.0,
            labels: labels_of(entry),
            since: None,
            timing: timing(config.missing_for, config),
        });
    }
    breaches
}

fn answering<'f>(facts: &Facts<'f>) -> impl Iterator<Item = (&'f Entry, &'f Report)> {
    facts.roster.entries().iter().filter_map(|entry| Some((entry, entry.current()?)))
}
