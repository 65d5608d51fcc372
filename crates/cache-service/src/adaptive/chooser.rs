//! The decision: pure, from figures alone.

use std::time::Duration;

use super::Behaviour;

/// What happened in the window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Observed {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    /// Loads that somebody waited for.
    pub(crate) loads: u64,
    /// Loads before an entry ended.
    pub(crate) refreshes: u64,
    /// How much of what was written is read before it is written again, 0 to 1.
    pub(crate) reread_share: f64,
    pub(crate) load_cost: Duration,
    /// Part of memory in use, 0 to 1.
    pub(crate) fill: f64,
    pub(crate) ttl: Duration,
    pub(crate) window: Duration,
}

/// What a behaviour would have cost in the window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) behaviour: Behaviour,
    pub(crate) origin_calls_per_second: f64,
    /// Mean time that a read waits for the origin.
    pub(crate) read_wait: Duration,
    /// Part of the reads that find nothing fresh: they get stale values, or fail, if the origin fails just then.
    pub(crate) stale_risk: f64,
    /// Work of the origin and waiting of readers, in seconds per second: what is compared.
    pub(crate) cost: f64,
}

/// Below so many reads and writes nothing is decided.
const LEAST_OPERATIONS: u64 = 100;
/// Another behaviour must cost less than this part of the present one,
const WORTH_IT: f64 = 0.8;
/// in so many looks in a row.
const LOOKS_IN_A_ROW: u32 = 3;
/// From this fill of memory what is stored pushes out something else, more and more.
const FULL_FROM: f64 = 0.8;

impl Observed {
    /// Estimates what each behaviour would have cost, from what happened under `present`.
    pub(crate) fn estimates(&self, present: Behaviour) -> [Estimate; 3] {
        let (reads, writes) = (self.reads as f64, self.writes as f64);
        let (loads, refreshes) = (self.loads as f64, self.refreshes as f64);
        let reloads = writes * self.reread_share;
        // How often a value had ended when it was wanted, or would have without early refreshes.
        let ended = match present {
            Behaviour::ReadThrough => (loads - reloads).max(0.0),
            Behaviour::WriteThrough => loads,
            Behaviour::RefreshAhead => loads + refreshes,
        };
        let cost = self.load_cost.as_secs_f64();
        let reads_per_life = reads / (ended + writes).max(1.0);
        let early = if present == Behaviour::RefreshAhead && ended > 0.0 {
            refreshes / ended
        } else {
            // A refresh begins about one load's time before the end, if there is a read in that time.
            let reads_in_time = reads_per_life * cost / self.ttl.as_secs_f64().max(0.001);
            reads_in_time / (1.0 + reads_in_time)
        };
        // Refreshed for nobody.
        let in_vain = early * ended / (1.0 + reads_per_life);
        // What is stored and never read pushes out what would have been.
        let pressure = ((self.fill - FULL_FROM) / (1.0 - FULL_FROM)).clamp(0.0, 1.0);
        let hit_ratio = if reads > 0.0 { (1.0 - loads / reads).clamp(0.0, 1.0) } else { 0.0 };
        let pushed_out = writes * (1.0 - self.reread_share) * pressure * hit_ratio;
        let of = |behaviour, waits: f64, early: f64| {
            let calls = writes + waits + early;
            let seconds = self.window.as_secs_f64().max(0.001);
            Estimate {
                behaviour,
                origin_calls_per_second: calls / seconds,
                read_wait: self.load_cost.mul_f64((waits / reads.max(1.0)).min(1.0)),
                stale_risk: (waits / reads.max(1.0)).min(1.0),
                cost: (calls + waits) * cost / seconds,
            }
        };
        [
            of(Behaviour::ReadThrough, ended + reloads, 0.0),
            of(Behaviour::WriteThrough, ended + pushed_out, 0.0),
            of(Behaviour::RefreshAhead, ended * (1.0 - early) + pushed_out, ended * early + in_vain),
        ]
    }

    fn in_words(&self) -> String {
        format!(
            "{} reads, {} writes, {} loads of {:?} and {} early ones in {:?}; {:.0} % of what is written is read \
             again; memory is {:.0} % full",
            self.reads,
            self.writes,
            self.loads,
            self.load_cost,
            self.refreshes,
            self.window,
            self.reread_share * 100.0,
            self.fill * 100.0,
        )
    }
}

/// Changes its mind only for a good while of good reason.
#[derive(Debug, Default)]
pub(super) struct Chooser {
    better: Option<(Behaviour, u32)>,
}

impl Chooser {
    /// Chooses, and says why.
    pub(super) fn choose(
        &mut self,
        present: Behaviour,
        observed: &Observed,
        estimates: &[Estimate; 3],
    ) -> (Behaviour, String) {
        let seen = observed.in_words();
        if observed.reads + observed.writes < LEAST_OPERATIONS {
            self.better = None;
            return (present, format!("too little happens to choose by: {seen}"));
        }
        let cost_of = |behaviour| {
            let estimate = estimates.iter().find(|estimate| estimate.behaviour == behaviour);
            estimate.map_or(f64::INFINITY, |estimate| estimate.cost)
        };
        let best = estimates.iter().min_by(|one, other| one.cost.total_cmp(&other.cost));
        let best = best.map_or(present, |best| best.behaviour);
        let (present_cost, best_cost) = (cost_of(present), cost_of(best));
        if best == present || best_cost >= present_cost * WORTH_IT {
            self.better = None;
            return (present, format!("nothing else would cost clearly less: {seen}"));
        }
        let n_looks = match self.better {
            Some((better, n_looks)) if better == best => n_looks + 1,
            _ => 1,
        };
        let why = format!(
            "{} would cost {best_cost:.4} s/s where {} costs {present_cost:.4}: {seen}",
            best.as_str(),
            present.as_str()
        );
        if n_looks < LOOKS_IN_A_ROW {
            self.better = Some((best, n_looks));
            return (present, format!("seen {n_looks} of {LOOKS_IN_A_ROW} times: {why}"));
        }
        self.better = None;
        (best, why)
    }
}

#[cfg(test)]
mod tests;
