//! Prints the failover contract of the cache: gap, errors, lost and doubled writes while the Redis primary goes, and whether
//! the bars are held. With `--rounds n` each event is done so many times; `--event frozen` or any other word of a line does only those,
//! and `--down-after-ms n` tries another setting of the Sentinels.

#![expect(clippy::print_stdout, reason = "a program for people: its output is the result")]

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mainstay_tests::{FailoverEvent, FailoverOutcome, FailoverPlan};

/// What `deploy/redis/sentinel.conf` has, and what finds a dead primary sooner and takes a slow one for dead sooner, too.
const DOWN_AFTER: [Duration; 2] = [Duration::from_millis(800), Duration::from_millis(400)];

fn bar(event: FailoverEvent) -> Duration {
    match event {
        FailoverEvent::Planned | FailoverEvent::Unprepared | FailoverEvent::Killed => {
            Duration::from_millis(1_500)
        }
        FailoverEvent::Frozen => Duration::from_secs(3),
    }
}

const IN_CLUSTER: &str = "kill -9 in a cluster";
/// The nodes agree on a loss after `cluster-node-timeout`, and a replica waits half a second to a whole one before it asks for votes.
const CLUSTER_BAR: Duration = Duration::from_secs(4);

fn verdict(event: FailoverEvent, outcome: &FailoverOutcome) -> &'static str {
    if outcome.holds(bar(event)) { "held" } else { "MISSED" }
}

/// What is to be done; all of it unless told otherwise.
struct Chosen {
    rounds: u32,
    /// A word in the name of the event.
    event: String,
    down_after: Vec<Duration>,
}

impl Chosen {
    fn read(mut words: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut chosen = Self { rounds: 1, event: String::new(), down_after: DOWN_AFTER.to_vec() };
        while let Some(flag) = words.next() {
            let value = words.next().with_context(|| format!("{flag} takes a value"))?;
            match flag.as_str() {
                "--rounds" => chosen.rounds = value.parse().context("--rounds takes a number")?,
                "--event" => chosen.event = value,
                "--down-after-ms" => {
                    let millis = value.parse().context("--down-after-ms takes a number")?;
                    chosen.down_after = vec![Duration::from_millis(millis)];
                }
                _ => anyhow::bail!("takes --rounds, --event and --down-after-ms, was given {flag}"),
            }
        }
        ensure!(chosen.rounds > 0, "--rounds must be at least 1");
        Ok(chosen)
    }

    fn has(&self, event: &str) -> bool {
        event.contains(&self.event)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let chosen = Chosen::read(std::env::args().skip(1))?;
    for down_after in &chosen.down_after {
        let plan = FailoverPlan { down_after: *down_after, ..FailoverPlan::FULL };
        println!(
            "{} writes/s through cache-service, away for {:?}, down-after {down_after:?}; bars: lost 0, doubled 0, gap as named",
            plan.writes_per_second, plan.away_for
        );
        for event in FailoverEvent::ALL.into_iter().filter(|event| chosen.has(&event.to_string())) {
            for _ in 0..chosen.rounds {
                let outcome = plan.run(event).await.with_context(|| event.to_string())?;
                println!("  {event:<23} {outcome}, bar {:?}: {}", bar(event), verdict(event, &outcome));
            }
        }
    }
    if chosen.has(IN_CLUSTER) {
        println!("a cluster of three shards, node-timeout 1 s; bars: lost 0, doubled 0, gap as named");
        for _ in 0..chosen.rounds {
            let outcome = FailoverPlan::FULL.run_in_cluster().await.context(IN_CLUSTER)?;
            let verdict = if outcome.holds(CLUSTER_BAR) { "held" } else { "MISSED" };
            println!("  {IN_CLUSTER:<23} {outcome}, bar {CLUSTER_BAR:?}: {verdict}");
        }
    }
    Ok(())
}
