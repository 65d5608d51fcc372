//! What figures say.

use std::time::Duration;

use mainstay_runtime::Health;

use crate::alert::{Breach, Severity};
use crate::analysis::words::duration;
use crate::config::AlertsConfig;
use crate::roster::Report;
use crate::series::Latest;

use super::{Facts, key_of, labels_of, own_key, timing};

/// Gauge of replica-service, label `node`: how stale a replica may be, in seconds.
pub(crate) const REPLICA_LAG_METRIC: &str = "mainstay_replica_node_staleness_seconds";
pub(super) const REPLICA_LAG: &str = "replica_lag";
pub(super) const HISTORY_FULL: &str = "history_full";

pub(super) fn replica_lag(facts: &Facts<'_>, config: &AlertsConfig) -> Vec<Breach> {
    facts.replica_lags.iter().filter_map(|lag| of_replica(facts, config, lag)).collect()
}

fn of_replica(facts: &Facts<'_>, config: &AlertsConfig, lag: &Latest) -> Option<Breach> {
    let entry = facts.roster.find(&lag.target.service, &lag.target.endpoint)?;
    let (severity, threshold) = level(lag.value, config)?;
    let node = lag.labels.get("node")?;
    let subject = format!("postgres.{node}");
    if explained(entry.current()?, &subject) {
        return None;
    }
    Some(Breach {
        summary: format!(
            "{subject} is {} behind the primary, more than {}",
            duration(lag.value),
            duration(threshold.as_secs_f64())
        ),
        key: key_of(REPLICA_LAG, entry, subject),
        severity,
        value: lag.value,
        threshold: threshold.as_secs_f64(),
        labels: labels_of(entry),
        since: None,
        timing: timing(config.unhealthy_for, config),
    })
}

fn level(staleness_s: f64, config: &AlertsConfig) -> Option<(Severity, Duration)> {
    let levels =
        [(Severity::Critical, config.replica_lag_critical), (Severity::Warning, config.replica_lag_warning)];
    levels.into_iter().find(|(_, threshold)| staleness_s > threshold.as_secs_f64())
}

/// A replica that is down falls behind by nature; its own alert says so.
pub(super) fn explained(report: &Report, component: &str) -> bool {
    report.component(component).is_some_and(|component| component.health == Health::Unhealthy)
}

pub(super) fn history_full(facts: &Facts<'_>, config: &AlertsConfig) -> Vec<Breach> {
    if facts.refused_series == 0 {
        return Vec::new();
    }
    vec![Breach {
        key: own_key(HISTORY_FULL, "history"),
        severity: Severity::Warning,
        summary: format!(
            "{} series have no history: history.max_series is {}",
            facts.refused_series, facts.max_series
        ),
        value: facts.refused_series as f64,
        threshold: 0.0,
        labels: Default::default(),
        since: None,
        timing: timing(config.unhealthy_for, config),
    }]
}
