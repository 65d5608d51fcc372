use super::*;

const FILE: &str = include_str!("../../../../deploy/config/monitor-service.toml");

#[test]
fn file_we_ship_says_what_the_defaults_are() {
    let shipped: Config = toml::from_str(FILE).unwrap();
    let as_json = |config: &Config| serde_json::to_value(config).unwrap();
    assert_eq!(as_json(&shipped), as_json(&Config::default()));
}

#[test]
fn file_we_ship_names_every_key() {
    fn keys(section: &str, value: &serde_json::Value, missing: &mut Vec<String>) {
        for (key, value) in value.as_object().into_iter().flatten() {
            let named = |line: &str| line.trim_start_matches(['#', ' ']).starts_with(&format!("{key} ="));
            if value.is_object() {
                keys(key, value, missing);
            } else if !FILE.lines().any(named) {
                missing.push(format!("{section}.{key}"));
            }
        }
    }
    let mut missing = Vec::new();
    keys("", &serde_json::to_value(Config::default()).unwrap(), &mut missing);
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn defaults_are_legal() {
    let mut problems = Problems::default();
    Config::default().check(&mut problems);
    assert_eq!(problems.lines(), Vec::<String>::new());
}

#[test]
fn all_impossible_values_are_told_at_once() {
    let mut config = Config {
        collect: CollectConfig {
            every: Duration::from_millis(200),
            within: Duration::from_secs(1),
            dns_server: "localhost".to_owned(),
            ..CollectConfig::default()
        },
        history: HistoryConfig { keep: Duration::from_hours(24), max_series: 1, ..HistoryConfig::default() },
        ..Config::default()
    };
    config.alerts.keep = 1;
    config.targets.entry("edge-gateway".to_owned()).or_default().every = Some(Duration::from_mins(2));
    config.alerts.replica_lag_critical = Duration::from_secs(1);
    let endpoints = ["http://127.0.0.1:1", "http://127.0.0.1:1/", "localhost"].into_iter().collect();
    config.targets.insert("Cache".to_owned(), TargetConfig { endpoints, ..TargetConfig::default() });
    let mut problems = Problems::default();
    config.check(&mut problems);
    let lines = problems.lines();
    let keys: Vec<_> = lines.iter().filter_map(|line| line.split(':').next()).collect();
    let expected = [
        "alerts.keep",
        "alerts.replica_lag_critical",
        "collect.dns_server",
        "collect.within",
        "history.keep",
        "history.max_series",
        "targets.Cache.endpoints.2",
        "targets.Cache.endpoints",
        "targets.Cache",
        "targets.edge-gateway.every",
    ];
    assert_eq!(keys, expected, "{lines:?}");
}

#[test]
fn everything_wrong_with_scrapes_and_probes_is_told_at_once() {
    let text = r#"
        [scrapes.cache-service]
        urls = ["http://a/metrics"]
        [scrapes.plain]
        urls = []
        every = "1s"
        within = "2s"
        failures = 0
        token = "t"
        user = "u"
        max_series = 1
        labels = { "9" = "x" }
        [probes.plain]
        urls = ["tcp://a:1"]
        [probes.host]
        kind = "grpc"
        urls = ["https://a:1"]
        contains = "x"
        slow_after = "1m"
        json = { "status" = 1 }
    "#;
    let config: Config = toml::from_str(text).unwrap();
    let mut problems = Problems::default();
    config.check(&mut problems);
    let lines = problems.lines();
    let mut keys: Vec<_> = lines.iter().filter_map(|line| line.split(':').next()).collect();
    keys.sort_unstable();
    let expected = [
        "probes.host",
        "probes.host.contains",
        "probes.host.json",
        "probes.host.json",
        "probes.host.slow_after",
        "probes.host.tls.ca",
        "probes.plain",
        "probes.plain.urls.0",
        "scrapes.cache-service",
        "scrapes.plain.failures",
        "scrapes.plain.labels",
        "scrapes.plain.max_series",
        "scrapes.plain.token",
        "scrapes.plain.urls",
        "scrapes.plain.within",
    ];
    assert_eq!(keys, expected, "{lines:?}");
}

#[test]
fn everything_wrong_with_stores_groups_and_rule_files_is_told_at_once() {
    let text = r#"
        [alerts]
        rule_files = ["/nowhere/rules.yml"]
        [redis.cache-service]
        addresses = ["no port"]
        user = "monitor"
        every = "1s"
        within = "2s"
        [postgres.main]
        database = ""
        [notify.channels.a]
        kind = "slack"
        url = "https://a"
        group_by = ["rule", "rule"]
        repeat_interval = "1ms"
        [notify.channels.b]
        kind = "pagerduty"
        token = "t"
        group_wait = "2h"
    "#;
    let config: Config = toml::from_str(text).unwrap();
    let mut problems = Problems::default();
    config.check(&mut problems);
    let lines = problems.lines();
    let mut keys: Vec<_> = lines.iter().filter_map(|line| line.split(':').next()).collect();
    keys.sort_unstable();
    let expected = [
        "alerts.rule_files.0",
        "notify.channels.a.group_by",
        "notify.channels.a.group_by",
        "notify.channels.a.repeat_interval",
        "notify.channels.b.group_wait",
        "notify.channels.b.group_wait",
        "postgres.main.addresses",
        "postgres.main.database",
        "postgres.main.user",
        "redis.cache-service",
        "redis.cache-service.addresses.0",
        "redis.cache-service.password",
        "redis.cache-service.within",
    ];
    assert_eq!(keys, expected, "{lines:?}");
}

#[test]
fn service_may_be_pulled_more_often_and_then_its_pulls_are_shorter_and_more_are_remembered() {
    let mut config = Config::default();
    config.targets.entry("edge-gateway".to_owned()).or_default().every = Some(Duration::from_millis(250));
    let mut problems = Problems::default();
    config.check(&mut problems);
    assert_eq!(problems.lines(), Vec::<String>::new());
    let targets = config.all_targets();
    let of = |service: &str| {
        let target = targets.iter().find(|target| target.service == service).unwrap();
        (config.every(target), config.upstream(target).deadline, target.terms.ticks)
    };
    let quick = Duration::from_millis(250);
    assert_eq!(of("edge-gateway"), (quick, quick, std::num::NonZeroUsize::new(4 * 3_600)));
    assert_eq!(of("cache-service"), (Duration::from_secs(1), Duration::from_millis(800), None));
}

#[test]
fn figures_of_services_that_are_pulled_rarely_count_until_the_pull_after_the_next() {
    let mut config = Config::default();
    let patience = |config: &Config| config.all_sources().pop().unwrap().terms.patience;
    assert_eq!(patience(&config), Duration::ZERO);
    config.collect.every = Duration::from_secs(30);
    assert!(patience(&config) + config.alerts.missing_for > 2 * config.collect.every);
}

#[test]
fn service_without_endpoints_is_not_watched() {
    let mut config = Config::default();
    config.targets.insert("replica-service".to_owned(), TargetConfig::default());
    let services: Vec<_> = config.all_targets().iter().map(|target| target.service.clone()).collect();
    assert_eq!(services, ["cache-service", "edge-gateway", "ws-gateway"]);
}
