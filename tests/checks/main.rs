//! Checks a running Mainstay from outside, through the edge alone: `mainstay-checks smoke|observability|all|load --env NAME`.
//!
//! Exit code 0 when nothing failed (warnings are told), 1 when a check failed, 64 when it was called wrongly.
#![expect(
    clippy::disallowed_methods,
    reason = "a program for people: it reads its environment and the clock itself"
)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is what it is for")]

use std::process::ExitCode;

use anyhow::Context as _;

mod arguments;
mod check;
mod door;
mod environment;
mod load;
mod observability;
#[path = "../load/pace.rs"]
mod pace;
mod report;
mod shape;
mod smoke;
mod target;

use arguments::{Arguments, Suite};
use check::Check;
use environment::Environment;
use report::Report;
use target::Target;

#[tokio::main]
async fn main() -> ExitCode {
    let told = match Arguments::read(std::env::args().skip(1)) {
        Ok(arguments) => run(arguments).await,
        Err(error) => Err(error),
    };
    told.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(64)
    })
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let environment = Environment::read(&arguments.environments, &arguments.environment)?;
    let target = Target::new(environment, token()?, arguments.load_for)?;
    let mut report = Report::new(arguments.verbose, arguments.coloured);
    for suite in arguments.suite.parts() {
        let checks = match suite {
            Suite::Smoke => smoke::checks(),
            Suite::Observability | Suite::All => observability::checks(),
            Suite::Load => load::checks(),
        };
        report.begin(suite.name(), &target, checks.len());
        run_all(checks, &target, &mut report).await;
    }
    report.end();
    if let Some(path) = &arguments.junit {
        std::fs::write(path, report.junit())?;
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, report.json().to_string())?;
    }
    Ok(if report.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Reads AUTH_TOKEN, or the file that AUTH_TOKEN_FILE names.
fn token() -> anyhow::Result<Option<String>> {
    if let Ok(token) = std::env::var("AUTH_TOKEN") {
        return Ok(Some(token));
    }
    let Ok(path) = std::env::var("AUTH_TOKEN_FILE") else { return Ok(None) };
    let token = std::fs::read_to_string(&path).with_context(|| format!("AUTH_TOKEN_FILE = {path}"))?;
    Ok(Some(token.trim().to_owned()))
}

/// One after another: a check that provokes an alert must not disturb one that measures.
async fn run_all(checks: Vec<Check>, target: &Target, report: &mut Report) {
    for check in checks {
        let begun = std::time::Instant::now();
        let verdict = check.run(target).await;
        report.add(&check, verdict, begun.elapsed());
    }
}
