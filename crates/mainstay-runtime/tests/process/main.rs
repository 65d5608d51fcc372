//! A service as its operator sees it: exit codes, signals, probes, logs and spans of a real process.

mod service;
mod spans;

use std::net::TcpListener;

use rustix::process::Signal;
use service::{Service, echo_once, poll};

#[test]
fn asked_to_stop_it_ends_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut service = Service::listening(&[]);
        service.wait_for_status("/readyz", "200");
        service.signal(signal);
        service.wait_for_line(|line| line["message"] == "asked to stop");
        let (status, lines) = service.end();
        assert_eq!(status.code(), Some(0), "{lines:#?}");
        assert_eq!(lines.last().map(|line| &line["message"]), Some(&"stopped".into()));
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut service =
        Service::listening(&[("MAINSTAY__ECHO__DEAF", "true"), ("MAINSTAY__SERVER__GRACE", "10m")]);
    service.wait_for_status("/readyz", "200");
    service.signal(Signal::TERM);
    service.wait_for_line(|line| line["message"] == "asked to stop");
    service.signal(Signal::TERM);
    let dropping = service.wait_for_line(|line| line["message"] == "dropping what is in flight");
    assert!(dropping["fields"]["unfinished"].to_string().contains("troublemaker"), "{dropping}");
    assert_eq!(service.end().0.code(), Some(0));
}

#[test]
fn grace_bounds_the_wait_for_a_deaf_task() {
    let mut service =
        Service::listening(&[("MAINSTAY__ECHO__DEAF", "true"), ("MAINSTAY__SERVER__GRACE", "50ms")]);
    service.wait_for_status("/readyz", "200");
    service.signal(Signal::TERM);
    service.wait_for_line(|line| line["message"] == "grace is over, dropping what is in flight");
    assert_eq!(service.end().0.code(), Some(0));
}

#[test]
fn a_failed_task_ends_it_with_1_and_its_name_in_the_log() {
    for (fault, error) in [("error", "cannot go on"), ("panic", "panicked: lost my head")] {
        let mut service = Service::started(&[("MAINSTAY__ECHO__FAULT", fault)]);
        let crash = service.wait_for_line(|line| line["message"] == "task failed, stopping the process");
        assert_eq!(
            (&crash["fields"]["task"], &crash["fields"]["error"]),
            (&"troublemaker".into(), &error.into())
        );
        assert_eq!(crash["level"], "ERROR");
        let (status, lines) = service.end();
        assert_eq!(status.code(), Some(1));
        let place =
            lines.iter().find(|line| line["message"] == "panicked").map(|line| &line["fields"]["location"]);
        assert_eq!(place.is_some(), fault == "panic");
    }
}

#[test]
fn a_failed_start_ends_it_with_1() {
    let unserved = "nobody serves the internal port: Context::serve was not called";
    for (fault, error) in [("start", "the echo is lost"), ("unserved", unserved)] {
        let mut service = Service::started(&[("MAINSTAY__ECHO__FAULT", fault)]);
        let told = service.wait_for_line(|line| line["message"] == "cannot start");
        assert_eq!(told["fields"]["error"], error);
        assert_eq!(service.end().0.code(), Some(1));
    }
}

#[test]
fn a_taken_port_ends_it_with_1_and_tells_which_and_where_to_correct_it() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = taken.local_addr().expect("a bound port has an address").to_string();
    let mut service = Service::started(&[("MAINSTAY__SERVER__LISTEN", &address)]);
    let told = service.wait_for_line(|line| line["message"] == "cannot start");
    let error = told["fields"]["error"].as_str().expect("the reason is told");
    assert!(
        error.starts_with(&format!("server.listen: cannot listen on {address}: Address already in use")),
        "{error}"
    );
    assert_eq!(service.end().0.code(), Some(1));
}

#[test]
fn bad_configuration_ends_it_with_64_and_one_line_per_problem() {
    let variables = [
        ("MAINSTAY__ECHO__REPEAT", "10"),
        ("MAINSTAY__ECHO__REPAET", "1"),
        ("MAINSTAY__ECHO__DEAF", "a bit"),
        ("MAINSTAY__ECHO__PASSWORD_FILE", "/nowhere"),
    ];
    let output = echo_once(&variables, &[]);
    assert_eq!(output.status.code(), Some(64));
    let told = String::from_utf8_lossy(&output.stderr);
    let keys: Vec<_> = told.lines().map(|line| line.split(':').next().unwrap_or_default()).collect();
    assert_eq!(keys, ["echo.deaf", "echo.password_file", "echo.repaet", "echo.repeat"], "{told}");
    assert!(output.stdout.is_empty());
}

#[test]
fn arguments_are_checked_and_explained() {
    for (args, code) in [(&["--help"][..], 0), (&["--version"], 0), (&["--colour"], 64), (&["--config"], 64)]
    {
        assert_eq!(echo_once(&[], args).status.code(), Some(code), "{args:?}");
    }
    assert_eq!(echo_once(&[], &["--config", "/nowhere.toml"]).status.code(), Some(64));
}

#[test]
fn configuration_is_checked_and_printed_without_starting() {
    let variables = [("MAINSTAY__ECHO__PASSWORD", "s3cret"), ("MAINSTAY__SERVER__GRACE", "90s")];
    let checked = echo_once(&variables, &["--check-config"]);
    assert_eq!(checked.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&checked.stdout), "configuration is valid\n");

    let printed = echo_once(&variables, &["--print-config"]);
    assert_eq!(printed.status.code(), Some(0));
    let text = String::from_utf8_lossy(&printed.stdout);
    let config: toml::Table = text.parse().expect("what is printed is TOML");
    assert_eq!(config["server"]["grace"].as_str(), Some("1m 30s"));
    assert_eq!(config["echo"]["password"].as_str(), Some("[redacted]"));
}

#[test]
fn readiness_follows_a_critical_component_and_liveness_does_not() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let store = dir.path().join("store");
    let service =
        Service::listening(&[("MAINSTAY__ECHO__STORE", store.to_str().expect("temporary paths are UTF-8"))]);
    poll("the probe to have looked", || (service.get("/readyz").1 == "store: is not there\n").then_some(()));
    assert!(service.get("/livez").0.starts_with("HTTP/1.1 200"));

    std::fs::write(&store, "").expect("a temporary file can be written");
    assert_eq!(service.wait_for_status("/readyz", "200"), "ready\n");
    assert_eq!(service.get("/readyz?verbose").1, "[+]store ok\n");

    std::fs::remove_file(&store).expect("the file is there");
    assert_eq!(service.wait_for_status("/readyz", "503"), "store: is not there\n");
    assert_eq!(service.get("/readyz?verbose").1, "[-]store is not there\n");
}

#[test]
fn healthcheck_asks_the_running_service() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let store = dir.path().join("store");
    let service =
        Service::listening(&[("MAINSTAY__ECHO__STORE", store.to_str().expect("temporary paths are UTF-8"))]);
    let address = service.address.expect("the service listens").to_string();
    let healthcheck = || echo_once(&[("MAINSTAY__SERVER__LISTEN", &address)], &["healthcheck"]);
    service.wait_for_status("/readyz", "503");
    let unready = healthcheck();
    assert_eq!(unready.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unready.stderr).starts_with("not ready: store"));

    std::fs::write(&store, "").expect("a temporary file can be written");
    service.wait_for_status("/readyz", "200");
    assert_eq!(healthcheck().status.code(), Some(0));

    drop(service);
    assert_eq!(healthcheck().status.code(), Some(1));
}

#[test]
fn metrics_are_openmetrics() {
    let service = Service::listening(&[]);
    service.wait_for_status("/readyz", "200");
    let (head, body) = service.get("/metrics");
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
    assert!(body.ends_with("# EOF\n"));
    for line in ["mainstay_ready 1", "mainstay_component_health{component=\"store\"} 3"] {
        assert!(body.lines().any(|found| found == line), "{line} is not in\n{body}");
    }
    for name in [
        "mainstay_process_cpu_seconds_total",
        "mainstay_process_open_fds",
        "mainstay_process_start_time_seconds",
        "mainstay_background_runs_total{task=\"store.probe\"}",
        "mainstay_background_failures_total{task=\"store.probe\"} 0",
    ] {
        assert!(body.lines().any(|found| found.starts_with(name)), "{name} is not in\n{body}");
    }
}
