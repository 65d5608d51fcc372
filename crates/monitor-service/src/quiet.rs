//! Why people are not told of an alert: a silence, a maintenance window, or another alert that explains it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

use crate::alert::Alert;
use crate::calendar::Weekly;
use crate::silence::{Silences, value_of};

/// Configures a time of the week in which nobody is told of some alerts: sections `maintenance.<name>`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaintenanceConfig {
    /// When; hours must be given.
    pub during: Weekly,
    /// What an alert must have, as of a silence; nothing means every alert.
    pub matchers: BTreeMap<String, String>,
}

/// Says which alert explains which others: sections `inhibitions.<name>`. While one that matches `by` fires, people are
/// not told of those that match `of`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InhibitionConfig {
    /// What the explaining alert must have, as of a silence; a value that ends with `*` matches what begins so.
    pub by: BTreeMap<String, String>,
    /// What the explained alert must have.
    pub of: BTreeMap<String, String>,
    /// What must be the same in both: `source`, `endpoint`, `subject` or a label.
    pub equal: Vec<String>,
    /// Not in force.
    pub disabled: bool,
}

/// Holds all reasons to be quiet.
#[derive(Debug)]
pub(crate) struct Quiet {
    maintenance: Vec<MaintenanceConfig>,
    inhibitions: Vec<InhibitionConfig>,
}

/// Knows which alerts explain others at one moment.
#[derive(Debug)]
pub(crate) struct Explained<'q> {
    quiet: &'q Quiet,
    firing: Vec<Alert>,
}

const MATCHERS_MAX: usize = 10;

impl MaintenanceConfig {
    pub(crate) fn check(&self, name: &str, problems: &mut Problems) {
        let section = format!("maintenance.{name}");
        let hours = !self.during.hours.is_empty() && self.during.is_legal();
        problems.ensure(hours, &format!("{section}.during.hours"), "must be like 02:00-04:00 (UTC)");
        problems.ensure(
            self.matchers.len() <= MATCHERS_MAX,
            &format!("{section}.matchers"),
            "must be at most 10",
        );
    }
}

impl InhibitionConfig {
    pub(crate) fn check(&self, name: &str, problems: &mut Problems) {
        let section = format!("inhibitions.{name}");
        let legal = (1..=MATCHERS_MAX).contains(&self.by.len()) || self.disabled;
        problems.ensure(legal, &format!("{section}.by"), "must be 1 to 10");
        problems.ensure(self.of.len() <= MATCHERS_MAX, &format!("{section}.of"), "must be at most 10");
    }
}

/// Returns what follows from what in every stack. A configured one of the same name replaces it.
fn stock() -> BTreeMap<String, InhibitionConfig> {
    let matchers = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let one = |by: &[(&str, &str)], of: &[(&str, &str)], equal: &[&str]| InhibitionConfig {
        by: matchers(by),
        of: matchers(of),
        equal: equal.iter().map(|name| (*name).to_owned()).collect(),
        disabled: false,
    };
    [
        ("dead_instance", one(&[("rule", "instance_down")], &[], &["source", "endpoint"])),
        (
            "dead_redis_component",
            one(&[("rule", "redis_unavailable")], &[("rule", "component_*"), ("subject", "redis*")], &[]),
        ),
        ("dead_redis_cache", one(&[("rule", "redis_unavailable")], &[("rule", "cache_*")], &["source"])),
        (
            "dead_redis_invalidations",
            one(&[("rule", "redis_unavailable")], &[("rule", "invalidation_failures")], &["source"]),
        ),
        (
            "ill_redis_cache",
            one(
                &[("rule", "component_unhealthy"), ("subject", "redis*")],
                &[("rule", "cache_*")],
                &["source"],
            ),
        ),
    ]
    .map(|(name, inhibition)| (name.to_owned(), inhibition))
    .into()
}

impl Quiet {
    /// Puts stock and configured reasons together.
    pub(crate) fn new(
        maintenance: &BTreeMap<String, MaintenanceConfig>,
        configured: &BTreeMap<String, InhibitionConfig>,
    ) -> Self {
        let mut inhibitions = stock();
        inhibitions.extend(configured.iter().map(|(name, inhibition)| (name.clone(), inhibition.clone())));
        Self {
            maintenance: maintenance.values().cloned().collect(),
            inhibitions: inhibitions.into_values().filter(|inhibition| !inhibition.disabled).collect(),
        }
    }

    /// Keeps in mind which of the alerts that fire explain others.
    pub(crate) fn among<'a>(&self, firing: impl Iterator<Item = &'a Alert>) -> Explained<'_> {
        let explains =
            |alert: &&Alert| self.inhibitions.iter().any(|inhibition| matches(alert, &inhibition.by));
        Explained { quiet: self, firing: firing.filter(explains).cloned().collect() }
    }
}

impl Explained<'_> {
    /// Tells whether people are not to be told of an alert.
    pub(crate) fn cover(&self, alert: &Alert, silences: &Silences, now: SystemTime) -> bool {
        silences.cover(alert, now) || self.in_maintenance(alert, now) || self.is_explained(alert)
    }

    fn in_maintenance(&self, alert: &Alert, now: SystemTime) -> bool {
        let mut windows = self.quiet.maintenance.iter();
        windows.any(|window| window.during.covers(now) && matches(alert, &window.matchers))
    }

    fn is_explained(&self, alert: &Alert) -> bool {
        self.quiet.inhibitions.iter().filter(|inhibition| matches(alert, &inhibition.of)).any(|inhibition| {
            // What explains others is told itself: two that explain each other would both be kept quiet.
            !matches(alert, &inhibition.by)
                && self.firing.iter().any(|cause| {
                    cause.id != alert.id
                        && matches(cause, &inhibition.by)
                        && inhibition.equal.iter().all(|name| value_of(cause, name) == value_of(alert, name))
                })
        })
    }
}

fn matches(alert: &Alert, matchers: &BTreeMap<String, String>) -> bool {
    matchers.iter().all(|(name, wanted)| {
        let Some(own) = value_of(alert, name) else { return false };
        wanted.strip_suffix('*').map_or(own == wanted, |start| own.starts_with(start))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::{AlertState, Key, Notice, Severity};
    use crate::calendar::Day;
    use crate::roster::tests::at;

    fn alert(rule: &'static str, source: &str, subject: &str) -> Alert {
        let key = Key {
            rule: rule.into(),
            source: source.to_owned(),
            endpoint: format!("http://{source}"),
            subject: subject.to_owned(),
        };
        Alert {
            number: 1,
            id: uuid::Uuid::new_v4(),
            key,
            severity: Severity::Critical,
            state: AlertState::Firing,
            summary: String::new(),
            value: 0.0,
            threshold: 0.0,
            labels: BTreeMap::new(),
            started_at: at(0),
            fired_at: Some(at(0)),
            resolved_at: None,
            acknowledgement: None,
            notice: Notice::Nothing,
            flapping: false,
            version: 0,
            escalated: Vec::new(),
            told_at: None,
            repeated: Vec::new(),
        }
    }

    fn quiet(maintenance: MaintenanceConfig) -> Quiet {
        Quiet::new(&[("night".to_owned(), maintenance)].into(), &BTreeMap::new())
    }

    fn never() -> MaintenanceConfig {
        let during = Weekly { days: [Day::Sun].into(), hours: "00:00-00:01".to_owned() };
        MaintenanceConfig { during, ..MaintenanceConfig::default() }
    }

    #[test]
    fn dead_redis_keeps_what_follows_from_it_quiet_and_is_told_itself() {
        let quiet = quiet(never());
        let redis = alert("redis_unavailable", "cache-service", "mainstay_cache_l2_available");
        let explained = quiet.among([&redis].into_iter());
        let silences = Silences::default();
        let covers = |alert: &Alert| explained.cover(alert, &silences, at(0));
        assert!(covers(&alert("component_unhealthy", "ws-gateway", "redis")));
        assert!(covers(&alert("cache_get_time", "cache-service", "m")));
        assert!(!covers(&alert("cache_get_time", "another-cache", "m")));
        assert!(!covers(&alert("component_unhealthy", "ws-gateway", "postgres.primary")));
        assert!(!covers(&redis));
        let nobody = quiet.among(std::iter::empty());
        assert!(!nobody.cover(&alert("component_unhealthy", "ws-gateway", "redis"), &silences, at(0)));
    }

    #[test]
    fn instance_that_is_down_explains_what_it_said_last() {
        let quiet = quiet(never());
        let down = alert("instance_down", "cache-service", "instance");
        let explained = quiet.among([&down].into_iter());
        let covers = |alert: &Alert| explained.cover(alert, &Silences::default(), at(0));
        assert!(covers(&alert("component_degraded", "cache-service", "disk")));
        assert!(!covers(&alert("component_degraded", "edge-gateway", "disk")));
        assert!(!covers(&alert("instance_down", "cache-service", "instance")));
    }

    #[test]
    fn maintenance_keeps_its_alerts_quiet_while_it_lasts() {
        let during = Weekly { hours: "23:00-01:00".to_owned(), ..Weekly::default() };
        let matchers = [("source".to_owned(), "host".to_owned())].into();
        let quiet = quiet(MaintenanceConfig { during, matchers });
        let explained = quiet.among(std::iter::empty());
        let covers = |source: &str, hour: u64| {
            explained.cover(&alert("host_cpu", source, "m"), &Silences::default(), at(hour * 3_600))
        };
        // The clock of these tests begins at 22:13.
        assert!(covers("host", 1) && !covers("host", 3) && !covers("edge-gateway", 1));
    }
}
