//! Metrics of other programs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mainstay_proto::common::v1::Health;
use mainstay_proto::monitor::v1 as pb;
use monitor_service::Config;
use monitor_service::config::{Comparison, RuleKind, RuleSpec, ScrapeConfig};

use super::talker::{Says, Talker, metrics};
use super::{PATIENCE, last_values, told, values_are};
use crate::harness::{Watcher, free_address, quick, wait_for};

fn scraping(urls: Vec<String>) -> ScrapeConfig {
    ScrapeConfig {
        urls: urls.into(),
        every: Duration::from_millis(200),
        within: Duration::from_millis(200),
        ..ScrapeConfig::default()
    }
}

fn with_scrape(name: &str, scrape: ScrapeConfig) -> Config {
    let mut config = quick(&[]);
    config.scrapes.insert(name.to_owned(), scrape);
    config
}

#[tokio::test]
async fn real_prometheus_is_read_by_its_metrics() {
    let address = free_address();
    let dir = tempfile::tempdir().expect("a directory is made");
    let file = dir.path().join("prometheus.yml");
    std::fs::write(&file, "global:\n  scrape_interval: 1m\n").expect("the directory is ours");
    let _process = tokio::process::Command::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("prometheus is installed: scripts/test sees to it");
    let mut scrape = scraping(vec![format!("http://{address}/metrics")]);
    // It has much to tell, and the machine may be busy.
    (scrape.every, scrape.within) = (Duration::from_secs(1), Duration::from_secs(1));
    scrape.labels.insert("stage".to_owned(), "test".to_owned());
    let watcher = Watcher::start(with_scrape("prometheus", scrape)).await;
    watcher.all_answer().await;

    let known = wait_for(PATIENCE, async || {
        let series = watcher.range("prometheus_http_requests_total").await.series;
        let of_metrics = series.iter().find(|series| {
            series.labels.get("handler").is_some_and(|handler| handler == "/metrics")
                && series.points.last().is_some_and(|point| point.last >= 2.0)
        });
        of_metrics.cloned().ok_or_else(|| format!("{series:?}"))
    })
    .await;
    assert_eq!(known.labels["service"], "prometheus");
    assert_eq!(known.labels["stage"], "test");
    values_are(&watcher, "up", &[1.0]).await;
    assert!(last_values(&watcher, "go_goroutines").await[0] > 1.0);
    let found = told(&watcher, "prometheus", "ready").await;
    assert_eq!((found.kind.as_str(), found.health()), ("scrape", Health::Healthy));
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn whatever_a_target_says_instead_of_metrics_is_a_failed_scrape_with_its_reason() {
    let talker = Talker::showing("a 1\n").await;
    let mut scrape = scraping(vec![talker.url("/metrics")]);
    (scrape.every, scrape.within) = (Duration::from_secs(1), Duration::from_secs(1));
    (scrape.token, scrape.max_bytes) = ("t0ken".into(), 65_536);
    let watcher = Watcher::start(with_scrape("talker", scrape)).await;
    watcher.all_answer().await;
    let head = talker.heads.lock().to_ascii_lowercase();
    assert!(head.contains("authorization: bearer t0ken") && head.starts_with("get /metrics "), "{head}");

    let written = Arc::new(AtomicUsize::new(0));
    let text = |status, body: &str| Says::Text { status, kind: "text/plain", body: body.to_owned() };
    let cut_off = Says::Text {
        status: 200,
        kind: "application/openmetrics-text; version=1.0.0",
        body: "# TYPE a counter\na_total 1\n".to_owned(),
    };
    let cases = [
        (Says::Nothing, "no answer within 1s"),
        (text(503, "a 1\n"), "answered 503"),
        (text(200, "a 1\nb {\n"), "metrics cannot be read: line 2"),
        (cut_off, "does not end with # EOF"),
        (Says::Nonsense, "no answer of HTTP"),
        (Says::Megabytes(100, Arc::clone(&written)), "longer than 65536 bytes"),
    ];
    for (says, reason) in cases {
        talker.say(says);
        let found = told(&watcher, "talker", reason).await;
        assert_eq!(found.health(), Health::Unhealthy, "{found:?}");
        values_are(&watcher, "up", &[0.0]).await;
    }
    assert!(written.load(Ordering::Relaxed) < 100, "all of it was read");
    watcher.alert("instance_down", pb::AlertState::Firing, PATIENCE).await;
    talker.say(metrics("a 2\n"));
    watcher.alert("instance_down", pb::AlertState::Resolved, PATIENCE).await;
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn target_whose_labels_explode_keeps_what_it_had_and_an_alert_says_so() {
    let talker = Talker::showing("steady 1\n").await;
    let scrape = ScrapeConfig { max_series: 10, ..scraping(vec![talker.url("/")]) };
    let watcher = Watcher::start(with_scrape("talker", scrape)).await;
    watcher.all_answer().await;
    let explosion: String = (0..90).map(|id| format!("hits{{request=\"{id}\"}} 1\n")).collect();
    talker.say(metrics(&format!("steady 2\n{explosion}")));
    let alert = watcher.alert("series_limit", pb::AlertState::Firing, PATIENCE).await;
    assert!(alert.summary.contains("its max_series is 10"), "{}", alert.summary);
    assert_eq!(alert.source, "talker");
    assert_eq!(last_values(&watcher, "steady").await, [2.0]);
    assert!(watcher.overview().await.series <= 10);
    talker.say(metrics("steady 3\n"));
    watcher.alert("series_limit", pb::AlertState::Resolved, PATIENCE).await;
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn figures_that_are_no_numbers_have_no_history_fire_nothing_and_harm_no_others() {
    let text = "wild NaN\nwilder +Inf\nwildest -Inf\nsteady 1\ncounted_total NaN\n";
    let talker = Talker::showing(text).await;
    let mut config = with_scrape("talker", scraping(vec![talker.url("/")]));
    let rule = |metric: &str, comparison| RuleSpec {
        metric: metric.to_owned(),
        critical: Some(0.5),
        comparison,
        fires_after: Some(Duration::ZERO),
        ..RuleSpec::default()
    };
    let (above, unequal) = (Comparison::Above, Comparison::Unequal);
    for (name, metric, comparison) in [
        ("wild", "wild", unequal),
        ("wilder", "wilder", above),
        ("wildest", "wildest", unequal),
        ("steady", "steady", above),
    ] {
        config.rules.insert(name.to_owned(), rule(metric, comparison));
    }
    let watcher = Watcher::start(config).await;
    watcher.all_answer().await;
    // It was looked at: what is a number, read at the same time, fires.
    watcher.alert("steady", pb::AlertState::Firing, PATIENCE).await;
    values_are(&watcher, "up", &[1.0]).await;
    for metric in ["wild", "wilder", "wildest", "counted_total"] {
        assert_eq!(last_values(&watcher, metric).await, Vec::<f64>::new(), "{metric}");
    }
    let rules: Vec<String> = watcher.alerts().await.into_iter().map(|alert| alert.rule).collect();
    assert_eq!(rules, ["steady"]);
    // Numbers again: they have a history from now on.
    talker.say(metrics(&text.replace("NaN", "7").replace("+Inf", "8").replace("-Inf", "9")));
    values_are(&watcher, "wild", &[7.0]).await;
    watcher.alert("wilder", pb::AlertState::Firing, PATIENCE).await;
    // And none: what was known last is not taken for what is.
    talker.say(metrics(text));
    watcher.alert("wilder", pb::AlertState::Resolved, PATIENCE).await;
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn history_that_is_full_keeps_what_it_has_and_an_alert_says_so() {
    let talker = Talker::showing("steady 1\n").await;
    let mut config = with_scrape("talker", scraping(vec![talker.url("/")]));
    config.history.max_series = 100;
    let watcher = Watcher::start(config).await;
    watcher.all_answer().await;
    values_are(&watcher, "steady", &[1.0]).await;
    let flood: String = (0..300).map(|id| format!("hits{{request=\"{id}\"}} 1\n")).collect();
    talker.say(metrics(&format!("steady 2\n{flood}")));
    let alert = watcher.alert("history_full", pb::AlertState::Firing, PATIENCE).await;
    assert!(alert.summary.contains("history.max_series is 100"), "{}", alert.summary);
    values_are(&watcher, "steady", &[2.0]).await;
    assert!(watcher.overview().await.series <= 100);
    talker.say(metrics("steady 3\n"));
    watcher.alert("history_full", pb::AlertState::Resolved, PATIENCE).await;
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn counter_that_begins_anew_is_no_loss_and_a_rare_figure_stays_in_force_between_scrapes() {
    let talker = Talker::showing("work_total 100\nlevel 1\n").await;
    let mut scrape = scraping(vec![talker.url("/")]);
    (scrape.every, scrape.within) = (Duration::from_secs(2), Duration::from_secs(2));
    let mut config = with_scrape("talker", scrape);
    // Far less than lies between two scrapes.
    config.alerts.missing_for = Duration::from_millis(300);
    config.alerts.clear_for = Duration::ZERO;
    let rule = |kind, metric: &str| RuleSpec {
        kind,
        metric: metric.to_owned(),
        critical: Some(0.5),
        ..RuleSpec::default()
    };
    config.rules.insert("level".to_owned(), rule(RuleKind::Threshold, "level"));
    config.rules.insert("work".to_owned(), rule(RuleKind::Rate, "work_total"));
    let watcher = Watcher::start(config).await;
    let firing = watcher.alert("level", pb::AlertState::Firing, PATIENCE).await;

    talker.say(metrics("work_total 70\nlevel 1\n"));
    // 70 since it began anew, over a minute at most: a rate of more than one a second.
    let rate = watcher.alert("work", pb::AlertState::Firing, PATIENCE).await;
    assert!(rate.value > 0.5, "{}", rate.value);
    let still = watcher.alert("level", pb::AlertState::Firing, PATIENCE).await;
    assert_eq!(still.id, firing.id, "it was resolved between two scrapes");
    watcher.cx.shut_down().await;
}
