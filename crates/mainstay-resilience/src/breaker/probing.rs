use std::time::{Duration, Instant};

/// Keeps the book of the probes of one half-open phase.
///
/// At any time `in flight + successes <= probes`.
#[derive(Debug)]
pub(super) struct Probing {
    probes: u32,
    in_flight: Vec<Probe>,
    next_id: u64,
    successes: u32,
    slow: u32,
}

#[derive(Debug)]
struct Probe {
    id: u64,
    admitted_at: Instant,
}

/// Says what the probes so far tell about the one called.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Undecided,
    Well,
    Sick,
}

impl Probing {
    pub(super) fn new(probes: u32) -> Self {
        Self { probes, in_flight: Vec::new(), next_id: 0, successes: 0, slow: 0 }
    }

    /// Gives a slot, or says when the oldest probe will have lost its own.
    pub(super) fn admit(&mut self, now: Instant, stale_after: Duration) -> Result<u64, Duration> {
        let age = |probe: &Probe| now.saturating_duration_since(probe.admitted_at);
        self.in_flight.retain(|probe| age(probe) < stale_after);
        let taken = u32::try_from(self.in_flight.len()).unwrap_or(u32::MAX).saturating_add(self.successes);
        if taken >= self.probes {
            let oldest = self.in_flight.iter().map(age).max().unwrap_or_default();
            return Err(stale_after.saturating_sub(oldest));
        }
        let id = self.next_id;
        self.next_id += 1;
        self.in_flight.push(Probe { id, admitted_at: now });
        Ok(id)
    }

    /// Takes the end of a probe.
    ///
    /// A failure counts even if its probe has lost its slot: late bad news is still bad news. A late success does
    /// not, its slot may belong to another probe already.
    pub(super) fn record(&mut self, id: u64, failed: bool, slow: bool, slow_rate: f64) -> Verdict {
        let held_a_slot = self.cancel(id);
        if failed {
            return Verdict::Sick;
        }
        if !held_a_slot {
            return Verdict::Undecided;
        }
        self.successes += 1;
        self.slow += u32::from(slow);
        if self.successes < self.probes {
            Verdict::Undecided
        } else if f64::from(self.slow) / f64::from(self.successes) >= slow_rate {
            // Closing on slow answers would open again at once, for the shortest time.
            Verdict::Sick
        } else {
            Verdict::Well
        }
    }

    /// Frees the slot of a probe; returns whether it had one.
    pub(super) fn cancel(&mut self, id: u64) -> bool {
        let before = self.in_flight.len();
        self.in_flight.retain(|probe| probe.id != id);
        self.in_flight.len() < before
    }
}
