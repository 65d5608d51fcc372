use std::{cmp::Reverse, time::Duration};

use serde::{Deserialize, Serialize};

use super::Candidate;

/// Chooses one of several fit replicas.
#[derive(Debug)]
pub(super) struct Balance {
    strategy: Strategy,
    /// One per node: how much its turn is due.
    credit: Vec<i64>,
    random: SplitMix,
}

/// How one of several fit replicas is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// In turn, each as often as its weight says (smooth weighted round robin).
    #[default]
    RoundRobin,
    /// The one with the least reads in flight per weight.
    LeastInFlight,
    /// At random, each as often as its weight says: many instances do not march in step.
    Weighted,
    /// Of two at random (power of two choices) the one that costs less: latency (peak-EWMA) by reads in flight per weight.
    LatencyAware,
}

/// Thousandths: the whole weight of a node counts.
pub(crate) const FULL_WARMTH: u32 = 1_000;
const LEAST_WARMTH: u32 = 50;

/// Returns how much of its weight counts for a node that has been back for `back_for`; it grows evenly over `slow_start`.
pub(crate) fn warmth(back_for: Duration, slow_start: Duration) -> u32 {
    if back_for >= slow_start {
        return FULL_WARMTH;
    }
    let share = back_for.as_secs_f64() / slow_start.as_secs_f64();
    ((share * f64::from(FULL_WARMTH)) as u32).clamp(LEAST_WARMTH, FULL_WARMTH)
}

impl Balance {
    pub(super) fn new(strategy: Strategy, n_nodes: usize, seed: u64) -> Self {
        Self { strategy, credit: vec![0; n_nodes], random: SplitMix(seed) }
    }

    /// Returns one of `fit`; `None` only when there is none.
    pub(super) fn choose(&mut self, candidates: &[Candidate], fit: &[usize]) -> Option<usize> {
        match self.strategy {
            Strategy::RoundRobin | Strategy::LeastInFlight => self.take_turn(candidates, fit),
            Strategy::Weighted => self.draw(candidates, fit),
            Strategy::LatencyAware => self.cheaper_of_two(candidates, fit),
        }
    }

    fn take_turn(&mut self, candidates: &[Candidate], fit: &[usize]) -> Option<usize> {
        let mut total = 0;
        for &index in fit {
            let share = candidates[index].share() as i64;
            self.credit[index] += share;
            total += share;
        }
        let due = |index: &usize| (self.credit[*index], Reverse(*index));
        let chosen = if self.strategy == Strategy::RoundRobin {
            fit.iter().max_by_key(|index| due(index))
        } else {
            // Cross-multiplied, so that 3 in flight at weight 3 equals 1 at weight 1 without a division.
            fit.iter().min_by(|a, b| {
                let load = |i: usize, j: usize| {
                    (u64::from(candidates[i].in_flight) + 1).saturating_mul(candidates[j].share())
                };
                load(**a, **b).cmp(&load(**b, **a)).then_with(|| due(b).cmp(&due(a)))
            })
        };
        let chosen = *chosen?;
        self.credit[chosen] -= total;
        Some(chosen)
    }

    fn draw(&mut self, candidates: &[Candidate], fit: &[usize]) -> Option<usize> {
        let total: u64 = fit.iter().map(|index| candidates[*index].share()).sum();
        let mut left = self.random.below(total);
        for &index in fit {
            match left.checked_sub(candidates[index].share()) {
                Some(rest) => left = rest,
                None => return Some(index),
            }
        }
        None
    }

    fn cheaper_of_two(&mut self, candidates: &[Candidate], fit: &[usize]) -> Option<usize> {
        let n_fit = fit.len() as u64;
        let first = self.random.below(n_fit) as usize;
        // Of the others, so that it is never the same one.
        let other = (first + 1 + self.random.below(n_fit.saturating_sub(1)) as usize) % fit.len().max(1);
        let (&first, &other) = (fit.get(first)?, fit.get(other)?);
        let fastest = fit.iter().filter_map(|index| candidates[*index].latency).min();
        // One that has not answered yet is taken for as fast as the fastest, so that it is tried.
        let cost = |index: usize| {
            let candidate = &candidates[index];
            let latency = candidate.latency.or(fastest).unwrap_or(Duration::from_millis(1));
            latency.as_secs_f64() * f64::from(candidate.in_flight + 1) / candidate.share() as f64
        };
        Some(if cost(other) < cost(first) { other } else { first })
    }
}

impl Candidate {
    /// Its weight as it counts now; never 0 for a node that has one.
    fn share(&self) -> u64 {
        u64::from(self.weight) * u64::from(self.warmth.max(1))
    }
}

impl Strategy {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastInFlight => "least_in_flight",
            Self::Weighted => "weighted",
            Self::LatencyAware => "latency_aware",
        }
    }
}

/// Random numbers good enough to spread load (`SplitMix64`).
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    /// Returns a number below `bound`; 0 when there is none.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        // The high half of the product is even over the range, up to one part in 2^64 / bound.
        ((u128::from(mixed) * u128::from(bound)) >> 64) as u64
    }
}
