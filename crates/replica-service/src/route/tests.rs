use std::sync::LazyLock;

use proptest::{prelude::*, strategy::Strategy as Generator};

use super::{Strategy, *};

fn position(timeline: u32, lsn: u64) -> Position {
    Position { timeline, lsn: crate::lsn::Lsn(lsn) }
}

const SECOND: Duration = Duration::from_secs(1);

/// When everything here is asked.
fn now() -> Instant {
    static NOW: LazyLock<Instant> = LazyLock::new(|| crate::test_time::origin() + SECOND * 60);
    *NOW
}

fn proven(staleness: Option<Duration>) -> Option<Instant> {
    staleness.map(|staleness| now() - staleness)
}

fn needs() -> ReadNeeds {
    ReadNeeds {
        max_staleness: SECOND * 5,
        max_lag_bytes: Some(1_000),
        after: None,
        prefer: Prefer::Replica,
        primary_fallback: true,
        zone: None,
    }
}

fn primary() -> Candidate {
    Candidate {
        barred: None,
        place: Place::Primary { timeline: 2, believed_until: now() },
        in_flight: 0,
        weight: 1,
        warmth: FULL_WARMTH,
        latency: None,
        zone: None,
    }
}

fn replica(replayed: u64) -> Candidate {
    let place = Place::Replica {
        replayed: Some(position(2, replayed)),
        proven_at: proven(Some(SECOND)),
        lag_bytes: Some(0),
    };
    Candidate { barred: None, place, in_flight: 0, weight: 1, warmth: FULL_WARMTH, latency: None, zone: None }
}

fn picks(router: &mut Router, candidates: &[Candidate], needs: &ReadNeeds, n: usize) -> Vec<usize> {
    (0..n).map(|_| router.choose(candidates, needs, now()).pick.unwrap().node).collect()
}

#[test]
fn reads_go_round_the_replicas_and_leave_the_primary_alone() {
    let mut router = Router::new(Strategy::RoundRobin, 3, 7);
    let candidates = [primary(), replica(9), replica(9)];
    assert_eq!(picks(&mut router, &candidates, &needs(), 6), [1, 2, 1, 2, 1, 2]);
}

#[test]
fn weights_share_the_turns_smoothly() {
    let mut router = Router::new(Strategy::RoundRobin, 2, 7);
    let candidates = [Candidate { weight: 3, ..replica(9) }, replica(9)];
    assert_eq!(picks(&mut router, &candidates, &needs(), 8), [0, 0, 1, 0, 0, 0, 1, 0]);
}

#[test]
fn the_least_busy_replica_per_weight_is_taken() {
    let mut router = Router::new(Strategy::LeastInFlight, 2, 7);
    let busy = |in_flight, weight| Candidate { in_flight, weight, ..replica(9) };
    assert_eq!(picks(&mut router, &[busy(3, 1), busy(2, 1)], &needs(), 2), [1, 1]);
    assert_eq!(picks(&mut router, &[busy(3, 4), busy(2, 1)], &needs(), 2), [0, 0]);
    assert_eq!(picks(&mut router, &[busy(0, 1), busy(0, 1)], &needs(), 4), [0, 1, 0, 1]);
}

#[test]
fn replicas_of_the_same_zone_come_first_and_those_of_others_before_the_primary() {
    let mut router = Router::new(Strategy::RoundRobin, 4, 7);
    let of = |zone, replayed| Candidate { zone, ..replica(replayed) };
    let needs = |zone| ReadNeeds { zone, after: Some(position(2, 5)), ..needs() };
    let all = [primary(), of(Some(1), 9), of(Some(2), 9), of(Some(1), 9)];
    assert_eq!(picks(&mut router, &all, &needs(Some(1)), 4), [1, 3, 1, 3]);
    assert_eq!(picks(&mut router, &all, &needs(Some(2)), 2), [2, 2]);
    let mut anywhere = picks(&mut router, &all, &needs(None), 3);
    anywhere.sort_unstable();
    assert_eq!(anywhere, [1, 2, 3]);
    // Nobody near is fit, or nobody is near.
    let behind = [primary(), of(Some(1), 4), of(Some(2), 9), of(None, 4)];
    assert_eq!(picks(&mut router, &behind, &needs(Some(1)), 2), [2, 2]);
    assert_eq!(picks(&mut router, &behind, &needs(Some(3)), 1), [2]);
    let none = [primary(), of(Some(1), 4)];
    assert_eq!(picks(&mut router, &none, &needs(Some(1)), 1), [0]);
}

#[test]
fn the_primary_takes_over_with_a_reason() {
    let after = Some(position(2, 10));
    let stale = Candidate {
        place: Place::Replica {
            replayed: Some(position(2, 9)),
            proven_at: proven(Some(SECOND * 6)),
            lag_bytes: Some(0),
        },
        ..replica(9)
    };
    for (other, needs, reason) in [
        (replica(9), ReadNeeds { after, ..needs() }, Reason::Token),
        (stale, needs(), Reason::NoFitReplica),
        (replica(9), ReadNeeds { prefer: Prefer::Primary, ..needs() }, Reason::PrimaryPreferred),
        (replica(9), ReadNeeds { max_staleness: Duration::ZERO, ..needs() }, Reason::NoFitReplica),
    ] {
        let decision = Router::new(Strategy::RoundRobin, 2, 7).choose(&[primary(), other], &needs, now());
        assert_eq!(decision.pick, Ok(Pick { node: 0, reason }));
    }
}

#[test]
fn a_token_of_an_older_timeline_is_answered_by_the_primary_only() {
    let needs = ReadNeeds { after: Some(position(1, 5)), ..needs() };
    let decision = Router::new(Strategy::RoundRobin, 2, 7).choose(&[primary(), replica(9)], &needs, now());
    assert_eq!(decision.pick, Ok(Pick { node: 0, reason: Reason::NoFitReplica }));
    assert!(decision.hopeful.is_empty());
}

#[test]
fn a_token_of_a_newer_timeline_is_not_answered_by_an_old_primary() {
    let needs = ReadNeeds { after: Some(position(3, 5)), ..needs() };
    let decision = Router::new(Strategy::RoundRobin, 2, 7).choose(&[primary(), replica(9)], &needs, now());
    let refusals = vec![Refusal::OtherTimeline; 2];
    assert_eq!(decision.pick, Err(Refused { refusals }));
}

#[test]
fn a_replica_that_only_lacks_the_token_is_named() {
    let needs = ReadNeeds { after: Some(position(2, 10)), primary_fallback: false, ..needs() };
    let decision =
        Router::new(Strategy::RoundRobin, 3, 7).choose(&[primary(), replica(9), replica(8)], &needs, now());
    assert_eq!(decision.hopeful, [1, 2]);
    let refusals = vec![Refusal::PrimaryNotAllowed, Refusal::TokenNotReplayed, Refusal::TokenNotReplayed];
    assert_eq!(decision.pick, Err(Refused { refusals }));
}

#[test]
fn a_primary_that_may_not_be_it_any_more_is_waited_for_where_no_replica_is_fit() {
    let doubtful = Candidate {
        place: Place::Primary { timeline: 2, believed_until: now() - Duration::from_millis(1) },
        ..primary()
    };
    let mut router = Router::new(Strategy::RoundRobin, 2, 7);
    let wanted = ReadNeeds { prefer: Prefer::Primary, ..needs() };
    let decision = router.choose(&[doubtful.clone(), replica(9)], &wanted, now());
    assert_eq!(decision.hopeful, [0]);
    let refusals = vec![Refusal::RoleUnproven, Refusal::PrimaryWanted];
    assert_eq!(decision.pick, Err(Refused { refusals }));
    let decision = router.choose(&[doubtful, replica(9)], &needs(), now());
    assert_eq!(decision.pick, Ok(Pick { node: 1, reason: Reason::Replica }));
}

fn candidates() -> impl Generator<Value = Candidate> {
    let positions = (1_u32..4, 0_u64..20).prop_map(|(timeline, lsn)| position(timeline, lsn));
    let staleness = prop::option::of((0_u64..10).prop_map(Duration::from_secs));
    let place = prop_oneof![
        1 => (1_u32..4, 0_u64..4).prop_map(|(timeline, seconds)| Place::Primary {
            timeline,
            believed_until: now() + SECOND * 3 - Duration::from_secs(seconds * 2),
        }),
        4 => (prop::option::of(positions), staleness, prop::option::of(0_u64..2_000))
            .prop_map(|(replayed, staleness, lag_bytes)| Place::Replica { replayed, proven_at: proven(staleness), lag_bytes }),
        1 => Just(Place::Neither),
    ];
    let barred =
        prop_oneof![4 => Just(None), 1 => Just(Some(Refusal::Down)), 1 => Just(Some(Refusal::BreakerOpen))];
    let zone = prop::option::of(0_u16..3);
    (barred, place, 0_u32..9, 0_u32..4, zone).prop_map(|(barred, place, in_flight, weight, zone)| Candidate {
        barred,
        place,
        in_flight,
        weight,
        warmth: FULL_WARMTH,
        latency: None,
        zone,
    })
}

fn any_needs() -> impl Generator<Value = ReadNeeds> {
    let after = prop::option::of((1_u32..4, 0_u64..20).prop_map(|(timeline, lsn)| position(timeline, lsn)));
    let zone = prop::option::of(0_u16..3);
    (0_u64..10, prop::option::of(0_u64..2_000), after, any::<bool>(), any::<bool>(), zone).prop_map(
        |(seconds, max_lag_bytes, after, replica, primary_fallback, zone)| ReadNeeds {
            max_staleness: Duration::from_secs(seconds),
            max_lag_bytes,
            after,
            prefer: if replica { Prefer::Replica } else { Prefer::Primary },
            primary_fallback,
            zone,
        },
    )
}

/// Says in other words than the router whether a node may answer.
fn may_answer(candidate: &Candidate, needs: &ReadNeeds) -> bool {
    candidate.barred.is_none()
        && match candidate.place {
            Place::Neither => false,
            Place::Primary { timeline, believed_until } => {
                believed_until >= now()
                    && (needs.prefer == Prefer::Primary || needs.primary_fallback)
                    && needs.after.is_none_or(|after| after.timeline <= timeline)
            }
            Place::Replica { replayed, proven_at, lag_bytes } => {
                needs.prefer == Prefer::Replica
                    && candidate.weight > 0
                    && proven_at.is_some_and(|at| at + needs.max_staleness >= now())
                    && needs.max_lag_bytes.is_none_or(|most| lag_bytes.is_some_and(|bytes| bytes <= most))
                    && replayed.is_some_and(|at| {
                        needs.after.is_none_or(|after| after.timeline == at.timeline && after.lsn <= at.lsn)
                    })
            }
        }
}

proptest! {
    #[test]
    fn a_pick_keeps_every_bound_and_is_made_whenever_one_can(
        candidates in prop::collection::vec(candidates(), 0..8),
        needs in any_needs(),
        least in any::<bool>(),
        rounds in 1_usize..6,
    ) {
        let strategy = if least { Strategy::LeastInFlight } else { Strategy::RoundRobin };
        let mut router = Router::new(strategy, candidates.len(), 7);
        for _ in 0..rounds {
            let decision = router.choose(&candidates, &needs, now());
            match decision.pick {
                Ok(pick) => {
                    prop_assert!(may_answer(&candidates[pick.node], &needs));
                    let any_replica = candidates.iter().any(|c| c.is_replica() && may_answer(c, &needs));
                    prop_assert_eq!(candidates[pick.node].is_replica(), any_replica);
                }
                Err(refused) => {
                    prop_assert!(!candidates.iter().any(|c| may_answer(c, &needs)));
                    prop_assert_eq!(refused.refusals.len(), candidates.len());
                }
            }
        }
    }

    #[test]
    fn round_robin_gives_every_fit_replica_its_share(
        weights in prop::collection::vec(1_u32..5, 1..7),
        cycles in 1_usize..5,
    ) {
        let candidates: Vec<_> = weights.iter().map(|&weight| Candidate { weight, ..replica(9) }).collect();
        let total: u32 = weights.iter().sum();
        let mut router = Router::new(Strategy::RoundRobin, candidates.len(), 7);
        let mut counts = vec![0; candidates.len()];
        for node in picks(&mut router, &candidates, &needs(), total as usize * cycles) {
            counts[node] += 1;
        }
        for (count, weight) in counts.iter().zip(&weights) {
            prop_assert_eq!(*count, *weight as usize * cycles);
        }
    }
}

#[test]
fn weights_share_random_turns_too() {
    let mut router = Router::new(Strategy::Weighted, 2, 7);
    let candidates = [Candidate { weight: 3, ..replica(9) }, replica(9)];
    let first = picks(&mut router, &candidates, &needs(), 4_000).iter().filter(|node| **node == 0).count();
    assert!((2_850..3_150).contains(&first), "{first} of 4000 instead of 3000");
}

#[test]
fn the_faster_or_less_busy_of_two_is_taken() {
    let mut router = Router::new(Strategy::LatencyAware, 2, 7);
    let one = |ms: Option<u64>, in_flight, weight| Candidate {
        latency: ms.map(Duration::from_millis),
        in_flight,
        weight,
        ..replica(9)
    };
    for (a, b, wanted) in [
        (one(Some(10), 0, 1), one(Some(2), 0, 1), 1),
        (one(Some(10), 0, 1), one(Some(2), 9, 1), 0),
        (one(Some(10), 0, 9), one(Some(2), 0, 1), 0),
        (one(Some(10), 1, 1), one(None, 0, 1), 1),
    ] {
        assert!(picks(&mut router, &[a, b], &needs(), 20).iter().all(|node| *node == wanted));
    }
}

#[test]
fn a_node_that_is_back_takes_its_share_of_reads_step_by_step() {
    let start = SECOND * 10;
    assert_eq!(
        [0, 1, 5, 10, 99].map(|s| warmth(SECOND * s, start)),
        [50, 100, 500, FULL_WARMTH, FULL_WARMTH]
    );
    assert_eq!(warmth(Duration::ZERO, Duration::ZERO), FULL_WARMTH);
    let mut router = Router::new(Strategy::RoundRobin, 2, 7);
    let candidates = [Candidate { warmth: 250, ..replica(9) }, replica(9)];
    let back = picks(&mut router, &candidates, &needs(), 100).iter().filter(|node| **node == 0).count();
    assert_eq!(back, 20);
}

proptest! {
    #[test]
    fn whatever_the_strategy_a_fit_replica_is_found_and_an_unfit_one_never(
        nodes in prop::collection::vec((any::<bool>(), 0_u32..9, 0_u32..5, 1_u32..=FULL_WARMTH, prop::option::of(0_u64..5_000)), 1..17),
        strategy in prop::sample::select(vec![
            Strategy::RoundRobin, Strategy::LeastInFlight, Strategy::Weighted, Strategy::LatencyAware,
        ]),
        seed in any::<u64>(),
    ) {
        let candidates: Vec<_> = nodes.iter().map(|(up, in_flight, weight, warmth, ms)| Candidate {
            barred: (!up).then_some(Refusal::Down),
            in_flight: *in_flight,
            weight: *weight,
            warmth: *warmth,
            latency: ms.map(Duration::from_millis),
            ..replica(9)
        }).collect();
        let mut router = Router::new(strategy, candidates.len(), seed);
        let fit = |candidate: &Candidate| candidate.refusal(&needs(), now()).is_none();
        for _ in 0..20 {
            match router.choose(&candidates, &needs(), now()).pick {
                Ok(pick) => prop_assert!(fit(&candidates[pick.node])),
                Err(_) => prop_assert!(!candidates.iter().any(fit)),
            }
        }
    }
}
