use mainstay_tests::{Finished, run_to_end};

const SERVICES: [&str; 5] =
    ["cache-service", "ws-gateway", "replica-service", "monitor-service", "edge-gateway"];
/// What a service cannot do without, beside its defaults.
fn needed(service: &str) -> Vec<(&'static str, &'static str)> {
    match service {
        "replica-service" => vec![("MAINSTAY__NODES__PRIMARY__ADDRESS", "127.0.0.1:1")],
        _ => Vec::new(),
    }
}

/// Runs a service with what it needs and the given environment.
async fn run(service: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Finished {
    run_to_end(service, arguments, &[environment, &needed(service)].concat()).await
}

/// Exit code for a configuration that cannot be used (EX_USAGE of sysexits.h).
const BAD_CONFIG: Option<i32> = Some(64);

#[tokio::test]
async fn every_service_reports_all_problems_of_its_configuration_at_once() {
    for service in SERVICES {
        let environment = [
            ("MAINSTAY__SERVER__NO_SUCH_KEY", "1"),
            ("MAINSTAY__SERVER__MAX_IN_FLIGHT", "many"),
            ("MAINSTAY__SERVER__GRACE", "9 years"),
            ("MAINSTAY__NO_SUCH_SECTION__KEY", "1"),
            ("MAINSTAY__SERVER__TOKEN_FILE", "/no/such/secret"),
        ];
        let ended = run(service, &["--check-config"], &environment).await;
        assert_eq!(ended.code, BAD_CONFIG, "{service}: {ended:?}");
        let one_line_each = [
            "server.no_such_key",
            "server.max_in_flight",
            "server.grace",
            "no_such_section",
            "/no/such/secret",
        ];
        for part in one_line_each {
            let lines: Vec<_> = ended.stderr.lines().filter(|line| line.contains(part)).collect();
            assert_eq!(lines.len(), 1, "{service}: {part} in\n{}", ended.stderr);
        }
    }
}

#[tokio::test]
async fn impossible_ranges_name_the_key_and_the_legal_range() {
    let table = [
        ("edge-gateway", "MAINSTAY__HTTP__MAX_IN_FLIGHT", "0", "http.max_in_flight"),
        ("cache-service", "MAINSTAY__MEMORY__CAPACITY", "1B", "memory.capacity"),
        ("ws-gateway", "MAINSTAY__WEBSOCKET__MAX_CONNECTIONS", "0", "websocket.max_connections"),
        ("replica-service", "MAINSTAY__POOL__MAX_SIZE", "0", "pool.max_size"),
        ("monitor-service", "MAINSTAY__COLLECT__EVERY", "0s", "collect.every"),
    ];
    for (service, variable, value, key) in table {
        let ended = run(service, &["--check-config"], &[(variable, value)]).await;
        assert_eq!(ended.code, BAD_CONFIG, "{service}: {ended:?}");
        let line = ended.stderr.lines().find(|line| line.contains(key)).unwrap_or_default();
        assert!(line.contains("between") || line.contains("at least"), "{service}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn service_without_authentication_binds_loopback_only() {
    for service in SERVICES {
        let open = [("MAINSTAY__SERVER__LISTEN", "0.0.0.0:0")];
        let ended = run(service, &["--check-config"], &open).await;
        assert_eq!(ended.code, BAD_CONFIG, "{service}: {ended:?}");
        assert!(ended.stderr.contains("server.listen"), "{service}: {}", ended.stderr);

        let token = ("MAINSTAY__SERVER__TOKEN", "a-service-token-of-some-length");
        let ended = run(service, &["--check-config"], &[open[0], token]).await;
        assert_eq!(ended.code, Some(0), "{service}: {ended:?}");
    }
}

#[tokio::test]
async fn print_config_shows_every_section_and_no_secret() {
    for service in SERVICES {
        let environment = [("MAINSTAY__SERVER__TOKEN", "do-not-print-this-token")];
        let ended = run(service, &["--print-config"], &environment).await;
        assert_eq!(ended.code, Some(0), "{service}: {ended:?}");
        assert!(
            ended.stdout.contains("[server]") && ended.stdout.contains("[telemetry]"),
            "{}",
            ended.stdout
        );
        assert!(!ended.stdout.contains("do-not-print-this-token"), "{service} prints its token");
        assert!(ended.stdout.contains("redacted"), "{}", ended.stdout);
    }
}

#[tokio::test]
async fn taken_port_is_one_message_and_exit_code_one() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    for service in SERVICES {
        let ended = run(service, &[], &[("MAINSTAY__SERVER__LISTEN", &address)]).await;
        assert_eq!(ended.code, Some(1), "{service}: {ended:?}");
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(said.contains("server.listen") && said.contains(&address), "{service}: {said}");
    }
}
