//! What is wrong with what is watched beside the services.

use std::sync::Arc;

use crate::alert::{Breach, Severity};
use crate::analysis::words::because;
use crate::config::AlertsConfig;
use crate::roster::Entry;
use crate::target::{Target, TargetKind};

use super::{Facts, key_of, labels_of, timing};

pub(super) const PROBE_FAILED: &str = "probe_failed";
pub(super) const SERIES_LIMIT: &str = "series_limit";

/// A probe fails by itself as often as its target allows for; then the alert needs no further time.
pub(super) fn probe_failed(facts: &Facts<'_>, config: &AlertsConfig) -> Vec<Breach> {
    let probes = facts.roster.entries().iter().filter(|entry| {
        let terms = &entry.target.terms;
        terms.kind == TargetKind::Probe && entry.bad_in_a_row >= terms.failures
    });
    probes.filter_map(|entry| of_probe(facts, config, entry)).collect()
}

fn of_probe(facts: &Facts<'_>, config: &AlertsConfig, entry: &Entry) -> Option<Breach> {
    let (since, reason) = match (&entry.failing, &entry.report) {
        (Some(failing), _) => (Some(facts.roster.down_since(entry)?), failing.reason.clone()),
        (None, Some(report)) if !report.ready => (None, report.not_ready_because.join(", ")),
        _ => return None,
    };
    let Target { service, endpoint, terms, .. } = &*entry.target;
    Some(Breach {
        key: key_of(PROBE_FAILED, entry, service),
        severity: terms.severity,
        summary: because(&format!("probe {service} of {endpoint} fails"), &reason),
        value: f64::from(entry.bad_in_a_row),
        threshold: f64::from(terms.failures),
        labels: labels_of(entry),
        since,
        timing: timing(std::time::Duration::ZERO, config),
    })
}

pub(super) fn series_limit(facts: &Facts<'_>, config: &AlertsConfig) -> Vec<Breach> {
    let of_target = |(target, n_refused): &(Arc<Target>, usize)| {
        let entry = facts.roster.find(&target.service, &target.endpoint)?;
        let why = match target.terms.max_series {
            usize::MAX => "their names and labels are too long".to_owned(),
            max_series => format!("its max_series is {max_series}"),
        };
        Some(Breach {
            key: key_of(SERIES_LIMIT, entry, &target.service),
            severity: Severity::Warning,
            summary: format!(
                "{n_refused} series of {} at {} are not kept: {why}",
                target.service, target.endpoint
            ),
            value: *n_refused as f64,
            threshold: 0.0,
            labels: labels_of(entry),
            since: None,
            timing: timing(config.unhealthy_for, config),
        })
    };
    facts.capped.iter().filter_map(of_target).collect()
}
