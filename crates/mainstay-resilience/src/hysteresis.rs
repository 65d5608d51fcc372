//! Whether a signal has really changed.

/// Turns single health checks into a steady up or down.
///
/// `down_after` failures in a row take it down, `up_after` successes in a row bring it up; one contrary answer starts
/// the count again. Counts of zero mean one.
#[derive(Debug, Clone)]
pub struct Flip {
    down_after: u32,
    up_after: u32,
    up: bool,
    contrary: u32,
}

impl Flip {
    /// Starts up.
    pub fn new(down_after: u32, up_after: u32) -> Self {
        Self { down_after: down_after.max(1), up_after: up_after.max(1), up: true, contrary: 0 }
    }

    /// Starts down; for targets that have to prove themselves first.
    pub fn new_down(down_after: u32, up_after: u32) -> Self {
        Self { up: false, ..Self::new(down_after, up_after) }
    }

    /// Takes one check and returns the change it caused, if any.
    pub fn observe(&mut self, ok: bool) -> Option<Change> {
        if ok == self.up {
            self.contrary = 0;
            return None;
        }
        self.contrary += 1;
        let needed = if self.up { self.down_after } else { self.up_after };
        if self.contrary < needed {
            return None;
        }
        self.up = ok;
        self.contrary = 0;
        Some(if ok { Change::Up } else { Change::Down })
    }

    /// Tells the steady state.
    pub fn is_up(&self) -> bool {
        self.up
    }
}

/// Names the direction in which a [`Flip`] turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Was down, is up.
    Up,
    /// Was up, is down.
    Down,
}

/// Raises a flag on a high figure and clears it on a low one, with a dead band between.
///
/// A figure between the thresholds changes nothing but breaks a streak. NaN is no evidence and is passed over.
#[derive(Debug, Clone)]
pub struct Hysteresis {
    thresholds: Thresholds,
    raised: bool,
    streak: u32,
}

/// Says where a [`Hysteresis`] turns; counts of zero mean one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// At or above this figure, an observation speaks for raising.
    pub raise_at: f64,
    /// At or below this figure, an observation speaks for clearing.
    pub clear_at: f64,
    /// Observations in a row that raise.
    pub raise_after: u32,
    /// Observations in a row that clear.
    pub clear_after: u32,
}

impl Hysteresis {
    /// Starts cleared; `clear_at` must be below or equal to `raise_at`, and neither may be NaN.
    pub fn try_new(thresholds: Thresholds) -> Result<Self, InvalidThresholds> {
        let Thresholds { raise_at, clear_at, .. } = thresholds;
        if raise_at.is_nan() || clear_at.is_nan() || clear_at > raise_at {
            return Err(InvalidThresholds { raise_at, clear_at });
        }
        Ok(Self { thresholds, raised: false, streak: 0 })
    }

    /// Takes one figure and returns the change it caused, if any.
    pub fn observe(&mut self, value: f64) -> Option<Turn> {
        if value.is_nan() {
            return None;
        }
        let Thresholds { raise_at, clear_at, raise_after, clear_after } = self.thresholds;
        let (speaks, needed) =
            if self.raised { (value <= clear_at, clear_after) } else { (value >= raise_at, raise_after) };
        if !speaks {
            self.streak = 0;
            return None;
        }
        self.streak += 1;
        if self.streak < needed {
            return None;
        }
        self.streak = 0;
        self.raised = !self.raised;
        Some(if self.raised { Turn::Raised } else { Turn::Cleared })
    }

    /// Tells whether the flag is up.
    pub fn is_raised(&self) -> bool {
        self.raised
    }
}

/// Names the direction in which a [`Hysteresis`] turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The flag went up.
    Raised,
    /// The flag went down.
    Cleared,
}

/// Says that two thresholds leave no order between raising and clearing.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("clear threshold {clear_at} must not be above raise threshold {raise_at}")]
pub struct InvalidThresholds {
    /// The figure that was to raise.
    pub raise_at: f64,
    /// The figure that was to clear.
    pub clear_at: f64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_failures_in_a_row_take_it_down() {
        let mut flip = Flip::new(3, 2);
        let answers = [false, false, true, false, false, false, true, false, true, true];
        let changes: Vec<_> = answers.into_iter().map(|ok| flip.observe(ok)).collect();
        let mut expected = vec![None; 10];
        expected[5] = Some(Change::Down);
        expected[9] = Some(Change::Up);
        assert_eq!(changes, expected);
    }

    #[test]
    fn a_target_that_starts_down_has_to_prove_itself() {
        let mut flip = Flip::new_down(0, 2);
        assert!(!flip.is_up());
        assert_eq!(flip.observe(true), None);
        assert_eq!(flip.observe(true), Some(Change::Up));
        assert_eq!(flip.observe(false), Some(Change::Down));
    }

    #[test]
    fn figures_in_the_dead_band_change_nothing() {
        let thresholds = Thresholds { raise_at: 30.0, clear_at: 10.0, raise_after: 2, clear_after: 1 };
        let mut lag = Hysteresis::try_new(thresholds).unwrap();
        let turns: Vec<_> =
            [31.0, 20.0, 30.0, f64::NAN, 40.0, 11.0, 10.0].into_iter().map(|v| lag.observe(v)).collect();
        assert_eq!(turns, [None, None, None, None, Some(Turn::Raised), None, Some(Turn::Cleared)]);
    }

    #[test]
    fn crossed_thresholds_are_refused() {
        for (raise_at, clear_at) in [(1.0, 2.0), (f64::NAN, 0.0), (0.0, f64::NAN)] {
            let thresholds = Thresholds { raise_at, clear_at, raise_after: 1, clear_after: 1 };
            assert!(Hysteresis::try_new(thresholds).is_err(), "{thresholds:?}");
        }
    }

    proptest! {
        #[test]
        fn flip_changes_exactly_when_the_last_answers_agree(
            down_after in 1_usize..6, up_after in 1_usize..6,
            answers in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let mut flip = Flip::new(down_after as u32, up_after as u32);
            let (mut up, mut seen) = (true, Vec::new());
            for ok in answers {
                seen.push(ok);
                let needed = if up { down_after } else { up_after };
                let turns = seen.len() >= needed && seen.iter().rev().take(needed).all(|seen| *seen != up);
                let change = flip.observe(ok);
                prop_assert_eq!(change.is_some(), turns);
                if turns {
                    up = !up;
                    seen.clear();
                }
                prop_assert_eq!(flip.is_up(), up);
            }
        }

        #[test]
        fn flag_turns_only_on_enough_figures_beyond_a_threshold(
            raise_after in 1_u32..5, clear_after in 1_u32..5,
            values in prop::collection::vec(0.0_f64..100.0, 0..200),
        ) {
            let thresholds = Thresholds { raise_at: 60.0, clear_at: 40.0, raise_after, clear_after };
            let mut flag = Hysteresis::try_new(thresholds).unwrap();
            for (n, value) in values.iter().enumerate() {
                let last = |needed: u32| &values[(n + 1).saturating_sub(needed as usize)..=n];
                match flag.observe(*value) {
                    Some(Turn::Raised) => prop_assert!(last(raise_after).iter().all(|v| *v >= 60.0)),
                    Some(Turn::Cleared) => prop_assert!(last(clear_after).iter().all(|v| *v <= 40.0)),
                    None => {}
                }
            }
        }
    }
}
