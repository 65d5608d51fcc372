use super::*;
use crate::alert::Severity;
use crate::roster::tests::{at, component, report, targets};
use crate::roster::{ComponentReport, Report};
use crate::target::Target;
use mainstay_runtime::{ComponentKind, Health};
use std::sync::Arc;

const SERVICES: [&str; 2] = ["replica-service", "cache-service"];

/// Both targets answer at second 10, the first one with this report.
fn roster_with(first: Report) -> (Roster, Vec<Arc<Target>>) {
    let targets = targets(&SERVICES);
    let mut roster = Roster::new(&targets);
    roster.answered(&targets[0], first, None);
    roster.answered(&targets[1], report(at(10), vec![]), None);
    (roster, targets)
}

fn facts<'f>(roster: &'f Roster, replica_lags: &'f [Latest]) -> Facts<'f> {
    Facts {
        roster,
        replica_lags,
        refused_series: 0,
        capped: &[],
        failing_channels: &[],
        store_trouble: None,
        burning: &[],
        max_series: 100,
        now: at(20),
    }
}

fn found(facts: &Facts<'_>) -> Vec<(&'static str, String, Severity)> {
    let breaches = find(facts, &AlertsConfig::default());
    let name = |rule| match rule {
        std::borrow::Cow::Borrowed(name) => name,
        std::borrow::Cow::Owned(name) => panic!("{name} is no built-in rule"),
    };
    breaches.into_iter().map(|breach| (name(breach.key.rule), breach.key.subject, breach.severity)).collect()
}

fn unhealthy(name: &str, critical: bool) -> ComponentReport {
    ComponentReport { critical, ..component(name, Health::Unhealthy, at(5)) }
}

fn lag(targets: &[Arc<Target>], value: f64) -> Vec<Latest> {
    let labels = BTreeMap::from([("node".to_owned(), "replica1".to_owned())]);
    vec![Latest { target: Arc::clone(&targets[0]), labels, at: at(10), value }]
}

#[test]
fn nothing_is_found_while_all_is_well() {
    let (roster, _) =
        roster_with(report(at(10), vec![component("postgres.primary", Health::Healthy, at(0))]));
    assert_eq!(found(&facts(&roster, &[])), []);
}

#[test]
fn ailing_components_are_found_by_how_much_they_matter() {
    let cases = [
        (unhealthy("a", true), Some(("component_unhealthy", Severity::Critical))),
        (unhealthy("a", false), Some(("component_unhealthy", Severity::Warning))),
        (component("a", Health::Degraded, at(5)), Some(("component_degraded", Severity::Warning))),
        (component("a", Health::Unknown, at(5)), None),
    ];
    for (component, expected) in cases {
        let (roster, _) = roster_with(report(at(10), vec![component.clone()]));
        let expected: Vec<_> =
            expected.into_iter().map(|(rule, severity)| (rule, "a".to_owned(), severity)).collect();
        assert_eq!(found(&facts(&roster, &[])), expected, "{component:?}");
    }
}

#[test]
fn what_others_say_of_a_watched_service_is_no_alert_of_its_own() {
    let of_another = |service: &str| {
        let name = format!("{service}@127.0.0.1:4010");
        ComponentReport { kind: ComponentKind::Upstream, ..unhealthy(&name, false) }
    };
    let (watched, unwatched) = (of_another(SERVICES[1]), of_another("somebody-else"));
    let (roster, _) = roster_with(report(at(10), vec![watched, unwatched]));
    assert_eq!(
        found(&facts(&roster, &[])),
        [("component_unhealthy", "somebody-else@127.0.0.1:4010".to_owned(), Severity::Warning)]
    );
}

#[test]
fn breach_of_a_component_counts_from_its_own_change() {
    let (roster, _) = roster_with(report(at(10), vec![unhealthy("a", false)]));
    let breaches = find(&facts(&roster, &[]), &AlertsConfig::default());
    assert_eq!((breaches[0].since, breaches[0].value), (Some(at(5)), 15.0));
}

#[test]
fn target_that_is_not_ready_is_found_only_when_nothing_explains_it() {
    let waiting = |components| Report { ready: false, ..report(at(10), components) };
    let not_ready = ("not_ready", "replica-service".to_owned(), Severity::Warning);
    let (roster, _) = roster_with(waiting(vec![]));
    assert_eq!(found(&facts(&roster, &[])), std::slice::from_ref(&not_ready));

    let (roster, _) = roster_with(waiting(vec![unhealthy("minor", false)]));
    assert!(found(&facts(&roster, &[])).contains(&not_ready));

    let (roster, _) = roster_with(waiting(vec![unhealthy("primary", true)]));
    assert_eq!(
        found(&facts(&roster, &[])),
        [("component_unhealthy", "primary".to_owned(), Severity::Critical)]
    );

    let (roster, _) = roster_with(Report { draining: true, ..waiting(vec![]) });
    assert_eq!(found(&facts(&roster, &[])), []);
}

#[test]
fn dead_target_is_one_finding_and_holds_what_was_known_of_its_parts() {
    let (mut roster, targets) = roster_with(report(at(10), vec![unhealthy("a", true)]));
    roster.failed(&targets[0], "refused".to_owned(), at(12));
    let facts = facts(&roster, &[]);
    assert_eq!(found(&facts), [("instance_down", "replica-service".to_owned(), Severity::Critical)]);

    let key = |rule: &'static str, subject: &str| Key {
        rule: rule.into(),
        source: "replica-service".to_owned(),
        endpoint: targets[0].endpoint.clone(),
        subject: subject.to_owned(),
    };
    assert_eq!(absence(&facts, &key("component_unhealthy", "a")), Absence::Unseen);
    assert_eq!(absence(&facts, &key("replica_lag", "postgres.replica1")), Absence::Unseen);
    assert_eq!(absence(&facts, &key("instance_down", "replica-service")), Absence::Fine(None));
}

#[test]
fn isolated_monitor_is_one_finding_and_knows_nothing_else() {
    let (mut roster, targets) = roster_with(report(at(10), vec![unhealthy("a", true)]));
    for target in &targets {
        roster.failed(target, "network unreachable".to_owned(), at(12));
    }
    let facts = facts(&roster, &[]);
    assert_eq!(found(&facts), [("monitor_isolated", "collector".to_owned(), Severity::Critical)]);
    let source = "replica-service".to_owned();
    let subject = source.clone();
    let down = Key { rule: "instance_down".into(), source, endpoint: targets[0].endpoint.clone(), subject };
    assert_eq!(absence(&facts, &down), Absence::Unseen);
}

#[test]
fn stale_replica_is_found_by_level_unless_it_is_down() {
    let (roster, targets) = roster_with(report(at(10), vec![]));
    let subject = || "postgres.replica1".to_owned();
    assert_eq!(found(&facts(&roster, &lag(&targets, 10.0))), []);
    assert_eq!(found(&facts(&roster, &lag(&targets, 10.5))), [("replica_lag", subject(), Severity::Warning)]);
    assert_eq!(
        found(&facts(&roster, &lag(&targets, 31.0))),
        [("replica_lag", subject(), Severity::Critical)]
    );

    let (roster, targets) = roster_with(report(at(10), vec![unhealthy("postgres.replica1", false)]));
    let lags = lag(&targets, 31.0);
    let facts = facts(&roster, &lags);
    assert_eq!(found(&facts), [("component_unhealthy", subject(), Severity::Warning)]);
    let source = "replica-service".to_owned();
    let key =
        Key { rule: "replica_lag".into(), source, endpoint: targets[0].endpoint.clone(), subject: subject() };
    assert_eq!(absence(&facts, &key), Absence::Unseen);
}

#[test]
fn component_that_recovered_says_since_when() {
    let (roster, targets) = roster_with(report(at(10), vec![component("a", Health::Healthy, at(8))]));
    let source = "replica-service".to_owned();
    let key = |subject: &str| Key {
        rule: "component_unhealthy".into(),
        source: source.clone(),
        endpoint: targets[0].endpoint.clone(),
        subject: subject.to_owned(),
    };
    assert_eq!(absence(&facts(&roster, &[]), &key("a")), Absence::Fine(Some(at(8))));
    assert_eq!(absence(&facts(&roster, &[]), &key("removed")), Absence::Fine(None));
}

#[test]
fn refused_series_are_found() {
    let (roster, _) = roster_with(report(at(10), vec![]));
    let full = Facts { refused_series: 3, failing_channels: &[], ..facts(&roster, &[]) };
    assert_eq!(found(&full), [("history_full", "history".to_owned(), Severity::Warning)]);
}
