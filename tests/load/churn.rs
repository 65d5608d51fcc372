//! Prints what a long churn makes of the cache's memory, and whether the bars are met. With `--short` it is over in seconds.

#![expect(clippy::print_stdout, reason = "a program for people: its output is the result")]

use anyhow::bail;
use mainstay_tests::ChurnPlan;

const LONG: ChurnPlan = ChurnPlan { capacity_mib: 512, rounds: 12, turns_each: 10, small_entries: 1_000_000 };
const SHORT: ChurnPlan = ChurnPlan { capacity_mib: 256, rounds: 4, turns_each: 3, small_entries: 300_000 };
const OFF_BOUND_BAR: f64 = 0.05;
const RESIDENT_BAR: f64 = 1.2;
const OVERHEAD_BAR_BYTES: f64 = 150.0;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let plan = match arguments.as_slice() {
        [] => LONG,
        [flag] if flag == "--short" => SHORT,
        other => bail!("takes --short, was given {other:?}"),
    };
    let outcome = plan.run().await?;
    println!("{outcome}");
    for (what, measured, bar) in [
        ("counted bytes off their bound, as a part of it", outcome.off_bound(), OFF_BOUND_BAR),
        ("resident bytes over the bound", outcome.most_over_bound(), RESIDENT_BAR),
        ("overhead of an entry, counted", outcome.overhead.counted_bytes, OVERHEAD_BAR_BYTES),
        ("overhead of an entry, resident", outcome.overhead.resident_bytes, OVERHEAD_BAR_BYTES),
    ] {
        let verdict = if measured <= bar { "met" } else { "MISSED" };
        println!("  {what:<48} {measured:>8.3}, bar {bar}: {verdict}");
    }
    Ok(())
}
