//! The checks that operators run, as a test runs them.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::{House, binary};

/// The observability suite fires and resolves an alert, on a machine that is busy with other tests.
const CHECKED_WITHIN: Duration = Duration::from_mins(3);

/// What a run of `mainstay-checks` found.
pub struct Checked {
    pub code: Option<i32>,
    pub text: String,
    report: Value,
}

/// Runs a suite against the house, as the scripts do; a load lasts a second a check.
///
/// # Panics
/// When it does not end within a minute, or leaves no report.
pub async fn run_checks(house: &House, suite: &str) -> Checked {
    let folder = tempfile::tempdir().expect("a folder for the report");
    let json = folder.path().join("report.json");
    let environments: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "..", "deploy", "environments.toml"].iter().collect();
    let child = Command::new(binary("mainstay-checks"))
        .args([suite, "--seconds", "1", "--env", "local", "--environments"])
        .arg(environments)
        .arg("--json")
        .arg(&json)
        .env("EDGE", format!("http://{}", house.edge()))
        .env("AUTH_TOKEN", &house.stack().credentials().api_keys.admin)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a built program starts");
    let output = tokio::time::timeout(CHECKED_WITHIN, child.wait_with_output()).await;
    let output = output.expect("the checks end within a minute").expect("the output can be read");
    let report = std::fs::read(&json).expect("the checks leave a report");
    Checked {
        code: output.status.code(),
        text: String::from_utf8_lossy(&output.stdout).into_owned(),
        report: serde_json::from_slice(&report).expect("the report is JSON"),
    }
}

impl Checked {
    /// Lists what failed: `name: why`.
    pub fn failures(&self) -> Vec<String> {
        let failed = self.checks().iter().filter(|check| check["verdict"] == "FAIL");
        let text = |check: &Value, field: &str| check[field].as_str().unwrap_or_default().to_owned();
        failed.map(|check| format!("{}: {}", text(check, "name"), text(check, "detail"))).collect()
    }

    pub fn n_checks(&self) -> usize {
        self.checks().len()
    }

    fn checks(&self) -> &[Value] {
        self.report["checks"].as_array().map_or(&[], Vec::as_slice)
    }
}
