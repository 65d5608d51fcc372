use proptest::prelude::*;

use super::*;

const MIXED: Observed = Observed {
    reads: 10_000,
    writes: 1_000,
    loads: 100,
    refreshes: 0,
    reread_share: 0.8,
    load_cost: Duration::from_millis(10),
    fill: 0.5,
    ttl: Duration::from_mins(5),
    window: Duration::from_mins(1),
};

fn best(observed: &Observed, present: Behaviour) -> Behaviour {
    let mut chooser = Chooser::default();
    let estimates = observed.estimates(present);
    for _ in 1..LOOKS_IN_A_ROW {
        chooser.choose(present, observed, &estimates);
    }
    chooser.choose(present, observed, &estimates).0
}

#[test]
fn the_choice_follows_the_mix() {
    use Behaviour::{ReadThrough, RefreshAhead, WriteThrough};
    // Written, never read again, and memory is full: not worth a place.
    let logged = Observed { reads: 10_000, writes: 20_000, reread_share: 0.02, fill: 1.0, ..MIXED };
    // Read much, ends often, slow to load.
    let slow = Observed {
        reads: 60_000,
        writes: 10,
        loads: 1_000,
        load_cost: Duration::from_millis(400),
        ttl: Duration::from_secs(5),
        ..MIXED
    };
    for (name, observed, present, expected) in [
        ("what is written is read again", MIXED, ReadThrough, WriteThrough),
        ("what is written is not read again", logged, WriteThrough, ReadThrough),
        ("the same with room in memory", Observed { fill: 0.5, ..logged }, WriteThrough, WriteThrough),
        ("loads are slow", slow, WriteThrough, RefreshAhead),
        (
            "loads are fast",
            Observed { load_cost: Duration::from_micros(50), ..slow },
            WriteThrough,
            WriteThrough,
        ),
        ("nothing happens", Observed { reads: 50, writes: 49, ..logged }, WriteThrough, WriteThrough),
    ] {
        assert_eq!(best(&observed, present), expected, "{name}: {:?}", observed.estimates(present));
    }
}

#[test]
fn it_changes_its_mind_at_the_third_look_in_a_row_and_says_why() {
    let mut chooser = Chooser::default();
    let present = Behaviour::ReadThrough;
    let estimates = MIXED.estimates(present);
    let quiet = Observed { reads: 1, writes: 1, ..MIXED };
    for (observed, chosen, reason) in [
        (MIXED, present, "seen 1 of 3 times"),
        (MIXED, present, "seen 2 of 3 times"),
        (quiet, present, "too little happens"),
        (MIXED, present, "seen 1 of 3 times"),
        (MIXED, present, "seen 2 of 3 times"),
        (MIXED, Behaviour::WriteThrough, "write_through would cost"),
    ] {
        let (now, why) = chooser.choose(present, &observed, &estimates);
        assert!(now == chosen && why.starts_with(reason), "{now:?} because {why}");
    }
}

fn observed() -> impl Strategy<Value = Observed> {
    let counts = (0_u64..1_000_000, 0_u64..1_000_000, 0_u64..1_000_000, 0_u64..100_000);
    let rest = (0.0..=1.0, 0_u64..5_000_000, 0.0..=1.0, 1_u64..1_000_000);
    (counts, rest).prop_map(|((reads, writes, loads, refreshes), (reread_share, cost_us, fill, ttl_ms))| {
        Observed {
            reads,
            writes,
            loads,
            refreshes,
            reread_share,
            load_cost: Duration::from_micros(cost_us),
            fill,
            ttl: Duration::from_millis(ttl_ms),
            window: Duration::from_mins(1),
        }
    })
}

proptest! {
    #[test]
    fn estimates_are_numbers_that_make_sense(observed in observed(), present in 0_usize..3) {
        let estimates = observed.estimates(Behaviour::ALL[present]);
        for (estimate, behaviour) in estimates.iter().zip(Behaviour::ALL) {
            prop_assert_eq!(estimate.behaviour, behaviour);
            prop_assert!(estimate.cost.is_finite() && estimate.cost >= 0.0, "{:?}", estimate);
            prop_assert!((0.0..=1.0).contains(&estimate.stale_risk), "{:?}", estimate);
            prop_assert!(estimate.read_wait <= observed.load_cost, "{:?}", estimate);
            let writes = observed.writes as f64 / observed.window.as_secs_f64();
            prop_assert!(estimate.origin_calls_per_second >= writes - 1e-6, "every write is the origin's");
        }
        let [_, write_through, refresh_ahead] = estimates;
        prop_assert!(refresh_ahead.stale_risk <= write_through.stale_risk + 1e-9);
    }

    /// With the same figures it does not come back: no two behaviours are each clearly better than the other.
    #[test]
    fn a_choice_is_not_taken_back_by_the_figures_it_was_made_by(observed in observed(), present in 0_usize..3) {
        let present = Behaviour::ALL[present];
        let estimates = observed.estimates(present);
        let mut chooser = Chooser::default();
        let mut now = present;
        let mut n_changes = 0;
        for _ in 0..20 {
            let (chosen, _) = chooser.choose(now, &observed, &estimates);
            n_changes += u32::from(chosen != now);
            now = chosen;
        }
        prop_assert!(n_changes <= 1, "{n_changes} changes");
    }
}
