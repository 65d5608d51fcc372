//! Rule files in the syntax of Prometheus: what its own tool refuses is refused here too, and by its line.

use std::fs;
use std::path::Path;
use std::process::Command;

use mainstay_proto::monitor::v1 as pb;
use mainstay_rpc::ErrorCode;
use pb::AlertState;

use crate::harness::{PATIENCE, TargetService, Watcher, quick};

const GOOD: &str = r#"
groups:
  - name: ours
    interval: 15s
    rules:
      - alert: NothingMissing
        expr: up == 1
        labels: {severity: critical, team: night}
        annotations: {summary: "{{ $labels.service }} says {{ $value }}"}
      - alert: TooManyPulls
        expr: rate(mainstay_rpc_requests_total{method="none"}[1m]) >= 1e6
        for: 1h30m
"#;

/// Each is one error for Prometheus, and the line that we name.
const BAD: [(&str, &str); 8] = [
    ("groups:\n- name: a\n  rules: [", "line 4"),
    ("groups:\n- name: a\n  rules:\n  - alert: A\n    expr: up ==\n", "line 5"),
    ("groups:\n- name: a\n  rules:\n  - alert: A\n    expr: up{a=} > 1\n", "line 5"),
    ("groups:\n- name: a\n  rules:\n  - alert: A\n    expr: rate(up) > 1\n", "line 5"),
    ("groups:\n- name: a\n  rules:\n  - alert: A\n    expr: up > 1\n    for: soon\n", "line 6"),
    ("groups:\n- name: a\n  rules:\n  - alert: A\n    expr: up > 1\n    fore: 1m\n", "line 6"),
    ("groups:\n- name: a\n  rules:\n  - alert: A\n", "line 4"),
    ("groups:\n- rules:\n  - alert: A\n    expr: up > 1\n", "line 2"),
];

/// Prometheus takes these; here they are told to be too much.
const TOO_MUCH: [(&str, &str); 3] = [
    (
        "groups:\n- name: a\n  rules:\n  - alert: A\n    expr: sum(up) > 1\n",
        "line 5: expr: sum() is not understood",
    ),
    ("groups:\n- name: a\n  rules:\n  - record: a:b\n    expr: up\n", "line 4: rules that record"),
    ("groups:\n- name: a\n  limit: 3\n  rules: []\n", "line 3: `limit` of a group is not understood"),
];

/// Asks the tool of Prometheus.
fn promtool_takes(folder: &Path, text: &str) -> bool {
    let file = folder.join("rules.yml");
    fs::write(&file, text).expect("the folder is ours");
    let checked = Command::new("promtool").arg("check").arg("rules").arg(&file).output();
    checked.expect("promtool is installed").status.success()
}

#[tokio::test]
async fn what_promtool_refuses_is_refused_and_what_is_understood_works() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = TargetService::start("cache-service").await;
    let watcher = Watcher::start(quick(&[("cache-service", &target)])).await;
    for (text, line) in BAD {
        assert!(!promtool_takes(folder.path(), text), "{text}");
        let failure = watcher.import_rules(text, false).await.expect_err(text);
        let told: Vec<String> = failure.fields().iter().map(|field| field.message.clone()).collect();
        assert_eq!(failure.code(), ErrorCode::InvalidArgument);
        assert!(told.iter().any(|problem| problem.starts_with(&format!("{line}: "))), "{text}: {told:?}");
    }
    for (text, problem) in TOO_MUCH {
        assert!(promtool_takes(folder.path(), text), "{text}");
        let failure = watcher.import_rules(text, false).await.expect_err(text);
        assert!(failure.fields()[0].message.starts_with(problem), "{:?}", failure.fields());
    }
    assert!(promtool_takes(folder.path(), GOOD));
    let tried = watcher.import_rules(GOOD, true).await.expect("it is legal").rules;
    assert_eq!(tried.len(), 2);
    let is_there = |rules: &[pb::RuleStatus], name: &str| {
        rules.iter().any(|status| status.rule.as_ref().is_some_and(|rule| rule.name == name))
    };
    assert!(!is_there(&watcher.rules().await, "nothing_missing"), "a dry run stores nothing");
    watcher.import_rules(GOOD, false).await.expect("it is legal");
    assert!(is_there(&watcher.rules().await, "too_many_pulls"));
    let firing = watcher.alert("nothing_missing", AlertState::Firing, PATIENCE).await;
    assert_eq!(
        (firing.summary.as_str(), firing.severity()),
        ("cache-service says 1", pb::Severity::Critical)
    );
    assert_eq!(firing.labels["team"], "night");
    watcher.import_rules(GOOD, false).await.expect("once more replaces them");
    let n_imported =
        watcher.rules().await.iter().filter(|status| status.origin() == pb::RuleOrigin::Runtime).count();
    assert_eq!(n_imported, 2);
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn files_named_in_the_configuration_are_rules_from_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("good.yml");
    fs::write(&file, GOOD).expect("the folder is ours");
    let target = TargetService::start("cache-service").await;
    let mut config = quick(&[("cache-service", &target)]);
    config.alerts.rule_files = vec![file];
    let watcher = Watcher::start(config).await;
    watcher.alert("nothing_missing", AlertState::Firing, PATIENCE).await;
    let rules = watcher.rules().await;
    let imported =
        rules.iter().find(|status| status.rule.as_ref().is_some_and(|rule| rule.name == "nothing_missing"));
    assert_eq!(imported.map(pb::RuleStatus::origin), Some(pb::RuleOrigin::Config));
    watcher.cx.shut_down().await;
}
