//! Drives the unmodified Rust SDK of the client protocol through what the gateway serves, in both forms and over
//! WebSocket and HTTP streaming. An argument names the scenarios to run: those whose title contains it.

mod harness;
mod scenarios;

use std::process::ExitCode;
use std::time::Duration;

use harness::VARIANTS;

/// Longest time of one scenario: only a wait that fails takes that long.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> ExitCode {
    let only = std::env::args().nth(1).unwrap_or_default();
    let (mut passed, mut failed) = (0, 0);
    for (name, run) in scenarios::ALL {
        for variant in VARIANTS {
            let title = format!("{} ({})", name.replace('_', " "), variant.name);
            if !title.contains(&only) {
                continue;
            }
            // In a task of its own, so that a scenario that panics fails alone.
            let outcome = tokio::time::timeout(PATIENCE, tokio::spawn(run(variant))).await;
            let trouble = match outcome {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("took more than {PATIENCE:?}")),
            };
            if let Some(trouble) = trouble {
                failed += 1;
                println!("FAILED  {title}\n{trouble}");
            } else {
                passed += 1;
                println!("ok      {title}");
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
