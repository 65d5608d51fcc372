//! Compares the breaker, step by step, with a slow and simple one that keeps every event.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy)]
enum Step {
    Wait(u64),
    Admit,
    /// Ends the n-th outstanding permit (modulo their number).
    Finish {
        nth: usize,
        failed: bool,
        slow: bool,
    },
    Cancel {
        nth: usize,
    },
    Lose {
        nth: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u64..150).prop_map(Step::Wait),
        1 => (0_u64..2_000).prop_map(Step::Wait),
        8 => Just(Step::Admit),
        8 => (any::<usize>(), any::<bool>(), prop::bool::weighted(0.3))
            .prop_map(|(nth, failed, slow)| Step::Finish { nth, failed, slow }),
        1 => any::<usize>().prop_map(|nth| Step::Cancel { nth }),
        1 => any::<usize>().prop_map(|nth| Step::Lose { nth }),
    ]
}

/// One admitted call as the model remembers it.
#[derive(Debug, Clone, Copy)]
struct Ticket {
    id: usize,
    life: u32,
    probe: bool,
}

#[derive(Debug, Default)]
struct Model {
    /// Counts openings and closings.
    life: u32,
    open: Option<(u64, u64)>,
    half_open: Option<u64>,
    probes: Vec<(usize, u64)>,
    good: Vec<bool>,
    first_call: Option<u64>,
    /// (bucket, failed, slow) of this closed phase or the last one.
    calls: Vec<(u64, bool, bool)>,
    in_a_row: u32,
    n_tickets: usize,
}

impl Model {
    fn state(&self, now: u64) -> State {
        match (self.open, self.half_open) {
            (Some((until, _)), _) if now < until => State::Open,
            (None, None) => State::Closed,
            _ => State::HalfOpen,
        }
    }

    fn admit(&mut self, now: u64) -> Result<Ticket, u64> {
        if let Some((until, lasts)) = self.open {
            if now < until {
                return Err(until - now);
            }
            (self.open, self.half_open) = (None, Some(lasts));
            self.probes.clear();
            self.good.clear();
        }
        let ticket = Ticket { id: self.n_tickets, life: self.life, probe: self.half_open.is_some() };
        if ticket.probe {
            self.probes.retain(|(_, at)| now - at < 1_000);
            if self.probes.len() + self.good.len() >= 2 {
                return Err(self
                    .probes
                    .iter()
                    .map(|(_, at)| at + 1_000 - now)
                    .min()
                    .unwrap_or(1_000)
                    .min(100));
            }
            self.probes.push((ticket.id, now));
        }
        self.n_tickets += 1;
        Ok(ticket)
    }

    fn finish(&mut self, ticket: Ticket, failed: bool, slow: bool, now: u64) -> Option<Transition> {
        if ticket.life != self.life {
            return None;
        }
        if let Some(lasted) = self.half_open {
            let had_slot = self.give_back(ticket);
            if !failed && had_slot {
                self.good.push(!slow);
            }
            let all_slow = self.good.len() == 2 && self.good.iter().filter(|fast| !**fast).count() == 2;
            if failed || all_slow {
                return self.turn(Some((now, (lasted * 2).min(500))), State::HalfOpen);
            }
            return if self.good.len() == 2 { self.turn(None, State::HalfOpen) } else { None };
        }
        let first = *self.first_call.get_or_insert(now);
        self.calls.push(((now - first) / 100, failed, slow));
        self.in_a_row = if failed { self.in_a_row + 1 } else { 0 };
        let (calls, failures, slows) = self.counts(now);
        let rates = calls >= 4 && (failures * 2 >= calls || slows * 4 >= calls * 3);
        if rates || self.in_a_row >= 3 { self.turn(Some((now, 100)), State::Closed) } else { None }
    }

    fn give_back(&mut self, ticket: Ticket) -> bool {
        let before = self.probes.len();
        if ticket.life == self.life {
            self.probes.retain(|(id, _)| *id != ticket.id);
        }
        self.probes.len() < before
    }

    fn turn(&mut self, open: Option<(u64, u64)>, from: State) -> Option<Transition> {
        self.life += 1;
        self.half_open = None;
        self.in_a_row = 0;
        self.open = open.map(|(now, lasts)| (now + lasts, lasts));
        if open.is_none() {
            self.calls.clear();
        }
        Some(Transition { from, to: if open.is_some() { State::Open } else { State::Closed } })
    }

    fn counts(&self, now: u64) -> (u64, u64, u64) {
        let current = self.first_call.map_or(0, |first| (now - first) / 100);
        let alive = self.calls.iter().filter(|(bucket, ..)| bucket + 10 > current);
        alive.fold((0, 0, 0), |(n, f, s), (_, failed, slow)| {
            (n + 1, f + u64::from(*failed), s + u64::from(*slow))
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn breaker_does_what_the_simple_model_does(steps in prop::collection::vec(step(), 1..200)) {
        let start = origin();
        let (mut breaker, mut model) = (Breaker::new(config()), Model::default());
        let mut outstanding: Vec<(Permit, Ticket)> = Vec::new();
        let mut elapsed = 0;
        for step in steps {
            let now = start + millis(elapsed);
            match step {
                Step::Wait(wait) => elapsed += wait,
                Step::Admit => match (breaker.admit(now), model.admit(elapsed)) {
                    (Ok(permit), Ok(ticket)) => {
                        prop_assert_eq!(permit.is_probe(), ticket.probe);
                        outstanding.push((permit, ticket));
                    }
                    (Err(rejected), Err(retry_after)) => {
                        prop_assert_eq!(rejected.retry_after, millis(retry_after));
                        prop_assert!(rejected.retry_after > Duration::ZERO);
                    }
                    (real, simple) => prop_assert!(false, "breaker {real:?}, model {simple:?}"),
                },
                Step::Finish { nth, failed, slow } if !outstanding.is_empty() => {
                    let (permit, ticket) = outstanding.swap_remove(nth % outstanding.len());
                    let outcome = if failed { Outcome::Failure } else { Outcome::Success };
                    let took = if slow { millis(50) } else { millis(49) };
                    let change = breaker.record(permit, outcome, took, now);
                    prop_assert_eq!(change, model.finish(ticket, failed, slow, elapsed));
                }
                Step::Cancel { nth } if !outstanding.is_empty() => {
                    let (permit, ticket) = outstanding.swap_remove(nth % outstanding.len());
                    breaker.cancel(permit, now);
                    model.give_back(ticket);
                }
                Step::Lose { nth } if !outstanding.is_empty() => {
                    drop(outstanding.swap_remove(nth % outstanding.len()));
                }
                Step::Finish { .. } | Step::Cancel { .. } | Step::Lose { .. } => {}
            }
            let now = start + millis(elapsed);
            prop_assert_eq!(breaker.state(now), model.state(elapsed));
            let seen = breaker.snapshot(now);
            prop_assert_eq!((seen.calls, seen.failures, seen.slow), model.counts(elapsed));
        }
    }

    #[test]
    fn a_breaker_always_finds_back(steps in prop::collection::vec(step(), 1..100)) {
        let mut now = origin();
        let mut breaker = Breaker::new(config());
        for step in steps {
            match step {
                Step::Wait(wait) => now += millis(wait),
                Step::Admit | Step::Cancel { .. } | Step::Lose { .. } => drop(breaker.admit(now)),
                Step::Finish { failed, .. } => {
                    if let Ok(permit) = breaker.admit(now) {
                        let outcome = if failed { Outcome::Failure } else { Outcome::Success };
                        breaker.record(permit, outcome, millis(1), now);
                    }
                }
            }
        }
        // Whatever happened and whatever was lost: after the longest wait, healthy probes close it.
        now += millis(1_000);
        for _ in 0..2 {
            if let Ok(permit) = breaker.admit(now) {
                breaker.record(permit, Outcome::Success, millis(1), now);
            }
        }
        prop_assert_eq!(breaker.state(now), State::Closed);
    }
}
