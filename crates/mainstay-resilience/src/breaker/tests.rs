use super::*;
use crate::test_time::origin;

mod model;

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn config() -> BreakerConfig {
    BreakerConfig {
        window: millis(1_000),
        min_calls: 4,
        failure_rate: 0.5,
        slow_after: millis(50),
        slow_rate: 0.75,
        open_for: millis(100),
        open_for_max: millis(500),
        probes: 2,
        consecutive_failures: 3,
    }
}

/// Sends one call that ends at once.
fn call(breaker: &mut Breaker, now: Instant, outcome: Outcome, took: Duration) -> Option<Transition> {
    let permit = breaker.admit(now).expect("the breaker admits");
    breaker.record(permit, outcome, took, now)
}

/// Makes a breaker that opened at `now`.
fn opened(now: Instant) -> Breaker {
    let mut breaker = Breaker::new(config());
    for _ in 0..3 {
        call(&mut breaker, now, Outcome::Failure, millis(1));
    }
    assert_eq!(breaker.state(now), State::Open);
    breaker
}

#[test]
fn a_reset_closes_it_and_forgets_what_was_under_way() {
    let now = origin();
    let mut breaker = opened(now);
    let probing_at = now + millis(100);
    let probe = breaker.admit(probing_at).expect("half-open, it admits a probe");
    breaker.reset(probing_at);
    assert_eq!(breaker.state(probing_at), State::Closed);
    assert_eq!(breaker.record(probe, Outcome::Failure, millis(1), probing_at), None);
    for _ in 0..2 {
        assert_eq!(call(&mut breaker, probing_at, Outcome::Failure, millis(1)), None, "it counts from zero");
    }
    assert_eq!(call(&mut breaker, probing_at, Outcome::Failure, millis(1)), CLOSED_TO_OPEN);
}

#[test]
fn what_was_under_way_at_a_reset_counts_for_nothing_though_it_was_closed() {
    let (now, mut breaker) = (origin(), Breaker::new(config()));
    let before: Vec<_> = (0..3).map(|_| breaker.admit(now).expect("closed")).collect();
    breaker.reset(now);
    for permit in before {
        assert_eq!(breaker.record(permit, Outcome::Failure, millis(1), now), None);
    }
    assert_eq!(breaker.state(now), State::Closed);
}

const CLOSED_TO_OPEN: Option<Transition> = Some(Transition { from: State::Closed, to: State::Open });
const REOPENED: Option<Transition> = Some(Transition { from: State::HalfOpen, to: State::Open });
const HEALED: Option<Transition> = Some(Transition { from: State::HalfOpen, to: State::Closed });

#[test]
fn each_rule_opens_it_at_its_own_call() {
    let (ok, slow, failed) =
        ((Outcome::Success, millis(1)), (Outcome::Success, millis(50)), (Outcome::Failure, millis(1)));
    let table = [
        ("failures in a row", vec![ok, failed, failed, failed], Some(3)),
        ("failure rate", vec![failed, ok, failed, ok], Some(3)),
        ("slow rate", vec![slow, slow, ok, slow], Some(3)),
        ("too few calls", vec![failed, ok, failed], None),
        ("below both rates", vec![ok, ok, slow, slow, failed, ok], None),
    ];
    for (name, calls, opens_at) in table {
        let (now, mut breaker) = (origin(), Breaker::new(config()));
        let opened_at = calls.into_iter().position(|(outcome, took)| {
            call(&mut breaker, now, outcome, took).is_some_and(|change| Some(change) == CLOSED_TO_OPEN)
        });
        assert_eq!(opened_at, opens_at, "{name}");
    }
}

#[test]
fn the_rule_of_failures_in_a_row_can_be_turned_off() {
    let now = origin();
    let mut breaker = Breaker::new(BreakerConfig { consecutive_failures: 0, min_calls: 100, ..config() });
    for _ in 0..99 {
        assert_eq!(call(&mut breaker, now, Outcome::Failure, millis(1)), None);
    }
    assert_eq!(call(&mut breaker, now, Outcome::Failure, millis(1)), CLOSED_TO_OPEN);
}

#[test]
fn open_rejects_with_the_time_that_is_left() {
    let now = origin();
    let mut breaker = opened(now);
    assert_eq!(breaker.admit(now), Err(Rejected { retry_after: millis(100) }));
    assert_eq!(breaker.admit(now + millis(99)), Err(Rejected { retry_after: millis(1) }));
    assert!(breaker.admit(now + millis(100)).expect("open time is over").is_probe());
}

#[test]
fn it_closes_after_enough_probes_and_forgets_the_past() {
    let now = origin();
    let mut breaker = opened(now);
    let later = now + millis(100);
    assert_eq!(call(&mut breaker, later, Outcome::Success, millis(1)), None);
    assert_eq!(call(&mut breaker, later, Outcome::Success, millis(1)), HEALED);
    let snapshot = breaker.snapshot(later);
    assert_eq!((snapshot.calls, snapshot.failures, snapshot.opened_total), (0, 0, 1));
    assert_eq!(snapshot.since, Some(later));
}

#[test]
fn each_failed_probing_doubles_the_open_time_up_to_the_longest() {
    let mut now = origin();
    let mut breaker = opened(now);
    for lasts in [100, 200, 400, 500, 500] {
        assert_eq!(breaker.admit(now), Err(Rejected { retry_after: millis(lasts) }));
        now += millis(lasts);
        assert_eq!(call(&mut breaker, now, Outcome::Failure, millis(1)), REOPENED);
    }
    assert_eq!(breaker.snapshot(now).opened_total, 6);
    now += millis(500);
    call(&mut breaker, now, Outcome::Success, millis(1));
    assert_eq!(call(&mut breaker, now, Outcome::Success, millis(1)), HEALED);
    for _ in 0..3 {
        call(&mut breaker, now, Outcome::Failure, millis(1));
    }
    assert_eq!(breaker.admit(now), Err(Rejected { retry_after: millis(100) }), "healing resets the doubling");
}

#[test]
fn slow_probes_do_not_close_it() {
    let now = origin();
    let mut breaker = opened(now);
    let later = now + millis(100);
    assert_eq!(call(&mut breaker, later, Outcome::Success, millis(60)), None);
    assert_eq!(call(&mut breaker, later, Outcome::Success, millis(60)), REOPENED);
}

#[test]
fn no_more_than_the_probes_are_in_flight() {
    let now = origin();
    let mut breaker = opened(now);
    let later = now + millis(100);
    let first = breaker.admit(later).unwrap();
    let _second = breaker.admit(later).unwrap();
    assert_eq!(breaker.admit(later), Err(Rejected { retry_after: millis(100) }));
    breaker.cancel(first, later);
    assert!(breaker.admit(later).is_ok(), "a cancelled probe frees its slot");
}

#[test]
fn lost_probes_free_their_slots_by_age() {
    let now = origin();
    let mut breaker = opened(now);
    let later = now + millis(100);
    let lost = [breaker.admit(later).unwrap(), breaker.admit(later).unwrap()];
    assert_eq!(breaker.admit(later + millis(999)), Err(Rejected { retry_after: millis(1) }));
    let much_later = later + millis(1_000);
    assert_eq!(call(&mut breaker, much_later, Outcome::Success, millis(1)), None);
    let [late_success, late_failure] = lost;
    assert_eq!(breaker.record(late_success, Outcome::Success, millis(1), much_later), None);
    assert_eq!(breaker.state(much_later), State::HalfOpen, "a late success does not count");
    assert_eq!(breaker.record(late_failure, Outcome::Failure, millis(1), much_later), REOPENED);
}

#[test]
fn permits_of_an_earlier_life_change_nothing() {
    let now = origin();
    let mut breaker = Breaker::new(config());
    let permits: Vec<_> = (0..6).map(|_| breaker.admit(now).unwrap()).collect();
    let mut changes = Vec::new();
    for permit in permits {
        changes.push(breaker.record(permit, Outcome::Failure, millis(1), now));
    }
    assert_eq!(changes, [None, None, CLOSED_TO_OPEN, None, None, None]);
    assert_eq!(breaker.snapshot(now).failures, 3);

    let later = now + millis(100);
    let probes = [breaker.admit(later).unwrap(), breaker.admit(later).unwrap()];
    let [fails, late] = probes;
    assert_eq!(breaker.record(fails, Outcome::Failure, millis(1), later), REOPENED);
    assert_eq!(breaker.record(late, Outcome::Failure, millis(1), later), None, "not doubled twice");
    assert_eq!(breaker.admit(later), Err(Rejected { retry_after: millis(200) }));
}

#[test]
fn time_alone_turns_open_into_half_open() {
    let now = origin();
    let breaker = opened(now);
    let until = now + millis(100);
    assert_eq!(breaker.snapshot(now).since, Some(now));
    let snapshot = breaker.snapshot(until + millis(5));
    assert_eq!((snapshot.state, snapshot.since), (State::HalfOpen, Some(until)));
    assert_eq!(snapshot.failures, 3, "what led to the opening stays visible");
}

#[test]
fn states_have_the_names_used_in_labels() {
    let names = [State::Closed, State::Open, State::HalfOpen].map(|state| state.to_string());
    assert_eq!(names, ["closed", "open", "half_open"]);
}

#[test]
fn figures_that_make_no_breaker_are_refused_or_clamped() {
    assert_eq!(BreakerConfig::try_new(BreakerConfig::default()), Ok(BreakerConfig::default()));
    let table = [
        BreakerConfig { window: Duration::ZERO, ..config() },
        BreakerConfig { min_calls: 0, ..config() },
        BreakerConfig { probes: 0, ..config() },
        BreakerConfig { failure_rate: 0.0, ..config() },
        BreakerConfig { failure_rate: f64::NAN, ..config() },
        BreakerConfig { slow_rate: 1.01, ..config() },
        BreakerConfig { slow_after: Duration::ZERO, ..config() },
        BreakerConfig { open_for: Duration::ZERO, ..config() },
        BreakerConfig { open_for_max: millis(99), ..config() },
        BreakerConfig { open_for_max: Duration::MAX, ..config() },
    ];
    for wrong in table {
        assert!(BreakerConfig::try_new(wrong.clone()).is_err(), "{wrong:?}");
        assert!(BreakerConfig::try_new(wrong.clone().clamped()).is_ok(), "{wrong:?}");
    }
}
