//! What `deploy/` says about the rules: the alerts for Prometheus, and the runbooks.

use super::definition::Comparison;
use super::{BUILT_IN, figure, presence, report, stock};
use crate::config::AlertsConfig;

const PROMETHEUS: &str = include_str!("../../../../deploy/prometheus/rules/mainstay.yml");
const RUNBOOKS: &str = include_str!("../../../../deploy/docs/monitoring.md");

/// Gives the expression of the alert of a rule.
fn expression(rule: &str, severity: &str) -> Option<&'static str> {
    let labels = format!("labels: {{severity: {severity}, rule: {rule}}}");
    let alert = PROMETHEUS.split("- alert: ").skip(1).find(|alert| alert.contains(&labels))?;
    let (_, expression) = alert.split_once("expr: ")?;
    expression.lines().next()
}

fn compares(rule: &str, severity: &str, sign: &str, level: f64) {
    let found = expression(rule, severity).unwrap_or_default();
    // A level is followed by nothing, or by what else must hold.
    let comparison = format!("{sign} {level}");
    assert!(
        found.ends_with(&comparison) || found.contains(&format!("{comparison} and ")),
        "{rule}: {found:?}"
    );
}

#[test]
fn rules_for_prometheus_have_the_levels_of_the_stock_rules() {
    // What a service shows, Prometheus can see; the figures of the host and of others are the monitor's.
    for rule in stock::stock().iter().filter(|rule| rule.spec.metric.starts_with("mainstay_")) {
        let sign = if rule.spec.comparison == Comparison::Below { "<" } else { ">" };
        for (severity, level) in [("warning", rule.spec.warning), ("critical", rule.spec.critical)] {
            match level {
                Some(level) => compares(&rule.name, severity, sign, level),
                None => assert_eq!(expression(&rule.name, severity), None),
            }
            if level.is_some() && rule.spec.min_traffic > 0.0 {
                let found = expression(&rule.name, severity).unwrap_or_default();
                assert!(
                    found.ends_with(&format!(">= {}", rule.spec.min_traffic)),
                    "{}: {found:?}",
                    rule.name
                );
            }
        }
    }
    let alerts = AlertsConfig::default();
    compares(figure::REPLICA_LAG, "warning", ">", alerts.replica_lag_warning.as_secs_f64());
    compares(figure::REPLICA_LAG, "critical", ">", alerts.replica_lag_critical.as_secs_f64());
    for (rule, severity) in [
        (report::NOT_READY, "warning"),
        (report::COMPONENT_UNHEALTHY, "critical"),
        (report::COMPONENT_DEGRADED, "warning"),
        (presence::INSTANCE_DOWN, "critical"),
    ] {
        assert!(expression(rule, severity).is_some(), "{rule}");
    }
}

#[test]
fn rules_for_prometheus_have_names_of_ours() {
    let known: Vec<_> = stock::stock().into_iter().map(|rule| rule.name).collect();
    for part in PROMETHEUS.split(", rule: ").skip(1) {
        let name = part.split('}').next().unwrap_or_default();
        assert!(known.iter().any(|known| known == name) || BUILT_IN.contains(&name), "{name}");
    }
}

#[test]
fn every_alert_has_a_runbook() {
    let stock: Vec<_> = stock::stock().into_iter().map(|rule| rule.name).collect();
    let all = stock.iter().map(String::as_str).chain(BUILT_IN);
    for name in all {
        let (_, page) = RUNBOOKS.split_once(&format!("\n## {name}\n")).unwrap_or_else(|| panic!("no {name}"));
        let section = page.split("\n## ").next().unwrap_or_default();
        for part in ["**Meaning.**", "**First look.**", "**Fix.**"] {
            assert!(section.contains(part), "{name} has no {part}");
        }
    }
}
