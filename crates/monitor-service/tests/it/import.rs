//! Rule files in the syntax of Prometheus.

use std::fs;

use mainstay_proto::monitor::v1 as pb;
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
