//! Prints the failover contract of the cache: gap, errors, lost and doubled writes while the Redis primary goes, and whether
//! the bars are held. With `--rounds n` each event is done so many times.

#![expect(clippy::print_stdout, reason = "a program for people: its output is the result")]

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mainstay_tests::{FailoverEvent, FailoverOutcome, FailoverPlan};

/// What the stack has, and what finds a dead primary sooner and takes a slow one for dead sooner, too.
const DOWN_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(400)];

fn bar(event: FailoverEvent) -> Duration {
    match event {
        FailoverEvent::Planned | FailoverEvent::Killed => Duration::from_millis(1_500),
        FailoverEvent::Frozen => Duration::from_secs(3),
    }
}

fn verdict(event: FailoverEvent, outcome: &FailoverOutcome) -> &'static str {
    let is_held = outcome.gap < bar(event) && outcome.lost == 0 && outcome.doubled == 0;
    if is_held { "held" } else { "MISSED" }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rounds = match arguments.as_slice() {
        [] => 1,
        [flag, rounds] if flag == "--rounds" => rounds.parse().context("--rounds takes a number")?,
        other => anyhow::bail!("takes --rounds n, was given {other:?}"),
    };
    ensure!(rounds > 0, "--rounds must be at least 1");
    for down_after in DOWN_AFTER {
        let plan = FailoverPlan { down_after, ..FailoverPlan::FULL };
        println!(
            "{} writes/s through cache-service, away for {:?}, down-after {down_after:?}; bars: lost 0, doubled 0, gap as named",
            plan.writes_per_second, plan.away_for
        );
        for event in FailoverEvent::ALL {
            for _ in 0..rounds {
                let outcome = plan.run(event).await.with_context(|| event.to_string())?;
                println!("  {event:<23} {outcome}, bar {:?}: {}", bar(event), verdict(event, &outcome));
            }
        }
    }
    Ok(())
}
