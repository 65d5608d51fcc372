//! What it costs to decide where a read goes, without the read.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::ensure;
use replica_service::{Decisions, Strategy};

use super::verdict;

const N_NODES: u32 = 16;
const N_DECISIONS: u32 = 200_000;
const ROUNDS: u32 = 5;
const BAR: Duration = Duration::from_micros(1);

/// Prints the time of one decision by each strategy: the mean of a round, and of the rounds the best.
pub(crate) fn decisions() -> anyhow::Result<()> {
    println!("a decision of the router among {N_NODES} nodes, best of {ROUNDS} (bar: less than {BAR:?})");
    for strategy in
        [Strategy::RoundRobin, Strategy::LeastInFlight, Strategy::Weighted, Strategy::LatencyAware]
    {
        let decisions = Decisions::among(N_NODES, strategy)?;
        let round = |_| {
            let begun_at = Instant::now();
            let n_made = (0..N_DECISIONS).filter(|_| black_box(&decisions).decide()).count();
            ensure!(n_made == N_DECISIONS as usize, "{n_made} reads found a node");
            Ok(begun_at.elapsed() / N_DECISIONS)
        };
        let rounds = (0..ROUNDS).map(round).collect::<anyhow::Result<Vec<_>>>()?;
        let best = rounds.into_iter().min().unwrap_or_default();
        println!("  {:<16} {} ns: {}", strategy.as_str(), best.as_nanos(), verdict(best < BAR));
    }
    Ok(())
}
