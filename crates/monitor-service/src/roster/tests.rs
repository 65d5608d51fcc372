use super::*;
use crate::target::Terms;
use std::time::UNIX_EPOCH;

pub(crate) fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second)
}

/// Makes targets with the given services, one endpoint each.
pub(crate) fn targets(services: &[&str]) -> Vec<Arc<Target>> {
    let target = |(index, service): (usize, &&str)| {
        Arc::new(Target {
            index,
            service: (*service).to_owned(),
            endpoint: format!("http://127.0.0.1:40{index}0"),
            terms: Terms::default(),
        })
    };
    services.iter().enumerate().map(target).collect()
}

pub(crate) fn report(seen_at: SystemTime, components: Vec<ComponentReport>) -> Report {
    Report {
        seen_at,
        latency: Duration::from_millis(3),
        instance: "one".to_owned(),
        version: "0.1.0".to_owned(),
        started_at: None,
        ready: true,
        not_ready_because: Vec::new(),
        draining: false,
        components,
        errors: Vec::new(),
    }
}

pub(crate) fn component(name: &str, health: Health, since: SystemTime) -> ComponentReport {
    ComponentReport {
        name: name.to_owned(),
        kind: ComponentKind::Datastore,
        health,
        critical: false,
        detail: "connection refused".to_owned(),
        since,
        checked_at: None,
        latency: None,
        attributes: BTreeMap::new(),
    }
}

#[test]
fn last_report_stays_while_the_target_does_not_answer() {
    let targets = targets(&["cache-service", "ws-gateway"]);
    let mut roster = Roster::new(&targets);
    roster.answered(&targets[0], report(at(0), vec![]), None);
    roster.answered(&targets[0], report(at(1), vec![]), None);
    roster.failed(&targets[0], "refused".to_owned(), at(2));
    roster.failed(&targets[0], "timed out".to_owned(), at(3));

    let entry = &roster.entries()[0];
    assert_eq!(entry.failing, Some(Failing { since: at(2), reason: "timed out".to_owned() }));
    assert_eq!(entry.report.as_ref().map(|report| report.seen_at), Some(at(1)));
    assert!(entry.current().is_none());
    assert_eq!((entry.pulls, entry.pull_failures), (4, 2));
    roster.answered(&targets[0], report(at(4), vec![]), None);
    assert_eq!(roster.entries()[0].failing, None);
}

#[test]
fn monitor_is_isolated_only_when_nobody_answers() {
    let targets = targets(&["cache-service", "ws-gateway"]);
    let mut roster = Roster::new(&targets);
    roster.failed(&targets[0], "refused".to_owned(), at(1));
    assert_eq!(roster.isolated_since(), None);
    assert_eq!(roster.down_since(&roster.entries()[0]), Some(at(1)));
    roster.failed(&targets[1], "refused".to_owned(), at(5));
    assert_eq!(roster.isolated_since(), Some(at(5)));
    assert_eq!(roster.down_since(&roster.entries()[0]), None);
}

#[test]
fn what_is_asked_less_often_speaks_against_isolation_only_by_an_answer_from_after() {
    let mut all = targets(&["cache-service", "ws-gateway", "prometheus"]);
    let mut rare = (*all[2]).clone();
    rare.terms.kind = TargetKind::Scrape;
    all[2] = Arc::new(rare);
    let mut roster = Roster::new(&all);
    roster.answered(&all[2], report(at(0), vec![]), None);
    roster.failed(&all[0], "refused".to_owned(), at(1));
    assert_eq!(roster.isolated_since(), None);
    roster.failed(&all[1], "refused".to_owned(), at(5));
    assert_eq!(roster.isolated_since(), Some(at(5)), "its last answer is older than that");
    roster.failed(&all[2], "refused".to_owned(), at(10));
    assert_eq!(roster.isolated_since(), Some(at(5)));
    roster.answered(&all[2], report(at(20), vec![]), None);
    assert_eq!(roster.isolated_since(), None, "the network is there");
    assert_eq!(roster.down_since(&roster.entries()[0]), Some(at(20)));
}

#[test]
fn time_of_isolation_is_not_held_against_a_target() {
    let targets = targets(&["cache-service", "ws-gateway"]);
    let mut roster = Roster::new(&targets);
    for target in &targets {
        roster.failed(target, "network unreachable".to_owned(), at(1));
    }
    roster.answered(&targets[1], report(at(60), vec![]), None);
    assert_eq!(roster.down_since(&roster.entries()[0]), Some(at(60)));
}

#[test]
fn single_target_that_fails_is_down() {
    let targets = targets(&["cache-service"]);
    let mut roster = Roster::new(&targets);
    roster.failed(&targets[0], "refused".to_owned(), at(1));
    assert_eq!(roster.isolated_since(), None);
    assert_eq!(roster.down_since(&roster.entries()[0]), Some(at(1)));
}

#[test]
fn verdict_names_the_reason() {
    let targets = targets(&["replica-service", "ws-gateway"]);
    let verdict_of = |report: Option<Report>, failing: bool, isolated: bool| {
        let mut roster = Roster::new(&targets);
        if let Some(report) = report {
            roster.answered(&targets[0], report, None);
        }
        if failing {
            roster.failed(&targets[0], "refused".to_owned(), at(9));
        }
        let verdict = Verdict::of(&roster.entries()[0], isolated);
        (verdict.health, verdict.detail)
    };
    let fine = || report(at(0), vec![component("postgres.primary", Health::Healthy, at(0))]);
    let ailing = report(at(0), vec![component("postgres.replica1", Health::Unhealthy, at(0))]);
    let waiting = Report { ready: false, not_ready_because: vec!["postgres".to_owned()], ..fine() };
    let leaving = Report { ready: false, draining: true, ..fine() };
    let cases = [
        (None, false, false, Health::Unknown, "not asked yet"),
        (Some(fine()), false, false, Health::Healthy, "ready"),
        (Some(fine()), true, false, Health::Unhealthy, "does not answer: refused"),
        (Some(fine()), true, true, Health::Unknown, "does not answer: refused"),
        (Some(ailing), false, false, Health::Degraded, "postgres.replica1 unhealthy"),
        (Some(waiting), false, false, Health::Unhealthy, "not ready: postgres"),
        (Some(leaving), false, false, Health::Degraded, "shutting down"),
    ];
    for (report, failing, isolated, health, detail) in cases {
        assert_eq!(verdict_of(report, failing, isolated), (health, detail.to_owned()));
    }
}

#[test]
fn nothing_is_held_against_a_target_that_leaves() {
    let fixed = targets(&["cache-service", "ws-gateway"]);
    let mut roster = Roster::new(&fixed);
    let later = Arc::new(Target { index: 7, ..Target::clone(&fixed[0]) });
    roster.add(&later);
    for target in fixed.iter().chain([&later]) {
        roster.answered(target, report(at(0), vec![]), None);
    }
    roster.leaves(&later, true);
    roster.failed(&later, "refused".to_owned(), at(1));
    assert_eq!((roster.reach().n_targets, roster.reach().n_failing), (2, 0));
    roster.failed(&fixed[0], "refused".to_owned(), at(2));
    roster.failed(&fixed[1], "refused".to_owned(), at(2));
    assert_eq!(roster.isolated_since(), Some(at(2)), "who is expected does not answer");
    roster.remove(&later);
    roster.failed(&later, "refused".to_owned(), at(3));
    assert_eq!(roster.entries().len(), 2, "it is forgotten");
}
