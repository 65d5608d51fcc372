//! Whether targets answer at all.

use crate::alert::{Breach, Severity};
use crate::config::AlertsConfig;
use crate::roster::Entry;
use crate::target::TargetKind;

use super::{Facts, key_of, labels_of, own_key, seconds_since, timing};

pub(super) const INSTANCE_DOWN: &str = "instance_down";
pub(super) const MONITOR_ISOLATED: &str = "monitor_isolated";

/// One alert instead of one per target when the monitor is the one that is cut off.
pub(super) fn isolated(facts: &Facts<'_>, config: &AlertsConfig) -> Vec<Breach> {
    let breach = |since| Breach {
        key: own_key(MONITOR_ISOLATED, "collector"),
        severity: Severity::Critical,
        summary: format!(
            "none of {} targets answers; the monitor may be cut off",
            facts.roster.entries().len()
        ),
        value: seconds_since(since, facts.now),
        threshold: config.missing_for.as_secs_f64(),
        labels: Default::default(),
        since: Some(since),
        timing: timing(config.missing_for, config),
    };
    facts.roster.isolated_since().map(breach).into_iter().collect()
}

pub(super) fn down(facts: &Facts<'_>, config: &AlertsConfig) -> Vec<Breach> {
    let mut breaches = Vec::new();
    // A probe that fails has an alert of its own, which says more. Who left DNS may end.
    let held_against = |entry: &&Entry| {
        let terms = &entry.target.terms;
        terms.kind != TargetKind::Probe && entry.bad_in_a_row >= terms.failures && !entry.is_leaving
    };
    for entry in facts.roster.entries().iter().filter(held_against) {
        let (Some(since), Some(failing)) = (facts.roster.down_since(entry), &entry.failing) else { continue };
        breaches.push(Breach {
            key: key_of(INSTANCE_DOWN, entry, &entry.target.service),
            severity: Severity::Critical,
            summary: format!(
                "{} at {} does not answer: {}",
                entry.target.service, entry.target.endpoint, failing.reason
            ),
            value: seconds_since(since, facts.now),
            threshold: config.missing_for.as_secs_f64(),
            labels: labels_of(entry),
            since: Some(since),
            timing: timing(config.missing_for, config),
        });
    }
    breaches
}
